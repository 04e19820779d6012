/**
 * Timers, the time in milliseconds since the epoch, and milliseconds
 *   that only go forward (default: `now`).
 */
export type Clock = {
    setTimeout: (run: () => void, ms: number) => unknown;
    clearTimeout: (handle: any) => void;
    now: () => number;
    monotonic?: () => number;
};
/**
 * The part of a page's `window` that the client uses.
 */
export type Surroundings = {
    addEventListener: (type: string, listener: (event: any) => void) => void;
    removeEventListener: (type: string, listener: (event: any) => void) => void;
    navigator?: {
        onLine?: boolean;
    };
    document?: any;
    location?: {
        origin: string;
    };
};
/**
 * An unacknowledged message, as plain data for JSON.
 */
export type PendingMessage = {
    conversationId: string;
    content: string;
    clientId: string;
    userId?: string | null;
};
/**
 * A message that is not acknowledged, or was rejected (`failure` says why).
 */
export type UnsentMessage = {
    conversationId: string;
    content: string;
    clientId: string;
    userId: string | null;
    createdAt: string;
    failure: string | null;
};
/**
 * The part of `localStorage` that the client uses.
 */
export type PageStorage = {
    getItem: (key: string) => string | null;
    setItem: (key: string, value: string) => void;
    removeItem: (key: string) => void;
};
/**
 * From one token to the next that is not its renewal. The user is null until
 *   the server has told it.
 */
export type SignIn = {
    userId: string | null;
};
export type Options = {
    /**
     * Address of the service. Default: the page's origin.
     */
    url?: string | undefined;
    /**
     * A token from an earlier `login`, or of your identity provider.
     */
    token?: string | null | undefined;
    /**
     * The `token`'s user, if known: the user's stored messages are loaded at once. Without
     * a `token` it has no effect.
     */
    userId?: string | null | undefined;
    /**
     * Where unsent messages outlive the page. Default: nowhere.
     */
    storage?: PageStorage | undefined;
    /**
     * `pending` of an earlier client; sent first.
     */
    pending?: PendingMessage[] | undefined;
    /**
     * Maximum of unacknowledged messages. Default: 1,000.
     */
    maxPending?: number | undefined;
    /**
     * How long to retry a message that the server cannot store, before its promise is
     * rejected with `not_stored`. Default: 120.
     */
    storeSeconds?: number | undefined;
    /**
     * A message without an answer is sent again after this. Default: 30.
     */
    answerSeconds?: number | undefined;
    /**
     * Time limit of a REST request. Default: 30.
     */
    requestSeconds?: number | undefined;
    /**
     * Time limit for connecting. Default: 15.
     */
    connectSeconds?: number | undefined;
    /**
     * Silence after which the client sends a ping. Default: 25.
     */
    pingSeconds?: number | undefined;
    /**
     * Time limit for the answer. Default: 10.
     */
    pongSeconds?: number | undefined;
    /**
     * `PULSE_RESUME_CONVERSATIONS` of the service. Default: 1,000.
     */
    resumeConversations?: number | undefined;
    /**
     * The WebSocket class, where the global scope has none (Node.js before 22).
     */
    WebSocket?: any;
    /**
     * Default: the global one.
     */
    fetch?: typeof fetch | undefined;
    /**
     * For tests.
     */
    clock?: Clock | undefined;
    /**
     * For tests: 0 to less than 1.
     */
    random?: (() => number) | undefined;
    /**
     * For tests; default: the global one, if there is one.
     */
    window?: Surroundings | null | undefined;
};
/**
 * The state of the connection. `retryAt`: the next attempt, in milliseconds since the epoch. `isListCurrent`, of
 * `online`: a list of conversations that the page loaded is kept up to date by `membership` events.
 */
export type State = {
    state: "connecting" | "online" | "waiting" | "offline" | "closed";
    retryAt?: number;
    reason?: string;
    isListCurrent?: boolean;
};
export type User = {
    id: string;
    username: string;
};
export type Token = {
    access_token: string;
    token_type: string;
    expires_in: number;
};
export type Message = {
    id: string;
    conversation_id: string;
    sender_id: string;
    sender_username: string;
    content: string;
    is_edited: boolean;
    is_deleted: boolean;
    created_at: string;
    updated_at: string;
    seq: number;
    rev: number;
    client_id?: string;
};
export type Conversation = {
    id: string;
    name: string | null;
    description: string | null;
    is_group: boolean;
    owner_id: string;
    created_at: string;
    updated_at: string;
    users: User[];
    member_count: number;
    has_more_users?: boolean;
    last_message: Message | null;
    total_messages: number;
    last_seq: number;
    last_rev: number;
    epoch: string;
    read_seq?: number;
    unread_count?: number;
};
/**
 * A frame of docs/protocol.md.
 */
export type Frame = {
    type: string;
    [field: string]: any;
};
/**
 * Of each frame about a message.
 * `client_id`: only to its sender.
 */
