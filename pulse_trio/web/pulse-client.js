/**
 * The JavaScript client of Pulse on Trio: accounts, conversations and history over REST, and one WebSocket for all
 * conversations of a user, which comes back by itself with nothing missed and nothing repeated.
 *
 * An ES module without dependencies, for browsers and for Node.js from version 20. docs/javascript.md shows how to use
 * it; docs/protocol.md is what it speaks.
 *
 * From the bottom up: `Timers`; `Link`, one WebSocket from its handshake to its end; `Knowledge`, which changes of
 * which conversation have reached the page; `Outbox`, the messages that are not acknowledged yet; `PulseClient`, which
 * holds them together.
 */

/**
 * @typedef {{setTimeout: (run: () => void, ms: number) => unknown, clearTimeout: (handle: any) => void,
 *   now: () => number}} Clock Timers, and the time in milliseconds since the epoch.
 *
 * @typedef {{addEventListener: (type: string, listener: (event: any) => void) => void,
 *   removeEventListener: (type: string, listener: (event: any) => void) => void,
 *   navigator?: {onLine?: boolean}, document?: any, location?: {origin: string}}} Surroundings
 *   What the client uses of a page's `window`.
 *
 * @typedef {{conversationId: string, content: string, clientId: string, userId?: string | null}} PendingMessage
 *   A message that is not acknowledged; plain data, which JSON keeps.
 *
 * @typedef {{userId: string | null}} SignIn Who has signed in: from one token to the next that is no renewal of it. The
 *   user is null until the server has told it.
 *
 * @typedef {object} Options
 * @property {string} [url] Where the service is. Default: the page's origin.
 * @property {string | null} [token] A token from an earlier `login`, or of your identity provider.
 * @property {PendingMessage[]} [pending] Messages that an earlier client's `pending` had; sent first.
 * @property {number} [maxPending] Most messages that may be unacknowledged at a time. Default: 1,000.
 * @property {number} [storeSeconds] How long a message that the server cannot store is sent again, in seconds, before
 *   its promise is rejected with `not_stored`. Default: 120.
 * @property {number} [answerSeconds] A message without an answer for so long is sent again. Default: 30.
 * @property {number} [requestSeconds] How long a REST request may take. Default: 30.
 * @property {number} [connectSeconds] How long connecting may take. Default: 15.
 * @property {number} [pingSeconds] After so much silence the server is asked whether it is there. Default: 25.
 * @property {number} [pongSeconds] How long it may take to say so. Default: 10.
 * @property {number} [resumeConversations] `PULSE_RESUME_CONVERSATIONS` of the service. Default: 1,000.
 * @property {any} [WebSocket] The class of WebSockets, where there is none in the global scope (Node.js before 22).
 * @property {typeof globalThis.fetch} [fetch] Default: the global one.
 * @property {Clock} [clock] For tests.
 * @property {() => number} [random] For tests: 0 to less than 1.
 * @property {Surroundings | null} [window] For tests; default: the global one, if there is one.
 *
 * @typedef {{state: "connecting" | "online" | "waiting" | "offline" | "closed", retryAt?: number,
 *   reason?: string}} State
 *   How the connection is. `retryAt`: when it is tried again, in milliseconds since the epoch.
 *
 * @typedef {{id: string, username: string}} User
 * @typedef {{access_token: string, token_type: string, expires_in: number}} Token
 * @typedef {{id: string, conversation_id: string, sender_id: string, sender_username: string, content: string,
 *   is_edited: boolean, is_deleted: boolean, created_at: string, updated_at: string, seq: number, rev: number}} Message
 * @typedef {{id: string, name: string | null, description: string | null, is_group: boolean, owner_id: string,
 *   created_at: string, updated_at: string, users: User[], member_count: number, last_message: Message | null,
 *   total_messages: number,
 *   last_seq: number, last_rev: number, epoch: string, read_seq?: number, unread_count?: number}} Conversation
 * @typedef {{type: string, [field: string]: any}} Frame A frame of docs/protocol.md.
 * @typedef {{limit?: number, offset?: number}} Page
 * @typedef {{limit?: number, cursor?: string}} PageAfter `cursor`: `next_cursor` of the page before.
 */

const SECOND = 1_000;
const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds; browsers run a longer one at once
const RETRY_LEAST = SECOND; // backoff: a random part of 1 s, 2 s, 4 s … 30 s
const RETRY_MOST = 30 * SECOND;
const STABLE = 10 * SECOND; // a connection that was up for so long starts the backoff afresh
const RESTART_SPREAD = 5 * SECOND; // after a restart clients come back within this, not all at once
const PROBE = 5 * SECOND; // how long a connection may take to answer when there is reason to doubt it
const FLYING_MOST = 32; // messages without an answer on one connection; the server holds 64
const LIMITED_PAUSE = SECOND; // after `rate_limited`: the server says so once a second
const PACE_LEAST = 20; // milliseconds between messages after that; doubled each time
const PACE_MOST = SECOND;
const TYPING_INTERVAL = 2 * SECOND; // more often tells nobody more
const AHEAD_MOST = 2_000; // messages of one conversation that are remembered beyond its rev
const GAP = 0; // in place of a close code: a live frame skipped a rev
const VAIN_GAPS_MOST = 3; // in a row; after that the client waits longer and longer before it looks for the next one

