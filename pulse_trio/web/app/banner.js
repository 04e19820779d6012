// The banner without a connection: the state and the next attempt.

import { h } from "./dom.js";

const PATIENCE_MS = 700; // without a banner, for a quick reconnect

export class Banner {
  constructor(store) {
    this._store = store;
    this._text = h("span", {});
    this._countdown = h("span", { "aria-hidden": "true" });
    this._retry = h("button", { type: "button", class: "link-button", onclick: () => this._hurry() }, "Try now");
    this.element = h("div", { class: "banner", role: "status", hidden: true }, this._text, this._countdown, this._retry);
    this._wasOnline = false;
    this._timers = [];
    // The browser knows at once that it is offline; the client waits some seconds for the connection.
    for (const kind of ["online", "offline"]) addEventListener(kind, () => this._follow());
  }

  update(changes) {
    if (changes.has("state")) this._follow();
  }

  _follow() {
    for (const timer of this._timers) clearTimeout(timer);
    this._timers = [];
    if (this._state() === "online") {
      this.element.hidden = true;
      this._wasOnline = true;
      return;
    }
    const shown = !this.element.hidden;
    this._timers.push(setTimeout(() => this._show(), shown ? 0 : PATIENCE_MS));
  }

  _state() {
    const { state } = this._store.connection;
    return state === "online" && navigator.onLine === false ? "offline" : state;
  }

  _hurry() {
    const { client, connection } = this._store;
    if (connection.state === "closed") client.connect();
    else client.reconnect();
  }

  _show() {
    const { retryAt } = this._store.connection;
    const state = this._state();
    const seconds = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
    const text = {
      connecting: this._wasOnline ? "Reconnecting …" : "Connecting …",
      waiting: "No connection. ",
      offline: "You are offline. What you write is sent when you are back.",
      closed: "Disconnected.",
    }[state];
    if (this._text.textContent !== text) this._text.textContent = text ?? "";
    this._countdown.textContent = state === "waiting" ? (seconds > 0 ? `Next attempt in ${seconds} s` : "Connecting …") : "";
    this._retry.hidden = state === "connecting";
    this.element.hidden = false;
    this.element.dataset.state = state;
    if (state === "waiting" && seconds > 0) this._timers.push(setTimeout(() => this._show(), 500));
  }
}