export type MessageFields = {
    conversation_id: string;
    message_id: string;
    sender_id: string;
    sender_username: string;
    timestamp: string;
    seq: number;
    rev: number;
    prev_rev?: number;
    client_id?: string;
};
export type NewMessageFrame = MessageFields & {
    type: "message";
    content: string;
    is_edited: boolean;
    updated_at?: undefined;
};
export type MessageUpdatedFrame = MessageFields & {
    type: "message_updated";
    content: string;
    is_edited: boolean;
    updated_at: string;
};
export type MessageDeletedFrame = MessageFields & {
    type: "message_deleted";
    updated_at: string;
    content?: undefined;
    is_edited?: undefined;
};
export type MessageFrame = NewMessageFrame | MessageUpdatedFrame | MessageDeletedFrame;
/**
 * A user who was added or removed, as they now are. `actor_id`: who did it.
 */
export type Member = {
    user_id: string;
    username: string;
    is_member: boolean;
    rev: number;
    actor_id: string | null;
};
export type MemberFrame = {
    type: "member";
    conversation_id: string;
    rev: number;
    prev_rev?: number;
    member_count: number;
    members: Member[];
};
export type ConversationFrame = {
    type: "conversation";
    conversation_id: string;
    rev: number;
    prev_rev?: number;
    name: string | null;
    description: string | null;
    owner_id: string;
    actor_id: string | null;
};
/**
 * The user's own membership of a conversation, as it now is.
 */
export type MembershipFrame = {
    type: "membership";
    conversation_id: string;
    is_member: boolean;
    read_seq: number;
    me_rev: number;
    prev_me_rev?: number;
};
export type TypingFrame = {
    type: "typing";
    conversation_id: string;
    sender_id: string;
    sender_username: string;
};
/**
 * `derived_from`: the type of the frame that the client derived it
 * from; that one has no `active_…`, `last_seq` and `epoch`.
 */
export type SystemFrame = {
    type: "system";
    conversation_id: string;
    event: string;
    content: string;
    sender_id: string;
    last_rev: number;
    user_ids?: string[];
    user_count?: number;
    active_users?: string[];
    active_count?: number;
    last_seq?: number;
    epoch?: string;
    derived_from?: string;
};
export type PresentUser = {
    user_id: string;
    username: string;
};
export type PresenceFrame = {
    type: "presence";
    conversation_id: string;
    joined: PresentUser[];
    left: PresentUser[];
    active_count: number;
};
export type ReadFrame = {
    type: "read";
    conversation_id: string;
    positions: {
        user_id: string;
        seq: number;
    }[];
    derived_from?: string;
};
export type UsersFrame = {
    type: "users";
    users: {
        user_id: string;
        is_online: boolean;
        last_seen_at: string | null;
    }[];
};
export type ConversationAddedFrame = {
    type: "conversation_added";
    conversation_id: string;
    derived_from?: string;
};
export type ConversationRemovedFrame = {
    type: "conversation_removed";
    conversation_id: string;
    derived_from?: string;
};
/**
 * Load again: one conversation, several
 * histories, the list alone, or everything.
 */
export type Reload = {
    conversation_id: string;
    conversation_ids?: undefined;
    only?: undefined;
} | {
    conversation_id: null;
    conversation_ids?: string[];
    only?: "list";
};
/**
 * The `detail` of each event of a client.
 */
export type Events = {
    state: State;
    message: NewMessageFrame;
    message_updated: MessageUpdatedFrame;
    message_deleted: MessageDeletedFrame;
    member: MemberFrame;
    conversation: ConversationFrame;
    membership: MembershipFrame;
    typing: TypingFrame;
    system: SystemFrame;
    presence: PresenceFrame;
    read: ReadFrame;
    users: UsersFrame;
    conversation_added: ConversationAddedFrame;
    conversation_removed: ConversationRemovedFrame;
    reload: Reload;
    outbox: {
        conversation_id: string | null;
    };
    token: Token;
    signed_out: null;
    error: PulseError;
};
/**
 * The name of an event. A variable that may be one of several is any string; its events have any `detail`.
 */
export type EventName<Type extends string> = Type extends keyof Events ? Type : string extends Type ? Type : keyof Events;
export type EventOf<Type extends string> = CustomEvent<Type extends keyof Events ? Events[Type] : any>;
/**
 * A request that the page can abort; its promise rejects with `aborted`.
 */
export type Abortable = {
    signal?: AbortSignal;
};
/**
 * `cursor`: `next_cursor` of the
 *   page before, in place of `offset`.
 */
export type Page = {
    limit?: number;
    offset?: number;
    cursor?: string | null;
} & Abortable;
/**
 * `cursor`: `next_cursor` of the page before.
 */
export type PageAfter = {
    limit?: number;
    cursor?: string;
} & Abortable;
import type { PulseError } from "./errors.js";
