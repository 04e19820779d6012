// The order of requests, their answers and the frames about conversations: an answer may come late.
//
// Example: a list is requested, somebody renames a group, the group is loaded and has its new name; then the answer with
// the list arrives, with the old name. `accept` rejects that name.

export class Answers {
  #now;
  #seen;

  constructor() {
    this.#now = 0; // counts what happens: requests, answers and frames
    this.#seen = new Map(); // conversation id → what happened last; a few numbers for each conversation of the session
  }

  /** Returns the moment at which a request begins. */
  begin() {
    return ++this.#now;
  }

  /** Notes a frame about a change of the conversation. */
  change(id) {
    this.#of(id).changed = ++this.#now;
  }

  /** Notes that the user is not a member any more. */
  remove(id) {
    this.#seen.set(id, { ...NOTHING, removed: ++this.#now });
  }

  isRemovedSince(id, moment) {
    return this.#of(id).removed > moment;
  }

  /** Returns true if there is an answer to a request that began after `moment`. */
  isAcceptedSince(id, moment) {
    return this.#of(id).began > moment;
  }

  /**
   * Notes an answer to a request that began at `began`, unless it may be older than the last one. Of two requests that
   * overlapped, either may be the newer one: the one that began last wins, but not if a frame said "changed" since then.
   * That frame has caused another request, which overlaps with nothing.
   */
  accept(id, began) {
    const seen = this.#of(id);
    if (began < seen.began || (began < seen.answered && began < seen.changed)) return false;
    seen.began = began;
    seen.answered = ++this.#now;
    return true;
  }

  #of(id) {
    let seen = this.#seen.get(id);
    if (seen === undefined) this.#seen.set(id, (seen = { ...NOTHING }));
    return seen;
  }
}

const NOTHING = { began: 0, answered: 0, changed: 0, removed: 0 };
