import { idOf } from "./messages.js";

/** @import { PageStorage, UnsentMessage } from "./types.js" */

/**
 * Unsent messages in a storage that outlives the page: a list for each user, in the order they were written.
 *
 * Tabs share the storage, so each change reads the list, changes it and writes it. What a full or blocked storage does not
 * take waits here, and is written with the next change. A list that cannot be read is not written.
 */
export class StoredMessages {
  #storage;
  /** @type {Map<string, Waiting>} user → what is not written */
  #waiting = new Map();

  /** @param {PageStorage} storage */
  constructor(storage) {
    this.#storage = storage;
  }

  /** Returns false if the storage is blocked. @param {string} userId */
  canRead(userId) {
    return this.#read(userId) !== null;
  }

  /**
   * @param {string} userId
   * @returns {UnsentMessage[]} Those of all tabs.
   */
  list(userId) {
    return changed(this.#read(userId) ?? [], this.#waiting.get(userId)).map((item) => ({
      conversationId: item.conversation_id,
      content: item.content,
      clientId: item.client_id,
      userId,
      createdAt: item.created_at,
      failure: item.failure || null,
    }));
  }

  /**
   * Adds a message, or replaces it.
   * @param {string} userId
   * @param {UnsentMessage} message
   */
  put(userId, { conversationId, content, clientId, createdAt, failure }) {
    const item = { client_id: clientId, conversation_id: conversationId, content, created_at: createdAt, failure };
    this.#change(userId, conversationId, clientId, item);
  }

  /**
   * @param {string} userId
   * @param {string} conversationId
   * @param {string} clientId
   */
  remove(userId, conversationId, clientId) {
    this.#change(userId, conversationId, clientId, null);
  }

  /** @param {string} userId */
  clear(userId) {
    this.#waiting.set(userId, { isCleared: true, items: new Map() });
    this.write();
  }

  /** Writes what waits. */
  write() {
    for (const [userId, waiting] of this.#waiting) {
      const before = this.#read(userId);
      if (before === null && !waiting.isCleared) continue;
      const after = changed(before ?? [], waiting);
      const isSame = !waiting.isCleared && JSON.stringify(after) === JSON.stringify(before);
      if (isSame || this.#write(userId, after)) this.#waiting.delete(userId);
    }
  }

  /**
   * @param {string} userId
   * @param {string} conversationId
   * @param {string} clientId
   * @param {object | null} item null: none any more.
   */
  #change(userId, conversationId, clientId, item) {
    const waiting = this.#waiting.get(userId) ?? { isCleared: false, items: new Map() };
    this.#waiting.set(userId, waiting);
    waiting.items.set(`${conversationId} ${clientId}`, item);
    this.write();
  }

  /**
   * @param {string} userId
   * @returns {any[] | null} null: it cannot be read.
   */
  #read(userId) {
    let text;
    try {
      text = this.#storage.getItem(keyOf(userId));
    } catch {
      return null; // blocked, perhaps for a moment
    }
    try {
      const items = JSON.parse(text ?? "[]");
      return Array.isArray(items) ? items.filter((item) => typeof item?.client_id === "string") : [];
    } catch {
      return []; // written by something else
    }
  }

  /**
   * @param {string} userId
   * @param {object[]} items
   */
  #write(userId, items) {
    try {
      if (items.length === 0) this.#storage.removeItem(keyOf(userId));
      else this.#storage.setItem(keyOf(userId), JSON.stringify(items));
      return true;
    } catch {
      return false; // full or blocked
    }
  }
}

/** @typedef {{isCleared: boolean, items: Map<string, object | null>}} Waiting */

/**
 * Returns a list with the changes that wait.
 * @param {any[]} items
 * @param {Waiting} [waiting]
 */
function changed(items, waiting) {
  if (waiting === undefined) return items;
  const changes = new Map(waiting.items);
  const list = [];
  for (const item of waiting.isCleared ? [] : items) {
    const key = `${idOf(item.conversation_id)} ${item.client_id}`;
    const change = changes.get(key);
    changes.delete(key);
    if (change !== null) list.push(change ?? item);
  }
  for (const change of changes.values()) if (change !== null) list.push(change);
  return list;
}

/** @param {string} userId */
const keyOf = (userId) => `pulse.outbox.${userId}`;
