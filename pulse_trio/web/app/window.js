// The part of a long history that is in the page: the seqs from `from` to `to`, both included.

const SIZE = 200; // most messages in the page
const STEP = 70; // messages by which it moves

export class MessageWindow {
  #from = 0;
  #to = Infinity; // Infinity: up to the newest message, and new ones appear

  /** Follows the newest messages: the view is at the end. */
  follows = true;

  /** True if the window ends with the newest message. */
  get isAtEnd() {
    return this.#to === Infinity;
  }

  /** True if the window begins with the conversation. */
  get isAtStart() {
    return this.#from <= 1;
  }

  /** Moves to the newest messages. */
  toEnd() {
    this.follows = true;
    this.#to = Infinity;
  }

  /** Fits the window to the known messages. */
  fit(timeline) {
    if (timeline.items.length === 0) return;
    const { firstSeq, lastSeq } = timeline;
    if (!this.isAtEnd && timeline.indexOf(this.#to) < 0) this.follows = true; // a reload has dropped these messages
    if (this.follows) {
      this.#to = Infinity;
      this.#from = Math.max(this.#from, lastSeq - SIZE + 1);
    } else if (this.isAtEnd && lastSeq - this.#from >= SIZE) {
      this.#to = this.#from + SIZE - 1; // new messages wait below the window while the user reads further up
    }
    this.#from = Math.max(this.#from, firstSeq);
  }

  /** Returns the messages in the window, and the one before them or null. */
  cut(timeline) {
    const { items } = timeline;
    const start = Math.max(0, timeline.indexOf(this.#from));
    const end = this.isAtEnd ? items.length : timeline.indexOf(this.#to) + 1;
    return { messages: items.slice(start, end), before: items[start - 1] ?? null };
  }

  /** Moves up by a step. Returns false at the first known message: older ones must be loaded. */
  moveUp({ firstSeq, lastSeq }) {
    if (this.#from <= firstSeq) return false;
    this.#from = Math.max(firstSeq, this.#from - STEP);
    if (!this.follows && Math.min(this.#to, lastSeq) - this.#from >= SIZE) this.#to = this.#from + SIZE - 1;
    return true;
  }

  /** True while it follows the end and is as large as it may be, so that it cannot move up. */
  isFull({ firstSeq, lastSeq }) {
    return this.follows && this.#from > firstSeq && lastSeq - this.#from >= SIZE - 1;
  }

  /** Moves down by a step. */
  moveDown({ lastSeq }) {
    this.#to += STEP;
    if (this.#to >= lastSeq) this.#to = Infinity;
    this.#from = Math.max(this.#from, Math.min(this.#to, lastSeq) - SIZE + 1);
  }
}
