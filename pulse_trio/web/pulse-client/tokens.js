import { PulseError } from "./errors.js";
import { SECOND, backoff } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { SignIn, Token } from "./types.js"
 */

const LOOK = 60 * SECOND; // milliseconds; how often the wall clock is read: a timer may stand still while a machine sleeps

/** @typedef {{at: number, wallAt: number}} Moment By both clocks. */

/** The token, its renewal before it ends, and the sign-in that it belongs to. */
export class Tokens {
  /** @type {string | null} */
  #token;
  #hasHadToken;
  /** @type {SignIn} */
  #signIn = { userId: null };
  /** @type {Moment | null} null: not known */
  #expiry = null;
  /** @type {Moment | null} of the next renewal */
  #due = null;
  #failures = 0; // of renewals, in a row
  #isRenewed = true; // automatically, until `stop`
  /** @type {{handle: any} | null} */
  #renewal = null;
  #options;

  /**
   * @param {object} options
   * @param {string | null} [options.token]
   * @param {string | null} [options.userId] The `token`'s user, if known.
   * @param {Timers} options.timers
   * @param {() => number} options.random
   * @param {(path: string, options: object) => Promise<any>} options.post
   * @param {() => AbortSignal | undefined} options.signal Aborts a renewal.
   * @param {() => void} options.onChange There is another token.
   * @param {(token: Token) => void} options.onAnswer A login or a renewal brought it.
   * @throws {TypeError} No header can hold the token.
   */
  constructor(options) {
    this.#options = options;
    this.#token = sendable(options.token);
    this.#hasHadToken = this.#token !== null;
    if (this.#hasHadToken && options.userId) this.#signIn.userId = options.userId; // whose the next is, nobody knows
  }

  get token() {
    return this.#token;
  }

  /** From one token to the next that is not its renewal. */
  get signIn() {
    return this.#signIn;
  }

  get isLifetimeKnown() {
    return this.#expiry !== null;
  }

  /**
   * Takes another token; it may be another user's.
   * @param {string | null} token
   * @param {{isRenewal?: boolean}} [options] `isRenewal`: it is the same user's.
   * @throws {TypeError} No header can hold the token.
   */
  set(token, options) {
    this.#set(sendable(token), 0, options);
  }

  /**
   * Takes the answer to a login or a renewal.
   * @param {Token} token
   * @param {{isRenewal?: boolean}} [options]
   */
  accept(token, options) {
    this.#isRenewed = true;
    this.#set(token.access_token, token.expires_in, options);
    this.#options.onAnswer(token);
  }

  /** Begins to renew the token in time. */
  start() {
    this.#isRenewed = true;
    if (this.#expiry !== null) this.#renewIn(this.#left(this.#expiry));
  }

  /** Ends it; all timers were cleared. */
  stop() {
    this.#isRenewed = false;
    this.#renewal = this.#due = null;
  }

  /** Renews the token if its time has come meanwhile: the machine may have slept. */
  check() {
    if (this.#due !== null) this.#await(this.#due);
  }

  /**
   * Notes the lifetime that the server has told.
   * @param {number} seconds
   */
  expiresIn(seconds) {
    if (!(seconds > 0)) return;
    this.#expiry = this.#momentIn(seconds * SECOND);
    this.#renewIn(seconds * SECOND);
  }

  /**
   * Notes whose session the token of a sign-in has opened.
   * @param {SignIn} signIn
   * @param {string} userId
   */
  identify(signIn, userId) {
    if (signIn.userId === null) signIn.userId = userId;
    else if (signIn.userId !== userId && signIn === this.#signIn) this.#signIn = { userId };
  }

  /**
   * @param {string} path
   * @param {object} options Of the request.
   * @returns {Promise<Token>}
   */
  async request(path, options) {
    const token = await this.#options.post(path, options);
    try {
      if (sendable(token?.access_token) !== null) return token;
    } catch {
      // Reported below as the server's fault.
    }
    throw new PulseError("bad_answer", `POST ${path} was answered with a token that cannot be sent`);
  }

  /**
   * Renews the token; does not take the new one if there is another meanwhile.
   * @param {AbortSignal} [signal]
   * @returns {Promise<Token>}
   */
  async renew(signal) {
    const old = this.#token;
    const token = await this.#renewed(signal);
    if (!signal?.aborted && this.#token === old) this.accept(token, { isRenewal: true });
    return token;
  }

  /**
   * @param {string | null} token
   * @param {number} expiresIn Seconds; 0: not known.
   * @param {{isRenewal?: boolean}} [options]
   */
  #set(token, expiresIn, { isRenewal = false } = {}) {
    if (token === this.#token) return;
    this.#token = token;
    if (token !== null) this.#signedIn(isRenewal);
    this.#expiry = null;
    this.#cancel();
    this.expiresIn(expiresIn);
    this.#options.onChange();
  }

  /**
   * Begins a sign-in, unless the token is a renewed one. Messages from before the first token belong to its user.
   * @param {boolean} isRenewal
   */
  #signedIn(isRenewal) {
    if (this.#hasHadToken && !isRenewal) this.#signIn = { userId: null };
    this.#hasHadToken = true;
  }

  /** @param {number} left Milliseconds until the token ends. */
  #renewIn(left) {
    const early = 0.7 + 0.1 * this.#options.random(); // spreads the tabs, and leaves time to retry
    this.#await(this.#momentIn(Math.max(SECOND, left * early)));
  }

  /** @param {number} ms @returns {Moment} */
  #momentIn(ms) {
    const { timers } = this.#options;
    return { at: timers.now() + ms, wallAt: timers.wallTime() + ms };
  }

  /** Milliseconds to a moment by the clock that comes to it first. @param {Moment} moment */
  #left({ at, wallAt }) {
    const { timers } = this.#options;
    return Math.min(at - timers.now(), wallAt - timers.wallTime());
  }

  /** @param {Moment} due */
  #await(due) {
    const { timers } = this.#options;
    timers.clear(this.#renewal);
    this.#due = due;
    const next = () => (this.#left(due) > 0 ? this.#await(due) : this.#renewInTime());
    this.#renewal = timers.set(Math.min(LOOK, Math.max(0, this.#left(due))), next, { background: true });
  }

  #cancel() {
    this.#options.timers.clear(this.#renewal);
    this.#renewal = this.#due = null;
    this.#failures = 0;
  }

  async #renewInTime() {
    const { random, signal } = this.#options;
    const token = this.#token;
    const expiry = this.#expiry;
    this.#due = null;
    try {
      const renewed = await this.#renewed(signal());
      if (this.#token !== token || !this.#isRenewed) return;
      this.accept(renewed, { isRenewal: true });
      // The sign-in ends: another renewal would not prolong it.
      if (expiry !== null && this.#expiry !== null && this.#expiry.at <= expiry.at + SECOND) this.#cancel();
    } catch (error) {
      const status = error instanceof PulseError ? error.status : 0;
      const isFinal = status === 401 || status === 403 || status === 404;
      if (isFinal || this.#token !== token || !this.#isRenewed || this.#isOver(expiry)) return; // 4401 decides
      const delay = SECOND + backoff(this.#failures, random);
      this.#failures += 1;
      this.#await(this.#momentIn(delay));
    }
  }

  /** Returns true if the token has ended by both clocks. @param {Moment | null} expiry */
  #isOver(expiry) {
    const { timers } = this.#options;
    return expiry !== null && expiry.at <= timers.now() && expiry.wallAt <= timers.wallTime();
  }

  /**
   * @param {AbortSignal} [signal]
   * @returns {Promise<Token>}
   */
  #renewed(signal) {
    return this.request("/api/auth/renew", { signal, keepsToken: true });
  }
}

/**
 * Returns a token that a header can hold, or null without one. Browsers quote the token in their own error.
 * @param {string | null | undefined} token
 * @throws {TypeError}
 */
function sendable(token) {
  if (token === undefined || token === null || token === "") return null;
  if (typeof token === "string" && /^[!-~]([ -~]*[!-~])?$/.test(token)) return token;
  throw new TypeError("The token has a space at an end, a control character (a line feed, say), or one that is not ASCII");
}
