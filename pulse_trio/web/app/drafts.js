// Drafts: they survive a reload of the tab.

/** The drafts of one user, by conversation. */
export class Drafts {
  constructor(store, userId) {
    this._store = store;
    this._key = `pulse.drafts.${userId}`;
  }

  get(id) {
    return this._all()[id] ?? "";
  }

  set(id, text) {
    const all = this._all();
    if ((all[id] ?? "") === text) return;
    if (text === "") delete all[id];
    else all[id] = text;
    if (Object.keys(all).length === 0) this.clear();
    else this._store.setItem(this._key, JSON.stringify(all));
  }

  clear() {
    this._store.removeItem(this._key);
  }

  _all() {
    try {
      return { ...JSON.parse(this._store.getItem(this._key) ?? "{}") };
    } catch {
      return {};
    }
  }
}
