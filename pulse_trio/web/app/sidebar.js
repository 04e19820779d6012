// The list of conversations.

import { local } from "./account.js";
import { arrange, avatar, fill, h, icon, iconButton, name } from "./dom.js";
import { ask, openNewChat } from "./newchat.js";
import { listTime } from "./time.js";

const THEMES = ["auto", "light", "dark"];

export class Sidebar {
  #store;
  #selected;
  #rows;
  #filter;
  #list;
  #empty;
  #theme;

  constructor(store, { signOut, onAgain }) {
    this.#store = store;
    this.#selected = null;
    this.#rows = new Map(); // conversation id → its element
    this.#filter = h("input", { type: "search", class: "search-input", placeholder: "Search conversations", "aria-label": "Search conversations", oninput: () => this.#render(), onkeydown: (event) => this.#onFilterKey(event) });
    this.#list = h("ul", { class: "chats", onkeydown: (event) => this.#onKey(event), onclick: (event) => this.#onClick(event, onAgain) });
    this.#empty = h("div", { class: "chats-empty" });
    this.#theme = iconButton("auto", "", () => this.#nextTheme());
    this.element = h(
      "div",
      { class: "sidebar" },
      h(
        "header",
        { class: "sidebar-head" },
        h("div", { class: "brand" }, icon("logo"), h("h1", {}, "Pulse")),
        iconButton("new", "New conversation", () => openNewChat(store)),
      ),
      h("div", { class: "search", role: "search" }, icon("search"), this.#filter),
      h("nav", { class: "chats-frame", "aria-label": "Conversations" }, this.#list, this.#empty),
      h(
        "footer",
        { class: "sidebar-foot" },
        avatar(store.me.id, store.me.username),
        h("span", { class: "me" }, name(store.me.username)),
        this.#theme,
        iconButton("out", "Sign out", () => this.#signOut(signOut)),
      ),
    );
    this.#showTheme();
    setInterval(() => this.#render(), 60_000); // "10:24" becomes "Yesterday"
  }

  select(id) {
    this.#selected = id;
    this.#render();
  }

  update(changes) {
    if (changes.has("list") || changes.has("people")) this.#render();
  }

  #render() {
    const wanted = this.#filter.value.trim().toLowerCase();
    const all = this.#store.list();
    const shown = wanted === "" ? all : all.filter((conversation) => this.#matches(conversation, wanted));
    const rows = shown.map((conversation) => this.#row(conversation));
    const focused = this.#list.contains(document.activeElement) ? document.activeElement : null;
    arrange(this.#list, rows);
    if (focused?.isConnected) focused.focus(); // an element that moves loses the focus
    for (const id of this.#rows.keys()) if (!this.#store.conversations.has(id)) this.#rows.delete(id);
    this.#list.hidden = rows.length === 0;
    this.#showEmpty(rows.length === 0, wanted);
    // One stop for the Tab key; arrow keys move from there.
    const current = rows.find((row) => row.dataset.id === this.#selected) ?? rows[0];
    for (const row of rows) row.firstElementChild.tabIndex = row === current ? 0 : -1;
  }

  #matches(conversation, wanted) {
    const names = [this.#store.title(conversation), ...conversation.users.map((user) => user.username)];
    return names.some((text) => text.toLowerCase().includes(wanted));
  }

  #showEmpty(isEmpty, wanted) {
    const kind = !isEmpty ? "" : wanted !== "" ? "none" : this.#store.isListed ? "new" : "loading";
    if (this.#empty.dataset.kind === kind) return;
    this.#empty.dataset.kind = kind;
    this.#empty.hidden = kind === "";
    if (kind === "none") this.#empty.replaceChildren(h("p", {}, "Nothing found."));
    else if (kind === "new") {
      this.#empty.replaceChildren(
        h("p", {}, "No conversations yet."),
        h("button", { type: "button", class: "button", onclick: () => openNewChat(this.#store) }, "Find people"),
      );
    } else this.#empty.replaceChildren(h("p", {}, "Loading …"));
  }

  #row(conversation) {
    const store = this.#store;
    let row = this.#rows.get(conversation.id);
    if (row === undefined) {
      row = h("li", { "data-id": conversation.id }, h("a", { class: "chat", href: `#/c/${conversation.id}` }));
      this.#rows.set(conversation.id, row);
    }
    const title = store.title(conversation);
    const unread = store.unread(conversation);
    const isSelected = conversation.id === this.#selected;
    const other = store.other(conversation);
    const isOnline = other === null ? null : store.isOnline(other.id);
    const preview = this.#preview(conversation);
    const time = listTime(conversation.last_message?.created_at ?? conversation.created_at);
    const shown = JSON.stringify([title, unread, isSelected, isOnline, preview, time]);
    if (row.dataset.shown === shown) return row;
    row.dataset.shown = shown;
    const link = row.firstElementChild;
    link.classList.toggle("is-selected", isSelected);
    link.classList.toggle("is-unread", unread > 0);
    link.toggleAttribute("aria-current", false);
    if (isSelected) link.setAttribute("aria-current", "page");
    fill(
      link,
      avatar(other?.id ?? conversation.id, title, { isGroup: conversation.is_group, isOnline }),
      h("span", { class: "chat-title" }, name(title), isOnline ? h("span", { class: "unseen" }, " (online)") : null),
      h("span", { class: "chat-time" }, time),
      h("span", { class: `chat-preview${preview.isTyping ? " is-typing" : ""}` }, preview.who ? [name(preview.who), ": "] : null, h("bdi", {}, preview.text)),
      unread > 0 ? h("span", { class: "badge" }, h("span", { "aria-hidden": "true" }, unread > 999 ? "999+" : String(unread)), h("span", { class: "unseen" }, ` ${unread} unread`)) : null,
    );
    return row;
  }

  #preview(conversation) {
    const store = this.#store;
    const typists = store.typists(conversation.id);
    if (typists.length > 0) {
      return { who: "", text: conversation.is_group ? `${typists[0]} is typing …` : "typing …", isTyping: true };
    }
    const underWay = store.unsent(conversation.id).at(-1);
    if (underWay?.failure) return { who: "", text: `Not sent: ${underWay.content.slice(0, 200)}`, isTyping: false };
    if (underWay) return { who: "You", text: underWay.content.slice(0, 200), isTyping: false };
    const last = conversation.last_message;
    if (!last) return { who: "", text: conversation.is_group ? "New group" : "Say hello", isTyping: false };
    const isMine = last.sender_id === store.me.id;
    const who = isMine ? "You" : conversation.is_group ? last.sender_username : "";
    return { who, text: last.is_deleted ? "Message deleted" : last.content.slice(0, 200), isTyping: false };
  }

  // --- keys ---

  #onFilterKey(event) {
    if (event.key === "Escape") {
      this.#filter.value = "";
      this.#render();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#list.querySelector("a")?.focus();
    } else if (event.key === "Enter") {
      this.#list.querySelector("a")?.click();
    }
  }

  #onKey(event) {
    const links = [...this.#list.querySelectorAll("a")];
    const index = links.indexOf(document.activeElement);
    const next = { ArrowDown: index + 1, ArrowUp: index - 1, Home: 0, End: links.length - 1 }[event.key];
    if (next === undefined || index < 0) return;
    event.preventDefault();
    if (next < 0) this.#filter.focus();
    else links[Math.min(next, links.length - 1)].focus();
  }

  /** Handles a click on the open conversation: the address stays, so there is no `hashchange`. */
  #onClick(event, onAgain) {
    if (event.target.closest("a")?.getAttribute("href") === location.hash) onAgain();
  }

  // --- the user's own ---

  #nextTheme() {
    const theme = THEMES[(THEMES.indexOf(this.#currentTheme()) + 1) % THEMES.length];
    if (theme === "auto") {
      delete document.documentElement.dataset.theme;
      local.removeItem("pulse.theme");
    } else {
      document.documentElement.dataset.theme = theme;
      local.setItem("pulse.theme", theme);
    }
    this.#showTheme();
  }

  #currentTheme() {
    return document.documentElement.dataset.theme ?? "auto";
  }

  #showTheme() {
    const theme = this.#currentTheme();
    const label = { auto: "Colours: follow system", light: "Colours: light", dark: "Colours: dark" }[theme];
    this.#theme.replaceChildren(icon(theme));
    this.#theme.setAttribute("aria-label", label);
    this.#theme.title = label;
  }

  async #signOut(signOut) {
    const unsent = this.#store.client.unsentCount;
    const question = unsent === 1 ? "A message is not sent yet" : `${unsent} messages are not sent yet`;
    if (unsent === 0 || (await ask(`${question} and will be lost. Sign out?`, "Sign out"))) signOut();
  }
}
