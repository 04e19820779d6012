const MAX_EARLY = 64; // changes that are remembered out of order: more messages than may be under way

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
  /** @type {Map<number, number>} number → the one before it, of changes that may have arrived out of order */
  #early = new Map();

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
   * Takes a change that may be out of order: it counts once those before it are known.
   * @param {number} number
   * @param {number | undefined} previous
   */
  takeEarly(number, previous) {
    if (previous === undefined) return;
    this.#early.set(number, previous);
    this.#settle();
    if (this.#early.size > MAX_EARLY) this.#early.delete(/** @type {number} */ (this.#early.keys().next().value));
  }

  /** Counts the changes out of order that now are the next ones. */
  #settle() {
    if (this.head === null) return;
    for (const [number, previous] of [...this.#early].sort(([a], [b]) => a - b)) {
      if (previous > this.head) continue;
      this.head = Math.max(this.head, number);
      this.#early.delete(number);
    }
  }

  /** @param {number | undefined} previous */
  #follows(previous) {
    this.#settle();
    return previous === undefined || this.head === null || previous <= this.head;
  }
}
