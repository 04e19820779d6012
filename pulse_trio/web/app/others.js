// The other members of a conversation: their typing and their read positions.

const TYPING_MS = 6000; // without another frame the typing has ended

/** The typing users of each conversation. */
export class Typists {
  #changed;
  #all;

  /** `changed(id)` is called when a user starts or stops. */
  constructor(changed) {
    this.#changed = changed;
    this.#all = new Map(); // conversation id → user id → {name, timer}
  }

  names(id) {
    return [...(this.#all.get(id)?.values() ?? [])].map((typist) => typist.name);
  }

  typed(id, userId, name) {
    let here = this.#all.get(id);
    if (here === undefined) this.#all.set(id, (here = new Map()));
    clearTimeout(here.get(userId)?.timer);
    here.set(userId, { name, timer: setTimeout(() => this.stopped(id, userId), TYPING_MS) });
    this.#changed(id);
  }

  stopped(id, userId) {
    const typist = this.#all.get(id)?.get(userId);
    if (typist === undefined) return;
    clearTimeout(typist.timer);
    this.#all.get(id).delete(userId);
    this.#changed(id);
  }
}

/** Read positions of one conversation; they never go back. */
export class Positions {
  #seqs;
  #furthest;

  constructor() {
    this.#seqs = new Map(); // user id → seq
    this.#furthest = null; // [user id, seq], the highest first; sorted when needed
  }

  take(userId, seq) {
    if (seq <= (this.#seqs.get(userId) ?? 0)) return;
    this.#seqs.set(userId, seq);
    this.#furthest = null;
  }

  /** Returns how many users have read up to `seq`, and up to `most` of their ids, of those that `isNamed`. */
  readers(seq, most, isCounted, isNamed) {
    this.#furthest ??= [...this.#seqs].sort((a, b) => b[1] - a[1]);
    let count = 0;
    const ids = [];
    for (const [userId, read] of this.#furthest) {
      if (read < seq) break;
      if (!isCounted(userId)) continue;
      count += 1;
      if (ids.length < most && isNamed(userId)) ids.push(userId);
    }
    return { count, ids };
  }
}
