import { Sequence } from "./sequence.js";

/**
 * @import { Searches } from "./sequence.js"
 * @import { Conversation, MembershipFrame } from "./types.js"
 */

/**
 * The user's own sequence: numbered changes of the user's memberships and read positions, in all conversations.
 *
 * A session that resumes from the last of them is told of every conversation that the user was added to or removed from
 * meanwhile, so a page that has the list keeps it.
 */
export class Own {
  #sequence = new Sequence();
  /** @type {number | null} highest number when the session began; null: the server has no such sequence */
  #sessionHead = null;
  /** @type {Map<string, number>} conversation → read position, of those that the page has heard of */
  #positions = new Map();

  /**
   * Begins a session; returns the number to resume from, or undefined if the page must load its list.
   * @param {number | undefined} head Highest number so far; undefined: the server does not tell.
   * @returns {number | undefined}
   */
  begin(head) {
    const known = head === undefined ? null : this.#sequence.head;
    this.#sessionHead = head ?? null;
    if (known === null) this.clear();
    return known ?? undefined;
  }

  /** Forgets everything: the page loads its list, which is as new as the session at least. */
  clear() {
    this.#sequence = new Sequence();
    this.#sequence.head = this.#sessionHead;
    this.#positions.clear();
  }

  /** Forgets the session: another user's follows, or one with another history. */
  end() {
    this.#sessionHead = null;
    this.clear();
  }

  /**
   * Notes a change: `news`, `known`, or `gap` if one before it is missing; then this one is not noted.
   * @param {MembershipFrame} frame
   * @param {Searches} searches
   * @returns {"news" | "known" | "gap"}
   */
  note(frame, searches) {
    const { head } = this.#sequence;
    if (head !== null && frame.me_rev <= head) return "known";
    return this.#sequence.take(frame.me_rev, frame.prev_me_rev, searches) ? "news" : "gap";
  }

  /**
   * Notes a membership as it now is; returns what changed for the page.
   * @param {MembershipFrame} frame
   * @returns {{isAdded: boolean, isRead: boolean}} `isRead`: the read position moved.
   */
  take({ conversation_id, is_member, read_seq }) {
    const before = this.#positions.get(conversation_id);
    if (!is_member) this.#positions.delete(conversation_id);
    else this.#positions.set(conversation_id, read_seq);
    return { isAdded: is_member && before === undefined, isRead: is_member && before !== undefined && read_seq > before };
  }

  /** @param {Conversation} conversation As REST shows it. */
  listed({ id, read_seq }) {
    if (read_seq !== undefined) this.#positions.set(id, Math.max(read_seq, this.#positions.get(id) ?? 0));
  }
}
