// The field for new messages and edits.

import { explain, h, icon, iconButton, toast } from "./dom.js";
import { countCharacters } from "./text.js";

const MAX_CHARACTERS = Number(document.querySelector('meta[name="pulse-max-content-chars"]').content);
const HINT_FROM = Math.min(200, Math.floor(MAX_CHARACTERS / 10)); // characters left when the count appears

export class Composer {
  #store;
  #client;
  #onSent;
  #lastOwn;
  #id;
  #drafts;
  #edited;
  #edits;
  #field;
  #count;
  #send;
  #editing;

  constructor(store, client, drafts, { onSent, lastOwn }) {
    this.#store = store;
    this.#client = client;
    this.#onSent = onSent;
    this.#lastOwn = lastOwn;
    this.#id = null;
    this.#drafts = drafts;
    this.#edited = null; // the message in the field, if it is an edit
    this.#edits = new Map(); // conversation id → `{message, text}` of an unfinished edit
    this.#field = h("textarea", { id: "composer", rows: 1, dir: "auto", placeholder: "Message", "aria-label": "Message", "aria-describedby": "composer-count", enterkeyhint: "send", autocomplete: "off", oninput: () => this.#onInput(), onkeydown: (event) => this.#onKey(event) });
    this.#count = h("span", { id: "composer-count", class: "count" });
    this.#send = h("button", { type: "submit", class: "send", "aria-label": "Send", title: "Send" }, icon("send"));
    this.#editing = h("div", { class: "editing", hidden: true }, icon("edit"), h("span", {}, "Editing a message"), iconButton("close", "Cancel editing", () => this.#stopEditing()));
    addEventListener("pagehide", () => this.#keepDraft());
    this.element = h("form", { class: "composer", onsubmit: (event) => this.#onSubmit(event) }, this.#editing, h("div", { class: "composer-row" }, this.#field, this.#count, this.#send));
  }

  open(id) {
    if (this.#edited === null) this.#keepDraft();
    else this.#edits.set(this.#id, { message: this.#edited, text: this.#field.value });
    this.#id = id;
    const kept = this.#edits.get(id);
    this.#edits.delete(id);
    this.#edited = kept?.message ?? null;
    this.#editing.hidden = this.#edited === null;
    this.#set(kept?.text ?? this.#drafts.get(id));
  }

  /** Ends the edit of a deleted message; its text stays in the field, as a new message. */
  follow(timeline) {
    if (this.#edited === null) return;
    const now = timeline.items.find((message) => message.id === this.#edited.id);
    if (!now?.is_deleted) return;
    const text = this.#field.value;
    this.#leaveEdit();
    this.#set(text);
    toast("The message you were editing was deleted.");
  }

  focus() {
    this.#field.focus();
  }

  edit(message) {
    this.#keepDraft();
    this.#edited = message;
    this.#editing.hidden = false;
    this.#set(message.content);
    this.#field.focus();
    this.#field.setSelectionRange(this.#field.value.length, this.#field.value.length);
  }

  #keepDraft() {
    if (this.#edited === null && this.#id !== null) this.#drafts.set(this.#id, this.#field.value);
  }

  #leaveEdit() {
    this.#edited = null;
    this.#editing.hidden = true;
  }

  #stopEditing() {
    this.#leaveEdit();
    this.#set(this.#drafts.get(this.#id));
    this.#field.focus();
  }

  #set(text) {
    this.#field.value = text;
    this.#fit();
  }

  #onInput() {
    this.#fit();
    if (this.#field.value.trim() !== "" && this.#edited === null) this.#client.typing(this.#id);
  }

  /** Fits the height of the field to its text, and shows how many characters are left. */
  #fit() {
    this.#field.style.height = "auto";
    if (this.#field.scrollHeight > 0) this.#field.style.height = `${this.#field.scrollHeight}px`;
    const left = MAX_CHARACTERS - countCharacters(this.#field.value);
    this.#count.textContent = left > HINT_FROM ? "" : left >= 0 ? `${left} left` : `${-left} too many`;
    this.#count.classList.toggle("is-over", left < 0);
    this.#field.toggleAttribute("aria-invalid", false);
    if (left < 0) this.#field.setAttribute("aria-invalid", "true");
    this.#send.disabled = left < 0 || this.#field.value.trim() === "";
  }

  #onKey(event) {
    if (event.isComposing) return; // Enter confirms a word of an input method
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.element.requestSubmit();
    } else if (event.key === "Escape" && this.#edited !== null) {
      event.preventDefault();
      this.#stopEditing();
    } else if (event.key === "ArrowUp" && this.#field.value === "" && this.#edited === null) {
      const last = this.#lastOwn();
      if (last === null) return;
      event.preventDefault();
      this.edit(last);
    }
  }

  async #onSubmit(event) {
    event.preventDefault();
    const content = this.#field.value;
    if (this.#send.disabled || this.#id === null) return;
    if (this.#edited === null) {
      this.#set("");
      this.#drafts.set(this.#id, "");
      this.#store.send(this.#id, content);
      this.#onSent();
      return;
    }
    // Text typed from here on belongs to the next message, however long the answer takes.
    const message = this.#edited;
    this.#stopEditing();
    if (content === message.content) return;
    try {
      await this.#store.edit(message, content);
    } catch (error) {
      this.#notEdited(message, content, error);
    }
  }

  /** Returns a text that could not be saved to the field, unless the field is in use. */
  #notEdited(message, content, error) {
    const isGone = error.code === "no_such_message";
    toast(isGone ? "The message you were editing was deleted." : `The message could not be edited. ${explain(error)}`);
    if (this.#id !== message.conversation_id || this.#edited !== null || this.#field.value !== "") return;
    if (!isGone) this.edit(message);
    this.#set(content);
  }
}
