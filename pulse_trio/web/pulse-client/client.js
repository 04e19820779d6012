import { Endpoints, pageOf, part } from "./endpoints.js";
import { PulseError, errorOf, kindOf, nameOf, withoutSecrets } from "./errors.js";
import { Knowledge } from "./knowledge.js";
import { Link } from "./link.js";
import { idOf } from "./messages.js";
import { Outbox, newClientId, sizeOf } from "./outbox.js";
import { Reads, readFrame } from "./reads.js";
import { Repeats } from "./repeats.js";
import { Rest } from "./rest.js";
import { MIN_RETRY, MAX_RETRY, SECOND, Timers, backoff } from "./timers.js";

/**
 * @import { Clock, Conversation, Frame, Message, Options, Page, PageAfter } from "./types.js"
 * @import { SignIn, State, Surroundings, Token } from "./types.js"
 */

const STABLE = 10 * SECOND; // milliseconds online that reset the backoff
const RESTART_SPREAD = 5 * SECOND; // milliseconds; spreads the clients after a restart of the server
const TYPING_INTERVAL = 2 * SECOND; // milliseconds; the server drops more frequent ones
const GAP = 0; // in place of a close code: a live frame skipped a rev
const MAX_VAIN_GAPS = 3; // in a row; then the client waits longer and longer before it looks for the next one

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

/**
 * A user's client.
 *
 * Events, all CustomEvents with their content in `detail`: `state`; the frames `message`, `message_updated`,
 * `message_deleted`, `typing`, `system`, `presence`, `read`, `users`, `conversation_added`, `conversation_removed`;
 * `reload`, `outbox`, `token`, `signed_out`, `error`. docs/javascript.md describes them.
 */
export class PulseClient extends Endpoints {
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
  /** @type {SignIn[]} of the `auth` frames without an answer */
  #asked = [];
  #expiresAt = 0; // milliseconds since the epoch; 0: not known
  #isRenewed = true; // automatically, until `close`
  /** @type {{handle: any} | null} */
  #renewal = null;

  /** @type {AbortController | null} from `connect` to `close`, which aborts it */
  #wanted = null;
  /** @type {Link | null} */
  #link = null;
  /** @type {{token: string | null, signIn: SignIn}} that the connection was opened with */
  #opened = { token: null, signIn: this.#signIn };
  /** @type {{handle: any} | null} */
  #retry = null;
  /** @type {AbortController | null} of the request that explains a rejected handshake */
  #explaining = null;
  #attempts = 0;
  #onlineSince = 0;
  #resumeMost;
  #resumeSize = 0; // bytes of the newest `resume`
  /** @type {string | null} */
  #userId = null; // of the newest session
  #users = 0; // changes of the session's user
  #gaps = 0;

  /** @type {string[] | null} */
  #watched = null;
  #reads = new Reads();
  /** @type {Map<string, number>} conversation id → time of the last `typing` */
  #typed = new Map();
  #repeats;

