// Messages under way: shown at once, tried until they are stored or refused, and kept until then.

import { newClientId } from "./outbox.js";

export class Sending {
  /**
   * `changed(id)` is called when those of a conversation changed, `stored(frame)` with the frame of one that is stored.
   */
  constructor(client, outbox, { changed, stored }) {
    this._client = client;
    this._outbox = outbox;
    this._changed = changed;
    this._stored = stored;
    this._items = new Map(); // conversation id → what is under way there, in the order it was written
  }

  /** Sends again what an earlier page did not see an answer for. */
  start() {
    for (const item of this._outbox.all()) {
      this._of(item.conversation_id).push(item);
      if (!item.failure) this._try(item);
    }
  }

  in(id) {
    return this._items.get(id) ?? [];
  }

  /** How many there are, in all tabs. */
  count() {
    return this._outbox.all().length;
  }

  send(conversationId, content) {
    const item = { client_id: newClientId(), conversation_id: conversationId, content, created_at: new Date().toISOString(), failure: null };
    this._of(conversationId).push(item);
    this._keepAndTry(item);
  }

  /** Sends one that was refused once more. */
  retry(item) {
    item.failure = null;
    this._keepAndTry(item);
  }

  /** It is stored, or nobody wants it any more. */
  settle(id, clientId) {
    const items = this._items.get(id);
    const index = items?.findIndex((item) => item.client_id === clientId) ?? -1;
    if (index >= 0) items.splice(index, 1);
    this._outbox.remove(clientId);
    this._changed(id);
  }

  _of(id) {
    let items = this._items.get(id);
    if (items === undefined) this._items.set(id, (items = []));
    return items;
  }

  _keepAndTry(item) {
    this._outbox.put(item);
    this._changed(item.conversation_id);
    this._try(item);
  }

  async _try(item) {
    try {
      this._stored(await this._client.send(item.conversation_id, item.content, { clientId: item.client_id }));
      this.settle(item.conversation_id, item.client_id);
    } catch (error) {
      if (!this.in(item.conversation_id).includes(item)) return; // it was discarded, or another tab was quicker
      item.failure = error?.message || "It could not be sent";
      this._outbox.put(item);
      this._changed(item.conversation_id);
    }
  }
}
