/**
 * A user's client.
 *
 * Events, all CustomEvents with their content in `detail`: `state`; the frames `message`, `message_updated`,
 * `message_deleted`, `member`, `conversation`, `membership`, `typing`, `system`, `presence`, `read`, `users`,
 * `conversation_added`, `conversation_removed`; `reload`, `outbox`, `token`, `signed_out`, `error`. docs/javascript.md
 * describes them.
 */
export class PulseClient extends Endpoints {
    /** @param {Options} [options] */
    constructor(options?: Options);
    /** The state of the connection; every change is a `state` event. */
    get state(): State;
    set token(token: string | null);
    /**
     * The token, or null. Set it to a new one of your identity provider to renew the connection. It may be another user's:
     * messages wait until the server has told whose it is.
     * @throws {TypeError} No header can hold the new token.
     */
    get token(): string | null;
    /** Unacknowledged messages, for `new PulseClient({pending})`. */
    get pending(): import("./types.js").PendingMessage[];
    /**
     * Messages that are not acknowledged and, with a `storage`, those that were rejected (with their `failure`), in the
     * order they were written. `send` with the `clientId` of a rejected one sends it again.
     */
    get unsent(): import("./types.js").UnsentMessage[];
    /** The number of unsent messages of the user, with those of other tabs. */
    get unsentCount(): number;
    /** How often a change did not arrive though a later one did; each time the client reconnected to get it. */
    get gaps(): number;
    /** The features of the newest session: of those that the client asks for, those that the server has. */
    get features(): readonly string[];
    /**
     * Calls a listener with each event of a type; its `detail` has the content.
     * @template {string} Type
     * @param {EventName<Type>} type
     * @param {((event: EventOf<Type>) => void) | {handleEvent: (event: EventOf<Type>) => void} | null} listener
     * @param {boolean | AddEventListenerOptions} [options]
     * @returns {void}
     */
    addEventListener<Type extends string>(type: EventName<Type>, listener: ((event: EventOf<Type>) => void) | {
        handleEvent: (event: EventOf<Type>) => void;
    } | null, options?: boolean | AddEventListenerOptions): void;
    /**
     * Ends that.
     * @template {string} Type
     * @param {EventName<Type>} type
     * @param {((event: EventOf<Type>) => void) | {handleEvent: (event: EventOf<Type>) => void} | null} listener
     * @param {boolean | EventListenerOptions} [options]
     * @returns {void}
     */
    removeEventListener<Type extends string>(type: EventName<Type>, listener: ((event: EventOf<Type>) => void) | {
        handleEvent: (event: EventOf<Type>) => void;
    } | null, options?: boolean | EventListenerOptions): void;
    /**
     * Logs in, and keeps the token.
     * @param {string} username
     * @param {string} password
     * @returns {Promise<Token>}
     */
    login(username: string, password: string): Promise<Token>;
    /**
     * Renews the token. The client does it by itself before the token ends.
     * @returns {Promise<Token>}
     */
    renew(): Promise<Token>;
    /**
     * Takes a token of the same user that somebody else renewed: another tab, say.
     * @param {string} token
     * @throws {TypeError} No header can hold the token.
     */
    takeRenewed(token: string): void;
    /**
     * Loads a page of the user's conversations, the most recently active first.
     * @param {Page} [page]
     * @returns {Promise<{conversations: Conversation[], total: number, limit: number, offset: number,
     *   next_cursor?: string | null}>} A server without cursors has no `next_cursor`.
     */
    conversations(page?: Page): Promise<{
        conversations: Conversation[];
        total: number;
        limit: number;
        offset: number;
        next_cursor?: string | null;
    }>;
    /**
     * @param {string} id
     * @param {Abortable} [options]
     * @returns {Promise<Conversation>}
     */
    conversation(id: string, { signal }?: Abortable): Promise<Conversation>;
    /**
     * Creates a conversation, or returns the one-to-one that the two have already.
     * @param {{name?: string | null, description?: string | null, isGroup?: boolean, participantIds?: string[]}} what
     * @returns {Promise<Conversation>}
     */
    createConversation({ name, description, isGroup, participantIds }: {
        name?: string | null;
        description?: string | null;
        isGroup?: boolean;
        participantIds?: string[];
    }): Promise<Conversation>;
    /**
     * Loads a page of the history, newest first: the newest messages, those before a message, or the oldest after one.
     * Changes that arrive as frames meanwhile are merged into it. The client counts the messages as shown, unless `signal`
     * aborts first.
     * @param {string} id
     * @param {{beforeSeq?: number, afterSeq?: number, limit?: number} & Abortable} [page]
     * @returns {Promise<{messages: Message[], total: number, limit: number, offset: number, has_more?: boolean}>} A page
     *   may be shorter than its limit: its bytes are bounded.
     */
    history(id: string, { beforeSeq, afterSeq, limit, signal }?: {
        beforeSeq?: number;
        afterSeq?: number;
        limit?: number;
    } & Abortable): Promise<{
        messages: Message[];
        total: number;
        limit: number;
        offset: number;
        has_more?: boolean;
    }>;
    /**
     * Loads a page of read positions, up to 1,000, in the order the members were added.
     * @param {string} id
     * @param {PageAfter} [page]
     * @returns {Promise<{positions: {user_id: string, seq: number}[], next_cursor: string | null}>}
     */
    readPositions(id: string, { limit, cursor, signal }?: PageAfter): Promise<{
        positions: {
            user_id: string;
            seq: number;
        }[];
        next_cursor: string | null;
    }>;
    /**
     * Opens the connection, and keeps it open until `close`.
     * @throws {PulseError} `not_authenticated`: there is no token. `cannot_connect`: there is no WebSocket.
     */
    connect(): void;
    /** Connects without waiting for the next attempt; pings the server if there is a connection. */
    reconnect(): void;
    /**
     * Closes the connection and rejects running requests with `network`. Unacknowledged messages stay: `connect` sends
     * them.
     */
    close(): void;
    /**
     * Sends a message, now or with the next connection, until it is acknowledged or rejected.
     * @param {string} conversationId
     * @param {string} content
     * @param {{clientId?: string}} [options] `clientId`: 1 to 64 characters; a resend has the same.
     * @returns {Promise<Frame>} The message's own frame: it is stored, `seq` is its position. Rejects with a `TypeError` if
     *   the content is no text.
     */
    send(conversationId: string, content: string, { clientId }?: {
        clientId?: string;
    }): Promise<Frame>;
    /**
     * Gives an unsent message up; its promise rejects with `discarded`. If it was under way it may be stored nevertheless.
     * @param {string} conversationId
     * @param {string} clientId
     * @throws {TypeError} There is no clientId.
     */
    discard(conversationId: string, clientId: string): void;
    /**
     * Gives all unsent messages of the user up, those of other tabs as well: for a sign-out. Before the first session and
     * without a `userId`, those in the storage stay: nobody knows whose to remove.
     */
    discardAll(): void;
    /**
     * Tells the other members that the user is typing. Call it with every key: it is sent every two seconds at most, and at
     * once after a message.
     * @param {string} conversationId
     */
    typing(conversationId: string): void;
    /**
     * Marks everything up to `seq` as read. Repeated after a reconnect until the server confirms it.
     * @param {string} conversationId
     * @param {number} seq
     */
    read(conversationId: string, seq: number): void;
    /**
     * Watches the presence of users, in place of those before: `users` events report it.
     * @param {string[]} userIds
     */
    watch(userIds: string[]): void;
    #private;
}
import { Endpoints } from "./endpoints.js";
import type { State } from "./types.js";
import type { EventName } from "./types.js";
import type { EventOf } from "./types.js";
import type { Token } from "./types.js";
import type { Page } from "./types.js";
import type { Conversation } from "./types.js";
import type { Abortable } from "./types.js";
import type { Message } from "./types.js";
import type { PageAfter } from "./types.js";
import type { Frame } from "./types.js";
import type { Options } from "./types.js";
