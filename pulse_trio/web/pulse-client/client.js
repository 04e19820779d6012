import { Connection, GAP } from "./connection.js";
import { announcementOf, readOf, systemOfConversation, systemsOfMembers } from "./derived.js";
import { Endpoints, pageOf, part } from "./endpoints.js";
import { PulseError, errorOf, kindOf, nameOf, withoutSecrets } from "./errors.js";
import { Knowledge } from "./knowledge.js";
import { idOf } from "./messages.js";
import { Outbox, newClientId, sizeOf } from "./outbox.js";
import { Own } from "./own.js";
import { Reads, readFrame } from "./reads.js";
import { Repeats } from "./repeats.js";
import { Rest } from "./rest.js";
import { Searches } from "./sequence.js";
import { SECOND, Timers } from "./timers.js";
import { Tokens } from "./tokens.js";

/**
 * @import { Abortable, Clock, Conversation, ConversationFrame, EventName, EventOf, Events, Frame, MemberFrame } from "./types.js"
 * @import { MembershipFrame, Message, Options, Page, PageAfter, SignIn, State, Surroundings, Token } from "./types.js"
 */

const TYPING_INTERVAL = 2 * SECOND; // milliseconds; the server drops more frequent ones
const NO_WEBSOCKET =
  "There is no WebSocket, which Node.js has since version 22: npm install ws, " +
  'import WebSocket from "ws", and pass it: new PulseClient({ url, WebSocket })';
const FEATURES = ["members", "conversation", "me"]; // that the client asks the server for

/**
 * A user's client.
 *
 * Events, all CustomEvents with their content in `detail`: `state`; the frames `message`, `message_updated`,
 * `message_deleted`, `member`, `conversation`, `membership`, `typing`, `system`, `presence`, `read`, `users`,
 * `conversation_added`, `conversation_removed`; `reload`, `outbox`, `token`, `signed_out`, `error`. docs/javascript.md
 * describes them.
 */
export class PulseClient extends Endpoints {
  #random;
  /** @type {any} */
  #WebSocket;
  #rest;
  #timers;
  /** @type {Tokens} */
  #tokens;
  /** @type {Connection} */
  #connection;
  #outbox;
  #searches = new Searches();
  #knowledge = new Knowledge(this.#searches);
  #own = new Own();
  /** @type {readonly string[]} of the present session */
  #features = [];
  /** @type {State} */
  #state = { state: "closed" };

