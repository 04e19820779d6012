import { SECOND, backoff } from "./timers.js";

/** @import { Timers } from "./timers.js" */

/** Repeats requests that the server could not take, all at once, with a backoff while they keep failing. */
export class Repeats {
  /** @type {Set<string>} */
  #waiting = new Set();
  #failures = 0; // in a row
  /** @type {{handle: any} | null} */
  #timer = null;
  #options;

  /** @param {{timers: Timers, random: () => number, run: (names: Set<string>) => void}} options `run` repeats them. */
  constructor(options) {
    this.#options = options;
  }

  /** @param {string} name Of what the server could not take. */
  add(name) {
    this.#waiting.add(name);
    if (this.#timer !== null) return;
    const delay = SECOND + backoff(this.#failures, this.#options.random);
    this.#failures += 1;
    this.#timer = this.#options.timers.set(delay, () => {
      const names = new Set(this.#waiting);
      this.#timer = null;
      this.#waiting.clear();
      this.#options.run(names);
    });
  }

  /** One of them succeeded: the backoff starts afresh. */
  succeeded() {
    this.#failures = 0;
  }

  /** A session began, which is sent everything anyway. */
  clear() {
    this.#waiting.clear();
    this.#failures = 0;
  }

  /** All timers were cleared. */
  stopped() {
    this.#timer = null;
  }
}
