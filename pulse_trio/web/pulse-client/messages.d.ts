/** @import { Frame, Message } from "./types.js" */
/**
 * Returns the message of a frame in the form of REST; a message of REST unchanged. From the sender's own frame the
 * message has the `client_id` as well.
 * @param {Frame | Message} source
 * @returns {Message}
 */
export function messageOf(source: Frame | Message): Message;
/**
 * Merges the changes that arrived as frames during the request into a page of history.
 * @param {{messages: Message[], total: number}} page Newest first.
 * @param {Map<string, Frame>} changes By message.
 * @param {boolean} isNewest
 */
export function mergeChanges(page: {
    messages: Message[];
    total: number;
}, changes: Map<string, Frame>, isNewest: boolean): void;
export function idOf(id: string): string;
import type { Frame } from "./types.js";
import type { Message } from "./types.js";
