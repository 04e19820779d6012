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

const WINDOW = 200; // most messages in the page
const STEP = 70; // messages by which it moves
const EDGE = 700; // pixels from the window's end where it moves
const BOTTOM = 48; // pixels from the end that count as the end

export class Thread {
  constructor(store, client, drafts) {
    this._store = store;
    this._id = null;
    this._elements = new Map(); // row key → element
    this._act = {
      edit: (message) => this._composer.edit(message),
      remove: (message) => this._remove(message),
      retry: (item) => store.send(item.conversationId, item.content, item.clientId),
      discard: (item) => client.discard(item.conversationId, item.clientId),
    };
    this._composer = new Composer(store, client, drafts, { onSent: () => this._sent(), lastOwn: () => this._lastOwn() });
    this._head = h("header", { class: "thread-head" });
    this._list = h("ol", { class: "messages" });
    this._top = h("div", { class: "thread-top" });
    this._typing = h("div", { class: "typing", hidden: true });
    this._scroller = h(
      "div",
      { class: "scroller", tabindex: 0, role: "group", "aria-label": "Messages", onkeydown: (event) => this._onKey(event), onfocusin: (event) => this._onFocus(event) },
      this._top,
      this._list,
      this._typing,
    );
    this._scroller.addEventListener("scroll", () => this._onScroll(), { passive: true });
    this._jumpText = h("span", {});
    this._jump = h("button", { type: "button", class: "jump", hidden: true, "aria-label": "Go to the newest message", onclick: () => this._toEnd() }, icon("down"), this._jumpText);
    this._chat = h("section", { class: "thread", "aria-label": "Conversation" }, this._head, h("div", { class: "thread-body" }, this._scroller, this._jump), this._composer.element);
    this._nothing = h("div", { class: "nothing" });
    this.element = h("div", { class: "thread-frame" });
    new ResizeObserver(() => this._follows && this._scrollToEnd()).observe(this._scroller);
    document.addEventListener("visibilitychange", () => this._read());
    addEventListener("focus", () => this._read());
    setInterval(() => this._renderHead(), 60_000); // "5 min ago"
  }

  /** Shows a conversation, or null: the hint to choose one. */
  show(id) {
    if (id === this._id && this.element.childElementCount > 0) return;
    this._id = id;
    this._elements.clear();
    this._list.replaceChildren();
    this._from = 0; // the window: seqs, both included
    this._to = Infinity;
    this._follows = true;
    this._newFrom = null; // seq of the first unread message when it was opened
    this._wasPlaced = false; // it was scrolled to the first unread message or the end
    this._store.open(id);
    this._composer.open(id);
    this._render();
    if (id !== null && !matchMedia("(pointer: coarse)").matches) this._composer.focus();
  }

  focus() {
    this._composer.focus();
  }

  update(changes) {
    if (changes.has(this._id) || changes.has("list")) this._render();
    else if (changes.has("people")) this._renderHead();
  }

  // --- rendering ---

  _render() {
    const { _store: store, _id: id } = this;
    const conversation = id === null ? undefined : store.conversations.get(id);
    if (conversation === undefined) {
      this._renderNothing(id);
      return;
    }
    if (this._chat.parentNode !== this.element) this.element.replaceChildren(this._chat);
    this._renderHead();
    const timeline = store.timeline(id);
    if (!this._wasPlaced && timeline.isLoaded) {
      const unread = store.unread(conversation);
      this._newFrom = unread > 0 && conversation.read_seq > 0 ? conversation.read_seq + 1 : null;
    }
    this._renderTop(conversation, timeline);
    this._limit(timeline);
    this._renderRows(conversation, timeline);
    this._renderTyping(conversation);
    this._composer.follow(timeline);
    if (!this._wasPlaced && timeline.isLoaded) {
      this._wasPlaced = true;
      this._place();
    } else if (this._follows) this._scrollToEnd();
    this._renderJump(conversation);
    this._read();
    this._extend();
  }

  _renderNothing(id) {
    const isMissing = id !== null && this._store.isListed;
    const kind = id !== null && !isMissing ? "loading" : isMissing ? "missing" : "none";
    if (this._nothing.dataset.kind !== kind) {
      this._nothing.dataset.kind = kind;
      const text = { loading: "Loading …", missing: "There is no such conversation, or you are not in it.", none: "Choose a conversation, or start a new one." }[kind];
      fill(this._nothing, icon("logo"), h("p", {}, text), kind === "missing" ? h("a", { href: "#/" }, "All conversations") : null);
    }
    if (this._nothing.parentNode !== this.element) this.element.replaceChildren(this._nothing);
  }

