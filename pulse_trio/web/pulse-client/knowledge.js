import { mergeChanges } from "./messages.js";
import { Sequence } from "./sequence.js";

/**
 * @import { Searches } from "./sequence.js"
 * @import { Conversation, ConversationFrame, Frame, MemberFrame, Message } from "./types.js"
 */

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
 * Each frame names the rev of the one before it. If that one has not arrived, the client reconnects and resumes from
 * `rev`: see `Sequence`. A session begins at the resume point; without one, at its first frame or where an answer or a
 * `system` frame says that the conversation is.
 *
 * Members and properties of a conversation change with revs as well, but are in no page of history. So `rev`, which may
 * come from a page, does not tell whether such a change is news; `details` does. And a page sets no higher `rev` than the
 * conversation had when the page last loaded it; a conversation that is older than `rev` then is requested again: see
 * `isOlder`.
 *
 * The frames of a conversation begin afresh with each session that does not resume it, and when the user is added again.
 * An answer to a request before that may be older than the first of them: see `isCovered`. And a frame about members or
 * properties that comes before the first answer builds on nothing that the page has: an older answer is no use either,
 * see `isOlder`.
 */
export class Knowledge {
  /** @type {string | null} */
  epoch = null;
  /** @type {number} how often frames of any conversation have begun afresh */
  moment = 0;
  /**
   * @typedef {{rev: number | null, pageRev: number, listed: number, details: number, isShown: boolean, sequence: Sequence,
   *   ahead: Map<string, number>, activeAt: string, since: number, base: number, hasNewest: boolean,
   *   pages: {revs: Map<string, number>, isNewest: boolean}[]}} Known
   *   `pageRev`: the `rev` that a page of history has set, or 0. `listed`: the highest rev of the conversation as REST
   *   showed it; Infinity: never. `details`: the highest rev of a frame about members or properties. `isShown`: the page has
   *   had an answer as new as that. `since`: the moment from which all its frames have arrived. `base`, `hasNewest`, `pages`: of pages that were requested together.
   * @type {Map<string, Known>}
   */
  #conversations = new Map();
  /** @type {Set<string>} conversations that the user was removed from and the page may still show */
  #left = new Set();
  #sessionSince = 0; // moment of the newest session
  #othersSince = 0; // moment from which all frames of an unknown conversation have arrived
  /** @type {Set<{id: string, changes: Map<string, Frame>}>} requested pages, with the changes since the request */
  #loads = new Set();
  #searches;

  /** @param {Searches} searches Those for missing changes. */
  constructor(searches) {
    this.#searches = searches;
  }

  /**
   * Notes a change of a message: `news` or `known`. Or `gap` if one before it is missing; then this one is not noted.
   * @param {Frame} frame
   * @param {boolean} isAnswer It answers a resend and may be out of order.
   * @returns {"news" | "known" | "gap"}
   */
  note(frame, isAnswer) {
    const known = this.#get(frame.conversation_id);
    if (isAnswer) known.sequence.takeEarly(frame.rev, frame.prev_rev);
    else if (!known.sequence.take(frame.rev, frame.prev_rev, this.#searches)) return "gap";
    for (const load of this.#loads) {
      if (load.id === frame.conversation_id) load.changes.set(frame.message_id, frame);
    }
    const at = frame.updated_at ?? frame.timestamp;
    if (at > known.activeAt) known.activeAt = at;
    if (known.rev !== null && frame.rev <= known.rev) return "known";
    const isNews = (known.ahead.get(frame.message_id) ?? 0) < frame.rev;
    if (isAnswer && (frame.prev_rev ?? frame.rev - 1) > (known.rev ?? -1)) {
      this.#remember(known, frame.message_id, frame.rev);
    } else {
      known.rev = frame.rev;
      this.#tidy(known);
    }
    return isNews ? "news" : "known";
  }

  /**
   * Notes a change of the members or of the conversation itself, as `note` does.
   * @param {MemberFrame | ConversationFrame} frame
   * @returns {"news" | "known" | "gap"}
   */
  noteDetails(frame) {
    if (this.#left.has(frame.conversation_id)) return "known"; // about the user's own removal
    const known = this.#get(frame.conversation_id);
    if (!known.sequence.take(frame.rev, frame.prev_rev, this.#searches)) return "gap";
    known.rev = Math.max(known.rev ?? -1, frame.rev);
    this.#tidy(known);
    if (frame.rev <= known.details) return "known";
    known.details = frame.rev;
    return "news";
  }

  /**
   * Notes the head of a conversation in the present session.
   * @param {string} id
   * @param {number} rev
   */
  stands(id, rev) {
    const known = this.#conversations.get(id);
    if (known !== undefined) known.sequence.head ??= rev;
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
    const listed = known.listed === Infinity ? 0 : known.listed;
    known.listed = Math.max(listed, conversation.last_rev);
    known.isShown ||= conversation.last_rev >= known.details;
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
   */
  loaded(load, page, isNewest) {
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
    mergeChanges(page, load.changes, isNewest);
  }

  /** @param {{id: string, changes: Map<string, Frame>}} load */
  failed(load) {
    this.#loads.delete(load);
    const known = this.#conversations.get(load.id);
    if (known === undefined || this.#isLoading(load.id)) return;
    if (known.rev === null && known.hasNewest) known.rev = known.pageRev = Math.min(known.base, known.listed);
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
      if (known.rev !== null && count < most) {
        known.sequence.head = revs[id] = known.rev;
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

  /**
   * Returns true if a conversation is older than the page of history that its session resumed from, or the first one and
   * older than a frame about it: changes of members and properties between the two would be missed.
   * @param {Conversation} conversation As REST shows it.
   */
  isOlder({ id, epoch, last_rev }) {
    const known = this.#conversations.get(id);
    if (known === undefined || epoch !== this.epoch) return false;
    return last_rev < known.pageRev || (!known.isShown && last_rev < known.details);
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
    known.rev = null;
    known.pageRev = known.details = 0;
    known.isShown = false;
    known.listed = Infinity;
    known.sequence = new Sequence();
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
      const pages = { base: Infinity, hasNewest: false, pages: [] };
      const revs = { rev: null, pageRev: 0, listed: Infinity, details: 0, isShown: false, sequence: new Sequence(), ahead: new Map() };
      known = { ...revs, activeAt: "", since: this.#othersSince, ...pages };
      this.#conversations.set(id, known);
    }
    return known;
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