  /** @param {Options} [options] */
  constructor(options = {}) {
    super((method, path, request) => this.#request(method, path, request));
    const surroundings = options.window === undefined ? globalThis.window : options.window;
    // Node.js and workers have no window, or only parts of one.
    this.#window = typeof surroundings?.addEventListener === "function" ? surroundings : null;
    const url = options.url ?? this.#window?.location?.origin;
    if (url === undefined) throw new TypeError("`url` is required where there is no page");
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
    this.#hasHadToken = this.#token !== null;
    const userId = this.#hasHadToken ? options.userId : null; // whose the next token is, nobody knows
    if (userId) this.#signIn.userId = userId;
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
    if (userId) this.#outbox.load(userId);
    for (const message of options.pending ?? []) {
      const signIn = message.userId ? { userId: message.userId } : this.#signIn;
      this.#outbox.restore(message, signIn);
    }
  }

  /** The state of the connection; every change is a `state` event. */
  get state() {
    return this.#state;
  }

  /**
   * The token, or null. Set it to a new one of your identity provider to renew the connection. It may be another user's:
   * messages wait until the server has told whose it is.
   * @throws {TypeError} No header can hold the new token.
   */
  get token() {
    return this.#token;
  }

  set token(token) {
    this.#setToken(sendable(token), 0);
  }

  /** Unacknowledged messages, for `new PulseClient({pending})`. */
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

  /** The number of unsent messages of the user, with those of other tabs. */
  get unsentCount() {
    return this.#outbox.unsentCount;
  }

  /** How often a live connection skipped a change; each time the client reconnected to get it. */
  get gaps() {
    return this.#gaps;
  }

  // --- accounts ---

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
   * Renews the token. The client does it by itself before the token ends.
   * @returns {Promise<Token>}
   */
  async renew() {
    const old = this.#token;
    /** @type {Token} */
    const token = await this.#renewedToken();
    if (this.#token === old) this.#accept(token, { isRenewal: true });
    return token;
  }

  /**
   * Takes a token of the same user that somebody else renewed: another tab, say.
   * @param {string} token
   * @throws {TypeError} No header can hold the token.
   */
  takeRenewed(token) {
    this.#setToken(sendable(token), 0, { isRenewal: true });
  }

  // --- conversations ---

  /**
   * Loads a page of the user's conversations, the most recently active first.
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
   * Creates a conversation, or returns the one-to-one that the two have already.
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
   * Loads a page of the history, newest first: the newest messages, those before a message, or the oldest after one.
   * Changes that arrive as frames meanwhile are merged into it.
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
   * Loads a page of read positions, up to 1,000, in the order the members were added.
   * @param {string} id
   * @param {PageAfter} [page]
   * @returns {Promise<{positions: {user_id: string, seq: number}[], next_cursor: string | null}>}
   */
  async readPositions(id, { limit, cursor } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/read`;
    const [answer] = await this.#load(null, () => this.#request("GET", path, { query: { limit, cursor } }));
    return answer;
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

  /** Connects without waiting for the next attempt; pings the server if there is a connection. */
  reconnect() {
    this.#hurry();
  }

  /**
   * Closes the connection and rejects running requests with `network`. Unacknowledged messages stay: `connect` sends
   * them.
   */
  close() {
    this.#stop("closed by the page");
    this.#rest.abortAll();
  }

  /**
   * Sends a message, now or with the next connection, until it is acknowledged or rejected.
   * @param {string} conversationId
   * @param {string} content
   * @param {{clientId?: string}} [options] `clientId`: 1 to 64 characters; a resend has the same.
   * @returns {Promise<Frame>} The message's own frame: it is stored, `seq` is its position.
   */
  send(conversationId, content, { clientId } = {}) {
    const message = { conversationId, content: String(content), clientId: clientId ?? newClientId() };
    this.#typed.delete(idOf(conversationId)); // a message ends the typing
    return this.#outbox.add(message, this.#signIn, { isOld: clientId !== undefined });
  }

  /**
   * Gives an unsent message up; its promise rejects with `discarded`. If it was under way it may be stored nevertheless.
   * @param {string} conversationId
   * @param {string} clientId
   * @throws {TypeError} There is no clientId.
   */
  discard(conversationId, clientId) {
    if (typeof clientId !== "string") throw new TypeError("`discard` needs the conversation's id and the `clientId`");
    this.#outbox.discard(conversationId, clientId);
  }

  /**
   * Gives all unsent messages of the user up, those of other tabs as well: for a sign-out. Before the first session and
   * without a `userId`, those in the storage stay: nobody knows whose to remove.
   */
  discardAll() {
    this.#outbox.discardAll();
  }

  /**
   * Tells the other members that the user is typing. Call it with every key: it is sent every two seconds at most, and at
   * once after a message.
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
   * Marks everything up to `seq` as read. Repeated after a reconnect until the server confirms it.
   * @param {string} conversationId
   * @param {number} seq
   */
  read(conversationId, seq) {
    const key = idOf(conversationId);
    if (!this.#reads.note(key, seq, this.#signIn)) return;
    if (this.#isIdentified()) this.#link?.send(readFrame(key, seq));
  }

  /**
   * Watches the presence of users, in place of those before: `users` events report it.
   * @param {string[]} userIds
   */
  watch(userIds) {
    this.#watched = [...userIds];
    this.#sendWatched();
  }

  // --- the connection's life ---

  #open() {
    const wanted = this.#wanted;
    if (wanted === null || this.#link !== null) return;
    this.#timers.clear(this.#retry);
    this.#retry = null;
    this.#onlineSince = 0;
    this.#setState({ state: "connecting" });
    if (this.#wanted !== wanted) return; // a listener has closed it, and may have connected again
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
   * Handles the end of a connection: decides when to reconnect.
   * @param {number} code Of the close frame, or `GAP`.
   * @param {string} told The reason.
   * @param {string} token Of the connection.
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
    } else if (code === GAP && this.#knowledge.vainGaps >= MAX_VAIN_GAPS) {
      const most = Math.min(MAX_RETRY, MIN_RETRY * 2 ** Math.min(this.#knowledge.vainGaps, 16));
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
      if (explaining.signal.aborted) delay = 0; // `reconnect` does not wait
      if (this.#explaining === explaining) this.#explaining = null;
    }
    if (!wanted.signal.aborted) this.#wait(delay, reason || `closed with ${code}`);
  }

  /**
   * Renews an expired token; returns true if there is a new one. Signs out if the server rejects the renewal.
   * @param {AbortController} wanted
   * @param {string} reason For the state.
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
      if (this.#token !== old) return true; // the page has set another meanwhile
      const status = error instanceof PulseError ? error.status : 0;
      if (!wanted.signal.aborted && (status === 401 || status === 403)) this.#signOut();
      return false;
    }
  }

  /**
   * Finds out why a handshake was rejected, which browsers do not tell. Signs out if it is the token; else returns the
   * milliseconds of `Retry-After`, or 0.
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
    // A browser may report no network by mistake; if it does not, the `online` event comes first.
    const ms = isOffline ? MAX_RETRY : delay;
    this.#timers.clear(this.#retry);
    this.#retry = this.#timers.set(ms, () => this.#open());
    this.#setState({ state: isOffline ? "offline" : "waiting", retryAt: this.#timers.now() + ms, reason });
  }

  /** Ends a wait: there is a network again, or the page became visible. */
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
    this.#sendAgain();
    // The answer tells the token's lifetime and, for one that came during the handshake, its user.
    if (this.#expiresAt === 0 || this.#token !== this.#opened.token) this.#authenticate();
    this.#outbox.connected((message) => link.send(message), frame.user_id, this.#signIn);
    this.#setState({ state: "online" });
    if (isAfresh) this.#emit("reload", { conversation_id: null });
    for (const id of others) this.#emit("reload", { conversation_id: id });
  }

  /** @param {string} userId The user of the token that opened the session. */
  #identify(userId) {
    const { signIn } = this.#opened;
    if (signIn.userId === null) signIn.userId = userId;
    else if (signIn.userId !== userId && signIn === this.#signIn) this.#signIn = { userId };
  }

  /** Sends the newest token to the session. */
  #authenticate() {
    this.#asked.push(this.#signIn);
    this.#link?.send({ type: "auth", token: this.#token });
  }

  /** @param {Frame} frame Confirms that the token is of the session's user. */
  #authenticated(frame) {
    const signIn = this.#asked.shift();
    this.#repeats.succeeded();
    if (this.#expiresAt === 0) this.#expiresIn(frame.expires_in);
    if (signIn === undefined || signIn.userId !== null) return;
    signIn.userId = this.#userId;
    this.#sendReads();
    this.#outbox.identified();
  }

  /** Returns true if the session is known to belong to the present sign-in. */
  #isIdentified() {
    return this.#link?.isReady === true && this.#signIn.userId === this.#userId;
  }

  /** @param {Frame} frame */
  #changed(frame) {
    // Another user may choose the same client_id.
    const isOwn = frame.sender_id === this.#userId && frame.client_id !== undefined;
    const isResent = isOwn ? this.#outbox.acknowledge(frame) : undefined;
    const found = this.#knowledge.note(frame, isResent === true);
    if (found === "gap") this.#reconnectForGap();
    else if (found === "news") this.#emit(frame.type, frame);
    this.#reloadIfBack(frame.conversation_id);
  }

  /** @param {string} id A conversation of the user. */
  #reloadIfBack(id) {
    if (this.#knowledge.isBack(id)) this.#emit("reload", { conversation_id: id });
  }

  /** Reconnects because a change is missing; the next connection resumes from before it. */
  #reconnectForGap() {
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
      this.#timers.set(this.#outbox.limited(), () => this.#sendAgain());
      return undefined;
    }
    if (frame.code === "invalid_token") {
      // The answer to `auth`: the token is another user's, or invalid. A handshake with it shows which.
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
    const text = "You are not a member of this conversation any more";
    this.#outbox.rejectAll(id, new PulseError("not_a_member", text, { conversationId: id }));
    this.#emit(frame.type, frame);
  }

  #loseAll() {
    this.#knowledge.clear();
    this.#emit("reload", { conversation_id: null });
  }

  /** Names fewer conversations in the next `resume`: the service accepts less. */
  #halveResume() {
    this.#resumeMost = Math.max(1, Math.floor(this.#resumeMost / 2));
  }

  /** Repeats what may have been lost with a connection, or rejected. */
  #sendAgain() {
    if (!this.#link?.isReady) return;
    if (this.#asked.length > 0) {
      this.#asked = [];
      this.#authenticate();
    }
    this.#sendWatched();
    this.#sendReads();
  }

  #sendWatched() {
    if (this.#watched !== null && this.#link?.isReady) this.#link.send({ type: "watch", user_ids: this.#watched });
  }

  /** @param {Set<string>} names Frames that the server could not take a moment ago: `auth`, `watch`, `read`. */
  #repeat(names) {
    if (!this.#link?.isReady) return; // the next session is sent everything
    if (names.has("auth")) this.#authenticate();
    if (names.has("watch")) this.#sendWatched();
    if (names.has("read")) this.#sendReads();
  }

  #sendReads() {
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
   * @param {number} expiresIn Seconds; 0: not known.
   * @param {{isRenewal?: boolean}} [options] `isRenewal`: it is the same user's.
   */
  #setToken(token, expiresIn, { isRenewal = false } = {}) {
    if (token === this.#token) return;
    this.#token = token;
    if (token !== null) this.#signedIn(isRenewal);
    this.#expiresAt = 0;
    this.#timers.clear(this.#renewal);
    this.#expiresIn(expiresIn);
    if (token !== null && this.#link?.isReady) this.#authenticate();
  }

  /**
   * Begins a sign-in, unless the token is a renewed one. Messages from before the first token belong to its user.
   * @param {boolean} isRenewal
   */
  #signedIn(isRenewal) {
    if (this.#hasHadToken && !isRenewal) this.#signIn = { userId: null };
    this.#hasHadToken = true;
  }

  /** @param {number} seconds Lifetime of the token. */
  #expiresIn(seconds) {
    if (!(seconds > 0)) return;
    this.#expiresAt = this.#timers.now() + seconds * SECOND;
    this.#renewIn(seconds * SECOND);
  }

  /** @param {number} left Milliseconds until the token ends. */
  #renewIn(left) {
    this.#timers.clear(this.#renewal);
    const early = 0.7 + 0.1 * this.#random(); // spreads the tabs, and leaves time to retry
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
      // The sign-in ends: another renewal would not prolong it.
      if (this.#expiresAt <= endsAt + SECOND) this.#timers.clear(this.#renewal);
    } catch (error) {
      const status = error instanceof PulseError ? error.status : 0;
      const isFinal = status === 401 || status === 403 || status === 404;
      if (isFinal || this.#token !== token || !this.#isRenewed || now() >= endsAt) return; // the close code 4401 decides
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
      // Reported below as the server's fault.
    }
    throw new PulseError("bad_answer", `POST ${path} was answered with a token that cannot be sent`);
  }

  #signOut() {
    this.#setToken(null, 0); // first: a listener to `closed` may sign in
    this.#stop("signed_out");
    this.#emit("signed_out", null);
  }

  // --- REST ---

  /**
   * Repeats a request until no change is missed between the answer and the frames: if frames began afresh after the
   * request, the answer may be older than the first of them. The backoff bounds how often that happens.
   * @param {string | null} id The answer's conversation; null: any, or something that no session resumes.
   * @param {() => Promise<any>} request
   * @returns {Promise<[any, number]>} The answer, and the moment of its request.
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
   * @param {number} moment Of the request.
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
   *   signal?: AbortSignal, keepsToken?: boolean}} [options] `keepsToken`: a 401 does not sign out.
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
