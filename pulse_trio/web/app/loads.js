// Retries requests for what the page needs: a request may fail while the connection stays.

const MIN_RETRY_MS = 1000; // doubled with each failure in a row
const MAX_RETRY_MS = 30_000;

export class Loads {
  #isOnline;
  #running;

  /** `isOnline()` returns true with a connection. Without one nothing is retried until `hurry`. */
  constructor(isOnline) {
    this.#isOnline = isOnline;
    this.#running = new Map(); // key → {isStale, wake, done}
  }

  /**
   * Runs `load` until it succeeds, with longer and longer pauses, while `isWanted()`. A rejection by the service ends it.
   * One runs for each key: a second call shares its promise and makes it run once more, since the first answer may be
   * older than the reason for the second call. Resolves to true if it was loaded, to false if it was given up; rejects
   * only with errors that are not of a request.
   */
  run(key, load, isWanted = () => true) {
    let running = this.#running.get(key);
    if (running !== undefined) {
      running.isStale = true;
      running.wake?.();
      return running.done;
    }
    running = { isStale: false, wake: null, done: null };
    this.#running.set(key, running);
    running.done = this.#run(running, load, isWanted).finally(() => this.#running.delete(key));
    return running.done;
  }

  /** Ends all pauses: there is a new connection. */
  hurry() {
    for (const { wake } of [...this.#running.values()]) wake?.();
  }

  async #run(running, load, isWanted) {
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
        const pause = Math.min(MAX_RETRY_MS, MIN_RETRY_MS * 2 ** failures) * (0.5 + Math.random() / 2);
        failures = Math.min(failures + 1, 10);
        await this.#pause(running, Math.max(pause, (error.retryAfter ?? 0) * 1000));
        running.isStale = true;
      }
    } while (running.isStale && isWanted());
    return isLoaded;
  }

  #pause(running, ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        if (this.#isOnline()) running.wake();
      }, ms);
      running.wake = () => {
        clearTimeout(timer);
        running.wake = null;
        resolve();
      };
    });
  }
}

/** Returns true if the service would reject the request again. */
function isFinal(status) {
  return status >= 400 && status < 500 && status !== 408 && status !== 425 && status !== 429;
}