/** What was refused, or failed. `code` is for programs: those of the service, and a few of its own. */
export class PulseError extends Error {
  /**
   * @param {string} code One of the service, or `network` (no answer), `bad_answer`, `queue_full`, `other_user`.
   * @param {string} message For people.
   * @param {{field?: string | null, status?: number, retryAfter?: number | null, clientId?: string | null,
   *   conversationId?: string | null}} [details] `status` is 0 when no HTTP answer came; `retryAfter` is in seconds.
   */
  constructor(code, message, details = {}) {
    super(message);
    this.name = "PulseError";
    this.code = code;
    this.field = details.field ?? null;
    this.status = details.status ?? 0;
    this.retryAfter = details.retryAfter ?? null;
    this.clientId = details.clientId ?? null;
    this.conversationId = details.conversationId ?? null;
  }
}

/** Timers that can all be cleared at once. */
class Timers {
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

/** One WebSocket, from its handshake to its end. It asks after a server that is silent: browsers cannot see that. */
class Link {
  isOpen = false; // the handshake has succeeded
  isReady = false; // `session` has come
  #isOver = false;
  #heardAt = 0;
  #askedAt = 0;
  /** @type {any} */
  #socket;
  /** @type {{handle: any} | null} */
  #timer = null;
  #options;

  /**
   * @param {object} options
   * @param {any} options.WebSocket
   * @param {string} options.url
   * @param {string} options.token
   * @param {Timers} options.timers
   * @param {{connect: number, ping: number, pong: number}} options.times Milliseconds.
   * @param {(frame: Frame) => void} options.onFrame
   * @param {(code: number, reason: string) => void} options.onEnd Once, unless `close` was called; the code is 1006
   *   when no close frame came.
   * @throws {Error} The URL or the token cannot be used.
   */
  constructor(options) {
    this.#options = options;
    const socket = new options.WebSocket(options.url, ["pulse.v1", `bearer.${options.token}`]);
    this.#socket = socket;
    socket.onopen = () => {
      this.isOpen = true;
    };
    socket.onmessage = (/** @type {{data: unknown}} */ event) => this.#received(event.data);
    socket.onclose = (/** @type {{code: number, reason: unknown}} */ event) =>
      this.#end(event.code || 1006, String(event.reason ?? ""));
    socket.onerror = () => {}; // `close` follows, and says as much
    this.#timer = options.timers.set(options.times.connect, () => this.#end(1006, "connecting took too long"));
  }

