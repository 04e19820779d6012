/** The data that goes into the client and comes out of it. */

/**
 * @typedef {{setTimeout: (run: () => void, ms: number) => unknown, clearTimeout: (handle: any) => void,
 *   now: () => number}} Clock Timers, and the time in milliseconds since the epoch.
 *
 * @typedef {{addEventListener: (type: string, listener: (event: any) => void) => void,
 *   removeEventListener: (type: string, listener: (event: any) => void) => void,
 *   navigator?: {onLine?: boolean}, document?: any, location?: {origin: string}}} Surroundings
 *   What the client uses of a page's `window`.
 *
 * @typedef {{conversationId: string, content: string, clientId: string, userId?: string | null}} PendingMessage
 *   A message that is not acknowledged; plain data, which JSON keeps.
 *
 * @typedef {{conversationId: string, content: string, clientId: string, userId: string | null, createdAt: string,
 *   failure: string | null}} UnsentMessage A message that is not acknowledged, or was rejected (`failure` says why).
 *
 * @typedef {{getItem: (key: string) => string | null, setItem: (key: string, value: string) => void,
 *   removeItem: (key: string) => void}} PageStorage What the client uses of `localStorage` or `sessionStorage`.
 *
 * @typedef {{userId: string | null}} SignIn Who has signed in: from one token to the next that is no renewal of it. The
 *   user is null until the server has told it.
 *
 * @typedef {object} Options
 * @property {string} [url] Where the service is. Default: the page's origin.
 * @property {string | null} [token] A token from an earlier `login`, or of your identity provider.
 * @property {string | null} [userId] Whose token it is, if you know: the user's stored messages are there at once.
 * @property {PageStorage} [storage] Where unsent messages outlive the page. Default: nowhere.
 * @property {PendingMessage[]} [pending] Messages that an earlier client's `pending` had; sent first.
 * @property {number} [maxPending] Most messages that may be unacknowledged at a time. Default: 1,000.
 * @property {number} [storeSeconds] How long a message that the server cannot store is sent again, in seconds, before
 *   its promise is rejected with `not_stored`. Default: 120.
 * @property {number} [answerSeconds] A message without an answer for so long is sent again. Default: 30.
 * @property {number} [requestSeconds] How long a REST request may take. Default: 30.
 * @property {number} [connectSeconds] How long connecting may take. Default: 15.
 * @property {number} [pingSeconds] After so much silence the server is asked whether it is there. Default: 25.
 * @property {number} [pongSeconds] How long it may take to say so. Default: 10.
 * @property {number} [resumeConversations] `PULSE_RESUME_CONVERSATIONS` of the service. Default: 1,000.
 * @property {any} [WebSocket] The class of WebSockets, where there is none in the global scope (Node.js before 22).
 * @property {typeof globalThis.fetch} [fetch] Default: the global one.
 * @property {Clock} [clock] For tests.
 * @property {() => number} [random] For tests: 0 to less than 1.
 * @property {Surroundings | null} [window] For tests; default: the global one, if there is one.
 *
 * @typedef {{state: "connecting" | "online" | "waiting" | "offline" | "closed", retryAt?: number,
 *   reason?: string}} State
 *   How the connection is. `retryAt`: when it is tried again, in milliseconds since the epoch.
 *
 * @typedef {{id: string, username: string}} User
 * @typedef {{access_token: string, token_type: string, expires_in: number}} Token
 * @typedef {{id: string, conversation_id: string, sender_id: string, sender_username: string, content: string,
 *   is_edited: boolean, is_deleted: boolean, created_at: string, updated_at: string, seq: number, rev: number,
 *   client_id?: string}} Message
 * @typedef {{id: string, name: string | null, description: string | null, is_group: boolean, owner_id: string,
 *   created_at: string, updated_at: string, users: User[], member_count: number, last_message: Message | null,
 *   total_messages: number,
 *   last_seq: number, last_rev: number, epoch: string, read_seq?: number, unread_count?: number}} Conversation
 * @typedef {{type: string, [field: string]: any}} Frame A frame of docs/protocol.md.
 * @typedef {{limit?: number, offset?: number}} Page
 * @typedef {{limit?: number, cursor?: string}} PageAfter `cursor`: `next_cursor` of the page before.
 */

export {};