  /** @type {SignIn[]} of the `auth` frames without an answer */
  #asked = [];
  /** @type {{token: string, signIn: SignIn}} that the connection was opened with */
  #opened = { token: "", signIn: { userId: null } };
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
    const window = typeof surroundings?.addEventListener === "function" ? surroundings : null;
    const url = (options.url ?? window?.location?.origin)?.replace(/\/+$/, "");
    if (url === undefined) throw new TypeError("`url` is required where there is no page");
    this.#random = options.random ?? Math.random;
    const clock = options.clock ?? {
      setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => Date.now(),
      monotonic: () => globalThis.performance.now(),
    };
    this.#timers = new Timers(clock);
    this.#rest = new Rest({
      url,
      fetch: options.fetch ?? ((to, init) => globalThis.fetch(to, init)),
      clock,
      milliseconds: (options.requestSeconds ?? 30) * SECOND,
      secrets: () => [this.token],
    });
    this.#tokens = new Tokens({
      token: options.token,
      userId: options.userId,
      timers: this.#timers,
      random: this.#random,
      post: (path, request) => this.#request("POST", path, request),
      signal: () => this.#connection.signal,
      onChange: () => this.token !== null && this.#connection.isReady && this.#authenticate(),
      onAnswer: (token) => this.#emit("token", token),
    });
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#connection = new Connection({
      WebSocket: this.#WebSocket,
      url: `${url.replace(/^http/, "ws")}/api/chat/ws?features=${FEATURES.join(",")}`,
      timers: this.#timers,
      random: this.#random,
      times: {
        connect: (options.connectSeconds ?? 15) * SECOND,
        ping: (options.pingSeconds ?? 25) * SECOND,
        pong: (options.pongSeconds ?? 10) * SECOND,
      },
      window,
      token: () => this.token ?? "",
      vainSearches: () => this.#searches.vain,
      onState: (state) => this.#setState(state),
      onOpen: (token) => (this.#opened = { token, signIn: this.#tokens.signIn }),
      onFailed: (error) => this.#cannotConnect(error),
      onFrame: (frame) => this.#received(frame),
      onEnd: (code) => this.#ended(code),
      renew: (signal) => this.#renewExpired(signal),
      explain: (token, signal) => this.#refusal(token, signal),
    });
    this.#repeats = new Repeats({ timers: this.#timers, random: this.#random, run: (names) => this.#repeat(names) });
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
    const { signIn } = this.#tokens;
    if (signIn.userId !== null) this.#outbox.load(signIn.userId);
    for (const message of options.pending ?? []) {
      this.#outbox.restore(message, message.userId ? { userId: message.userId } : signIn);
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
    return this.#tokens.token;
  }

  set token(token) {
    this.#tokens.set(token);
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

  /** How often a change did not arrive though a later one did; each time the client reconnected to get it. */
  get gaps() {
    return this.#gaps;
  }

  /** The features of the newest session: of those that the client asks for, those that the server has. */
  get features() {
    return this.#features;
  }

  // --- events ---

  /**
   * Calls a listener with each event of a type; its `detail` has the content.
   * @template {string} Type
   * @param {EventName<Type>} type
   * @param {((event: EventOf<Type>) => void) | {handleEvent: (event: EventOf<Type>) => void} | null} listener
   * @param {boolean | AddEventListenerOptions} [options]
   * @returns {void}
   */
  addEventListener(type, listener, options) {
    super.addEventListener(type, /** @type {any} */ (listener), options);
  }

  /**
   * Ends that.
   * @template {string} Type
   * @param {EventName<Type>} type
   * @param {((event: EventOf<Type>) => void) | {handleEvent: (event: EventOf<Type>) => void} | null} listener
   * @param {boolean | EventListenerOptions} [options]
   * @returns {void}
   */
  removeEventListener(type, listener, options) {
    super.removeEventListener(type, /** @type {any} */ (listener), options);
  }

  // --- accounts ---

  /**
   * Logs in, and keeps the token.
   * @param {string} username
   * @param {string} password
   * @returns {Promise<Token>}
   */
  async login(username, password) {
    const token = await this.#tokens.request("/api/auth/login", { body: { username, password }, token: null });
    this.#tokens.accept(token);
    return token;
  }

  /**
   * Renews the token. The client does it by itself before the token ends.
   * @returns {Promise<Token>}
   */
  renew() {
    return this.#tokens.renew();
  }

  /**
   * Takes a token of the same user that somebody else renewed: another tab, say.
   * @param {string} token
   * @throws {TypeError} No header can hold the token.
   */
  takeRenewed(token) {
    this.#tokens.set(token, { isRenewal: true });
  }

  // --- conversations ---

  /**
   * Loads a page of the user's conversations, the most recently active first.
   * @param {Page} [page]
   * @returns {Promise<{conversations: Conversation[], total: number, limit: number, offset: number,
   *   next_cursor?: string | null}>} A server without cursors has no `next_cursor`.
   */
  async conversations(page = {}) {
    const request = { query: pageOf(page), signal: page.signal };
    const [list, moment] = await this.#load("/api/chat/conversations", request, null, (answer) => answer.conversations);
    for (const conversation of list.conversations) {
      this.#listed(conversation, moment);
      this.#own.listed(conversation);
    }
    return list;
  }

  /**
   * @param {string} id
   * @param {Abortable} [options]
   * @returns {Promise<Conversation>}
   */
  async conversation(id, { signal } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}`;
    const [conversation, moment] = await this.#load(path, { signal }, idOf(id), (answer) => [answer]);
    this.#own.listed(conversation);
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
   * Changes that arrive as frames meanwhile are merged into it. The client counts the messages as shown, unless `signal`
   * aborts first.
   * @param {string} id
   * @param {{beforeSeq?: number, afterSeq?: number, limit?: number} & Abortable} [page]
   * @returns {Promise<{messages: Message[], total: number, limit: number, offset: number, has_more?: boolean}>} A page
   *   may be shorter than its limit: its bytes are bounded.
   */
  async history(id, { beforeSeq, afterSeq, limit, signal } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/messages`;
    const query = { before_seq: beforeSeq, after_seq: afterSeq, limit };
    const isNewest = beforeSeq === undefined && afterSeq === undefined;
    const load = this.#knowledge.loading(idOf(id));
    try {
      const [page] = await this.#load(path, { query, signal }, load.id);
      this.#knowledge.loaded(load, page, isNewest);
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
  async readPositions(id, { limit, cursor, signal } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/read`;
    const [answer] = await this.#load(path, { query: { limit, cursor }, signal }, null);
    return answer;
  }

  // --- live ---

  /**
   * Opens the connection, and keeps it open until `close`.
   * @throws {PulseError} `not_authenticated`: there is no token. `cannot_connect`: there is no WebSocket.
   */
  connect() {
    if (this.#connection.isWanted) return;
    if (!this.token) throw new PulseError("not_authenticated", "Log in first");
    if (typeof this.#WebSocket !== "function") throw new PulseError("cannot_connect", NO_WEBSOCKET);
    this.#tokens.start();
    this.#connection.start();
  }

  /** Connects without waiting for the next attempt; pings the server if there is a connection. */
  reconnect() {
    this.#connection.hurry();
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
   * @returns {Promise<Frame>} The message's own frame: it is stored, `seq` is its position. Rejects with a `TypeError` if
   *   the content is no text.
   */
  async send(conversationId, content, { clientId } = {}) {
    if (typeof content !== "string") throw new TypeError("The content of a message is a string");
    const message = { conversationId, content, clientId: clientId ?? newClientId() };
    this.#typed.delete(idOf(conversationId)); // a message ends the typing
    return this.#outbox.add(message, this.#tokens.signIn, { isOld: clientId !== undefined });
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
    this.#connection.send({ type: "typing", conversation_id: key });
  }

  /**
   * Marks everything up to `seq` as read. Repeated after a reconnect until the server confirms it.
   * @param {string} conversationId
   * @param {number} seq
   */
  read(conversationId, seq) {
    const key = idOf(conversationId);
    if (!this.#reads.note(key, seq, this.#tokens.signIn)) return;
    if (this.#isIdentified()) this.#connection.send(readFrame(key, seq));
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

  /** @param {unknown} error */
  #cannotConnect(error) {
    this.#stop("failed");
    this.#emit("error", new PulseError("cannot_connect", `The WebSocket cannot be made: ${kindOf(error)}`));
  }

  /** @param {number} code Of the close frame, or `GAP`. */
  #ended(code) {
    if (code === 1009 && !this.#outbox.tooLarge(this.#resumeSize)) this.#halveResume();
    this.#outbox.disconnected();
    if (code === 4409) this.#loseAll();
    if (code === 4429) this.#outbox.slower();
  }

  /**
   * Renews an expired token; returns true if there is a new one. Signs out if the server rejects the renewal.
   * @param {AbortSignal} signal
   */
  async #renewExpired(signal) {
    const old = this.token;
    try {
      await this.#tokens.renew(signal);
      return true;
    } catch (error) {
      if (this.token !== old) return true; // the page has set another meanwhile
      const status = error instanceof PulseError ? error.status : 0;
      if (!signal.aborted && (status === 401 || status === 403)) this.#signOut();
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

  /** @param {string} reason */
  #stop(reason) {
    const wasWanted = this.#connection.stop();
    this.#outbox.disconnected();
    this.#timers.clearAll();
    this.#tokens.stop();
    this.#repeats.stopped();
    if (wasWanted) this.#setState({ state: "closed", reason });
  }

  #signOut() {
    this.#tokens.set(null); // first: a listener to `closed` may sign in
    this.#stop("signed_out");
    this.#emit("signed_out", null);
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
      case "member":
      case "conversation":
        return this.#detailsChanged(/** @type {MemberFrame | ConversationFrame} */ (frame));
      case "membership":
        return this.#ownChanged(/** @type {MembershipFrame} */ (frame));
      case "error":
        return this.#refused(frame);
      case "auth":
        return this.#authenticated(frame);
      case "conversation_added":
        return this.#added(frame);
      case "conversation_removed":
        return this.#removed(frame);
      case "read":
        if (this.#reads.confirm(frame, this.#userId)) this.#repeats.succeeded();
        return this.#pass(frame);
      case "system":
        this.#knowledge.stands(frame.conversation_id, frame.last_rev);
        return this.#pass(frame);
      case "typing":
      case "presence":
        return this.#pass(frame);
      case "users":
        this.#repeats.succeeded();
        return this.#pass(frame);
    }
  }

  /** @param {Frame} frame */
  #started(frame) {
    const isOther = this.#userId !== null && this.#userId !== frame.user_id;
    const isAfresh = isOther || this.#knowledge.isOfOther(frame.epoch);
    if (isOther) this.#users += 1;
    if (isAfresh) {
      this.#knowledge.clear();
      this.#own.end();
    }
    this.#knowledge.epoch = frame.epoch;
    this.#features = Array.isArray(frame.features) ? frame.features : [];
    this.#userId = frame.user_id;
    this.#tokens.identify(this.#opened.signIn, frame.user_id);
    this.#connection.started();
    this.#tokens.check();
    const { revs, others } = this.#knowledge.resume(this.#resumeMost);
    const me = this.#own.begin(this.#features.includes("me") ? frame.me_rev : undefined);
    const resume = { type: "resume", revs, epoch: frame.epoch, ...(me === undefined ? {} : { me }) };
    this.#resumeSize = sizeOf(resume);
    this.#connection.send(resume);
    this.#asked = [];
    this.#repeats.clear();
    this.#reads.keepOnly(this.#tokens.signIn, this.#userId);
    this.#sendAgain();
    // The answer tells the token's lifetime and, for one that came during the handshake, its user.
    if (!this.#tokens.isLifetimeKnown || this.token !== this.#opened.token) this.#authenticate();
    this.#outbox.connected((message) => this.#connection.send(message), frame.user_id, this.#tokens.signIn);
    this.#setState({ state: "online", isListCurrent: me !== undefined && others.length <= 1 });
    if (isAfresh) this.#emit("reload", { conversation_id: null });
    if (others.length === 1) this.#emit("reload", { conversation_id: others[0] });
    if (others.length > 1) this.#emit("reload", { conversation_id: null, conversation_ids: others });
  }

  /** Sends the newest token to the session. */
  #authenticate() {
    this.#asked.push(this.#tokens.signIn);
    this.#connection.send({ type: "auth", token: this.token });
  }

  /** @param {Frame} frame Confirms that the token is of the session's user. */
  #authenticated(frame) {
    const signIn = this.#asked.shift();
    this.#repeats.succeeded();
    if (!this.#tokens.isLifetimeKnown) this.#tokens.expiresIn(frame.expires_in);
    if (signIn === undefined || signIn.userId !== null) return;
    signIn.userId = this.#userId;
    this.#sendReads();
    this.#outbox.identified();
  }

  /** Returns true if the session is known to belong to the present sign-in. */
  #isIdentified() {
    return this.#connection.isReady && this.#tokens.signIn.userId === this.#userId;
  }

  /** @param {Frame} frame */
  #changed(frame) {
    // Another user may choose the same client_id.
    const isOwn = frame.sender_id === this.#userId && frame.client_id !== undefined;
    const isResent = isOwn ? this.#outbox.acknowledge(frame) : undefined;
    const found = this.#knowledge.note(frame, isResent === true);
    if (found === "gap") this.#reconnectForGap();
    else if (found === "news") this.#pass(frame);
    this.#reloadIfBack(frame.conversation_id);
  }

  /** @param {MemberFrame | ConversationFrame} frame */
  #detailsChanged(frame) {
    const found = this.#knowledge.noteDetails(frame);
    if (found === "gap") this.#reconnectForGap();
    if (found !== "news") return;
    this.#pass(frame);
    const events = frame.type === "member" ? systemsOfMembers(frame) : [systemOfConversation(frame)];
    for (const event of events) this.#pass(event);
  }

  /** @param {MembershipFrame} frame */
  #ownChanged(frame) {
    const found = this.#own.note(frame, this.#searches);
    if (found === "gap") this.#reconnectForGap();
    if (found !== "news") return;
    const { isAdded, isRead } = this.#own.take(frame);
    const read = readOf(frame, this.#userId);
    if (frame.is_member && this.#reads.confirm(read, this.#userId)) this.#repeats.succeeded();
    this.#pass(frame);
    if (isAdded) this.#added(announcementOf(frame));
    else if (!frame.is_member) this.#removed(announcementOf(frame));
    else if (isRead) this.#pass(read);
  }

  /** @param {string} id A conversation of the user. */
  #reloadIfBack(id) {
    if (this.#knowledge.isBack(id)) this.#emit("reload", { conversation_id: id });
  }

  /** Reconnects because a change is missing; the next connection resumes from before it. */
  #reconnectForGap() {
    this.#gaps += 1;
    this.#connection.end(GAP, "a change is missing");
  }

  /** @param {Frame} told */
  #refused(told) {
    const content = withoutSecrets(told.content, [this.#opened.token, this.token]);
    const [code, field] = [told.code, told.field].map((name) => nameOf(name, this.token));
    /** @type {Frame} */
    const frame = { ...told, content, code: code ?? "unknown", field };
    if (frame.code === "cannot_resume" && frame.field === "me") {
      this.#own.clear();
      return this.#emit("reload", { conversation_id: null, only: "list" });
    }
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
      this.#connection.end(4401, frame.content);
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
  #added(frame) {
    this.#knowledge.heardOf(frame.conversation_id);
    this.#pass(frame);
    this.#reloadIfBack(frame.conversation_id);
  }

  /** @param {Frame} frame */
  #removed(frame) {
    const id = frame.conversation_id;
    this.#knowledge.forget(id);
    this.#reads.forget(id);
    const text = "You are not a member of this conversation any more";
    this.#outbox.rejectAll(id, new PulseError("not_a_member", text, { conversationId: id }));
    this.#pass(frame);
  }

  #loseAll() {
    this.#knowledge.clear();
    if (this.#connection.isReady) this.#own.clear();
    else this.#own.end();
    this.#emit("reload", { conversation_id: null });
  }

  /** Names fewer conversations in the next `resume`: the service accepts less. */
  #halveResume() {
    this.#resumeMost = Math.max(1, Math.floor(this.#resumeMost / 2));
  }

  /** Repeats what may have been lost with a connection, or rejected. */
  #sendAgain() {
    if (!this.#connection.isReady) return;
    if (this.#asked.length > 0) {
      this.#asked = [];
      this.#authenticate();
    }
    this.#sendWatched();
    this.#sendReads();
  }

  #sendWatched() {
    if (this.#watched === null || !this.#connection.isReady) return;
    this.#connection.send({ type: "watch", user_ids: this.#watched });
  }

  /** @param {Set<string>} names Frames that the server could not take a moment ago: `auth`, `watch`, `read`. */
  #repeat(names) {
    if (!this.#connection.isReady) return; // the next session is sent everything
    if (names.has("auth")) this.#authenticate();
    if (names.has("watch")) this.#sendWatched();
    if (names.has("read")) this.#sendReads();
  }

  #sendReads() {
    for (const frame of this.#reads.frames(this.#userId)) this.#connection.send(frame);
  }

  // --- REST ---

  /**
   * Repeats a request until no change is missed between the answer and the frames: if frames began afresh after the
   * request, the answer may be older than the first of them. The backoff bounds how often that happens.
   * @param {string} path
   * @param {{query?: Record<string, string | number | undefined>, signal?: AbortSignal}} request
   * @param {string | null} id The answer's conversation; null: any, or something that no session resumes.
   * @param {(answer: any) => Conversation[]} [shown] Lists the conversations in an answer.
   * @returns {Promise<[any, number]>} The answer, and the moment of its request.
   */
  async #load(path, request, id, shown = () => []) {
    const users = this.#users;
    for (;;) {
      const { moment } = this.#knowledge;
      const answer = await this.#request("GET", path, request);
      if (users !== this.#users) throw new PulseError("other_user", "Another user signed in before the answer came");
      const isOlder = shown(answer).some((conversation) => this.#knowledge.isOlder(conversation));
      if (this.#knowledge.isCovered(moment, id) && !isOlder) return [answer, moment];
    }
  }

  /**
   * @param {Conversation} conversation
   * @param {number} moment Of the request.
   */
  #listed(conversation, moment) {
    if (this.#knowledge.isOfOther(conversation.epoch) && !this.#connection.isReady) {
      this.#knowledge.epoch = conversation.epoch;
      this.#loseAll(); // without a session
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
    const token = options.token === undefined ? this.token : options.token;
    try {
      return await this.#rest.request(method, path, { ...options, token });
    } catch (error) {
      const isSignedOut = error instanceof PulseError && error.code === "invalid_token" && token === this.token;
      if (isSignedOut && !options.keepsToken) this.#signOut();
      throw error;
    }
  }

  /** @param {State} state */
  #setState(state) {
    this.#state = state;
    this.#emit("state", state);
  }

  /** @param {{type: string}} frame Becomes the event of its type. */
  #pass(frame) {
    this.dispatchEvent(new CustomEvent(frame.type, { detail: frame }));
  }

  /**
   * @template {keyof Events} Type
   * @param {Type} type
   * @param {Events[Type]} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
