import { idOf } from "./messages.js";

/** @import { PageStorage, UnsentMessage } from "./types.js" */

/**
 * Unsent messages in a storage that outlives the page: a list for each user, in the order they were written.
 *
 * Tabs share the storage, so each change reads the list, changes it and writes it. A storage that is full or blocked
 * loses no message of this page: the outbox has them in memory.
 */
export class StoredMessages {
  #storage;

  /** @param {PageStorage} storage */
  constructor(storage) {
    this.#storage = storage;
  }

  /**
   * @param {string} userId
   * @returns {UnsentMessage[]} Those of all tabs.
   */
  list(userId) {
    return this.#read(userId).map((item) => ({
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
    const items = this.#read(userId);
    const index = items.findIndex((other) => isOf(other, conversationId, clientId));
    if (index < 0) items.push(item);
    else items[index] = item;
    this.#write(userId, items);
  }

  /**
   * @param {string} userId
   * @param {string} conversationId
   * @param {string} clientId
   */
  remove(userId, conversationId, clientId) {
    const items = this.#read(userId);
    const rest = items.filter((item) => !isOf(item, conversationId, clientId));
    if (rest.length < items.length) this.#write(userId, rest);
  }

  /** @param {string} userId */
  clear(userId) {
    this.#write(userId, []);
  }

  /**
   * @param {string} userId
   * @returns {any[]}
   */
  #read(userId) {
    try {
      const items = JSON.parse(this.#storage.getItem(keyOf(userId)) ?? "[]");
      return Array.isArray(items) ? items.filter((item) => typeof item?.client_id === "string") : [];
    } catch {
      return []; // blocked, or written by something else
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
    } catch {
      // Full or blocked. The next change tries again.
    }
  }
}

/** @param {string} userId */
const keyOf = (userId) => `pulse.outbox.${userId}`;

/**
 * @param {any} item
 * @param {string} conversationId
 * @param {string} clientId
 */
function isOf(item, conversationId, clientId) {
  return item.client_id === clientId && idOf(item.conversation_id) === conversationId;
}
