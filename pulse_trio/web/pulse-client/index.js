/**
 * The JavaScript client of Pulse on Trio, for browsers and for Node.js from version 20. No dependencies.
 *
 * Import it from the service at `/pulse-client.js`, or copy this folder and import its `index.js`.
 *
 * ## Connect
 *
 * A `PulseClient` is one user's: accounts, conversations and history over REST, and one WebSocket for all of the user's
 * conversations.
 *
 *     const client = new PulseClient({ url }); // the address of the service; leave it out on its own pages
 *     await client.login("alice", "a password of alice");
 *     client.addEventListener("state", ({ detail }) => console.log(detail.state));
 *     client.connect();
 *
 * The state goes from `connecting` to `online`. When the connection is lost it is `waiting`, with `retryAt`, or `offline`,
 * and the client connects again until `close`. The token is renewed before it ends, and is in no URL and no error text.
 *
 * ## Show what the server has
 *
 * Load the list when the client is `online` (unless `isListCurrent` says that it is kept), and a history when it is shown.
 * Put each change in its place by `seq`, the message's position in its conversation.
 *
 *     const { conversations } = await client.conversations();
 *     const { messages } = await client.history(conversations[0].id); // newest first
 *     for (const type of ["message", "message_updated", "message_deleted"]) {
 *       client.addEventListener(type, ({ detail }) => show(detail.conversation_id, detail.seq, detail));
 *     }
 *     client.addEventListener("reload", ({ detail }) => loadAgain(detail.conversation_id)); // null: all
 *
 * Each change arrives once and in order, also after a lost connection: the client resumes every conversation from the
 * highest `rev` (the number of a change in its conversation) up to which the page knows everything. When the server
 * cannot resume one, `reload` asks the page to load its history again. A history or list that is older than the frames
 * of the connection is requested again before the page gets it. The list is kept by `membership` events, members and
 * names by `member` and `conversation` events.
 *
 * ## Send
 *
 *     const { seq } = await client.send(conversation.id, "Hello!"); // stored
 *
 * `send` works without a connection. A message is sent until the server has stored or rejected it, always with the same
 * `client_id`, which the server stores once. In one conversation a message waits for the one before it, so their order
 * is that of the calls. A rejected message rejects its promise with a `PulseError`, whose `code` is for programs.
 *
 * ## Keep what is not sent
 *
 * With a storage, unsent messages outlive the page, and all tabs share them.
 *
 *     const client = new PulseClient({ token, userId, storage: localStorage });
 *     client.addEventListener("outbox", () => showUnsent(client.unsent)); // rejected ones have a `failure`
 *     client.send(id, content, { clientId }); // with the `clientId` of a rejected message: sends it again
 *     client.discard(id, clientId); // gives it up
 *
 * Messages of another user stay in the storage until that user signs in again.
 *
 * ## Typing, read positions, presence
 *
 *     client.typing(id); // with every key; sent every two seconds at most
 *     client.read(id, seq); // repeated until the server confirms it
 *     client.watch([userId]); // `users` events say who of them is online; repeated after each reconnect
 *
 * ## The modules
 *
 * | module | |
 * |---|---|
 * | `client.js` | `PulseClient`: holds the others together, takes frames |
 * | `connection.js` | `Connection`: decides when to connect again |
 * | `tokens.js` | `Tokens`: the token, its renewal, whose it is |
 * | `endpoints.js` | `Endpoints`: operations of REST that need nothing else |
 * | `link.js` | `Link`: one WebSocket from its handshake to its end, with pings |
 * | `knowledge.js` | `Knowledge`: which changes of which conversation have reached the page |
 * | `own.js` | `Own`: the user's own sequence of memberships and read positions |
 * | `sequence.js` | `Sequence`: numbered changes, and the search for one that did not arrive |
 * | `derived.js` | the events of a server without features, from the frames of features |
 * | `outbox.js` | `Outbox`: messages that are not acknowledged, in order |
 * | `stored.js` | `StoredMessages`: the outbox's copy in the page's storage |
 * | `reads.js` | `Reads`: read positions that are not confirmed |
 * | `repeats.js` | `Repeats`: what the server could not take, again later |
 * | `rest.js` | `Rest`: requests with a time limit |
 * | `timers.js` | `Timers`: timers that are cleared together; the backoff |
 * | `messages.js` | a frame as a message of REST |
 * | `errors.js` | `PulseError`; texts without secrets |
 * | `types.js` | the types of options, frames and answers |
 *
 * docs/javascript.md lists all options, methods and events; docs/protocol.md describes the frames.
 */

export { PulseClient } from "./client.js";
export { PulseError } from "./errors.js";
export { messageOf } from "./messages.js";

/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 *
 * @typedef {import("./types.js").Conversation} Conversation
 * @typedef {import("./types.js").ConversationFrame} ConversationFrame
 * @typedef {import("./types.js").Events} Events
 * @typedef {import("./types.js").Frame} Frame
 * @typedef {import("./types.js").MemberFrame} MemberFrame
 * @typedef {import("./types.js").MembershipFrame} MembershipFrame
 * @typedef {import("./types.js").Message} Message
 * @typedef {import("./types.js").MessageFrame} MessageFrame
 * @typedef {import("./types.js").Options} Options
 * @typedef {import("./types.js").Page} Page
 * @typedef {import("./types.js").PageStorage} PageStorage
 * @typedef {import("./types.js").PendingMessage} PendingMessage
 * @typedef {import("./types.js").PresenceFrame} PresenceFrame
 * @typedef {import("./types.js").ReadFrame} ReadFrame
 * @typedef {import("./types.js").Reload} Reload
 * @typedef {import("./types.js").State} State
 * @typedef {import("./types.js").SystemFrame} SystemFrame
 * @typedef {import("./types.js").Token} Token
 * @typedef {import("./types.js").TypingFrame} TypingFrame
 * @typedef {import("./types.js").UnsentMessage} UnsentMessage
 * @typedef {import("./types.js").User} User
 * @typedef {import("./types.js").UsersFrame} UsersFrame
 */
