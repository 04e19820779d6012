// The banner without a connection: the state and the next attempt.

import { h } from "./dom.js";

const PATIENCE_MS = 700; // without a banner, for a quick reconnect

export class Banner {
  #store;
  #text;
  #countdown;
  #retry;
  #wasOnline;
  #timers;

  constructor(store) {
    this.#store = store;
    this.#text = h("span", {});
    this.#countdown = h("span", { "aria-hidden": "true" });
    this.#retry = h("button", { type: "button", class: "link-button", onclick: () => this.#hurry() }, "Try now");
    this.element = h("div", { class: "banner", role: "status", hidden: true }, this.#text, this.#countdown, this.#retry);
    this.#wasOnline = false;
    this.#timers = [];
    // The browser knows at once that it is offline; the client waits some seconds for the connection.
    for (const kind of ["online", "offline"]) addEventListener(kind, () => this.#follow());
  }

  update(changes) {
    if (changes.has("state")) this.#follow();
  }

  #follow() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
    if (this.#state() === "online") {
      this.element.hidden = true;
      this.#wasOnline = true;
      return;
    }
    const shown = !this.element.hidden;
    this.#timers.push(setTimeout(() => this.#show(), shown ? 0 : PATIENCE_MS));
  }

  #state() {
    const { state } = this.#store.connection;
    return state === "online" && navigator.onLine === false ? "offline" : state;
  }

  #hurry() {
    const { client, connection } = this.#store;
    if (connection.state === "closed") client.connect();
    else client.reconnect();
  }

  #show() {
    const { retryAt } = this.#store.connection;
    const state = this.#state();
    const seconds = retryAt ? Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)) : 0;
    const text = {
      connecting: this.#wasOnline ? "Reconnecting …" : "Connecting …",
      waiting: "No connection. ",
      offline: "You are offline. What you write is sent when you are back.",
      closed: "Disconnected.",
    }[state];
    if (this.#text.textContent !== text) this.#text.textContent = text ?? "";
    this.#countdown.textContent = state === "waiting" ? (seconds > 0 ? `Next attempt in ${seconds} s` : "Connecting …") : "";
    this.#retry.hidden = state === "connecting";
    this.element.hidden = false;
    this.element.dataset.state = state;
    if (state === "waiting" && seconds > 0) this.#timers.push(setTimeout(() => this.#show(), 500));
  }
}
