/**
 * Returns the query of a page.
 * @param {Page} page
 */
export function pageOf({ limit, offset, cursor }: Page): {
    limit: number | undefined;
    offset: number | undefined;
    cursor: string | undefined;
};
/** @import { Abortable, Conversation, Message, Page, PageAfter, User } from "./types.js" */
/** Operations of REST whose answers need no more than the request. */
export class Endpoints extends EventTarget {
    /**
     * @param {(method: string, path: string,
     *   options?: {query?: Record<string, string | number | undefined>, body?: object, token?: string | null,
     *   signal?: AbortSignal}) => Promise<any>} request
     */
    constructor(request: (method: string, path: string, options?: {
        query?: Record<string, string | number | undefined>;
        body?: object;
        token?: string | null;
        signal?: AbortSignal;
    }) => Promise<any>);
    /**
     * Creates an account; `login` follows.
     * @param {string} username
     * @param {string} password
     * @returns {Promise<User>}
     */
    register(username: string, password: string): Promise<User>;
    /**
     * @param {Abortable} [options]
     * @returns {Promise<User>}
     */
    me({ signal }?: Abortable): Promise<User>;
    /**
     * Finds users whose name begins with a prefix.
     * @param {string} prefix
     * @param {Page} [page]
     * @returns {Promise<{users: User[], total: number, is_total_exact?: boolean, limit: number, offset: number,
     *   next_cursor?: string | null}>} A server without cursors has no `next_cursor`.
     */
    searchUsers(prefix: string, page?: Page): Promise<{
        users: User[];
        total: number;
        is_total_exact?: boolean;
        limit: number;
        offset: number;
        next_cursor?: string | null;
    }>;
    /**
     * Changes the given fields.
     * @param {string} id
     * @param {{name?: string | null, description?: string | null}} changes
     * @returns {Promise<Conversation>}
     */
    renameConversation(id: string, { name, description }: {
        name?: string | null;
        description?: string | null;
    }): Promise<Conversation>;
    /**
     * Loads a page of the members, in the order they were added; `users` of a conversation are only the first.
     * @param {string} id
     * @param {PageAfter} [page]
     * @returns {Promise<{members: User[], total: number, limit: number, next_cursor: string | null}>}
     */
    members(id: string, { limit, cursor, signal }?: PageAfter): Promise<{
        members: User[];
        total: number;
        limit: number;
        next_cursor: string | null;
    }>;
    /**
     * @param {string} id
     * @param {string[]} userIds
     * @returns {Promise<Conversation>}
     */
    addMembers(id: string, userIds: string[]): Promise<Conversation>;
    /**
     * @param {string} id
     * @param {string} userId `me`: leave.
     * @returns {Promise<void>}
     */
    removeMember(id: string, userId: string): Promise<void>;
    /**
     * Edits an own message. `message_updated` follows.
     * @param {string} id The conversation's.
     * @param {string} messageId
     * @param {string} content
     * @returns {Promise<Message>}
     */
    edit(id: string, messageId: string, content: string): Promise<Message>;
    /**
     * Deletes a message. `message_deleted` follows.
     * @param {string} id The conversation's.
     * @param {string} messageId
     * @returns {Promise<void>}
     */
    remove(id: string, messageId: string): Promise<void>;
    /**
     * @param {string} userId
     * @param {Abortable} [options]
     * @returns {Promise<{user_id: string, is_online: boolean, last_seen_at: string | null}>}
     */
    presence(userId: string, { signal }?: Abortable): Promise<{
        user_id: string;
        is_online: boolean;
        last_seen_at: string | null;
    }>;
    #private;
}
export function part(text: string): string;
import type { Page } from "./types.js";
import type { User } from "./types.js";
import type { Abortable } from "./types.js";
import type { Conversation } from "./types.js";
import type { PageAfter } from "./types.js";
import type { Message } from "./types.js";
