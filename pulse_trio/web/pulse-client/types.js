/** Types of options, events, frames and answers. */

/** @import { PulseError } from "./errors.js" */

/**
 * @typedef {{setTimeout: (run: () => void, ms: number) => unknown, clearTimeout: (handle: any) => void,
 *   now: () => number, monotonic?: () => number}} Clock Timers, the time in milliseconds since the epoch, and milliseconds
 *   that only go forward (default: `now`).
 *
 * @typedef {{addEventListener: (type: string, listener: (event: any) => void) => void,
 *   removeEventListener: (type: string, listener: (event: any) => void) => void,
 *   navigator?: {onLine?: boolean}, document?: any, location?: {origin: string}}} Surroundings
 *   The part of a page's `window` that the client uses.
 *
 * @typedef {{conversationId: string, content: string, clientId: string, userId?: string | null}} PendingMessage
 *   An unacknowledged message, as plain data for JSON.
 *
 * @typedef {{conversationId: string, content: string, clientId: string, userId: string | null, createdAt: string,
 *   failure: string | null}} UnsentMessage A message that is not acknowledged, or was rejected (`failure` says why).
 *
 * @typedef {{getItem: (key: string) => string | null, setItem: (key: string, value: string) => void,
 *   removeItem: (key: string) => void}} PageStorage The part of `localStorage` that the client uses.
 *
 * @typedef {{userId: string | null}} SignIn From one token to the next that is not its renewal. The user is null until
 *   the server has told it.
 *
 * @typedef {object} Options
 * @property {string} [url] Address of the service. Default: the page's origin.
 * @property {string | null} [token] A token from an earlier `login`, or of your identity provider.
 * @property {string | null} [userId] The `token`'s user, if known: the user's stored messages are loaded at once. Without
 *   a `token` it has no effect.
 * @property {PageStorage} [storage] Where unsent messages outlive the page. Default: nowhere.
 * @property {PendingMessage[]} [pending] `pending` of an earlier client; sent first.
 * @property {number} [maxPending] Maximum of unacknowledged messages. Default: 1,000.
 * @property {number} [storeSeconds] How long to retry a message that the server cannot store, before its promise is
 *   rejected with `not_stored`. Default: 120.
 * @property {number} [answerSeconds] A message without an answer is sent again after this. Default: 30.
 * @property {number} [requestSeconds] Time limit of a REST request. Default: 30.
 * @property {number} [connectSeconds] Time limit for connecting. Default: 15.
 * @property {number} [pingSeconds] Silence after which the client sends a ping. Default: 25.
 * @property {number} [pongSeconds] Time limit for the answer. Default: 10.
 * @property {number} [resumeConversations] `PULSE_RESUME_CONVERSATIONS` of the service. Default: 1,000.
 * @property {any} [WebSocket] The WebSocket class, where the global scope has none (Node.js before 22).
 * @property {typeof globalThis.fetch} [fetch] Default: the global one.
 * @property {Clock} [clock] For tests.
 * @property {() => number} [random] For tests: 0 to less than 1.
 * @property {Surroundings | null} [window] For tests; default: the global one, if there is one.
 *
 * @typedef {{state: "connecting" | "online" | "waiting" | "offline" | "closed", retryAt?: number,
 *   reason?: string, isListCurrent?: boolean}} State
 *   The state of the connection. `retryAt`: the next attempt, in milliseconds since the epoch. `isListCurrent`, of
 *   `online`: a list of conversations that the page loaded is kept up to date by `membership` events.
 *
 * @typedef {{id: string, username: string}} User
 * @typedef {{access_token: string, token_type: string, expires_in: number}} Token
 * @typedef {{id: string, conversation_id: string, sender_id: string, sender_username: string, content: string,
 *   is_edited: boolean, is_deleted: boolean, created_at: string, updated_at: string, seq: number, rev: number,
 *   client_id?: string}} Message
 * @typedef {{id: string, name: string | null, description: string | null, is_group: boolean, owner_id: string,
 *   created_at: string, updated_at: string, users: User[], member_count: number, has_more_users?: boolean,
 *   last_message: Message | null, total_messages: number,
 *   last_seq: number, last_rev: number, epoch: string, read_seq?: number, unread_count?: number}} Conversation
 * @typedef {{type: string, [field: string]: any}} Frame A frame of docs/protocol.md.
 * @typedef {{conversation_id: string, message_id: string, sender_id: string, sender_username: string, timestamp: string,
 *   seq: number, rev: number, prev_rev?: number, client_id?: string}} MessageFields Of each frame about a message.
 *   `client_id`: only to its sender.
 * @typedef {MessageFields & {type: "message", content: string, is_edited: boolean, updated_at?: undefined}} NewMessageFrame
 * @typedef {MessageFields & {type: "message_updated", content: string, is_edited: boolean, updated_at: string}}
 *   MessageUpdatedFrame
 * @typedef {MessageFields & {type: "message_deleted", updated_at: string, content?: undefined, is_edited?: undefined}}
 *   MessageDeletedFrame
 * @typedef {NewMessageFrame | MessageUpdatedFrame | MessageDeletedFrame} MessageFrame
 * @typedef {{user_id: string, username: string, is_member: boolean, rev: number, actor_id: string | null}} Member
 *   A user who was added or removed, as they now are. `actor_id`: who did it.
 * @typedef {{type: "member", conversation_id: string, rev: number, prev_rev?: number, member_count: number,
 *   members: Member[]}} MemberFrame
 * @typedef {{type: "conversation", conversation_id: string, rev: number, prev_rev?: number, name: string | null,
 *   description: string | null, owner_id: string, actor_id: string | null}} ConversationFrame
 * @typedef {{type: "membership", conversation_id: string, is_member: boolean, read_seq: number, me_rev: number,
 *   prev_me_rev?: number}} MembershipFrame The user's own membership of a conversation, as it now is.
 * @typedef {{type: "typing", conversation_id: string, sender_id: string, sender_username: string}} TypingFrame
 * @typedef {{type: "system", conversation_id: string, event: string, content: string, sender_id: string, last_rev: number,
 *   user_ids?: string[], user_count?: number, active_users?: string[], active_count?: number, last_seq?: number,
 *   epoch?: string, derived_from?: string}} SystemFrame `derived_from`: the type of the frame that the client derived it
 *   from; that one has no `active_…`, `last_seq` and `epoch`.
 * @typedef {{user_id: string, username: string}} PresentUser
 * @typedef {{type: "presence", conversation_id: string, joined: PresentUser[], left: PresentUser[], active_count: number}}
 *   PresenceFrame
 * @typedef {{type: "read", conversation_id: string, positions: {user_id: string, seq: number}[], derived_from?: string}}
 *   ReadFrame
 * @typedef {{type: "users", users: {user_id: string, is_online: boolean, last_seen_at: string | null}[]}} UsersFrame
 * @typedef {{type: "conversation_added", conversation_id: string, derived_from?: string}} ConversationAddedFrame
 * @typedef {{type: "conversation_removed", conversation_id: string, derived_from?: string}} ConversationRemovedFrame
 *
 * @typedef {{conversation_id: string, conversation_ids?: undefined, only?: undefined}
 *   | {conversation_id: null, conversation_ids?: string[], only?: "list"}} Reload Load again: one conversation, several
 *   histories, the list alone, or everything.
 *
 * @typedef {object} Events The `detail` of each event of a client.
 * @property {State} state
 * @property {NewMessageFrame} message
 * @property {MessageUpdatedFrame} message_updated
 * @property {MessageDeletedFrame} message_deleted
 * @property {MemberFrame} member
 * @property {ConversationFrame} conversation
 * @property {MembershipFrame} membership
 * @property {TypingFrame} typing
 * @property {SystemFrame} system
 * @property {PresenceFrame} presence
 * @property {ReadFrame} read
 * @property {UsersFrame} users
 * @property {ConversationAddedFrame} conversation_added
 * @property {ConversationRemovedFrame} conversation_removed
 * @property {Reload} reload
 * @property {{conversation_id: string | null}} outbox
 * @property {Token} token
 * @property {null} signed_out
 * @property {PulseError} error
 *
 */

/**
 * The name of an event. A variable that may be one of several is any string; its events have any `detail`.
 * @template {string} Type
 * @typedef {Type extends keyof Events ? Type : string extends Type ? Type : keyof Events} EventName
 */

/**
 * @template {string} Type
 * @typedef {CustomEvent<Type extends keyof Events ? Events[Type] : any>} EventOf
 */

/**
 * @typedef {{signal?: AbortSignal}} Abortable A request that the page can abort; its promise rejects with `aborted`.
 * @typedef {{limit?: number, offset?: number, cursor?: string | null} & Abortable} Page `cursor`: `next_cursor` of the
 *   page before, in place of `offset`.
 * @typedef {{limit?: number, cursor?: string} & Abortable} PageAfter `cursor`: `next_cursor` of the page before.
 */

export {};
