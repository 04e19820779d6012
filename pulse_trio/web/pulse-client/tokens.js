import { PulseError } from "./errors.js";
import { SECOND, backoff } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { SignIn, Token } from "./types.js"
 */

/** The token, its renewal before it ends, and the sign-in that it belongs to. */
export class Tokens {
  /** @type {string | null} */
  #token;
  #hasHadToken;
  /** @type {SignIn} */
  #signIn = { userId: null };
  #expiresAt = 0; // milliseconds since the epoch; 0: not known
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
    return this.#expiresAt > 0;
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
    if (this.#expiresAt > 0) this.#renewIn(this.#expiresAt - this.#options.timers.now());
  }

  /** Ends it; all timers were cleared. */
  stop() {
    this.#isRenewed = false;
    this.#renewal = null;
  }

  /**
   * Notes the lifetime that the server has told.
   * @param {number} seconds
   */
  expiresIn(seconds) {
    if (!(seconds > 0)) return;
    this.#expiresAt = this.#options.timers.now() + seconds * SECOND;
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
    this.#expiresAt = 0;
    this.#options.timers.clear(this.#renewal);
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
    const { timers, random } = this.#options;
    timers.clear(this.#renewal);
    const early = 0.7 + 0.1 * random(); // spreads the tabs, and leaves time to retry
    this.#renewal = timers.set(Math.max(SECOND, left * early), () => this.#renewInTime(0), { background: true });
  }

  /** @param {number} attempt */
  async #renewInTime(attempt) {
    const { timers, random, signal } = this.#options;
    const token = this.#token;
    const endsAt = this.#expiresAt;
    try {
      const renewed = await this.#renewed(signal());
      if (this.#token !== token || !this.#isRenewed) return;
      this.accept(renewed, { isRenewal: true });
      // The sign-in ends: another renewal would not prolong it.
      if (this.#expiresAt <= endsAt + SECOND) timers.clear(this.#renewal);
    } catch (error) {
      const status = error instanceof PulseError ? error.status : 0;
      const isFinal = status === 401 || status === 403 || status === 404;
      if (isFinal || this.#token !== token || !this.#isRenewed || timers.now() >= endsAt) return; // 4401 decides
      const delay = SECOND + backoff(attempt, random);
      this.#renewal = timers.set(delay, () => this.#renewInTime(attempt + 1), { background: true });
    }
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
