import { PulseError, errorOf, kindOf, nameOf, withoutSecrets } from "./errors.js";
import { Knowledge } from "./knowledge.js";
import { Link } from "./link.js";
import { idOf } from "./messages.js";
import { Outbox, newClientId, sizeOf } from "./outbox.js";
import { Reads, readFrame } from "./reads.js";
import { Repeats } from "./repeats.js";
import { Rest } from "./rest.js";
import { RETRY_LEAST, RETRY_MOST, SECOND, Timers, backoff } from "./timers.js";

/**
 * @import { Clock, Conversation, Frame, Message, Options, Page, PageAfter } from "./types.js"
 * @import { SignIn, State, Surroundings, Token, User } from "./types.js"
 */

const STABLE = 10 * SECOND; // a connection that was up for so long starts the backoff afresh
const RESTART_SPREAD = 5 * SECOND; // after a restart clients come back within this, not all at once
const TYPING_INTERVAL = 2 * SECOND; // more often tells nobody more
const GAP = 0; // in place of a close code: a live frame skipped a rev
const VAIN_GAPS_MOST = 3; // in a row; after that the client waits longer and longer before it looks for the next one

/**
 * A token that can be sent; null if there is none. What browsers say of one that cannot has the token in it.
 * @param {string | null | undefined} token
 * @throws {TypeError}
 */
function sendable(token) {
  if (token === undefined || token === null || token === "") return null;
  if (typeof token === "string" && /^[!-~]([ -~]*[!-~])?$/.test(token)) return token;
  throw new TypeError("The token has a space at an end, a control character (a line feed, say), or one that is not ASCII");
}

/** @param {string} text What becomes part of a path. */
const part = (text) => encodeURIComponent(text);

/**
 * A user's client.
 *
 * Events, all CustomEvents with their content in `detail`: `state`; the frames `message`, `message_updated`,
 * `message_deleted`, `typing`, `system`, `presence`, `read`, `users`, `conversation_added`, `conversation_removed`;
 * `reload`, `token`, `signed_out`, `error`. docs/javascript.md says what each means.
 */
export class PulseClient extends EventTarget {
  #url;
  #options;
  #random;
  #rest;
  /** @type {Clock} */
  #clock;
  /** @type {Surroundings | null} */
  #window;
  #timers;
  #outbox;
  #knowledge = new Knowledge();
  /** @type {State} */
  #state = { state: "closed" };

  /** @type {string | null} */
  #token;
  #hasHadToken;
  /** @type {SignIn} */
  #signIn = { userId: null };
  /** @type {SignIn[]} whose tokens the session was given and has not answered */
  #asked = [];
  #expiresAt = 0; // 0: not known
  #isRenewed = true; // by itself, until `close`
  /** @type {{handle: any} | null} */
  #renewal = null;

  /** @type {AbortController | null} that the connection is wanted; aborted by `close` */
  #wanted = null;
  /** @type {Link | null} */
  #link = null;
  /** @type {{token: string | null, signIn: SignIn}} what it was opened with */
  #opened = { token: null, signIn: this.#signIn };
  /** @type {{handle: any} | null} */
  #retry = null;
  /** @type {AbortController | null} of the question why a handshake was refused */
  #explaining = null;
  #attempts = 0;
  #onlineSince = 0;
  #resumeMost;
  #resumeSize = 0; // bytes of the newest one
  /** @type {string | null} */
  #userId = null; // of the newest session
  #users = 0; // how often that has become another one
  #gaps = 0;

