import { withoutSecrets } from "./errors.js";
import { Link } from "./link.js";
import { MIN_RETRY, MAX_RETRY, SECOND, backoff } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { Frame, State, Surroundings } from "./types.js"
 */

const STABLE = 10 * SECOND; // milliseconds online that reset the backoff
const RESTART_SPREAD = 5 * SECOND; // milliseconds; spreads the clients after a restart of the server
const MAX_VAIN_SEARCHES = 3; // in a row; then the client waits longer and longer before it looks for the next change
export const GAP = 0; // in place of a close code: a change did not arrive

/** The connection from `start` to `stop`: decides when to connect again. */
export class Connection {
  #options;
  /** @type {AbortController | null} from `start` to `stop`, which aborts it */
  #wanted = null;
  /** @type {Link | null} */
  #link = null;
  /** @type {{handle: any} | null} */
  #retry = null;
  /** @type {AbortController | null} of the request between two links: it explains a rejected handshake, or renews */
  #asking = null;
  #attempts = 0;
  /** @type {number | null} */
  #onlineSince = null;

  /**
   * @param {object} options
   * @param {any} options.WebSocket
   * @param {string} options.url
   * @param {Timers} options.timers
   * @param {() => number} options.random
   * @param {{connect: number, ping: number, pong: number}} options.times Milliseconds.
   * @param {Surroundings | null} options.window
   * @param {() => string} options.token The newest.
   * @param {() => number} options.vainSearches Searches for a missing change, in a row, that found nothing.
   * @param {(state: State) => void} options.onState
   * @param {(token: string) => void} options.onOpen A link with this token is being made.
   * @param {(error: unknown) => void} options.onFailed The WebSocket rejects the URL or the token.
   * @param {(frame: Frame) => void} options.onFrame
   * @param {(code: number) => void} options.onEnd The link has ended; the code is that of the close frame, or `GAP`.
   * @param {(signal: AbortSignal) => Promise<boolean>} options.renew Renews an expired token; false: there is no new one.
   * @param {(token: string, signal: AbortSignal) => Promise<number>} options.explain Finds out why a handshake was
   *   rejected; returns the milliseconds to wait.
   */
  constructor(options) {
    this.#options = options;
  }

  /** True from `session` to the end of a link. */
  get isReady() {
    return this.#link?.isReady === true;
  }

  get isWanted() {
    return this.#wanted !== null;
  }

  /** Aborted by `stop`. */
  get signal() {
    return this.#wanted?.signal;
  }

