// The field for new messages and edits.

import { explain, h, icon, iconButton, toast } from "./dom.js";
import { countCharacters } from "./text.js";

const MAX_CHARACTERS = Number(document.querySelector('meta[name="pulse-max-content-chars"]').content);
const HINT_FROM = Math.min(200, Math.floor(MAX_CHARACTERS / 10)); // characters left when the count appears

export class Composer {
  constructor(store, client, drafts, { onSent, lastOwn }) {
    this._store = store;
    this._client = client;
    this._onSent = onSent;
    this._lastOwn = lastOwn;
    this._id = null;
    this._drafts = drafts;
    this._edited = null; // the message in the field, if it is an edit
    this._edits = new Map(); // conversation id → `{message, text}` of an unfinished edit
    this._field = h("textarea", { id: "composer", rows: 1, dir: "auto", placeholder: "Message", "aria-label": "Message", "aria-describedby": "composer-count", enterkeyhint: "send", autocomplete: "off", oninput: () => this._onInput(), onkeydown: (event) => this._onKey(event) });
    this._count = h("span", { id: "composer-count", class: "count" });
    this._send = h("button", { type: "submit", class: "send", "aria-label": "Send", title: "Send" }, icon("send"));
    this._editing = h("div", { class: "editing", hidden: true }, icon("edit"), h("span", {}, "Editing a message"), iconButton("close", "Cancel editing", () => this._stopEditing()));
    addEventListener("pagehide", () => this._keepDraft());
    this.element = h("form", { class: "composer", onsubmit: (event) => this._onSubmit(event) }, this._editing, h("div", { class: "composer-row" }, this._field, this._count, this._send));
  }

  open(id) {
    if (this._edited === null) this._keepDraft();
    else this._edits.set(this._id, { message: this._edited, text: this._field.value });
    this._id = id;
    const kept = this._edits.get(id);
    this._edits.delete(id);
    this._edited = kept?.message ?? null;
    this._editing.hidden = this._edited === null;
    this._set(kept?.text ?? this._drafts.get(id));
  }

  /** Ends the edit of a deleted message; its text stays in the field, as a new message. */
  follow(timeline) {
    if (this._edited === null) return;
    const now = timeline.items.find((message) => message.id === this._edited.id);
    if (!now?.is_deleted) return;
    const text = this._field.value;
    this._leaveEdit();
    this._set(text);
    toast("The message you were editing was deleted.");
  }

  focus() {
    this._field.focus();
  }

  edit(message) {
    this._keepDraft();
    this._edited = message;
    this._editing.hidden = false;
    this._set(message.content);
    this._field.focus();
    this._field.setSelectionRange(this._field.value.length, this._field.value.length);
  }

  _keepDraft() {
    if (this._edited === null && this._id !== null) this._drafts.set(this._id, this._field.value);
  }

  _leaveEdit() {
    this._edited = null;
    this._editing.hidden = true;
  }

  _stopEditing() {
    this._leaveEdit();
    this._set(this._drafts.get(this._id));
    this._field.focus();
  }

  _set(text) {
    this._field.value = text;
    this._fit();
  }

  _onInput() {
    this._fit();
    if (this._field.value.trim() !== "" && this._edited === null) this._client.typing(this._id);
  }

  /** Fits the height of the field to its text, and shows how many characters are left. */
  _fit() {
    this._field.style.height = "auto";
    if (this._field.scrollHeight > 0) this._field.style.height = `${this._field.scrollHeight}px`;
    const left = MAX_CHARACTERS - countCharacters(this._field.value);
    this._count.textContent = left > HINT_FROM ? "" : left >= 0 ? `${left} left` : `${-left} too many`;
    this._count.classList.toggle("is-over", left < 0);
    this._field.toggleAttribute("aria-invalid", false);
    if (left < 0) this._field.setAttribute("aria-invalid", "true");
    this._send.disabled = left < 0 || this._field.value.trim() === "";
  }

  _onKey(event) {
    if (event.isComposing) return; // Enter confirms a word of an input method
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.element.requestSubmit();
    } else if (event.key === "Escape" && this._edited !== null) {
      event.preventDefault();
      this._stopEditing();
    } else if (event.key === "ArrowUp" && this._field.value === "" && this._edited === null) {
      const last = this._lastOwn();
      if (last === null) return;
      event.preventDefault();
      this.edit(last);
    }
  }

  async _onSubmit(event) {
    event.preventDefault();
    const content = this._field.value;
    if (this._send.disabled || this._id === null) return;
    if (this._edited === null) {
      this._set("");
      this._drafts.set(this._id, "");
      this._store.send(this._id, content);
      this._onSent();
      return;
    }
    // Text typed from here on belongs to the next message, however long the answer takes.
    const message = this._edited;
    this._stopEditing();
    if (content === message.content) return;
    try {
      await this._store.edit(message, content);
    } catch (error) {
      this._notEdited(message, content, error);
    }
  }

  /** Returns a text that could not be saved to the field, unless the field is in use. */
  _notEdited(message, content, error) {
    const isGone = error.code === "no_such_message";
    toast(isGone ? "The message you were editing was deleted." : `The message could not be edited. ${explain(error)}`);
    if (this._id !== message.conversation_id || this._edited !== null || this._field.value !== "") return;
    if (!isGone) this.edit(message);
    this._set(content);
  }
}
