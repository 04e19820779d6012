/** @import { Clock } from "./types.js" */

export const SECOND = 1_000; // milliseconds
export const MIN_RETRY = SECOND; // milliseconds; backoff: a random part of 1 s, 2 s, 4 s … 30 s
export const MAX_RETRY = 30 * SECOND;
const MAX_TIMER = 2 ** 31 - 1; // milliseconds; browsers run a longer one at once

/** Timers that are cleared together. */
export class Timers {
  /** @type {Set<{handle: any}>} */
  #running = new Set();
  /** @type {Clock} */
  #clock;

  /** @param {Clock} clock */
  constructor(clock) {
    this.#clock = clock;
  }

  /** Milliseconds for durations: setting the machine's clock does not move them. */
  now() {
    return this.#clock.monotonic?.() ?? this.#clock.now();
  }

  /** Milliseconds since the epoch, for times that the page shows or stores. */
  wallTime() {
    return this.#clock.now();
  }

  /**
   * Runs something later, also after more than the 24 days that one timer can wait.
   * @param {number} ms
   * @param {() => void} run
   * @param {{background?: boolean}} [options] `background`: does not keep Node.js running.
   */
  set(ms, run, options = {}) {
    /** @type {{handle: any}} */
    const timer = { handle: null };
    /** @param {number} left */
    const start = (left) => {
      const step = Math.min(Math.max(0, left), MAX_TIMER);
      timer.handle = this.#clock.setTimeout(() => {
        if (left > step) {
          start(left - step);
        } else {
          this.#running.delete(timer);
          run();
        }
      }, step);
      if (options.background) timer.handle?.unref?.();
    };
    this.#running.add(timer);
    start(ms);
    return timer;
  }

  /** @param {{handle: any} | null} timer May have run already. */
  clear(timer) {
    if (timer !== null && this.#running.delete(timer)) this.#clock.clearTimeout(timer.handle);
  }

  /**
   * Runs something later that `clearAll` leaves; returns what clears it.
   * @param {number} ms
   * @param {() => void} run
   */
  setKept(ms, run) {
    const handle = this.#clock.setTimeout(run, ms);
    return () => this.#clock.clearTimeout(handle);
  }

  clearAll() {
    for (const timer of [...this.#running]) this.clear(timer);
  }
}

/**
 * Returns a pause in milliseconds: exponential backoff with full jitter.
 * @param {number} attempt 0, 1, 2 …
 * @param {() => number} random
 */
export function backoff(attempt, random) {
  return random() * Math.min(MAX_RETRY, MIN_RETRY * 2 ** Math.min(attempt, 16));
}
