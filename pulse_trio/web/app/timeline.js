// The known messages of one conversation, as they now are: a run of seqs without gaps.

export class Timeline {
  #ahead;
  #behind;

  constructor() {
    this.reset();
  }

  /** Forgets everything. Live messages wait for the first page. */
  reset() {
    this.items = [];
    this.isLoaded = false; // the newest page is here
    this.rev = 0; // every change up to this rev is known
    this.#ahead = new Map(); // seq → a message after a gap
    this.#behind = new Map(); // seq → the newest state of a message before the run
  }

  get firstSeq() {
    return this.items.length ? this.items[0].seq : 0;
  }

  get lastSeq() {
    return this.items.length ? this.items[this.items.length - 1].seq : 0;
  }

  /** True if the beginning of the conversation is here. */
  get isComplete() {
    return this.isLoaded && this.firstSeq <= 1;
  }

  /** True if messages between the run and a newer one are missing. */
  get hasGap() {
    return this.isLoaded && this.#ahead.size > 0;
  }

  /** Returns the index of a seq in `items`, or -1. */
  indexOf(seq) {
    const index = seq - this.firstSeq;
    return this.items.length > 0 && index >= 0 && index < this.items.length ? index : -1;
  }

  /** Adds a page, in any order, that continues the run at either end. The first page is the newest. */
  merge(messages) {
    this.isLoaded = true;
    const sorted = [...messages].sort((a, b) => a.seq - b.seq);
    const older = this.items.length === 0 ? sorted : sorted.filter((message) => message.seq < this.firstSeq);
    if (older.length && (this.items.length === 0 || older.at(-1).seq === this.firstSeq - 1)) {
      this.items = [...older, ...this.items];
    }
    for (const message of sorted) this.add(message);
    this.#settle();
  }

  /** Adds a live message, or one of a page. */
  add(message) {
    const index = this.indexOf(message.seq);
    if (index >= 0) this.#replace(index, message);
    else if (!this.isLoaded || message.seq > this.lastSeq + 1) keep(this.#ahead, message);
    else if (message.seq === this.lastSeq + 1) this.items.push(message);
    else keep(this.#behind, message);
  }

  /** Forgets all but the newest messages. */
  trim(most) {
    if (this.items.length > most) this.items = this.items.slice(-most);
  }

  #replace(index, message) {
    const known = this.items[index];
    if (message.rev > known.rev) this.items[index] = { ...message, client_id: message.client_id ?? known.client_id };
  }

  /** Moves waiting messages into the run where they fit now. */
  #settle() {
    for (const [seq, message] of this.#behind) {
      const index = this.indexOf(seq);
      if (index < 0) continue;
      this.#replace(index, message);
      this.#behind.delete(seq);
    }
    for (const seq of [...this.#ahead.keys()].sort((a, b) => a - b)) {
      if (seq > this.lastSeq + 1) break;
      const message = this.#ahead.get(seq);
      this.#ahead.delete(seq);
      this.add(message);
    }
  }
}

function keep(map, message) {
  const known = map.get(message.seq);
  if (known === undefined || known.rev < message.rev) map.set(message.seq, message);
}