  _renderHead() {
    const { _store: store } = this;
    const conversation = store.conversations.get(this._id);
    if (conversation === undefined) return;
    const title = store.title(conversation);
    const other = store.other(conversation);
    const isOnline = other === null ? null : store.isOnline(other.id);
    const state = other === null ? this._groupState(conversation) : this._personState(other, isOnline);
    const shown = JSON.stringify([this._id, title, state, isOnline, conversation.description]);
    if (this._head.dataset.shown === shown) return;
    this._head.dataset.shown = shown;
    const hadFocus = this._head.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this._head.replaceChildren(
      h("a", { class: "icon-button back", href: "#/", "aria-label": "All conversations" }, icon("back")),
      avatar(other?.id ?? conversation.id, title, { isGroup: conversation.is_group, isOnline }),
      h("div", { class: "thread-title" }, h("h1", {}, name(title)), h("p", { class: "hint" }, h("bdi", {}, conversation.description ? `${state} · ${conversation.description}` : state))),
      iconButton("more", "Details", () => openDetails(store, conversation.id)),
    );
    if (hadFocus) this._head.querySelector(`[aria-label="${hadFocus}"]`)?.focus();
  }

  _groupState(conversation) {
    const count = countPeople(conversation.member_count);
    if (conversation.isBrief) return count; // the presence of the others is not known
    const online = conversation.users.filter((user) => user.id === this._store.me.id || this._store.isOnline(user.id)).length;
    return `${count}, ${online} online`;
  }

  _personState(other, isOnline) {
    const seen = this._store.online.get(other.id)?.last_seen_at;
    return isOnline ? "Online" : seen ? `Last seen ${agoName(seen)}` : isOnline === false ? "Offline" : "";
  }

  _renderTop(conversation, timeline) {
    const isStart = timeline.isComplete && this._from <= 1;
    const kind = isStart ? "start" : "loading";
    const title = this._store.title(conversation);
    const { dataset } = this._top;
    if (dataset.kind === kind && dataset.id === this._id && dataset.title === title) return;
    Object.assign(dataset, { kind, id: this._id, title });
    const other = this._store.other(conversation);
    if (kind !== "start") {
      this._top.replaceChildren(h("p", { class: "hint" }, "Loading …"));
      return;
    }
    this._top.replaceChildren(
      h("div", { class: "start" }, avatar(other?.id ?? conversation.id, title, { isGroup: conversation.is_group }), h("p", {}, name(title)), h("p", { class: "hint" }, conversation.is_group ? "The group begins here." : "Your conversation begins here.")),
    );
  }

  /** Bounds the window. */
  _limit(timeline) {
    if (timeline.items.length === 0) return;
    const last = timeline.lastSeq;
    if (this._to < timeline.firstSeq) this._follows = true; // a reload has dropped what was shown
    if (this._follows) {
      this._to = Infinity;
      this._from = Math.max(this._from, last - WINDOW + 1);
    } else if (this._to === Infinity && last - this._from >= WINDOW) {
      // New messages wait below the window while the user reads further up.
      this._to = this._from + WINDOW - 1;
    }
    this._from = Math.max(this._from, timeline.firstSeq);
  }

  _renderRows(conversation, timeline) {
    const { _store: store } = this;
    const start = timeline.items.length === 0 ? 0 : Math.max(0, timeline.indexOf(this._from));
    const end = this._to === Infinity ? timeline.items.length : timeline.indexOf(this._to) + 1;
    const rows = toRows({
      messages: timeline.items.slice(start, end),
      pending: store.unsent(this._id),
      before: start > 0 ? timeline.items[start - 1] : null,
      newFrom: this._newFrom,
      conversation,
      store,
      isLast: this._to === Infinity,
    });
    const isOwner = conversation.is_group && conversation.owner_id === store.me.id;
    const keep = this._anchor();
    const elements = rows.map((row) => {
      row.canDelete = row.isMine || isOwner;
      return this._element(row, conversation.is_group);
    });
    const keys = new Set(rows.map((row) => row.key));
    for (const key of this._elements.keys()) if (!keys.has(key)) this._elements.delete(key);
    const focused = this._list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.key : null;
    arrange(this._list, elements);
    if (focused && !this._list.contains(document.activeElement)) {
      (this._elements.get(focused)?.element ?? this._scroller).focus({ preventScroll: true });
    }
    keep();
  }

  /** Returns the element of a row; a new one only if the row has changed. */
  _element(row, isGroup) {
    const text = signature(row);
    const known = this._elements.get(row.key);
    if (known?.text === text) return known.element;
    const element = toElement(row, { isGroup, act: this._act });
    if (known === undefined && this._wasPlaced && this._follows && row.kind === "message") element.classList.add("is-new");
    this._elements.set(row.key, { element, text });
    return element;
  }

  /** Remembers the messages at the top of the view; the returned function puts the first of them there again. */
  _anchor() {
    if (this._follows || !this._wasPlaced) return () => {};
    const top = this._scroller.getBoundingClientRect().top;
    const seen = [];
    for (const element of this._list.children) {
      const box = element.getBoundingClientRect();
      if (box.bottom > top && element.dataset.seq) seen.push([element.dataset.key, box.top]);
      if (seen.length > 30) break;
    }
    return () => {
      for (const [key, before] of seen) {
        const element = this._elements.get(key)?.element;
        if (!element?.isConnected) continue;
        const moved = element.getBoundingClientRect().top - before;
        if (moved !== 0) this._scroller.scrollTop += moved;
        return;
      }
    };
  }

