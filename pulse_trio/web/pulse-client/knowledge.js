import { mergeChanges } from "./messages.js";

/** @import { Conversation, Frame, Message } from "./types.js" */

const AHEAD_MOST = 2_000; // messages of one conversation that are remembered beyond its rev

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
export class Knowledge {
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
