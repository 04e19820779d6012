import { PulseError, errorOf } from "./errors.js";
import { idOf } from "./messages.js";
import { StoredMessages } from "./stored.js";
import { SECOND, backoff } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { Frame, PageStorage, PendingMessage, SignIn, UnsentMessage } from "./types.js"
 */

const MAX_FLYING = 32; // messages without an answer on one connection; the server holds 64
const LIMITED_PAUSE = SECOND; // milliseconds; the server sends `rate_limited` once a second
const MIN_PACE = 20; // milliseconds between messages after that; doubled each time
const MAX_PACE = SECOND;

/**
 * @typedef {{conversationId: string, content: string, clientId: string, signIn: SignIn, createdAt: string,
 *   number: number, isStored: boolean, isSent: boolean,
 *   tries: number, at: number, failures: number, failingSince: number | null, promise: Promise<Frame>,
 *   resolve: (frame: Frame) => void, reject: (error: PulseError) => void}} Entry
 *   `number`: the order in which they were written. `isStored`: in the page's storage. `at`: not to be sent before; of
 *   one that is sent, when it is sent again. `failingSince`: of `#connectedTime`.
 */

/**
 * @typedef {Omit<UnsentMessage, "userId" | "failure">
 *   & {signIn: SignIn, failure: string, number: number, isStored: boolean}} Rejected
 */

/**
 * Messages that are not acknowledged, in the order of `send`.
 *
 * One message a conversation is under way at a time: if two were, and the server could not store the first for a moment,
 * the second would stand before it for ever. Conversations do not wait for each other.
 */
export class Outbox {
  /** @type {Map<string, Entry>} */
  #entries = new Map();
  /** @type {Map<string, Rejected>} only with a storage; the page sends or discards them */
  #rejected = new Map();
  #stored;
  /** @type {string | null} whose stored messages are here */
  #loadedFor = null;
  #isLoaded = false; // false: the storage could not be read
  #count = 0; // messages so far
  /** @type {((frame: Frame) => void) | null} */
  #transmit = null;
  /** @type {string | null} user of the session */
  #userId = null;
  /** @type {{handle: any} | null} */
  #timer = null;
  #connectedAt = 0;
  #connectedBefore = 0; // milliseconds, of all sessions that have ended
  #pausedUntil = 0;
  #pace = 0;
  #options;

  /**
   * @param {{timers: Timers, random: () => number, most: number, answerTime: number, storeTime: number,
   *   storage?: PageStorage, onChange: (conversationId: string | null) => void,
   *   onError: (error: PulseError) => void}} options
   *   `onChange`: what is unsent in a conversation changed; null: in any. `onError`: a message of an earlier
   *   page was rejected.
   */
  constructor(options) {
    this.#options = options;
    this.#stored = options.storage === undefined ? null : new StoredMessages(options.storage);
  }