  /** @param {Frame} frame */
  send(frame) {
    if (!this.#isOver) this.#socket.send(JSON.stringify(frame));
  }

  /** Asks now whether the server is there. */
  probe() {
    if (this.isReady && !this.#isOver) this.#ask(Math.min(PROBE, this.#options.times.pong));
  }

  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#options.timers.clear(this.#timer);
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.onerror = () => {};
    this.#socket.close(1000);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #end(code, reason) {
    if (this.#isOver) return;
    this.close();
    this.#options.onEnd(code, reason);
  }

  /** @param {unknown} data */
  #received(data) {
    this.#heardAt = this.#options.timers.now();
    let frame;
    try {
      frame = JSON.parse(String(data));
    } catch {
      return; // nothing that this service sends
    }
    if (frame.type === "session" && !this.isReady) {
      this.isReady = true;
      this.#options.timers.clear(this.#timer);
      this.#listen();
    }
    this.#options.onFrame(frame);
  }

  #listen() {
    const { timers, times } = this.#options;
    const silence = Math.max(0, timers.now() - this.#heardAt);
    if (silence >= times.ping) this.#ask(times.pong);
    else this.#timer = timers.set(times.ping - silence, () => this.#listen());
  }

  /** @param {number} patience */
  #ask(patience) {
    const { timers } = this.#options;
    timers.clear(this.#timer);
    this.#askedAt = timers.now();
    this.#heardAt = Math.min(this.#heardAt, this.#askedAt - 1);
    this.send({ type: "ping" });
    this.#timer = timers.set(patience, () => {
      if (this.#heardAt >= this.#askedAt) this.#listen();
      // The machine slept meanwhile: what came is only read after this.
      else if (timers.now() - this.#askedAt > 2 * patience) this.#ask(patience);
      else this.#end(1006, "the server does not answer");
    });
  }
}

/**
 * Which changes of which conversation have reached the page.
 *
 * Of each conversation there is one number, `rev`: every change up to it has reached the page, by a frame or inside
 * what it loaded. It is where the conversation is resumed, so it must never be too high (something would be missed), and had
 * better not be too low (something would be sent again). What moves it:
 *
 * - A frame: they come in order, without a gap, from the beginning of the session or from where it was resumed.
 * - The newest page of the history, if nothing is known of the conversation: what is not in the page the page will load
 *   when it needs it, as it then is. If something is known already the page says nothing about the changes between, of
 *   messages that are not in it: `rev` stays. That those in it are known is remembered by message, in `ahead`.
 * - A conversation (in a list or alone), if nothing is known: what the page loads later is newer.
 *
 * Live frames skip no rev. One that does shows that a change was lost on the way: the client comes back, and resumes from
 * `rev`, which brings it. What a resume brings may skip revs (of two edits of a message it brings the last), so the
 * client must know where the resume ends: at `target`, which an answer or a `system` frame of this session told. From
 * there on, and from the beginning where nothing is resumed, the next change is `head` + 1.
 *
 * The frames of a conversation begin anew with each session that does not go on where the last one ended, and when the
 * user is added again. What was asked for before that may be older than the first of them: see `isCovered`.
 */
class Knowledge {
  /** @type {string | null} */
  epoch = null;
  /** @type {number} how often frames of any conversation have begun anew */
  moment = 0;
  /**
   * @typedef {{rev: number | null, ahead: Map<string, number>, activeAt: string, since: number, isResumed: boolean,
   *   target: number | null, head: number | null, gap: number | null, base: number, hasNewest: boolean,
   *   pages: {revs: Map<string, number>, isNewest: boolean}[]}} Known
   *   `since`: the moment from which all its frames have come. `isResumed`, `target`, `head`: of the present session.
   *   `gap`: the rev of the frame that a change before it was missing at; null once that has been looked for.
   *   `base`, `hasNewest`, `pages`: of the pages that were under way together.
   * @type {Map<string, Known>}
   */
  #conversations = new Map();
  /** @type {Set<string>} conversations that the user was removed from, of which the page may still show something */
  #left = new Set();
  #sessionSince = 0; // the moment at which the newest session began
  #othersSince = 0; // the moment from which the frames have come of a conversation that is not known yet
  /** @type {number} in a row: looked for, and no such change came. A later edit may have taken its place */
  vainGaps = 0;
  /** @type {Set<{id: string, changes: Map<string, Frame>}>} pages that are under way, and what changed meanwhile */
  #loads = new Set();