  /** @type {string[] | null} */
  #watched = null;
  #reads = new Reads();
  /** @type {Map<string, number>} when typing was told */
  #typed = new Map();
  #repeats;

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    const surroundings = options.window === undefined ? globalThis.window : options.window;
    // Node.js and workers have no window, or only parts of one.
    this.#window = typeof surroundings?.addEventListener === "function" ? surroundings : null;
    const url = options.url ?? this.#window?.location?.origin;
    if (url === undefined) throw new TypeError("`url` must say where the service is: there is no page here");
    this.#url = url.replace(/\/+$/, "");
    this.#options = {
      connect: (options.connectSeconds ?? 15) * SECOND,
      ping: (options.pingSeconds ?? 25) * SECOND,
      pong: (options.pongSeconds ?? 10) * SECOND,
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
    };
    this.#random = options.random ?? Math.random;
    this.#clock = options.clock ?? {
      setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => Date.now(),
    };
    this.#timers = new Timers(this.#clock);
    this.#rest = new Rest({
      url: this.#url,
      fetch: options.fetch ?? ((to, init) => globalThis.fetch(to, init)),
      clock: this.#clock,
      milliseconds: (options.requestSeconds ?? 30) * SECOND,
      secrets: () => [this.#token],
    });
    this.#repeats = new Repeats({ timers: this.#timers, random: this.#random, run: (names) => this.#repeat(names) });
    this.#token = sendable(options.token);
    if (options.userId) this.#signIn.userId = options.userId;
    this.#hasHadToken = this.#token !== null;
    this.#resumeMost = options.resumeConversations ?? 1_000;
    this.#outbox = new Outbox({
      timers: this.#timers,
      random: this.#random,
      most: options.maxPending ?? 1_000,
      answerTime: (options.answerSeconds ?? 30) * SECOND,
      storeTime: (options.storeSeconds ?? 120) * SECOND,
      storage: options.storage,
      onChange: (id) => this.#emit("outbox", { conversation_id: id }),
      onError: (error) => this.#emit("error", error),
    });
    if (options.userId) this.#outbox.load(options.userId);
    for (const message of options.pending ?? []) {
      const signIn = message.userId ? { userId: message.userId } : this.#signIn;
      this.#outbox.add(message, signIn, { isOld: true }).catch((error) => this.#emit("error", error));
    }
  }

  /** How the connection is; every change is a `state` event. */
  get state() {
    return this.#state;
  }

  /**
   * The token, or null. A new one of the same user (of your identity provider) renews the connection. As it may be
   * another user's, too, what was written before waits until the server has said whose it is.
   * @throws {TypeError} Set to what cannot be sent.
   */
  get token() {
    return this.#token;
  }

  set token(token) {
    this.#setToken(sendable(token), 0);
  }

  /** Messages that are not acknowledged, as `new PulseClient({pending})` takes them. */
  get pending() {
    return this.#outbox.pending;
  }

  /**
   * Messages that are not acknowledged and, with a `storage`, those that were rejected (with their `failure`), in the
   * order they were written. `send` with the `clientId` of a rejected one sends it again.
   */
  get unsent() {
    return this.#outbox.unsent;
  }

  /** How many messages of the user are unsent, with those of other tabs. */
  get unsentCount() {
    return this.#outbox.unsentCount;
  }

  /** How often a live connection left a change out; each time the client came back for it. */
  get gaps() {
    return this.#gaps;
  }

  // --- accounts ---

  /**
   * Creates an account; `login` follows.
   * @param {string} username
   * @param {string} password
   * @returns {Promise<User>}
   */
  register(username, password) {
    return this.#request("POST", "/api/auth/register", { body: { username, password }, token: null });
  }

  /**
   * Logs in, and keeps the token.
   * @param {string} username
   * @param {string} password
   * @returns {Promise<Token>}
   */
  async login(username, password) {
    const token = await this.#requestToken("/api/auth/login", { body: { username, password }, token: null });
    this.#accept(token);
    return token;
  }

  /**
   * Changes the token for one that is good for longer. The client does so by itself, before the token ends.
   * @returns {Promise<Token>}
   */
  async renew() {
    const old = this.#token;
    /** @type {Token} */
    const token = await this.#renewedToken();
    if (this.#token === old) this.#accept(token, { isRenewal: true });
    return token;
  }

  /** @returns {Promise<User>} */
  me() {
    return this.#request("GET", "/api/auth/me");
  }

  /**
   * Users whose name begins so.
   * @param {string} prefix
   * @param {Page} [page]
   * @returns {Promise<{users: User[], total: number, limit: number, offset: number}>}
   */
  searchUsers(prefix, page = {}) {
    return this.#request("GET", "/api/users", { query: { query: prefix, ...pageOf(page) } });
  }

  // --- conversations ---

  /**
   * A page of the user's conversations, the most recently active first.
   * @param {Page} [page]
   * @returns {Promise<{conversations: Conversation[], total: number, limit: number, offset: number}>}
   */
  async conversations(page = {}) {
    const query = pageOf(page);
    const [list, moment] = await this.#load(null, () => this.#request("GET", "/api/chat/conversations", { query }));
    list.conversations.forEach((/** @type {Conversation} */ conversation) => this.#listed(conversation, moment));
    return list;
  }

  /**
   * @param {string} id
   * @returns {Promise<Conversation>}
   */
  async conversation(id) {
    const path = `/api/chat/conversations/${part(idOf(id))}`;
    const [conversation, moment] = await this.#load(idOf(id), () => this.#request("GET", path));
    return this.#listed(conversation, moment);
  }

  /**
   * Creates a conversation; of two people who have one already it is that one.
   * @param {{name?: string | null, description?: string | null, isGroup?: boolean, participantIds?: string[]}} what
   * @returns {Promise<Conversation>}
   */
  async createConversation({ name = null, description = null, isGroup = false, participantIds = [] }) {
    const body = { name, description, is_group: isGroup, participant_ids: participantIds };
    const { moment } = this.#knowledge;
    /** @type {Conversation} */
    const conversation = await this.#request("POST", "/api/chat/conversations", { body });
    return this.#knowledge.isCovered(moment, null) ? this.#listed(conversation, moment) : conversation;
  }

  /**
   * Changes what is given, and leaves the rest as it is.
   * @param {string} id
   * @param {{name?: string | null, description?: string | null}} changes
   * @returns {Promise<Conversation>}
   */
  renameConversation(id, { name, description }) {
    return this.#request("PATCH", `/api/chat/conversations/${part(idOf(id))}`, { body: { name, description } });
  }

  /**
   * A page of the members, in the order they came; a conversation itself has only its first ones in `users`.
   * @param {string} id
   * @param {PageAfter} [page]
   * @returns {Promise<{members: User[], total: number, limit: number, next_cursor: string | null}>}
   */
  members(id, { limit, cursor } = {}) {
    return this.#request("GET", `/api/chat/conversations/${part(idOf(id))}/members`, { query: { limit, cursor } });
  }

  /**
   * @param {string} id
   * @param {string[]} userIds
   * @returns {Promise<Conversation>}
   */
  addMembers(id, userIds) {
    return this.#request("POST", `/api/chat/conversations/${part(idOf(id))}/members`, { body: { user_ids: userIds } });
  }

  /**
   * @param {string} id
   * @param {string} userId `me`: leave.
   * @returns {Promise<void>}
   */
  removeMember(id, userId) {
    return this.#request("DELETE", `/api/chat/conversations/${part(idOf(id))}/members/${part(userId)}`);
  }

  /**
   * A page of the history, newest first: the newest, those before a message, or the oldest after one. What came as
   * frames while it was under way is worked in.
   * @param {string} id
   * @param {{beforeSeq?: number, afterSeq?: number, limit?: number}} [page]
   * @returns {Promise<{messages: Message[], total: number, limit: number, offset: number}>}
   */
  async history(id, { beforeSeq, afterSeq, limit } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/messages`;
    const query = { before_seq: beforeSeq, after_seq: afterSeq, limit };
    const isNewest = beforeSeq === undefined && afterSeq === undefined;
    const load = this.#knowledge.loading(idOf(id));
    try {
      const [page, moment] = await this.#load(load.id, () => this.#request("GET", path, { query }));
      this.#knowledge.loaded(load, page, isNewest, moment);
      if (isNewest) this.#knowledge.isBack(load.id); // this page is what a `reload` would ask for
      else this.#reloadIfBack(load.id);
      return page;
    } catch (error) {
      this.#knowledge.failed(load);
      throw error;
    }
  }

  /**
   * Gives a message of yours new content. `message_updated` comes, too.
   * @param {string} id The conversation's.
   * @param {string} messageId
   * @param {string} content
   * @returns {Promise<Message>}
   */
  edit(id, messageId, content) {
    const path = `/api/chat/conversations/${part(idOf(id))}/messages/${part(messageId)}`;
    return this.#request("PATCH", path, { body: { content } });
  }

  /**
   * Deletes a message. `message_deleted` comes, too.
   * @param {string} id The conversation's.
   * @param {string} messageId
   * @returns {Promise<void>}
   */
  remove(id, messageId) {
    return this.#request("DELETE", `/api/chat/conversations/${part(idOf(id))}/messages/${part(messageId)}`);
  }

  /**
   * How far members have read: a page of up to 1,000, in the order they came.
   * @param {string} id
   * @param {PageAfter} [page]
   * @returns {Promise<{positions: {user_id: string, seq: number}[], next_cursor: string | null}>}
   */
  async readPositions(id, { limit, cursor } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/read`;
    const [answer] = await this.#load(null, () => this.#request("GET", path, { query: { limit, cursor } }));
    return answer;
  }

  /**
   * @param {string} userId
   * @returns {Promise<{user_id: string, is_online: boolean, last_seen_at: string | null}>}
   */
  presence(userId) {
    return this.#request("GET", `/api/chat/users/${part(userId)}/presence`);
  }

  // --- live ---

  /**
   * Opens the connection, and keeps it open until `close`.
   * @throws {PulseError} `not_authenticated`: there is no token.
   */
  connect() {
    if (this.#wanted !== null) return;
    if (!this.#token) throw new PulseError("not_authenticated", "Log in first");
    this.#wanted = new AbortController();
    this.#isRenewed = true;
    this.#attempts = 0;
    this.#window?.addEventListener("online", this.#hurry);
    this.#window?.addEventListener("offline", this.#doubt);
    this.#window?.document?.addEventListener("visibilitychange", this.#seen);
    if (this.#expiresAt > 0) this.#renewIn(this.#expiresAt - this.#timers.now());
    if (this.#isOffline()) this.#wait(0, "offline");
    else this.#open();
  }

  /** Somebody wants it now: no more waiting for the next attempt. A connection that is there is asked if it lives. */
  reconnect() {
    this.#hurry();
  }

  /**
   * Closes the connection, and rejects the requests that are under way with `network`. Messages that are not
   * acknowledged stay: `connect` sends them, `pending` shows them.
   */
  close() {
    this.#stop("closed by the page");
    this.#rest.abortAll();
  }

  /**
   * Sends a message, now or as soon as there is a connection, until it is acknowledged or refused.
   * @param {string} conversationId
   * @param {string} content
   * @param {{clientId?: string}} [options] `clientId`: the page's own, 1 to 64 characters; a resend has the same.
   * @returns {Promise<Frame>} The message's own frame: it is stored, and where it stands is its `seq`.
   */
  send(conversationId, content, { clientId } = {}) {
    const message = { conversationId, content: String(content), clientId: clientId ?? newClientId() };
    this.#typed.delete(idOf(conversationId)); // for the others a message ends the typing
    return this.#outbox.add(message, this.#signIn, { isOld: clientId !== undefined });
  }

  /**
   * Gives an unsent message up; its promise rejects with `discarded`. If it was under way it may be stored nevertheless.
   * @param {string} conversationId
   * @param {string} clientId
   */
  discard(conversationId, clientId) {
    this.#outbox.discard(conversationId, clientId);
  }

  /** Gives all unsent messages of the user up, those of other tabs as well: for a sign-out. */
  discardAll() {
    this.#outbox.discardAll();
  }

  /**
   * Tells the others that the user is typing: call it with every key, it is told every two seconds at most, and
   * at once after a message.
   * @param {string} conversationId
   */
  typing(conversationId) {
    const key = idOf(conversationId);
    const now = this.#timers.now();
    if (!this.#isIdentified() || now - (this.#typed.get(key) ?? -Infinity) < TYPING_INTERVAL) return;
    for (const [id, at] of this.#typed) if (now - at >= TYPING_INTERVAL) this.#typed.delete(id);
    this.#typed.set(key, now);
    this.#link?.send({ type: "typing", conversation_id: key });
  }

  /**
   * Everything up to `seq` has been read; told again after a reconnect until the server confirms it.
   * @param {string} conversationId
   * @param {number} seq
   */
  read(conversationId, seq) {
    const key = idOf(conversationId);
    if (!this.#reads.note(key, seq, this.#signIn)) return;
    if (this.#isIdentified()) this.#link?.send(readFrame(key, seq));
  }

  /**
   * Whose presence is told by `users` events, in place of those before.
   * @param {string[]} userIds
   */
  watch(userIds) {
    this.#watched = [...userIds];
    this.#tellWatched();
  }

  // --- the connection's life ---

  #open() {
    const wanted = this.#wanted;
    if (wanted === null || this.#link !== null) return;
    this.#timers.clear(this.#retry);
    this.#retry = null;
    this.#onlineSince = 0;
    this.#setState({ state: "connecting" });
    if (this.#wanted !== wanted) return; // who was told has closed it, and may have connected again
    const token = this.#token ?? "";
    this.#opened = { token, signIn: this.#signIn };
    try {
      const link = new Link({
        WebSocket: this.#options.WebSocket,
        url: `${this.#url.replace(/^http/, "ws")}/api/chat/ws`,
        token,
        timers: this.#timers,
        times: this.#options,
        onFrame: (frame) => this.#received(frame),
        onEnd: (code, reason) => {
          this.#link = null;
          this.#ended(code, reason, token, link.isOpen);
        },
      });
      this.#link = link;
    } catch (error) {
      this.#stop("failed");
      this.#emit("error", new PulseError("cannot_connect", `The WebSocket cannot be made: ${kindOf(error)}`));
    }
  }

  /**
   * Decides when to come back.
   * @param {number} code Of the close frame; `GAP`.
   * @param {string} told The reason.
   * @param {string} token That the connection was opened with.
   * @param {boolean} wasOpen
   */
  async #ended(code, told, token, wasOpen) {
    const reason = withoutSecrets(told, [token, this.#token]);
    const wanted = this.#wanted;
    if (wanted === null) return;
    if (code === 1009 && !this.#outbox.tooLarge(this.#resumeSize)) this.#halveResume();
    this.#outbox.disconnected();
    if (this.#onlineSince > 0 && this.#timers.now() - this.#onlineSince >= STABLE) this.#attempts = 0;
    const isFirst = this.#attempts === 0;
    let delay = backoff(this.#attempts, this.#random);
    this.#attempts += 1;
    if (code === 1012) {
      delay = Math.max(delay, this.#random() * RESTART_SPREAD);
    } else if (code === 4401) {
      if (this.#token !== token || (await this.#renewed(wanted, reason))) delay = isFirst ? 0 : delay;
    } else if (code === GAP && this.#knowledge.vainGaps >= VAIN_GAPS_MOST) {
      const most = Math.min(RETRY_MOST, RETRY_LEAST * 2 ** Math.min(this.#knowledge.vainGaps, 16));
      delay = Math.max(delay, most * (0.5 + this.#random() / 2));
    } else if (code === 4408 || code === GAP) {
      delay = isFirst ? 0 : delay;
    } else if (code === 4409) {
      this.#loseAll();
    } else if (code === 4429) {
      this.#outbox.slower();
      delay += RESTART_SPREAD;
    } else if (!wasOpen) {
      const explaining = new AbortController();
      this.#explaining = explaining;
      delay = Math.max(delay, await this.#refusal(token, explaining.signal));
      if (explaining.signal.aborted) delay = 0; // somebody does not want to wait for it
      if (this.#explaining === explaining) this.#explaining = null;
    }
    if (!wanted.signal.aborted) this.#wait(delay, reason || `closed with ${code}`);
  }

  /**
   * Whether a token that has ended could be renewed; if it cannot be for good, the user is signed out.
   * @param {AbortController} wanted
   * @param {string} reason Why it has to be.
   */
  async #renewed(wanted, reason) {
    this.#setState({ state: "connecting", reason });
    if (wanted.signal.aborted) return false;
    const old = this.#token;
    try {
      const token = await this.#renewedToken(wanted.signal);
      if (!wanted.signal.aborted && this.#token === old) this.#accept(token, { isRenewal: true });
      return true;
    } catch (error) {
      if (this.#token !== old) return true; // somebody has signed in meanwhile
      const status = error instanceof PulseError ? error.status : 0;
      if (!wanted.signal.aborted && (status === 401 || status === 403)) this.#signOut();
      return false;
    }
  }

  /**
   * Why a handshake was refused, which browsers do not tell: signs out if it is the token; else returns how long the
   * service wants to be left alone, in milliseconds.
   * @param {string} token
   * @param {AbortSignal} signal
   */
  async #refusal(token, signal) {
    try {
      await this.#request("GET", "/api/auth/me", { token, signal });
    } catch (error) {
      if (error instanceof PulseError && error.retryAfter !== null) {
        return error.retryAfter * SECOND * (1 + this.#random() / 4);
      }
    }
    return 0;
  }

  /**
   * @param {number} delay
   * @param {string} reason
   */
  #wait(delay, reason) {
    const isOffline = this.#isOffline();
    // What the browser says is not always true; the `online` event comes first if it is.
    const ms = isOffline ? RETRY_MOST : delay;
    this.#timers.clear(this.#retry);
    this.#retry = this.#timers.set(ms, () => this.#open());
    this.#setState({ state: isOffline ? "offline" : "waiting", retryAt: this.#timers.now() + ms, reason });
  }

  /** There is a network again, or somebody looks: no more waiting. */
  #hurry = () => {
    if (this.#link !== null) {
      this.#link.probe();
    } else if (this.#retry !== null) {
      this.#attempts = 0;
      this.#open();
    } else if (this.#explaining !== null) {
      this.#attempts = 0;
      this.#explaining.abort();
    }
  };

  #doubt = () => {
    if (this.#link !== null) this.#link.probe();
    else if (this.#retry !== null) this.#wait(0, "offline");
  };

  #seen = () => {
    if (this.#window?.document?.visibilityState === "visible") this.#hurry();
  };

  #isOffline() {
    return this.#window?.navigator?.onLine === false;
  }

  /** @param {string} reason */
  #stop(reason) {
    const wasWanted = this.#wanted !== null;
    this.#wanted?.abort();
    this.#wanted = null;
    this.#explaining?.abort();
    this.#explaining = null;
    this.#link?.close();
    this.#link = null;
    this.#outbox.disconnected();
    this.#timers.clearAll();
    this.#retry = this.#renewal = null;
    this.#repeats.stopped();
    this.#isRenewed = false;
    this.#window?.removeEventListener("online", this.#hurry);
    this.#window?.removeEventListener("offline", this.#doubt);
    this.#window?.document?.removeEventListener("visibilitychange", this.#seen);
    if (wasWanted) this.#setState({ state: "closed", reason });
  }

  // --- frames ---

  /** @param {Frame} frame */
  #received(frame) {
    switch (frame.type) {
      case "session":
        return this.#started(frame);
      case "message":
      case "message_updated":
      case "message_deleted":
        return this.#changed(frame);
      case "error":
        return this.#refused(frame);
      case "auth":
        return this.#authenticated(frame);
      case "conversation_added":
        this.#knowledge.heardOf(frame.conversation_id);
        this.#emit(frame.type, frame);
        return this.#reloadIfBack(frame.conversation_id);
      case "conversation_removed":
        return this.#removed(frame);
      case "read":
        if (this.#reads.confirm(frame, this.#userId)) this.#repeats.succeeded();
        return this.#emit(frame.type, frame);
      case "system":
        this.#knowledge.stands(frame.conversation_id, frame.last_rev);
        return this.#emit(frame.type, frame);
      case "typing":
      case "presence":
        return this.#emit(frame.type, frame);
      case "users":
        this.#repeats.succeeded();
        return this.#emit(frame.type, frame);
    }
  }

  /** @param {Frame} frame */
  #started(frame) {
    const link = /** @type {Link} */ (this.#link);
    const isOther = this.#userId !== null && this.#userId !== frame.user_id;
    const isAfresh = isOther || this.#knowledge.isOfOther(frame.epoch);
    if (isOther) this.#users += 1;
    if (isAfresh) this.#knowledge.clear();
    this.#knowledge.epoch = frame.epoch;
    this.#userId = frame.user_id;
    this.#identify(frame.user_id);
    this.#onlineSince = this.#timers.now();
    const { revs, others } = this.#knowledge.resume(this.#resumeMost);
    const resume = { type: "resume", revs, epoch: frame.epoch };
    this.#resumeSize = sizeOf(resume);
    link.send(resume);
    this.#asked = [];
    this.#repeats.clear();
    this.#reads.keepOnly(this.#signIn, this.#userId);
    this.#tellAgain();
    // The answer says how long it is good for, and, if it came while this connection was being opened, whose it is.
    if (this.#expiresAt === 0 || this.#token !== this.#opened.token) this.#authenticate();
    this.#outbox.connected((message) => link.send(message), frame.user_id, this.#signIn);
    this.#setState({ state: "online" });
    if (isAfresh) this.#emit("reload", { conversation_id: null });
    for (const id of others) this.#emit("reload", { conversation_id: id });
  }

  /** @param {string} userId Whose the token is that the session was opened with. */
  #identify(userId) {
    const { signIn } = this.#opened;
    if (signIn.userId === null) signIn.userId = userId;
    else if (signIn.userId !== userId && signIn === this.#signIn) this.#signIn = { userId };
  }

  /** Gives the session the newest token. */
  #authenticate() {
    this.#asked.push(this.#signIn);
    this.#link?.send({ type: "auth", token: this.#token });
  }

  /** @param {Frame} frame The token is the session's user's. */
  #authenticated(frame) {
    const signIn = this.#asked.shift();
    this.#repeats.succeeded();
    if (this.#expiresAt === 0) this.#expiresIn(frame.expires_in);
    if (signIn === undefined || signIn.userId !== null) return;
    signIn.userId = this.#userId;
    this.#tellReads();
    this.#outbox.identified();
  }

  /** Whether the session is known to be that of who is signed in now. */
  #isIdentified() {
    return this.#link?.isReady === true && this.#signIn.userId === this.#userId;
  }

  /** @param {Frame} frame */
  #changed(frame) {
    // Others may choose the same client_id.
    const isOwn = frame.sender_id === this.#userId && frame.client_id !== undefined;
    const isResent = isOwn ? this.#outbox.acknowledge(frame) : undefined;
    const found = this.#knowledge.note(frame, isResent === true);
    if (found === "gap") this.#comeBack();
    else if (found === "news") this.#emit(frame.type, frame);
    this.#reloadIfBack(frame.conversation_id);
  }

  /** @param {string} id A conversation that the user is in. */
  #reloadIfBack(id) {
    if (this.#knowledge.isBack(id)) this.#emit("reload", { conversation_id: id });
  }

  /** A change is missing on this connection; the next one resumes from before it. */
  #comeBack() {
    this.#gaps += 1;
    this.#link?.close();
    this.#link = null;
    this.#ended(GAP, "a change is missing", "", true);
  }

  /** @param {Frame} told */
  #refused(told) {
    const content = withoutSecrets(told.content, [this.#opened.token, this.#token]);
    const [code, field] = [told.code, told.field].map((name) => nameOf(name, this.#token));
    /** @type {Frame} */
    const frame = { ...told, content, code: code ?? "unknown", field };
    if (frame.code === "cannot_resume") {
      if (frame.conversation_id === undefined) return this.#loseAll();
      this.#knowledge.lose(frame.conversation_id);
      return this.#emit("reload", { conversation_id: frame.conversation_id });
    }
    if (frame.code === "invalid_frame" && frame.field === "revs") {
      this.#halveResume();
      return this.#loseAll();
    }
    if (frame.code === "rate_limited") {
      this.#timers.set(this.#outbox.limited(), () => this.#tellAgain());
      return undefined;
    }
    if (frame.code === "invalid_token") {
      // The answer to `auth`: the token is another user's, or no good. A handshake with it tells.
      this.#link?.close();
      this.#link = null;
      this.#ended(4401, frame.content, "", true);
      return undefined;
    }
    if (frame.code === "unavailable" && frame.client_id === undefined) {
      if (frame.field === "user_ids") return this.#repeats.add("watch");
      if (this.#asked.shift() !== undefined) return this.#repeats.add("auth");
    }
    if (frame.field === "seq" && frame.client_id === undefined) {
      if (frame.code === "not_stored") return this.#repeats.add("read");
      const isFinal = /^(no_such_message|not_a_member|invalid_.*)$/.test(frame.code);
      if (isFinal && frame.conversation_id !== undefined) this.#reads.forget(frame.conversation_id);
    }
    if (!this.#outbox.refused(frame)) this.#emit("error", errorOf(frame));
    return undefined;
  }

  /** @param {Frame} frame */
  #removed(frame) {
    const id = frame.conversation_id;
    this.#knowledge.forget(id);
    this.#reads.forget(id);
    const text = "You are not in this conversation any more";
    this.#outbox.rejectAll(id, new PulseError("not_a_member", text, { conversationId: id }));
    this.#emit(frame.type, frame);
  }

  #loseAll() {
    this.#knowledge.clear();
    this.#emit("reload", { conversation_id: null });
  }

  /** The service takes fewer conversations in a `resume` than was thought. */
  #halveResume() {
    this.#resumeMost = Math.max(1, Math.floor(this.#resumeMost / 2));
  }

  /** What is told once, and may have been lost with a connection or been refused. */
  #tellAgain() {
    if (!this.#link?.isReady) return;
    if (this.#asked.length > 0) {
      this.#asked = [];
      this.#authenticate();
    }
    this.#tellWatched();
    this.#tellReads();
  }

  #tellWatched() {
    if (this.#watched !== null && this.#link?.isReady) this.#link.send({ type: "watch", user_ids: this.#watched });
  }

  /** @param {Set<string>} names Of what the server could not take a moment ago: `auth`, `watch`, `read`. */
  #repeat(names) {
    if (!this.#link?.isReady) return; // the next session is sent everything
    if (names.has("auth")) this.#authenticate();
    if (names.has("watch")) this.#tellWatched();
    if (names.has("read")) this.#tellReads();
  }

  #tellReads() {
    for (const frame of this.#reads.frames(this.#userId)) this.#link?.send(frame);
  }

  // --- tokens ---

  /**
   * @param {Token} token From login or renewal.
   * @param {{isRenewal?: boolean}} [options]
   */
  #accept(token, options) {
    this.#isRenewed = true;
    this.#setToken(token.access_token, token.expires_in, options);
    this.#emit("token", token);
  }

  /**
   * @param {string | null} token
   * @param {number} expiresIn Seconds; 0 if that is not known.
   * @param {{isRenewal?: boolean}} [options] `isRenewal`: it is the same user's for certain.
   */
  #setToken(token, expiresIn, { isRenewal = false } = {}) {
    if (token === this.#token) return;
    this.#token = token;
    if (token !== null && !isRenewal) this.#signedIn();
    this.#expiresAt = 0;
    this.#timers.clear(this.#renewal);
    this.#expiresIn(expiresIn);
    if (token !== null && this.#link?.isReady) this.#authenticate();
  }

  /** Somebody signs in. What was written before anybody had is of the first who does. */
  #signedIn() {
    if (this.#hasHadToken) this.#signIn = { userId: null };
    this.#hasHadToken = true;
  }

  /** @param {number} seconds How long the token is good for. */
  #expiresIn(seconds) {
    if (!(seconds > 0)) return;
    this.#expiresAt = this.#timers.now() + seconds * SECOND;
    this.#renewIn(seconds * SECOND);
  }

  /** @param {number} left Milliseconds that the token is good for. */
  #renewIn(left) {
    this.#timers.clear(this.#renewal);
    const early = 0.7 + 0.1 * this.#random(); // not all tabs at once, and time to try again
    this.#renewal = this.#timers.set(Math.max(SECOND, left * early), () => this.#renewInTime(0), { background: true });
  }

  /** @param {number} attempt */
  async #renewInTime(attempt) {
    const { now } = this.#clock;
    const token = this.#token;
    const endsAt = this.#expiresAt;
    try {
      const renewed = await this.#renewedToken(this.#wanted?.signal);
      if (this.#token !== token || !this.#isRenewed) return;
      this.#accept(renewed, { isRenewal: true });
      // The sign-in comes to its end: asking again gains nothing.
      if (this.#expiresAt <= endsAt + SECOND) this.#timers.clear(this.#renewal);
    } catch (error) {
      const status = error instanceof PulseError ? error.status : 0;
      const isFinal = status === 401 || status === 403 || status === 404;
      if (isFinal || this.#token !== token || !this.#isRenewed || now() >= endsAt) return; // 4401 decides
      const delay = SECOND + backoff(attempt, this.#random);
      this.#renewal = this.#timers.set(delay, () => this.#renewInTime(attempt + 1), { background: true });
    }
  }

  /**
   * @param {AbortSignal} [signal]
   * @returns {Promise<Token>}
   */
  #renewedToken(signal) {
    return this.#requestToken("/api/auth/renew", { signal, keepsToken: true });
  }

  /**
   * @param {string} path
   * @param {object} options Of `#request`.
   * @returns {Promise<Token>}
   */
  async #requestToken(path, options) {
    const token = await this.#request("POST", path, options);
    try {
      if (sendable(token?.access_token) !== null) return token;
    } catch {
      // Said below, as what it is here: the server's fault.
    }
    throw new PulseError("bad_answer", `POST ${path} was answered with a token that cannot be sent`);
  }

  #signOut() {
    this.#setToken(null, 0); // first: who is told that it is closed may sign in
    this.#stop("signed_out");
    this.#emit("signed_out", null);
  }

  // --- REST ---

  /**
   * Loads something that is to fit to what sessions send. If frames have begun anew since it was asked for, the answer
   * may be older than the first of them, and what changed between would be missed: asked again. How often sessions
   * begin is bounded by the backoff.
   * @param {string | null} id The conversation that it is about; null: any, or what no session resumes.
   * @param {() => Promise<any>} request
   * @returns {Promise<[any, number]>} The answer, and the moment when it was asked for.
   */
  async #load(id, request) {
    const users = this.#users;
    for (;;) {
      const { moment } = this.#knowledge;
      const answer = await request();
      if (users !== this.#users) throw new PulseError("other_user", "Another user signed in before the answer came");
      if (this.#knowledge.isCovered(moment, id)) return [answer, moment];
    }
  }

  /**
   * @param {Conversation} conversation
   * @param {number} moment When it was asked for.
   */
  #listed(conversation, moment) {
    if (this.#knowledge.isOfOther(conversation.epoch) && !this.#link?.isReady) {
      this.#knowledge.epoch = conversation.epoch;
      this.#loseAll();
    }
    this.#knowledge.listed(conversation, moment);
    this.#reloadIfBack(conversation.id);
    return conversation;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{query?: Record<string, string | number | undefined>, body?: object, token?: string | null,
   *   signal?: AbortSignal, keepsToken?: boolean}} [options] `keepsToken`: a 401 does not sign the user out.
   * @returns {Promise<any>}
   */
  async #request(method, path, options = {}) {
    const token = options.token === undefined ? this.#token : options.token;
    try {
      return await this.#rest.request(method, path, { ...options, token });
    } catch (error) {
      const isSignedOut = error instanceof PulseError && error.code === "invalid_token" && token === this.#token;
      if (isSignedOut && !options.keepsToken) this.#signOut();
      throw error;
    }
  }

  /** @param {State} state */
  #setState(state) {
    this.#state = state;
    this.#emit("state", state);
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {Page} page */
function pageOf({ limit, offset }) {
  return { limit, offset };
}
