/** Searches for missing changes. */
export class Searches {
  vain = 0; // in a row that found nothing
}

/**
 * The numbered changes of one sequence that have arrived in this session.
 *
 * A change names the number of the one before it, of the kinds that the client asked for. If that is higher than what has
 * arrived, a change was lost. The client looks for it once, by a resume; if it does not come it does not exist any more.
 */
export class Sequence {
  /** @type {number | null} up to here nothing is missing; null: not known */
  head = null;
  /** @type {number | null} the number of a change before which one is missing; null once the client has looked for it */
  #gap = null;

  /**
   * Takes a change; returns false, and does not take it, if the client must look for one before it.
   * @param {number} number
   * @param {number | undefined} previous Number of the change before it; undefined: the server does not tell.
   * @param {Searches} searches
   */
  take(number, previous, searches) {
    if (this.#gap === null && !this.#follows(previous)) {
      this.#gap = number;
      return false;
    }
    if (this.#gap !== null && number > (this.head ?? -1)) {
      searches.vain = number < this.#gap ? 0 : searches.vain + 1;
      this.#gap = null;
    }
    this.head = Math.max(this.head ?? -1, number);
    return true;
  }

  /**
   * Takes a change that may be out of order: it counts only if it is the next one.
   * @param {number} number
   * @param {number | undefined} previous
   */
  takeIfNext(number, previous) {
    if (previous !== undefined && this.head !== null && previous <= this.head) this.head = Math.max(this.head, number);
  }

  /** @param {number | undefined} previous */
  #follows(previous) {
    return previous === undefined || this.head === null || previous <= this.head;
  }
}