  /**
   * Takes a change in: it is news, or known already; or one before it is missing, and this one is not taken in.
   * @param {Frame} frame
   * @param {boolean} isAnswer It answers a resend, and may come out of turn.
   * @returns {"news" | "known" | "gap"}
   */
  note(frame, isAnswer) {
    const known = this.#get(frame.conversation_id);
    if (this.#isGap(known, frame.rev, isAnswer)) return "gap";
    for (const load of this.#loads) {
      if (load.id === frame.conversation_id) load.changes.set(frame.message_id, frame);
    }
    const at = frame.updated_at ?? frame.timestamp;
    if (at > known.activeAt) known.activeAt = at;
    if (known.rev !== null && frame.rev <= known.rev) return "known";
    const isNews = (known.ahead.get(frame.message_id) ?? 0) < frame.rev;
    if (isAnswer && frame.rev !== (known.rev ?? -1) + 1) {
      this.#remember(known, frame.message_id, frame.rev);
    } else {
      known.rev = frame.rev;
      this.#tidy(known);
    }
    return isNews ? "news" : "known";
  }

  /**
   * Where a conversation stands, as the present session was told.
   * @param {string} id
   * @param {number} rev
   */
  stands(id, rev) {
    const known = this.#conversations.get(id);
    if (known === undefined || known.head !== null) return;
    known.target ??= rev;
    if (!known.isResumed) known.head = rev;
    else if (known.rev !== null && known.rev >= known.target) known.head = known.rev;
  }

  /**
   * Whether something that is known belongs to another epoch than this one, or may: a history has no epoch.
   * @param {string} epoch
   */
  isOfOther(epoch) {
    if (this.epoch !== null) return this.epoch !== epoch;
    return [...this.#conversations.values()].some(({ rev }) => rev !== null);
  }

  /** @param {string} id A conversation that the page has heard of. */
  heardOf(id) {
    this.#get(id);
  }

  /**
   * @param {Conversation} conversation As REST shows it.
   * @param {number} moment When it was asked for.
   */
  listed(conversation, moment) {
    this.epoch ??= conversation.epoch;
    const known = this.#get(conversation.id);
    if (conversation.updated_at > known.activeAt) known.activeAt = conversation.updated_at;
    // A page of history that is under way may be older than this.
    if (known.rev === null && !this.#isLoading(conversation.id)) known.rev = conversation.last_rev;
    if (this.#isOfSession(moment, conversation.id)) this.stands(conversation.id, conversation.last_rev);
  }

  /** @param {string} id A conversation of which a page of history is asked for; `loaded` or `failed` follows. */
  loading(id) {
    const load = { id, changes: new Map() };
    this.#loads.add(load);
    return load;
  }

  /**
   * Takes in a page of history, and works into it what came as frames while it was under way.
   * @param {{id: string, changes: Map<string, Frame>}} load
   * @param {{messages: Message[], total: number}} page
   * @param {boolean} isNewest It ends with the newest message.
   * @param {number} moment When it was asked for.
   */
  loaded(load, page, isNewest, moment) {
    const known = this.#get(load.id);
    let newest = 0;
    for (const message of page.messages) {
      newest = Math.max(newest, message.rev);
      if (message.updated_at > known.activeAt) known.activeAt = message.updated_at;
    }
    known.base = Math.min(known.base, newest);
    known.hasNewest ||= isNewest;
    known.pages.push({ revs: new Map(page.messages.map(({ id, rev }) => [id, rev])), isNewest });
    this.failed(load);
    // Of all messages together the highest rev is the conversation's.
    const isWhole = isNewest && (page.messages.length === 0 || page.messages[page.messages.length - 1].seq === 1);
    if (isWhole && this.#isOfSession(moment, load.id)) this.stands(load.id, newest);
    mergeChanges(page, load.changes, isNewest);
  }

  /** @param {{id: string, changes: Map<string, Frame>}} load */
  failed(load) {
    this.#loads.delete(load);
    const known = this.#conversations.get(load.id);
    if (known === undefined || this.#isLoading(load.id)) return;
    if (known.rev === null && known.hasNewest) known.rev = known.base;
    this.#shown(known);
    this.#forgetPages(known);
    this.#tidy(known);
  }

  /**
   * Notes what the page shows for certain: of pages that were under way together it may show any, and throw the others
   * away.
   * @param {Known} known
   */
  #shown(known) {
    const newest = known.pages.filter(({ isNewest }) => isNewest);
    for (const { revs } of known.pages) {
      for (const id of revs.keys()) {
        const isInDoubt = newest.some((page) => page.revs.has(id)) && !newest.every((page) => page.revs.has(id));
        if (isInDoubt) continue;
        this.#remember(known, id, Math.min(...known.pages.map((page) => page.revs.get(id) ?? Infinity)));
      }
    }
  }

  /** @param {Known} known */
  #forgetPages(known) {
    known.base = Infinity;
    known.hasNewest = false;
    known.pages = [];
  }

  /**
   * Where a new session goes on: the most recent conversations, and those that have to be loaded afresh.
   * @param {number} most
   */
  resume(most) {
    const all = [...this.#conversations];
    all.sort(([, a], [, b]) => (a.activeAt < b.activeAt ? 1 : a.activeAt > b.activeAt ? -1 : 0));
    /** @type {Record<string, number>} */
    const revs = {};
    /** @type {string[]} */
    const others = [];
    let count = 0;
    this.#beginAnew();
    for (const [id, known] of all) {
      known.target = known.head = null;
      known.isResumed = known.rev !== null && count < most;
      if (known.isResumed && known.rev !== null) {
        revs[id] = known.rev;
        count += 1;
      } else {
        this.lose(id);
        others.push(id);
      }
    }
    return { revs, others };
  }

  /**
   * Whether an answer has everything that no frame has: it was asked for when the frames had begun already.
   * @param {number} moment When it was asked for.
   * @param {string | null} id The conversation that it is about; null: any, or what no session resumes.
   */
  isCovered(moment, id) {
    if (id === null) return moment >= this.#othersSince; // the newest of all
    return moment >= this.#sinceOf(id);
  }

  /** @param {string} id */
  #sinceOf(id) {
    return this.#conversations.get(id)?.since ?? this.#othersSince;
  }

  /**
   * Whether an answer says where a conversation stands in the present session.
   * @param {number} moment When it was asked for.
   * @param {string} id
   */
  #isOfSession(moment, id) {
    return moment >= Math.max(this.#sessionSince, this.#sinceOf(id));
  }

  /** @param {string} id A conversation that has to be loaded afresh. */
  lose(id) {
    const known = this.#get(id);
    known.rev = known.target = known.head = known.gap = null;
    known.isResumed = false;
    known.since = this.#sessionSince;
    known.ahead.clear();
    this.#forgetPages(known);
  }

  /** @param {string} id A conversation that the user is not in any more. Added again, its frames begin anew. */
  forget(id) {
    if (this.#conversations.delete(id)) this.#left.add(id);
    this.moment += 1;
    this.#othersSince = this.moment;
  }

  /**
   * Returns true, once, if the user was removed from a conversation and is in it again. What changed between reaches
   * the page only when it loads the conversation afresh.
   * @param {string} id A conversation that the user is in.
   */
  isBack(id) {
    return this.#left.delete(id);
  }

  /** Nothing is known any more, nor what changed while the pages came that are under way. */
  clear() {
    this.#conversations.clear();
    this.#left.clear();
    for (const load of this.#loads) load.changes.clear();
    this.#beginAnew();
  }

  /** What is asked for from now on, and no earlier, is as new as the frames that follow. */
  #beginAnew() {
    this.moment += 1;
    this.#sessionSince = this.#othersSince = this.moment;
  }

  /**
   * @param {string} id
   * @returns {Known}
   */
  #get(id) {
    let known = this.#conversations.get(id);
    if (known === undefined) {
      const live = { isResumed: false, target: null, head: null, gap: null };
      const pages = { base: Infinity, hasNewest: false, pages: [] };
      known = { rev: null, ahead: new Map(), activeAt: "", since: this.#othersSince, ...live, ...pages };
      this.#conversations.set(id, known);
    }
    return known;
  }

  /**
   * Whether a change before this one is missing. One that was looked for already, by coming back, is not.
   * @param {Known} known
   * @param {number} rev
   * @param {boolean} isAnswer
   */
  #isGap(known, rev, isAnswer) {
    const { head, gap } = known;
    if (isAnswer) {
      if (head !== null && rev === head + 1) known.head = rev;
      return false;
    }
    if (head === null) {
      if (!known.isResumed || (known.target !== null && rev >= known.target)) known.head = rev;
    } else if (rev > head + 1 && gap === null) {
      known.gap = rev;
      return true;
    } else {
      known.head = Math.max(head, rev);
    }
    if (gap !== null && rev > (known.rev ?? -1)) {
      this.vainGaps = rev < gap ? 0 : this.vainGaps + 1;
      known.gap = null;
    }
    return false;
  }

  /** @param {string} id */
  #isLoading(id) {
    for (const load of this.#loads) if (load.id === id) return true;
    return false;
  }

  /**
   * @param {Known} known
   * @param {string} messageId
   * @param {number} rev
   */
  #remember(known, messageId, rev) {
    if (rev <= (known.rev ?? -1) || rev <= (known.ahead.get(messageId) ?? -1)) return;
    known.ahead.set(messageId, rev);
    // What is forgotten is at worst told again.
    if (known.ahead.size > AHEAD_MOST) known.ahead.delete(/** @type {string} */ (known.ahead.keys().next().value));
  }

  /** @param {Known} known */
  #tidy(known) {
    for (const [id, rev] of known.ahead) if (rev <= (known.rev ?? -1)) known.ahead.delete(id);
  }
}

/**
 * Brings a page of history up to what came as frames while it was under way.
 * @param {{messages: Message[], total: number}} page Newest first.
 * @param {Map<string, Frame>} changes By message.
 * @param {boolean} isNewest
 */
function mergeChanges(page, changes, isNewest) {
  const newest = page.messages[0]?.seq ?? 0;
  page.messages.forEach((message, index) => {
    const frame = changes.get(message.id);
    if (frame !== undefined && frame.rev > message.rev) page.messages[index] = { ...message, ...messageOf(frame) };
  });
  if (!isNewest) return;
  const added = [...changes.values()].filter((frame) => frame.seq > newest).sort((a, b) => b.seq - a.seq);
  page.messages.unshift(...added.map(messageOf));
  page.total += added.length;
}

/**
 * A message as REST shows it, from a frame about it.
 * @param {Frame} frame
 * @returns {Message}
 */
function messageOf(frame) {
  const isDeleted = frame.type === "message_deleted";
  return {
    id: frame.message_id,
    conversation_id: frame.conversation_id,
    sender_id: frame.sender_id,
    sender_username: frame.sender_username,
    content: isDeleted ? "" : frame.content,
    is_edited: frame.type === "message_updated",
    is_deleted: isDeleted,
    created_at: frame.timestamp,
    updated_at: frame.updated_at ?? frame.timestamp,
    seq: frame.seq,
    rev: frame.rev,
  };
}

/**
 * Messages that are not acknowledged, in the order of `send`.
 *
 * Of each conversation one is under way at a time: if two were, and the first refused for a moment, the second would
 * stand before it for ever. Those of different conversations do not wait for each other.
 */
class Outbox {
  /**
   * @typedef {{conversationId: string, content: string, clientId: string, signIn: SignIn, isSent: boolean,
   *   tries: number, at: number, failures: number, failingSince: number | null, promise: Promise<Frame>,
   *   resolve: (frame: Frame) => void, reject: (error: PulseError) => void}} Entry
   *   `at`: not to be sent before; of one that is sent, when it is sent again. `failingSince`: of `#connectedTime`.
   * @type {Map<string, Entry>}
   */
  #entries = new Map();
  /** @type {((frame: Frame) => void) | null} */
  #transmit = null;
  /** @type {string | null} whose session it is */
  #userId = null;
  /** @type {{handle: any} | null} */
  #timer = null;
  #connectedAt = 0;
  #connectedBefore = 0; // milliseconds, of all sessions that have ended
  #pausedUntil = 0;
  #pace = 0;
  #options;

  /**
   * @param {{timers: Timers, random: () => number, most: number, answerTime: number, storeTime: number}} options
   */
  constructor(options) {
    this.#options = options;
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
   * @param {PendingMessage} message
   * @param {SignIn} signIn Whose it is.
   * @param {boolean} isOld It may have been sent before: by an earlier client, or another tab.
   * @returns {Promise<Frame>}
   */
  add({ conversationId: id, content, clientId }, signIn, isOld = false) {
    const conversationId = idOf(id);
    const key = keyOf(conversationId, clientId);
    const existing = this.#entries.get(key);
    const about = { conversationId, clientId };
    if (existing !== undefined) {
      if (existing.content === content) return existing.promise;
      const text = "This clientId is in use for another message";
      return Promise.reject(new PulseError("client_id_reused", text, { ...about, field: "client_id" }));
    }
    if (this.#entries.size >= this.#options.most) {
      const text = `${this.#options.most} messages wait to be acknowledged, which is the most`;
      return Promise.reject(new PulseError("queue_full", text, about));
    }
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
    this.#entries.set(key, { conversationId, content, clientId, signIn, ...state, promise, resolve, reject });
    this.#pump();
    return promise;
  }

  /**
   * A session has begun.
   * @param {(frame: Frame) => void} transmit
   * @param {string} userId
   * @param {SignIn} newest Of an earlier one whose user is not known yet nobody will tell it any more.
   */
  connected(transmit, userId, newest) {
    for (const entry of [...this.#entries.values()]) {
      const isUnknown = entry.signIn.userId === null && entry.signIn === newest;
      if (entry.signIn.userId === userId || isUnknown) continue;
      this.#settle(entry, new PulseError("other_user", "Another user signed in before this message was sent", entry));
    }
    this.#connectedBefore = this.#connectedTime();
    this.#connectedAt = this.#options.timers.now();
    this.#transmit = transmit;
    this.#userId = userId;
    this.#pump();
  }

  /** The user of a sign-in has become known: what waited for that goes on. */
  identified() {
    this.#pump();
  }

  /** The session has ended: what became of the messages that were under way nobody knows. */
  disconnected() {
    this.#connectedBefore = this.#connectedTime();
    this.#transmit = null;
    this.#options.timers.clear(this.#timer);
    this.#recall();
  }

  /**
   * Takes a message's own frame; returns whether it may have been sent twice, or undefined if it is none of these.
   * @param {Frame} frame
   */
  acknowledge(frame) {
    const entry = this.#entries.get(keyOf(frame.conversation_id, frame.client_id));
    if (entry === undefined) return undefined;
    this.#settle(entry, frame);
    if (this.#entries.size === 0) this.#pace = 0;
    this.#pump();
    return entry.tries > 1;
  }

  /**
   * Takes an `error` frame; returns whether it was about one of these messages.
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

  /** The server refuses frames: everything without an answer is sent again, after a moment and more slowly. */
  limited() {
    this.slower();
    this.#recall();
    const pause = LIMITED_PAUSE * (1 + this.#options.random() / 4);
    this.#pausedUntil = this.#options.timers.now() + pause;
    this.#pump();
    return pause;
  }

  slower() {
    this.#pace = Math.min(PACE_MOST, Math.max(PACE_LEAST, this.#pace * 2));
  }

  /**
   * The connection was closed for a frame that is too large; returns whether it can have been one of these.
   * @param {number} other The size of the largest other frame.
   */
  tooLarge(other) {
    const size = (/** @type {Entry} */ entry) => sizeOf(frameOf(entry));
    const sent = [...this.#entries.values()].filter((entry) => entry.isSent);
    if (sent.length === 0) return false;
    const largest = sent.reduce((a, b) => (size(b) > size(a) ? b : a));
    if (size(largest) <= other) return false;
    const text = "The message is larger than the server takes";
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
    this.#entries.delete(keyOf(entry.conversationId, entry.clientId));
    if (outcome instanceof PulseError) entry.reject(outcome);
    else entry.resolve(outcome);
  }

  /** How long there was a session, in milliseconds: without one nothing can be stored. */
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

  /** Sends what is due, and comes back when more is. */
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
      if (entry.signIn.userId !== this.#userId) continue; // a sign-in that this session does not know yet
      if (entry.at <= now && (entry.isSent || flying < FLYING_MOST)) {
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

/**
 * @param {string} conversationId
 * @param {unknown} clientId
 */
function keyOf(conversationId, clientId) {
  return `${conversationId} ${clientId}`;
}

/**
 * @param {{conversationId: string, content: string, clientId: string}} message
 * @returns {Frame}
 */
function frameOf({ conversationId, content, clientId }) {
  return { type: "message", conversation_id: conversationId, content, client_id: clientId };
}

/** @param {Frame} frame How many bytes it is. */
function sizeOf(frame) {
  return new TextEncoder().encode(JSON.stringify(frame)).length;
}

/**
 * @param {Frame} frame An `error` frame.
 * @param {{clientId?: string | null, conversationId?: string | null}} [about]
 */
function errorOf(frame, about = {}) {
  return new PulseError(frame.code, frame.content, {
    field: frame.field,
    clientId: about.clientId ?? frame.client_id,
    conversationId: about.conversationId ?? frame.conversation_id,
  });
}

/**
 * Exponential backoff with full jitter.
 * @param {number} attempt 0, 1, 2 …
 * @param {() => number} random
 */
function backoff(attempt, random) {
  return random() * Math.min(RETRY_MOST, RETRY_LEAST * 2 ** Math.min(attempt, 16));
}

/** An id for a message. `crypto.randomUUID` is missing on pages without TLS. */
function newClientId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * A conversation's id as the server writes it: it takes upper case, too, and answers in lower case.
 * @param {string} id
 */
const idOf = (id) => String(id).toLowerCase();

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

/**
 * The kind of an error. Its text may have a token in it, or an address with a password.
 * @param {any} error
 */
function kindOf(error) {
  const code = error?.cause?.code ?? error?.code;
  return `${error?.name ?? "Error"}${typeof code === "string" ? ` (${code})` : ""}`;
}

/**
 * A text of the server, or of a proxy, which may quote a request, without secrets of this client.
 * @param {unknown} text
 * @param {(string | null | undefined)[]} secrets
 */
function withoutSecrets(text, secrets) {
  let safe = String(text ?? "");
  for (const secret of secrets) {
    if (!secret) continue;
    for (const form of [JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret), secret]) {
      safe = safe.replaceAll(form, "[hidden]");
    }
  }
  return safe;
}

/**
 * A code or the name of a field, for programs; undefined if it is none, or quotes the token.
 * @param {unknown} name
 * @param {string | null} token
 */
function nameOf(name, token) {
  const isName = typeof name === "string" && /^[a-z][a-z0-9_.[\]]{0,63}$/.test(name);
  return isName && !(token && name.includes(token)) ? name : undefined;
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
  #fetch;
  #random;
  /** @type {Clock} */
  #clock;
  /** @type {Surroundings | null} */
  #window;
  #timers;
  #outbox;
  #knowledge = new Knowledge();
  /** @type {Set<AbortController>} */
  #requests = new Set();
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
  /** @type {Map<string, {seq: number, signIn: SignIn}>} read positions that the server has not confirmed */
  #reads = new Map();
  /** @type {Map<string, number>} when typing was told */
  #typed = new Map();
  /** @type {Set<"auth" | "watch" | "read">} what was refused for the moment */
  #refusals = new Set();
  #refusedTimes = 0; // in a row
  /** @type {{handle: any} | null} */
  #repeat = null;

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
      request: (options.requestSeconds ?? 30) * SECOND,
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
    };
    this.#fetch = options.fetch ?? ((/** @type {any} */ to, /** @type {any} */ init) => globalThis.fetch(to, init));
    this.#random = options.random ?? Math.random;
    this.#clock = options.clock ?? {
      setTimeout: (run, ms) => globalThis.setTimeout(run, ms),
      clearTimeout: (handle) => globalThis.clearTimeout(handle),
      now: () => Date.now(),
    };
    this.#timers = new Timers(this.#clock);
    this.#token = sendable(options.token);
    this.#hasHadToken = this.#token !== null;
    this.#resumeMost = options.resumeConversations ?? 1_000;
    this.#outbox = new Outbox({
      timers: this.#timers,
      random: this.#random,
      most: options.maxPending ?? 1_000,
      answerTime: (options.answerSeconds ?? 30) * SECOND,
      storeTime: (options.storeSeconds ?? 120) * SECOND,
    });
    for (const message of options.pending ?? []) {
      const signIn = message.userId ? { userId: message.userId } : this.#signIn;
      this.#outbox.add(message, signIn, true).catch((error) => this.#emit("error", error));
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
    for (const request of this.#requests) request.abort(new Error("the client was closed"));
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
    return this.#outbox.add(message, this.#signIn, clientId !== undefined);
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
    const told = this.#reads.get(key);
    if (told?.signIn === this.#signIn && seq <= told.seq) return;
    this.#reads.set(key, { seq, signIn: this.#signIn });
    if (this.#isIdentified()) this.#link?.send({ type: "read", conversation_id: key, seq });
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
    this.#retry = this.#renewal = this.#repeat = null;
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
        this.#confirmReads(frame);
        return this.#emit(frame.type, frame);
      case "system":
        this.#knowledge.stands(frame.conversation_id, frame.last_rev);
        return this.#emit(frame.type, frame);
      case "typing":
      case "presence":
        return this.#emit(frame.type, frame);
      case "users":
        this.#refusedTimes = 0;
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
    this.#refusals.clear();
    this.#refusedTimes = 0;
    this.#dropReads();
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
    this.#refusedTimes = 0;
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
      if (frame.field === "user_ids") return this.#repeatLater("watch");
      if (this.#asked.shift() !== undefined) return this.#repeatLater("auth");
    }
    if (frame.field === "seq" && frame.client_id === undefined) {
      if (frame.code === "not_stored") return this.#repeatLater("read");
      const isFinal = /^(no_such_message|not_a_member|invalid_.*)$/.test(frame.code);
      if (isFinal && frame.conversation_id !== undefined) this.#reads.delete(frame.conversation_id);
    }
    if (!this.#outbox.refused(frame)) this.#emit("error", errorOf(frame));
    return undefined;
  }

  /** @param {Frame} frame */
  #removed(frame) {
    const id = frame.conversation_id;
    this.#knowledge.forget(id);
    this.#reads.delete(id);
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

  /** @param {"auth" | "watch" | "read"} what The server could not take now. */
  #repeatLater(what) {
    this.#refusals.add(what);
    if (this.#repeat !== null) return;
    const delay = SECOND + backoff(this.#refusedTimes, this.#random);
    this.#refusedTimes += 1;
    this.#repeat = this.#timers.set(delay, () => this.#repeatNow());
  }

  #repeatNow() {
    this.#repeat = null;
    const refusals = [...this.#refusals];
    this.#refusals.clear();
    if (!this.#link?.isReady) return; // the next session is told everything
    if (refusals.includes("auth")) this.#authenticate();
    if (refusals.includes("watch")) this.#tellWatched();
    if (refusals.includes("read")) this.#tellReads();
  }

  #tellReads() {
    for (const [id, { seq, signIn }] of this.#reads) {
      if (signIn.userId === this.#userId) this.#link?.send({ type: "read", conversation_id: id, seq });
    }
  }

  /** What another user has read is none of this one's. */
  #dropReads() {
    for (const [id, { signIn }] of this.#reads) {
      if (signIn !== this.#signIn && signIn.userId !== this.#userId) this.#reads.delete(id);
    }
  }

  /** @param {Frame} frame */
  #confirmReads(frame) {
    for (const { user_id, seq } of frame.positions ?? []) {
      const told = this.#reads.get(frame.conversation_id);
      if (user_id !== this.#userId || told === undefined || seq < told.seq) continue;
      this.#reads.delete(frame.conversation_id);
      this.#refusedTimes = 0;
    }
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
    const query = Object.entries(options.query ?? {}).filter(([, value]) => value !== undefined);
    const pairs = query.map(([name, value]) => [name, String(value)]);
    const search = pairs.length > 0 ? `?${new URLSearchParams(pairs)}` : "";
    /** @type {Record<string, string>} */
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (options.body !== undefined) headers["Content-Type"] = "application/json";
    const body = options.body === undefined ? undefined : JSON.stringify(options.body);
    const controller = new AbortController();
    const abort = () => controller.abort();
    options.signal?.addEventListener("abort", abort);
    this.#requests.add(controller);
    const timer = this.#clock.setTimeout(abort, this.#options.request);
    let response;
    let text;
    try {
      response = await this.#fetch(this.#url + path + search, {
        method,
        headers,
        body,
        credentials: "omit",
        cache: "no-store",
        signal: controller.signal,
      });
      text = await response.text();
    } catch (error) {
      throw new PulseError("network", `No answer to ${method} ${path}: ${kindOf(error)}`);
    } finally {
      this.#clock.clearTimeout(timer);
      this.#requests.delete(controller);
      options.signal?.removeEventListener("abort", abort);
    }
    const answer = parsed(text);
    if (response.ok) {
      if (answer === undefined && text !== "") {
        throw new PulseError("bad_answer", `${method} ${path} was not answered with JSON`, { status: response.status });
      }
      return answer;
    }
    const secrets = [token, this.#token, /** @type {any} */ (options.body)?.password];
    const message = withoutSecrets(answer?.message ?? `HTTP ${response.status}`, secrets);
    const error = new PulseError(nameOf(answer?.code, token) ?? "bad_answer", message, {
      field: nameOf(answer?.field, token),
      status: response.status,
      retryAfter: Number(response.headers.get("Retry-After")) || null,
    });
    const isSignedOut = error.code === "invalid_token" && token === this.#token;
    if (isSignedOut && !options.keepsToken) this.#signOut();
    throw error;
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

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