  /** @returns {PendingMessage[]} */
  get pending() {
    return [...this.#entries.values()].map(({ conversationId, content, clientId, signIn }) => ({
      conversationId,
      content,
      clientId,
      userId: signIn.userId,
    }));
  }

  /**
   * Those that are not acknowledged and, with a storage, those that were rejected, in the order they were written.
   * @returns {UnsentMessage[]}
   */
  get unsent() {
    return this.#written.map(unsentOf);
  }

  /** Those of `unsent` as they are kept here. */
  get #written() {
    return [...this.#entries.values(), ...this.#rejected.values()].sort((a, b) => a.number - b.number);
  }

  /** How many are unsent, with those of other tabs. */
  get unsentCount() {
    const keys = new Set([...this.#entries.keys(), ...this.#rejected.keys()]);
    const stored = this.#loadedFor === null ? [] : (this.#stored?.list(this.#loadedFor) ?? []);
    for (const { conversationId, clientId } of stored) keys.add(keyOf(idOf(conversationId), clientId));
    return keys.size;
  }

  /**
   * Adds what an earlier page, or another tab, has left in the storage: it is older than what is here.
   * @param {string} userId
   */
  load(userId) {
    if (this.#stored === null || (this.#loadedFor === userId && this.#isLoaded)) return;
    this.#loadedFor = userId;
    this.#isLoaded = this.#stored.canRead(userId);
    for (const [key, { signIn }] of this.#rejected) {
      // Nobody's stay for the page, which has no other copy of them.
      if (signIn.userId !== null && signIn.userId !== userId) this.#rejected.delete(key);
    }
    const newer = new Map(this.#written.map((message) => [keyOf(message.conversationId, message.clientId), message]));
    for (const message of this.#stored.list(userId)) {
      const conversationId = idOf(message.conversationId);
      const key = keyOf(conversationId, message.clientId);
      newer.delete(key);
      const existing = this.#entries.get(key);
      this.#rejected.delete(key);
      if (existing !== undefined) {
        existing.number = this.#nextNumber();
      } else if (message.failure === null) {
        this.restore(message, { userId }, { isStored: true });
      } else {
        const kept = { signIn: { userId }, failure: message.failure, number: this.#nextNumber(), isStored: true };
        this.#rejected.set(key, { ...message, conversationId, ...kept });
      }
    }
    for (const message of newer.values()) message.number = this.#nextNumber();
    this.#entries = new Map([...this.#entries].sort(([, a], [, b]) => a.number - b.number));
    this.#options.onChange(null);
  }

  /**
   * Gives a message up. If it is under way it may be stored nevertheless.
   * @param {string} id The conversation's.
   * @param {string} clientId
   */
  discard(id, clientId) {
    const conversationId = idOf(id);
    const key = keyOf(conversationId, clientId);
    const entry = this.#entries.get(key);
    this.#entries.delete(key);
    this.#forget(conversationId, clientId, entry?.signIn.userId ?? this.#loadedFor);
    entry?.reject(discarded(entry));
    this.#pump();
  }

  /** Gives all of the user's messages up, those of other tabs as well. */
  discardAll() {
    const given = this.#written;
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    this.#rejected.clear();
    if (this.#loadedFor !== null) this.#stored?.clear(this.#loadedFor);
    for (const { conversationId, clientId, signIn } of given) {
      if (signIn.userId === null || signIn.userId === this.#loadedFor) continue;
      this.#stored?.remove(signIn.userId, conversationId, clientId);
    }
    this.#options.onChange(null);
    for (const entry of entries) entry.reject(discarded(entry));
    this.#pump();
  }

  /**
   * Adds a message that an earlier page left; `onError` reports its rejection.
   * @param {PendingMessage & {createdAt?: string}} message
   * @param {SignIn} signIn Its sender's.
   * @param {{isStored?: boolean}} [options]
   */
  restore(message, signIn, { isStored = false } = {}) {
    this.add(message, signIn, { isOld: true, isStored }).catch((error) => {
      if (error.code !== "discarded") this.#options.onError(error);
    });
  }

  /**
   * @param {PendingMessage & {createdAt?: string}} message
   * @param {SignIn} signIn Its sender's.
   * @param {{isOld?: boolean, isStored?: boolean}} [options] `isOld`: it may have been sent before, by an earlier client
   *   or another tab. `isStored`: it is in the page's storage.
   * @returns {Promise<Frame>}
   */
  add({ conversationId: id, content, clientId, createdAt: written }, signIn, { isOld = false, isStored = false } = {}) {
    const conversationId = idOf(id);
    const key = keyOf(conversationId, clientId);
    const existing = this.#entries.get(key);
    const about = { conversationId, clientId };
    if (existing !== undefined) {
      if (existing.content === content) return existing.promise;
      const text = "This clientId is in use for another message";
      return Promise.reject(new PulseError("client_id_reused", text, { ...about, field: "client_id" }));
    }
    const rejected = this.#rejected.get(key);
    const number = rejected?.number ?? this.#nextNumber();
    const createdAt = written ?? rejected?.createdAt ?? new Date(this.#options.timers.wallTime()).toISOString();
    /** @type {(frame: Frame) => void} */
    let resolve = () => {};
    /** @type {(error: PulseError) => void} */
    let reject = () => {};
    /** @type {Promise<Frame>} */
    const promise = new Promise((resolved, rejected) => {
      resolve = resolved;
      reject = rejected;
    });
    const state = { isSent: false, tries: isOld ? 1 : 0, at: 0, failures: 0, failingSince: null };
    const message = { conversationId, content, clientId, signIn, createdAt, number, isStored };
    const entry = { ...message, ...state, promise, resolve, reject };
    if (this.#entries.size >= this.#options.most) {
      const text = `${this.#options.most} messages wait to be acknowledged, which is the most`;
      this.#settle(entry, new PulseError("queue_full", text, about));
      return promise;
    }
    this.#rejected.delete(key);
    this.#entries.set(key, entry);
    this.#store(entry);
    this.#options.onChange(conversationId);
    this.#pump();
    return promise;
  }

  /**
   * Begins a session: sends what waits, and rejects messages of other users.
   * @param {(frame: Frame) => void} transmit
   * @param {string} userId
   * @param {SignIn} newest Its messages stay while its user is unknown; those of an earlier unknown one are rejected.
   */
  connected(transmit, userId, newest) {
    for (const entry of [...this.#entries.values()]) {
      const isUnknown = entry.signIn.userId === null && entry.signIn === newest;
      if (entry.signIn.userId === userId || isUnknown) continue;
      this.#settle(entry, new PulseError("other_user", "Another user signed in before this message was sent", entry));
    }
    this.load(userId); // first: what is here is sent, and stored, after it
    this.#storeAll();
    this.#connectedBefore = this.#connectedTime();
    this.#connectedAt = this.#options.timers.now();
    this.#transmit = transmit;
    this.#userId = userId;
    this.#pump();
  }

  /** Continues with messages that waited for the user of their sign-in. */
  identified() {
    this.#storeAll();
    this.#pump();
  }

  /** Ends the session. Messages under way may be stored or not; they will be sent again. */
  disconnected() {
    this.#connectedBefore = this.#connectedTime();
    this.#transmit = null;
    this.#options.timers.clear(this.#timer);
    this.#recall();
  }

  /**
   * Takes the frame of an own message; returns true if it may have been sent twice, undefined if it is not here.
   * @param {Frame} frame
   */
  acknowledge(frame) {
    const entry = this.#entries.get(keyOf(frame.conversation_id, frame.client_id));
    if (entry === undefined) {
      this.#forget(frame.conversation_id, frame.client_id, frame.sender_id); // another tab has it, or had
      return undefined;
    }
    this.#settle(entry, frame);
    if (this.#entries.size === 0) this.#pace = 0;
    this.#pump();
    return entry.tries > 1 || entry.isStored; // another tab may have sent what is stored
  }

  /**
   * Takes an `error` frame; returns true if it was about one of these messages.
   * @param {Frame} frame
   */
  refused(frame) {
    const { timers, random, storeTime } = this.#options;
    const entry = this.#find(frame);
    if (entry === undefined) return false;
    if (frame.code !== "not_stored" && frame.code !== "unavailable") {
      this.#settle(entry, errorOf(frame, entry));
    } else {
      const connected = this.#connectedTime();
      entry.failingSince ??= connected;
      if (connected - entry.failingSince >= storeTime) {
        this.#settle(entry, errorOf(frame, entry));
      } else {
        entry.isSent = false;
        entry.at = timers.now() + backoff(entry.failures, random);
        entry.failures += 1;
      }
    }
    this.#pump();
    return true;
  }

  /** Handles `rate_limited`: sends everything without an answer again, after a pause and more slowly. */
  limited() {
    this.slower();
    this.#recall();
    const pause = LIMITED_PAUSE * (1 + this.#options.random() / 4);
    this.#pausedUntil = this.#options.timers.now() + pause;
    this.#pump();
    return pause;
  }

  slower() {
    this.#pace = Math.min(MAX_PACE, Math.max(MIN_PACE, this.#pace * 2));
  }

  /**
   * Rejects the message for which the server closed the connection as too large; returns false if there is none.
   * @param {number} other Bytes of the largest other frame.
   */
  tooLarge(other) {
    const size = (/** @type {Entry} */ entry) => sizeOf(frameOf(entry));
    const sent = [...this.#entries.values()].filter((entry) => entry.isSent);
    if (sent.length === 0) return false;
    const largest = sent.reduce((a, b) => (size(b) > size(a) ? b : a));
    if (size(largest) <= other) return false;
    const text = "The message is larger than the server accepts";
    this.#settle(largest, new PulseError("content_too_long", text, { field: "content", ...largest }));
    return true;
  }

  /**
   * @param {string} conversationId
   * @param {PulseError} error
   */
  rejectAll(conversationId, error) {
    for (const entry of [...this.#entries.values()]) {
      if (entry.conversationId === conversationId) this.#settle(entry, error);
    }
  }

  /** @param {Frame} frame */
  #find(frame) {
    if (typeof frame.client_id !== "string") return undefined;
    if (frame.conversation_id !== undefined) return this.#entries.get(keyOf(frame.conversation_id, frame.client_id));
    return [...this.#entries.values()].find((entry) => entry.clientId === frame.client_id);
  }

  /**
   * @param {Entry} entry
   * @param {Frame | PulseError} outcome
   */
  #settle(entry, outcome) {
    const { conversationId, clientId, signIn } = entry;
    const key = keyOf(conversationId, clientId);
    this.#entries.delete(key);
    if (!(outcome instanceof PulseError)) {
      this.#forget(conversationId, clientId, signIn.userId);
      entry.resolve(outcome);
      return;
    }
    // Another user's messages stay in the storage until that user is back; one whose user is not known is not there.
    if (this.#stored !== null && (outcome.code !== "other_user" || signIn.userId === null)) {
      const { content, createdAt, number } = entry;
      const failure = outcome.message || "It could not be sent";
      const message = { conversationId, content, clientId, signIn, createdAt, number, failure, isStored: false };
      this.#rejected.set(key, message);
      this.#store(message);
    }
    this.#options.onChange(conversationId);
    entry.reject(outcome);
  }

  /**
   * Puts a message into the storage once it is known whose it is.
   * @param {Entry | Rejected} message
   */
  #store(message) {
    if (this.#stored === null || message.isStored || message.signIn.userId === null) return;
    message.isStored = true;
    this.#stored.put(message.signIn.userId, unsentOf(message));
  }

  #storeAll() {
    this.#stored?.write();
    for (const message of this.#written) this.#store(message);
  }

  /**
   * Removes a message that is stored by the server or discarded.
   * @param {string} conversationId
   * @param {string} clientId
   * @param {string | null} userId
   */
  #forget(conversationId, clientId, userId) {
    this.#rejected.delete(keyOf(conversationId, clientId));
    if (userId !== null) this.#stored?.remove(userId, conversationId, clientId);
    this.#options.onChange(conversationId);
  }

  #nextNumber() {
    this.#count += 1;
    return this.#count;
  }

  /** Milliseconds with a session so far: without one nothing can be stored. */
  #connectedTime() {
    const current = this.#transmit === null ? 0 : this.#options.timers.now() - this.#connectedAt;
    return this.#connectedBefore + current;
  }

  #recall() {
    for (const entry of this.#entries.values()) {
      if (entry.isSent) {
        entry.isSent = false;
        entry.at = 0;
      }
    }
  }

  /** Sends what is due, and sets a timer for the next. */
  #pump() {
    const { timers, answerTime } = this.#options;
    timers.clear(this.#timer);
    if (this.#transmit === null) return;
    const now = timers.now();
    let next = now < this.#pausedUntil ? this.#pausedUntil : Infinity;
    let flying = 0;
    for (const entry of this.#entries.values()) if (entry.isSent) flying += 1;
    const seen = new Set();
    for (const entry of this.#entries.values()) {
      if (now < this.#pausedUntil) break;
      if (seen.has(entry.conversationId)) continue;
      seen.add(entry.conversationId);
      if (entry.signIn.userId !== this.#userId) continue; // the session does not know this sign-in yet
      if (entry.at <= now && (entry.isSent || flying < MAX_FLYING)) {
        if (!entry.isSent) flying += 1;
        entry.isSent = true;
        entry.tries += 1;
        entry.at = now + answerTime;
        this.#transmit(frameOf(entry));
        if (this.#pace > 0) this.#pausedUntil = next = now + this.#pace;
      }
      if (entry.at > now) next = Math.min(next, entry.at);
    }
    if (next < Infinity) this.#timer = timers.set(next - now, () => this.#pump());
  }
}

/** @param {Entry} entry */
function discarded({ conversationId, clientId }) {
  return new PulseError("discarded", "The page discarded the message", { conversationId, clientId });
}

/**
 * @param {string} conversationId
 * @param {unknown} clientId
 */
function keyOf(conversationId, clientId) {
  return `${conversationId} ${clientId}`;
}

/**
 * @param {Entry | Rejected} message
 * @returns {UnsentMessage}
 */
function unsentOf(message) {
  const { conversationId, content, clientId, signIn, createdAt } = message;
  const failure = "failure" in message ? message.failure : null;
  return { conversationId, content, clientId, userId: signIn.userId, createdAt, failure };
}

/**
 * @param {{conversationId: string, content: string, clientId: string}} message
 * @returns {Frame}
 */
function frameOf({ conversationId, content, clientId }) {
  return { type: "message", conversation_id: conversationId, content, client_id: clientId };
}

/** Returns the bytes of a frame. @param {Frame} frame */
export function sizeOf(frame) {
  return new TextEncoder().encode(JSON.stringify(frame)).length;
}

/** Generates an id for a message. `crypto.randomUUID` is missing on pages without TLS. */
export function newClientId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
