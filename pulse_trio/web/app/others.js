// What the others in a conversation do: who types, and how far each has read.

const TYPING_MS = 6000; // without news somebody has stopped

/** Who is typing where. */
export class Typists {
  /** `changed(id)` is called when somebody began or stopped. */
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

/** How far the members of one conversation have read; never backwards. */
export class Positions {
  constructor() {
    this._seqs = new Map(); // user id → seq
    this._furthest = null; // [user id, seq], the furthest first; made when asked for
  }

  take(userId, seq) {
    if (seq <= (this._seqs.get(userId) ?? 0)) return;
    this._seqs.set(userId, seq);
    this._furthest = null;
  }

  /** How many have read up to `seq`, and the ids of up to `most` of them. `isCounted` says who counts, `isNamed` whose id may be among those. */
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
