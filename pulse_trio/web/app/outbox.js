// Messages that no answer has come for yet. They survive a reload: sent again with the same client_id, they are
// stored once, whichever tab sends them.

/** The messages under way of one user, in the order they were written. */
export class Outbox {
  constructor(store, userId) {
    this._store = store;
    this._userId = userId;
    this._key = `pulse.outbox.${userId}`;
  }

  /** All of them, also those that other tabs wrote: `{client_id, conversation_id, content, created_at, failure}`. */
  all() {
    try {
      const list = JSON.parse(this._store.get(this._key) ?? "[]");
      return Array.isArray(list) ? list.filter((item) => typeof item?.client_id === "string") : [];
    } catch {
      return [];
    }
  }

  /** Those that were not refused, as `PulseClient` takes them. */
  toSend() {
    return this.all()
      .filter((item) => !item.failure)
      .map((item) => ({ conversationId: item.conversation_id, content: item.content, clientId: item.client_id, userId: this._userId }));
  }

  put(item) {
    const list = this.all();
    const index = list.findIndex((other) => other.client_id === item.client_id);
    if (index < 0) list.push(item);
    else list[index] = item;
    this._write(list);
  }

  remove(clientId) {
    const list = this.all();
    const rest = list.filter((item) => item.client_id !== clientId);
    if (rest.length !== list.length) this._write(rest);
  }

  clear() {
    this._store.remove(this._key);
  }

  _write(list) {
    if (list.length === 0) this._store.remove(this._key);
    else this._store.set(this._key, JSON.stringify(list));
  }
}

/** A new client_id. (`crypto.randomUUID` is there on secure pages only.) */
export function newClientId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