  start() {
    const { window } = this.#options;
    this.#wanted = new AbortController();
    this.#attempts = 0;
    window?.addEventListener("online", this.hurry);
    window?.addEventListener("offline", this.#doubt);
    window?.document?.addEventListener("visibilitychange", this.#seen);
    if (this.#isOffline()) this.#wait(0, "offline");
    else this.#open();
  }

  /** Ends everything but the timers, which the caller clears; returns false if there was nothing to end. */
  stop() {
    const { window } = this.#options;
    const wasWanted = this.#wanted !== null;
    this.#wanted?.abort();
    this.#wanted = null;
    this.#asking?.abort();
    this.#asking = null;
    this.#link?.close();
    this.#link = null;
    this.#retry = null;
    window?.removeEventListener("online", this.hurry);
    window?.removeEventListener("offline", this.#doubt);
    window?.document?.removeEventListener("visibilitychange", this.#seen);
    return wasWanted;
  }

  /** @param {Frame} frame Is dropped without a link. */
  send(frame) {
    this.#link?.send(frame);
  }

  /** Notes that a session has begun. */
  started() {
    this.#onlineSince = this.#options.timers.now();
  }

  /**
   * Ends the link, as if the server had closed it.
   * @param {number} code
   * @param {string} reason
   */
  end(code, reason) {
    this.#link?.close();
    this.#link = null;
    this.#ended(code, reason, "", true);
  }

  /** Ends a wait: there is a network again, the page became visible, or asks for it. With a link, pings the server. */
  hurry = () => {
    if (this.#link !== null) {
      this.#link.probe();
    } else if (this.#retry !== null) {
      this.#attempts = 0;
      this.#open();
    } else if (this.#asking !== null) {
      this.#attempts = 0;
      this.#asking.abort();
    }
  };

  #doubt = () => {
    if (this.#link !== null) this.#link.probe();
    else if (this.#retry !== null) this.#wait(0, "offline");
  };

  #seen = () => {
    if (this.#options.window?.document?.visibilityState === "visible") this.hurry();
  };

  #isOffline() {
    return this.#options.window?.navigator?.onLine === false;
  }

  #open() {
    const { WebSocket, url, timers, times, onState, onOpen, onFrame, onFailed } = this.#options;
    const wanted = this.#wanted;
    if (wanted === null || this.#link !== null) return;
    timers.clear(this.#retry);
    this.#retry = null;
    this.#onlineSince = null;
    onState({ state: "connecting" });
    if (this.#wanted !== wanted) return; // a listener has closed it, and may have connected again
    const token = this.#options.token();
    onOpen(token);
    const onEnd = (/** @type {number} */ code, /** @type {string} */ reason) => {
      const wasOpen = this.#link?.isOpen === true;
      this.#link = null;
      this.#ended(code, reason, token, wasOpen);
    };
    try {
      this.#link = new Link({ WebSocket, url, token, timers, times, onFrame, onEnd });
    } catch (error) {
      onFailed(error);
    }
  }

  /**
   * Handles the end of a link: decides when to reconnect.
   * @param {number} code Of the close frame, or `GAP`.
   * @param {string} told The reason.
   * @param {string} token Of the link.
   * @param {boolean} wasOpen
   */
  async #ended(code, told, token, wasOpen) {
    const { timers, random, vainSearches, onState, onEnd, renew, explain } = this.#options;
    const reason = withoutSecrets(told, [token, this.#options.token()]);
    const wanted = this.#wanted;
    if (wanted === null) return;
    onEnd(code);
    if (this.#onlineSince !== null && timers.now() - this.#onlineSince >= STABLE) this.#attempts = 0;
    const isFirst = this.#attempts === 0;
    let delay = backoff(this.#attempts, random);
    this.#attempts += 1;
    if (code === 1012) {
      delay = Math.max(delay, random() * RESTART_SPREAD);
    } else if (code === 4401) {
      let hasNew = this.#options.token() !== token;
      if (!hasNew) {
        onState({ state: "connecting", reason });
        if (wanted.signal.aborted) return;
        const signal = this.#ask();
        hasNew = await renew(signal);
        if (this.#answered(signal)) delay = 0;
      }
      if (hasNew && isFirst) delay = 0;
    } else if (code === GAP && vainSearches() >= MAX_VAIN_SEARCHES) {
      const most = Math.min(MAX_RETRY, MIN_RETRY * 2 ** Math.min(vainSearches(), 16));
      delay = Math.max(delay, most * (0.5 + random() / 2));
    } else if (code === 4408 || code === GAP) {
      delay = isFirst ? 0 : delay;
    } else if (code === 4429) {
      delay += RESTART_SPREAD;
    } else if (code !== 4409 && !wasOpen) {
      const signal = this.#ask();
      delay = Math.max(delay, await explain(token, signal));
      if (this.#answered(signal)) delay = 0;
    }
    if (!wanted.signal.aborted) this.#wait(delay, reason || `closed with ${code}`);
  }

  /** Begins a request that `hurry` and `stop` abort. */
  #ask() {
    this.#asking = new AbortController();
    return this.#asking.signal;
  }

  /** Ends it; returns true if it was aborted: `hurry` does not wait. @param {AbortSignal} signal */
  #answered(signal) {
    if (this.#asking?.signal === signal) this.#asking = null;
    return signal.aborted;
  }

  /**
   * @param {number} delay
   * @param {string} reason
   */
  #wait(delay, reason) {
    const { timers, onState } = this.#options;
    const isOffline = this.#isOffline();
    // A browser may report no network by mistake; if it does not, the `online` event comes first.
    const ms = isOffline ? MAX_RETRY : delay;
    timers.clear(this.#retry);
    this.#retry = timers.set(ms, () => this.#open());
    onState({ state: isOffline ? "offline" : "waiting", retryAt: timers.wallTime() + ms, reason });
  }
}