  _renderTyping(conversation) {
    const typists = this._store.typists(conversation.id);
    this._typing.hidden = typists.length === 0 || this._to !== Infinity;
    const text = typists.length === 0 ? "" : `${listNames(typists)} ${typists.length === 1 ? "is" : "are"} typing`;
    if (this._typing.dataset.text === text) return;
    this._typing.dataset.text = text;
    this._typing.replaceChildren(h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("bdi", {}, text));
  }

  _renderJump(conversation) {
    const unread = this._store.unread(conversation);
    this._jump.hidden = this._follows;
    this._jumpText.textContent = unread > 0 ? String(unread) : "";
  }

  // --- scrolling ---

  /** Scrolls to the first unread message if it is further up, else to the end. */
  _place() {
    this._scrollToEnd();
    const line = this._elements.get("new")?.element;
    if (!line) return;
    const top = line.getBoundingClientRect().top - this._scroller.getBoundingClientRect().top;
    if (top < 0) {
      this._follows = false;
      this._scroller.scrollTop += top - this._scroller.clientHeight / 4;
    }
  }

  _scrollToEnd() {
    this._scroller.scrollTop = this._scroller.scrollHeight;
  }

  _toEnd() {
    this._follows = true;
    this._to = Infinity;
    this._render();
    this._composer.focus();
  }

  _below() {
    return this._scroller.scrollHeight - this._scroller.clientHeight - this._scroller.scrollTop;
  }

  _onScroll() {
    const conversation = this._store.conversations.get(this._id);
    if (conversation === undefined || !this._wasPlaced) return;
    this._follows = this._to === Infinity && this._below() < BOTTOM;
    this._extend();
    this._renderJump(conversation);
    this._read();
  }

  /** Moves the window, and loads older messages, when its end is near the view. */
  _extend() {
    const timeline = this._store.timeline(this._id);
    if (!this._wasPlaced || timeline.items.length === 0) return;
    if (this._scroller.scrollTop < EDGE) this._extendUp(timeline);
    else if (this._to !== Infinity && this._below() < EDGE) this._extendDown(timeline);
  }

  _extendUp(timeline) {
    if (this._from > timeline.firstSeq) {
      if (this._follows && timeline.lastSeq - this._from >= WINDOW - 1) return;
      this._from = Math.max(timeline.firstSeq, this._from - STEP);
      if (!this._follows && Math.min(this._to, timeline.lastSeq) - this._from >= WINDOW) this._to = this._from + WINDOW - 1;
      this._render();
    } else if (!timeline.isComplete) {
      const id = this._id;
      this._store.loadOlder(id).then((isLoaded) => isLoaded && id === this._id && this._extend());
    }
  }

  _extendDown(timeline) {
    this._to += STEP;
    if (this._to >= timeline.lastSeq) this._to = Infinity;
    this._from = Math.max(this._from, Math.min(this._to, timeline.lastSeq) - WINDOW + 1);
    this._render();
  }

  // --- reading ---

  /** Marks messages as read that are or were in view, while the page has the focus. */
  _read() {
    if (!this._wasPlaced || document.visibilityState !== "visible" || !document.hasFocus()) return;
    const conversation = this._store.conversations.get(this._id);
    if (conversation === undefined || this._store.unread(conversation) === 0) return;
    const bottom = this._scroller.getBoundingClientRect().bottom;
    const elements = this._list.querySelectorAll("li[data-seq]");
    for (let index = elements.length - 1; index >= 0; index -= 1) {
      if (!this._follows && elements[index].getBoundingClientRect().top > bottom - 20) continue;
      this._store.markRead(this._id, Number(elements[index].dataset.seq));
      return;
    }
  }

  // --- actions ---

  _sent() {
    this._newFrom = null;
    this._toEnd();
  }

  /** Returns the message that ↑ edits: null while one is under way, since an earlier one is not meant. */
  _lastOwn() {
    if (this._store.unsent(this._id).length > 0) return null;
    const timeline = this._store.timeline(this._id);
    return timeline.items.findLast((message) => message.sender_id === this._store.me.id && !message.is_deleted) ?? null;
  }

  async _remove(message) {
    if (!(await ask("Delete this message for everybody?", "Delete"))) return;
    try {
      await this._store.remove(message);
    } catch (error) {
      toast(explain(error));
    }
  }

  // --- keys ---

  /** Arrow keys move between messages; Tab moves to the buttons of one. */
  _onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...this._list.querySelectorAll("li[data-key].message")];
    const index = rows.indexOf(document.activeElement?.closest?.("li.message"));
    if (event.key === "Escape") this._composer.focus();
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const next = index < 0 ? rows.length - 1 : index + (event.key === "ArrowUp" ? -1 : 1);
      if (next >= rows.length) this._composer.focus();
      else rows[Math.max(0, next)]?.focus();
      event.preventDefault();
    } else if (event.key === "End" && index >= 0) {
      event.preventDefault();
      this._toEnd();
    }
  }

  _onFocus(event) {
    const row = event.target.closest("li.message");
    for (const button of this._list.querySelectorAll(".tools button[tabindex='0']")) button.tabIndex = -1;
    for (const button of row?.querySelectorAll(".tools button") ?? []) button.tabIndex = 0;
  }
}
