import { mergeChanges } from "./messages.js";

/** @import { Conversation, Frame, Message } from "./types.js" */

const MAX_AHEAD = 2_000; // messages of one conversation that are remembered beyond its rev

/**
 * The changes of each conversation that have reached the page.
 *
 * Each conversation has one number, `rev`: every change up to it has reached the page, in a frame or in an answer. The
 * conversation is resumed from there. If `rev` were too high, changes would be missed; if it is too low, the server
 * sends some again. It moves with:
 *
 * - A frame: frames arrive in order and without a gap, from the beginning of the session or from the resume point.
 * - The newest page of the history, if nothing is known of the conversation: the page will load older messages when it
 *   needs them, as they then are. If something is known, `rev` stays, because messages outside the page may have changed
 *   as well; `ahead` remembers the revs of the messages in it.
 * - A conversation (in a list or alone), if nothing is known: later answers are newer.
 *
 * Example: `rev` is 5 and a page shows revs 3, 8 and 9. The changes 6 and 7 may be edits of older messages, so `rev` stays
 * 5, and `ahead` holds 8 and 9. The frames 6 to 9 are then news, news, known, known.
 *
 * Live frames skip no rev. A skipped one means that a change was lost: the client reconnects and resumes from `rev`.
 * Frames of a resume may skip revs (of two edits of a message it has the last), so the client must know where the resume
 * ends: at `target`, from an answer or a `system` frame of this session. From there on, and from the beginning if nothing
 * is resumed, the next change is `head` + 1.
 *
 * The frames of a conversation begin afresh with each session that does not resume it, and when the user is added again.
 * An answer to a request before that may be older than the first of them: see `isCovered`.
 */
export class Knowledge {
  /** @type {string | null} */
  epoch = null;
  /** @type {number} how often frames of any conversation have begun afresh */
  moment = 0;
  /**
   * @typedef {{rev: number | null, ahead: Map<string, number>, activeAt: string, since: number, isResumed: boolean,
   *   target: number | null, head: number | null, gap: number | null, base: number, hasNewest: boolean,
   *   pages: {revs: Map<string, number>, isNewest: boolean}[]}} Known
   *   `since`: the moment from which all its frames have arrived. `isResumed`, `target`, `head`: of the present session.
   *   `gap`: the rev of a frame before which a change was missing; null once the client has looked for it.
   *   `base`, `hasNewest`, `pages`: of pages that were requested together.
   * @type {Map<string, Known>}
   */
  #conversations = new Map();
  /** @type {Set<string>} conversations that the user was removed from and the page may still show */
  #left = new Set();
  #sessionSince = 0; // moment of the newest session
  #othersSince = 0; // moment from which all frames of an unknown conversation have arrived
  /** @type {number} searches in a row that found no missing change: a later edit may have replaced it */
  vainGaps = 0;
  /** @type {Set<{id: string, changes: Map<string, Frame>}>} requested pages, with the changes since the request */
  #loads = new Set();

  /**
   * Notes a change: `news` or `known`. Or `gap` if one before it is missing; then this one is not noted.
   * @param {Frame} frame
   * @param {boolean} isAnswer It answers a resend and may be out of order.
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
   * Notes the head of a conversation in the present session.
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
   * Returns true if what is known belongs to another epoch, or may: a history does not tell its epoch.
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
   * @param {number} moment Of the request.
   */
  listed(conversation, moment) {
    this.epoch ??= conversation.epoch;
    const known = this.#get(conversation.id);
    if (conversation.updated_at > known.activeAt) known.activeAt = conversation.updated_at;
    // A requested page of history may be older than this.
    if (known.rev === null && !this.#isLoading(conversation.id)) known.rev = conversation.last_rev;
    if (this.#isOfSession(moment, conversation.id)) this.stands(conversation.id, conversation.last_rev);
  }

  /** @param {string} id The conversation of a requested page of history; `loaded` or `failed` follows. */
  loading(id) {
    const load = { id, changes: new Map() };
    this.#loads.add(load);
    return load;
  }

  /**
   * Notes a page of history, and merges the changes since its request into it.
   * @param {{id: string, changes: Map<string, Frame>}} load
   * @param {{messages: Message[], total: number}} page
   * @param {boolean} isNewest It ends with the newest message.
   * @param {number} moment Of the request.
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
    // The highest rev of all messages is the conversation's.
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
   * Notes what the page shows for certain: it may show any of the pages that were requested together, and drop the
   * others.
   * @param {Known} known
   */
  #shown(known) {
    const newest = known.pages.filter(({ isNewest }) => isNewest);
    for (const { revs } of known.pages) {
      for (const id of revs.keys()) {
        const isUncertain = newest.some((page) => page.revs.has(id)) && !newest.every((page) => page.revs.has(id));
        if (isUncertain) continue;
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
   * Begins a session: returns the resume points of the most recent conversations, and those that must be reloaded.
   * @param {number} most Conversations in a resume.
   */
  resume(most) {
    const all = [...this.#conversations];
    all.sort(([, a], [, b]) => (a.activeAt < b.activeAt ? 1 : a.activeAt > b.activeAt ? -1 : 0));
    /** @type {Record<string, number>} */
    const revs = {};
    /** @type {string[]} */
    const others = [];
    let count = 0;
    this.#beginAfresh();
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
   * Returns true if an answer and the frames together miss nothing: the frames had begun before the request.
   * @param {number} moment Of the request.
   * @param {string | null} id The answer's conversation; null: any, or something that no session resumes.
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
   * Returns true if an answer tells the head of a conversation in the present session.
   * @param {number} moment Of the request.
   * @param {string} id
   */
  #isOfSession(moment, id) {
    return moment >= Math.max(this.#sessionSince, this.#sinceOf(id));
  }

  /** @param {string} id A conversation that must be reloaded. */
  lose(id) {
    const known = this.#get(id);
    known.rev = known.target = known.head = known.gap = null;
    known.isResumed = false;
    known.since = this.#sessionSince;
    known.ahead.clear();
    this.#forgetPages(known);
  }

  /** @param {string} id A conversation that the user was removed from. After a new addition its frames begin afresh. */
  forget(id) {
    if (this.#conversations.delete(id)) this.#left.add(id);
    this.moment += 1;
    this.#othersSince = this.moment;
  }

  /**
   * Returns true, once, if the user was removed from a conversation and is in it again. The page must reload it to get
   * the changes between.
   * @param {string} id A conversation that the user is in.
   */
  isBack(id) {
    return this.#left.delete(id);
  }

  /** Forgets everything, the changes since the requests of pages as well. */
  clear() {
    this.#conversations.clear();
    this.#left.clear();
    for (const load of this.#loads) load.changes.clear();
    this.#beginAfresh();
  }

  /** From now on, requests are as new as the frames that follow. */
  #beginAfresh() {
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
   * Returns true if a change before this one is missing, and the client has not looked for it yet.
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
    // A forgotten one is emitted again at worst.
    if (known.ahead.size > MAX_AHEAD) known.ahead.delete(/** @type {string} */ (known.ahead.keys().next().value));
  }

  /** @param {Known} known */
  #tidy(known) {
    for (const [id, rev] of known.ahead) if (rev <= (known.rev ?? -1)) known.ahead.delete(id);
  }
}
