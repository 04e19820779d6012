// The other members of a conversation: their typing and their read positions.

const TYPING_MS = 6000; // without another frame the typing has ended

/** The typing users of each conversation. */
export class Typists {
  /** `changed(id)` is called when a user starts or stops. */
  constructor(changed) {
    this._changed = changed;
    this._all = new Map(); // conversation id → user id → {name, timer}
  }

  names(id) {
    return [...(this._all.get(id)?.values() ?? [])].map((typist) => typist.name);
  }

  typed(id, userId, name) {
    let here = this._all.get(id);
    if (here === undefined) this._all.set(id, (here = new Map()));
    clearTimeout(here.get(userId)?.timer);
    here.set(userId, { name, timer: setTimeout(() => this.stopped(id, userId), TYPING_MS) });
    this._changed(id);
  }

  stopped(id, userId) {
    const typist = this._all.get(id)?.get(userId);
    if (typist === undefined) return;
    clearTimeout(typist.timer);
    this._all.get(id).delete(userId);
    this._changed(id);
  }
}

/** Read positions of one conversation; they never go back. */
export class Positions {
  constructor() {
    this._seqs = new Map(); // user id → seq
    this._furthest = null; // [user id, seq], the highest first; sorted when needed
  }

  take(userId, seq) {
    if (seq <= (this._seqs.get(userId) ?? 0)) return;
    this._seqs.set(userId, seq);
    this._furthest = null;
  }

  /** Returns how many users have read up to `seq`, and up to `most` of their ids, of those that `isNamed`. */
  readers(seq, most, isCounted, isNamed) {
    this._furthest ??= [...this._seqs].sort((a, b) => b[1] - a[1]);
    let count = 0;
    const ids = [];
    for (const [userId, read] of this._furthest) {
      if (read < seq) break;
      if (!isCounted(userId)) continue;
      count += 1;
      if (ids.length < most && isNamed(userId)) ids.push(userId);
    }
    return { count, ids };
  }
}
