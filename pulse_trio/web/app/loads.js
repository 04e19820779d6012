// What the page needs and has to load, tried until it is there: a request may fail on a connection that stays.

const AGAIN_LEAST_MS = 1000; // doubled with each failure in a row
const AGAIN_MOST_MS = 30_000;

export class Loads {
  /** `isOnline()` says whether there is a connection: without one nothing is asked, and `hurry` says when there is. */
  constructor(isOnline) {
    this._isOnline = isOnline;
    this._running = new Map(); // key → {isStale, wake, done}
  }

  /**
   * Runs `load` until it succeeds, after longer and longer pauses, for as long as `isWanted()`. What is refused for good
   * is given up. One of a key at a time: who asks while it runs gets the same end, and it runs once more, as what it
   * loaded may be older than the reason to ask. The promise is true if it was loaded, false if it was given up, and is
   * rejected only by what is no error of a request.
   */
  run(key, load, isWanted = () => true) {
    let running = this._running.get(key);
    if (running !== undefined) {
      running.isStale = true;
      running.wake?.();
      return running.done;
    }
    running = { isStale: false, wake: null, done: null };
    this._running.set(key, running);
    running.done = this._run(running, load, isWanted).finally(() => this._running.delete(key));
    return running.done;
  }

  /** There is a new connection: no more waiting. */
  hurry() {
    for (const { wake } of [...this._running.values()]) wake?.();
  }

  async _run(running, load, isWanted) {
    let failures = 0;
    let isLoaded = false;
    do {
      running.isStale = false;
      try {
        await load();
        isLoaded = true;
        failures = 0;
      } catch (error) {
        if (error.status === undefined) throw error;
        isLoaded = false;
        if (isFinal(error.status)) break;
        const pause = Math.min(AGAIN_MOST_MS, AGAIN_LEAST_MS * 2 ** failures) * (0.5 + Math.random() / 2);
        failures = Math.min(failures + 1, 10);
        await this._pause(running, Math.max(pause, (error.retryAfter ?? 0) * 1000));
        running.isStale = true;
      }
    } while (running.isStale && isWanted());
    return isLoaded;
  }

  _pause(running, ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        if (this._isOnline()) running.wake();
      }, ms);
      running.wake = () => {
        clearTimeout(timer);
        running.wake = null;
        resolve();
      };
    });
  }
}

/** Whether a request that was answered so would be refused again. */
function isFinal(status) {
  return status >= 400 && status < 500 && status !== 408 && status !== 425 && status !== 429;
}
