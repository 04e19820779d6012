export { PulseClient } from "./client.js";
export { PulseError } from "./errors.js";
export { messageOf } from "./messages.js";
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Conversation = import("./types.js").Conversation;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type ConversationFrame = import("./types.js").ConversationFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Events = import("./types.js").Events;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Frame = import("./types.js").Frame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type MemberFrame = import("./types.js").MemberFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type MembershipFrame = import("./types.js").MembershipFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Message = import("./types.js").Message;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type MessageFrame = import("./types.js").MessageFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Options = import("./types.js").Options;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Page = import("./types.js").Page;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type PageStorage = import("./types.js").PageStorage;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type PendingMessage = import("./types.js").PendingMessage;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type PresenceFrame = import("./types.js").PresenceFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type ReadFrame = import("./types.js").ReadFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Reload = import("./types.js").Reload;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type State = import("./types.js").State;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type SystemFrame = import("./types.js").SystemFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type Token = import("./types.js").Token;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type TypingFrame = import("./types.js").TypingFrame;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type UnsentMessage = import("./types.js").UnsentMessage;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type User = import("./types.js").User;
/**
 * Types for TypeScript: `import type { Message } from "@pulse-trio/client"`.
 */
export type UsersFrame = import("./types.js").UsersFrame;
