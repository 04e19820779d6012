/** @import { Clock } from "./types.js" */

export const SECOND = 1_000;
export const RETRY_LEAST = SECOND; // backoff: a random part of 1 s, 2 s, 4 s … 30 s
export const RETRY_MOST = 30 * SECOND;
const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds; browsers run a longer one at once

/** Timers that can all be cleared at once. */
export class Timers {
  /** @type {Set<{handle: any}>} */
  #running = new Set();
  /** @type {Clock} */
  #clock;

  /** @param {Clock} clock */
  constructor(clock) {
    this.#clock = clock;
  }

  now() {
    return this.#clock.now();
  }

  /**
   * Runs something later, however much later.
   * @param {number} ms
   * @param {() => void} run
   * @param {{background?: boolean}} [options] `background`: Node.js may end before.
   */
  set(ms, run, options = {}) {
    /** @type {{handle: any}} */
    const timer = { handle: null };
    /** @param {number} left */
    const start = (left) => {
      const step = Math.min(Math.max(0, left), LONGEST_TIMER);
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

  /** @param {{handle: any} | null} timer One that has run already does no harm. */
  clear(timer) {
    if (timer !== null && this.#running.delete(timer)) this.#clock.clearTimeout(timer.handle);
  }

  clearAll() {
    for (const timer of [...this.#running]) this.clear(timer);
  }
}

/**
 * Exponential backoff with full jitter.
 * @param {number} attempt 0, 1, 2 …
 * @param {() => number} random
 */
export function backoff(attempt, random) {
  return random() * Math.min(RETRY_MOST, RETRY_LEAST * 2 ** Math.min(attempt, 16));
}
