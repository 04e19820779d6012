import { idOf } from "./messages.js";

/** @import { Abortable, Conversation, Message, Page, PageAfter, User } from "./types.js" */

/** Operations of REST whose answers need no more than the request. */
export class Endpoints extends EventTarget {
  #request;

  /**
   * @param {(method: string, path: string,
   *   options?: {query?: Record<string, string | number | undefined>, body?: object, token?: string | null,
   *   signal?: AbortSignal}) => Promise<any>} request
   */
  constructor(request) {
    super();
    this.#request = request;
  }

  /**
   * Creates an account; `login` follows.
   * @param {string} username
   * @param {string} password
   * @returns {Promise<User>}
   */
  register(username, password) {
    return this.#request("POST", "/api/auth/register", { body: { username, password }, token: null });
  }

  /**
   * @param {Abortable} [options]
   * @returns {Promise<User>}
   */
  me({ signal } = {}) {
    return this.#request("GET", "/api/auth/me", { signal });
  }

  /**
   * Finds users whose name begins with a prefix.
   * @param {string} prefix
   * @param {Page} [page]
   * @returns {Promise<{users: User[], total: number, is_total_exact?: boolean, limit: number, offset: number,
   *   next_cursor?: string | null}>} A server without cursors has no `next_cursor`.
   */
  searchUsers(prefix, page = {}) {
    return this.#request("GET", "/api/users", { query: { query: prefix, ...pageOf(page) }, signal: page.signal });
  }

  /**
   * Changes the given fields.
   * @param {string} id
   * @param {{name?: string | null, description?: string | null}} changes
   * @returns {Promise<Conversation>}
   */
  renameConversation(id, { name, description }) {
    return this.#request("PATCH", `/api/chat/conversations/${part(idOf(id))}`, { body: { name, description } });
  }

  /**
   * Loads a page of the members, in the order they were added; `users` of a conversation are only the first.
   * @param {string} id
   * @param {PageAfter} [page]
   * @returns {Promise<{members: User[], total: number, limit: number, next_cursor: string | null}>}
   */
  members(id, { limit, cursor, signal } = {}) {
    const path = `/api/chat/conversations/${part(idOf(id))}/members`;
    return this.#request("GET", path, { query: { limit, cursor }, signal });
  }

  /**
   * @param {string} id
   * @param {string[]} userIds
   * @returns {Promise<Conversation>}
   */
  addMembers(id, userIds) {
    return this.#request("POST", `/api/chat/conversations/${part(idOf(id))}/members`, { body: { user_ids: userIds } });
  }

  /**
   * @param {string} id
   * @param {string} userId `me`: leave.
   * @returns {Promise<void>}
   */
  removeMember(id, userId) {
    return this.#request("DELETE", `/api/chat/conversations/${part(idOf(id))}/members/${part(userId)}`);
  }

  /**
   * Edits an own message. `message_updated` follows.
   * @param {string} id The conversation's.
   * @param {string} messageId
   * @param {string} content
   * @returns {Promise<Message>}
   */
  edit(id, messageId, content) {
    const path = `/api/chat/conversations/${part(idOf(id))}/messages/${part(messageId)}`;
    return this.#request("PATCH", path, { body: { content } });
  }

  /**
   * Deletes a message. `message_deleted` follows.
   * @param {string} id The conversation's.
   * @param {string} messageId
   * @returns {Promise<void>}
   */
  remove(id, messageId) {
    return this.#request("DELETE", `/api/chat/conversations/${part(idOf(id))}/messages/${part(messageId)}`);
  }

  /**
   * @param {string} userId
   * @param {Abortable} [options]
   * @returns {Promise<{user_id: string, is_online: boolean, last_seen_at: string | null}>}
   */
  presence(userId, { signal } = {}) {
    return this.#request("GET", `/api/chat/users/${part(userId)}/presence`, { signal });
  }
}

/** @param {string} text Becomes a part of a path. */
export const part = (text) => encodeURIComponent(text);

/**
 * Returns the query of a page.
 * @param {Page} page
 */
export function pageOf({ limit, offset, cursor }) {
  return { limit, offset, cursor: cursor ?? undefined };
}
