// Drafts: they survive a reload of the tab.

/** The drafts of one user, by conversation. */
export class Drafts {
  #store;
  #key;

  constructor(store, userId) {
    this.#store = store;
    this.#key = `pulse.drafts.${userId}`;
  }

  get(id) {
    return this.#all()[id] ?? "";
  }

  set(id, text) {
    const all = this.#all();
    if ((all[id] ?? "") === text) return;
    if (text === "") delete all[id];
    else all[id] = text;
    if (Object.keys(all).length === 0) this.clear();
    else this.#store.setItem(this.#key, JSON.stringify(all));
  }

  clear() {
    this.#store.removeItem(this.#key);
  }

  #all() {
    try {
      return { ...JSON.parse(this.#store.getItem(this.#key) ?? "{}") };
    } catch {
      return {};
    }
  }
}
