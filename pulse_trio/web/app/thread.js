// One conversation: its head, its messages, and the field to write in.
//
// Of thousands of messages only a window is in the page. It moves with the scrolling, and the messages in view stay where
// they are.

import { Composer } from "./composer.js";
import { openDetails } from "./details.js";
import { arrange, avatar, explain, fill, h, icon, iconButton, name, toast } from "./dom.js";
import { ask } from "./newchat.js";
import { signature, toElement, toRows } from "./rows.js";
import { countPeople, listNames } from "./text.js";
import { agoName } from "./time.js";
import { MessageWindow } from "./window.js";

const EDGE = 700; // pixels from the window's end where it moves
const BOTTOM = 48; // pixels from the end that count as the end

export class Thread {
  #store;
  #id;
  #elements;
  #act;
  #composer;
  #head;
  #list;
  #top;
  #typing;
  #scroller;
  #jumpText;
  #jump;
  #chat;
  #nothing;
  #window;
  #newFrom;
  #wasPlaced;

  constructor(store, client, drafts) {
    this.#store = store;
    this.#id = null;
    this.#elements = new Map(); // row key → element
    this.#act = {
      edit: (message) => this.#composer.edit(message),
      remove: (message) => this.#remove(message),
      retry: (item) => store.send(item.conversationId, item.content, item.clientId),
      discard: (item) => client.discard(item.conversationId, item.clientId),
    };
    this.#composer = new Composer(store, client, drafts, { onSent: () => this.#sent(), lastOwn: () => this.#lastOwn() });
    this.#head = h("header", { class: "thread-head" });
    this.#list = h("ol", { class: "messages" });
    this.#top = h("div", { class: "thread-top" });
    this.#typing = h("div", { class: "typing", hidden: true });
    this.#scroller = h(
      "div",
      { class: "scroller", tabindex: 0, role: "group", "aria-label": "Messages", onkeydown: (event) => this.#onKey(event), onfocusin: (event) => this.#onFocus(event) },
      this.#top,
      this.#list,
      this.#typing,
    );
    this.#scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#jumpText = h("span", {});
    this.#jump = h("button", { type: "button", class: "jump", hidden: true, "aria-label": "Go to the newest message", onclick: () => this.#toEnd() }, icon("down"), this.#jumpText);
    this.#chat = h("section", { class: "thread", "aria-label": "Conversation" }, this.#head, h("div", { class: "thread-body" }, this.#scroller, this.#jump), this.#composer.element);
    this.#nothing = h("div", { class: "nothing" });
    this.element = h("div", { class: "thread-frame" });
    new ResizeObserver(() => this.#window.follows && this.#scrollToEnd()).observe(this.#scroller);
    document.addEventListener("visibilitychange", () => this.#read());
    addEventListener("focus", () => this.#read());
    setInterval(() => this.#renderHead(), 60_000); // "5 min ago"
  }

  /** Shows a conversation, or null: the hint to choose one. */
  show(id) {
    if (id === this.#id && this.element.childElementCount > 0) return;
    this.#id = id;
    this.#elements.clear();
    this.#list.replaceChildren();
    this.#window = new MessageWindow();
    this.#newFrom = null; // seq of the first unread message when it was opened
    this.#wasPlaced = false; // it was scrolled to the first unread message or the end
    this.#store.open(id);
    this.#composer.open(id);
    this.#render();
    if (id !== null && !matchMedia("(pointer: coarse)").matches) this.#composer.focus();
  }

  focus() {
    this.#composer.focus();
  }

  update(changes) {
    if (changes.has(this.#id) || changes.has("list")) this.#render();
    else if (changes.has("people")) this.#renderHead();
  }

  // --- rendering ---

  #render() {
    const store = this.#store;
    const id = this.#id;
    const conversation = id === null ? undefined : store.conversations.get(id);
    if (conversation === undefined) {
      this.#renderNothing(id);
      return;
    }
    if (this.#chat.parentNode !== this.element) this.element.replaceChildren(this.#chat);
    this.#renderHead();
    const timeline = store.timeline(id);
    if (!this.#wasPlaced && timeline.isLoaded) {
      const unread = store.unread(conversation);
      this.#newFrom = unread > 0 && conversation.read_seq > 0 ? conversation.read_seq + 1 : null;
    }
    this.#renderTop(conversation, timeline);
    this.#window.fit(timeline);
    this.#renderRows(conversation, timeline);
    this.#renderTyping(conversation);
    this.#composer.follow(timeline);
    if (!this.#wasPlaced && timeline.isLoaded) {
      this.#wasPlaced = true;
      this.#place();
    } else if (this.#window.follows) this.#scrollToEnd();
    this.#renderJump(conversation);
    this.#read();
    this.#extend();
  }

  #renderNothing(id) {
    const isMissing = id !== null && this.#store.isListed;
    const kind = id !== null && !isMissing ? "loading" : isMissing ? "missing" : "none";
    if (this.#nothing.dataset.kind !== kind) {
      this.#nothing.dataset.kind = kind;
      const text = { loading: "Loading …", missing: "There is no such conversation, or you are not in it.", none: "Choose a conversation, or start a new one." }[kind];
      fill(this.#nothing, icon("logo"), h("p", {}, text), kind === "missing" ? h("a", { href: "#/" }, "All conversations") : null);
    }
    if (this.#nothing.parentNode !== this.element) this.element.replaceChildren(this.#nothing);
  }

  #renderHead() {
    const store = this.#store;
    const conversation = store.conversations.get(this.#id);
    if (conversation === undefined) return;
    const title = store.title(conversation);
    const other = store.other(conversation);
    const isOnline = other === null ? null : store.isOnline(other.id);
    const state = other === null ? this.#groupState(conversation) : this.#personState(other, isOnline);
    const shown = JSON.stringify([this.#id, title, state, isOnline, conversation.description]);
    if (this.#head.dataset.shown === shown) return;
    this.#head.dataset.shown = shown;
    const hadFocus = this.#head.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.#head.replaceChildren(
      h("a", { class: "icon-button back", href: "#/", "aria-label": "All conversations" }, icon("back")),
      avatar(other?.id ?? conversation.id, title, { isGroup: conversation.is_group, isOnline }),
      h("div", { class: "thread-title" }, h("h1", {}, name(title)), h("p", { class: "hint" }, h("bdi", {}, conversation.description ? `${state} · ${conversation.description}` : state))),
      iconButton("more", "Details", () => openDetails(store, conversation.id)),
    );
    if (hadFocus) this.#head.querySelector(`[aria-label="${hadFocus}"]`)?.focus();
  }

  #groupState(conversation) {
    const count = countPeople(conversation.member_count);
    if (conversation.isBrief) return count; // the presence of the others is not known
    const online = conversation.users.filter((user) => user.id === this.#store.me.id || this.#store.isOnline(user.id)).length;
    return `${count}, ${online} online`;
  }

  #personState(other, isOnline) {
    const seen = this.#store.online.get(other.id)?.last_seen_at;
    return isOnline ? "Online" : seen ? `Last seen ${agoName(seen)}` : isOnline === false ? "Offline" : "";
  }

  #renderTop(conversation, timeline) {
    const isStart = timeline.isComplete && this.#window.isAtStart;
    const kind = isStart ? "start" : "loading";
    const title = this.#store.title(conversation);
    const { dataset } = this.#top;
    if (dataset.kind === kind && dataset.id === this.#id && dataset.title === title) return;
    Object.assign(dataset, { kind, id: this.#id, title });
    const other = this.#store.other(conversation);
    if (kind !== "start") {
      this.#top.replaceChildren(h("p", { class: "hint" }, "Loading …"));
      return;
    }
    this.#top.replaceChildren(
      h("div", { class: "start" }, avatar(other?.id ?? conversation.id, title, { isGroup: conversation.is_group }), h("p", {}, name(title)), h("p", { class: "hint" }, conversation.is_group ? "The group begins here." : "Your conversation begins here.")),
    );
  }

  #renderRows(conversation, timeline) {
    const store = this.#store;
    const rows = toRows({
      ...this.#window.cut(timeline),
      pending: store.unsent(this.#id),
      newFrom: this.#newFrom,
      conversation,
      store,
      isLast: this.#window.isAtEnd,
    });
    const isOwner = conversation.is_group && conversation.owner_id === store.me.id;
    const keep = this.#anchor();
    const elements = rows.map((row) => {
      row.canDelete = row.isMine || isOwner;
      return this.#element(row, conversation.is_group);
    });
    const keys = new Set(rows.map((row) => row.key));
    for (const key of this.#elements.keys()) if (!keys.has(key)) this.#elements.delete(key);
    const focused = this.#list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.key : null;
    arrange(this.#list, elements);
    if (focused && !this.#list.contains(document.activeElement)) {
      (this.#elements.get(focused)?.element ?? this.#scroller).focus({ preventScroll: true });
    }
    keep();
  }

  /** Returns the element of a row; a new one only if the row has changed. */
  #element(row, isGroup) {
    const text = signature(row);
    const known = this.#elements.get(row.key);
    if (known?.text === text) return known.element;
    const element = toElement(row, { isGroup, act: this.#act });
    if (known === undefined && this.#wasPlaced && this.#window.follows && row.kind === "message") element.classList.add("is-new");
    this.#elements.set(row.key, { element, text });
    return element;
  }

  /** Remembers the messages at the top of the view; the returned function puts the first of them there again. */
  #anchor() {
    if (this.#window.follows || !this.#wasPlaced) return () => {};
    const top = this.#scroller.getBoundingClientRect().top;
    const seen = [];
    for (const element of this.#list.children) {
      const box = element.getBoundingClientRect();
      if (box.bottom > top && element.dataset.seq) seen.push([element.dataset.key, box.top]);
      if (seen.length > 30) break;
    }
    return () => {
      for (const [key, before] of seen) {
        const element = this.#elements.get(key)?.element;
        if (!element?.isConnected) continue;
        const moved = element.getBoundingClientRect().top - before;
        if (moved !== 0) this.#scroller.scrollTop += moved;
        return;
      }
    };
  }

  #renderTyping(conversation) {
    const typists = this.#store.typists(conversation.id);
    this.#typing.hidden = typists.length === 0 || !this.#window.isAtEnd;
    const text = typists.length === 0 ? "" : `${listNames(typists)} ${typists.length === 1 ? "is" : "are"} typing`;
    if (this.#typing.dataset.text === text) return;
    this.#typing.dataset.text = text;
    this.#typing.replaceChildren(h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("bdi", {}, text));
  }

  #renderJump(conversation) {
    const unread = this.#store.unread(conversation);
    this.#jump.hidden = this.#window.follows;
    this.#jumpText.textContent = unread > 0 ? String(unread) : "";
  }

  // --- scrolling ---

  /** Scrolls to the first unread message if it is further up, else to the end. */
  #place() {
    this.#scrollToEnd();
    const line = this.#elements.get("new")?.element;
    if (!line) return;
    const top = line.getBoundingClientRect().top - this.#scroller.getBoundingClientRect().top;
    if (top < 0) {
      this.#window.follows = false;
      this.#scroller.scrollTop += top - this.#scroller.clientHeight / 4;
    }
  }

  #scrollToEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #toEnd() {
    this.#window.toEnd();
    this.#render();
    this.#composer.focus();
  }

  #below() {
    return this.#scroller.scrollHeight - this.#scroller.clientHeight - this.#scroller.scrollTop;
  }

  #onScroll() {
    const conversation = this.#store.conversations.get(this.#id);
    if (conversation === undefined || !this.#wasPlaced) return;
    this.#window.follows = this.#window.isAtEnd && this.#below() < BOTTOM;
    this.#extend();
    this.#renderJump(conversation);
    this.#read();
  }

  /** Moves the window, and loads older messages, when its end is near the view. */
  #extend() {
    const timeline = this.#store.timeline(this.#id);
    if (!this.#wasPlaced || timeline.items.length === 0) return;
    if (this.#scroller.scrollTop < EDGE) this.#extendUp(timeline);
    else if (!this.#window.isAtEnd && this.#below() < EDGE) {
      this.#window.moveDown(timeline);
      this.#render();
    }
  }

  #extendUp(timeline) {
    if (this.#window.isFull(timeline)) return;
    if (this.#window.moveUp(timeline)) {
      this.#render();
    } else if (!timeline.isComplete) {
      const id = this.#id;
      this.#store.loadOlder(id).then((isLoaded) => isLoaded && id === this.#id && this.#extend());
    }
  }

  // --- reading ---

  /** Marks messages as read that are or were in view, while the page has the focus. */
  #read() {
    if (!this.#wasPlaced || document.visibilityState !== "visible" || !document.hasFocus()) return;
    const conversation = this.#store.conversations.get(this.#id);
    if (conversation === undefined || this.#store.unread(conversation) === 0) return;
    const bottom = this.#scroller.getBoundingClientRect().bottom;
    const elements = this.#list.querySelectorAll("li[data-seq]");
    for (let index = elements.length - 1; index >= 0; index -= 1) {
      if (!this.#window.follows && elements[index].getBoundingClientRect().top > bottom - 20) continue;
      this.#store.markRead(this.#id, Number(elements[index].dataset.seq));
      return;
    }
  }

  // --- actions ---

  #sent() {
    this.#newFrom = null;
    this.#toEnd();
  }

  /** Returns the message that ↑ edits: null while one is under way, since an earlier one is not meant. */
  #lastOwn() {
    if (this.#store.unsent(this.#id).length > 0) return null;
    const timeline = this.#store.timeline(this.#id);
    return timeline.items.findLast((message) => message.sender_id === this.#store.me.id && !message.is_deleted) ?? null;
  }

  async #remove(message) {
    if (!(await ask("Delete this message for everybody?", "Delete"))) return;
    try {
      await this.#store.remove(message);
    } catch (error) {
      toast(explain(error));
    }
  }

  // --- keys ---

  /** Arrow keys move between messages; Tab moves to the buttons of one. */
  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...this.#list.querySelectorAll("li[data-key].message")];
    const index = rows.indexOf(document.activeElement?.closest?.("li.message"));
    if (event.key === "Escape") this.#composer.focus();
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const next = index < 0 ? rows.length - 1 : index + (event.key === "ArrowUp" ? -1 : 1);
      if (next >= rows.length) this.#composer.focus();
      else rows[Math.max(0, next)]?.focus();
      event.preventDefault();
    } else if (event.key === "End" && index >= 0) {
      event.preventDefault();
      this.#toEnd();
    }
  }

  #onFocus(event) {
    const row = event.target.closest("li.message");
    for (const button of this.#list.querySelectorAll(".tools button[tabindex='0']")) button.tabIndex = -1;
    for (const button of row?.querySelectorAll(".tools button") ?? []) button.tabIndex = 0;
  }
}
