/** @import { Frame, Message } from "./types.js" */

/**
 * Returns the message of a frame in the form of REST; a message of REST unchanged. From the sender's own frame the
 * message has the `client_id` as well.
 * @param {Frame | Message} source
 * @returns {Message}
 */
export function messageOf(source) {
  if (!("message_id" in source)) return /** @type {Message} */ (source);
  const frame = /** @type {Frame} */ (source);
  return {
    id: frame.message_id,
    conversation_id: frame.conversation_id,
    sender_id: frame.sender_id,
    sender_username: frame.sender_username,
    content: frame.content ?? "",
    is_edited: Boolean(frame.is_edited),
    is_deleted: frame.type === "message_deleted",
    created_at: frame.timestamp,
    updated_at: frame.updated_at ?? frame.timestamp,
    seq: frame.seq,
    rev: frame.rev,
    ...(frame.client_id === undefined ? {} : { client_id: frame.client_id }),
  };
}

/**
 * Merges the changes that arrived as frames during the request into a page of history.
 * @param {{messages: Message[], total: number}} page Newest first.
 * @param {Map<string, Frame>} changes By message.
 * @param {boolean} isNewest
 */
export function mergeChanges(page, changes, isNewest) {
  const newest = page.messages[0]?.seq ?? 0;
  page.messages.forEach((message, index) => {
    const frame = changes.get(message.id);
    if (frame !== undefined && frame.rev > message.rev) page.messages[index] = { ...message, ...messageOf(frame) };
  });
  if (!isNewest) return;
  const added = [...changes.values()].filter((frame) => frame.seq > newest).sort((a, b) => b.seq - a.seq);
  page.messages.unshift(...added.map(messageOf));
  page.total += added.length;
}

/**
 * Returns an id as the server writes it. It accepts upper case and answers in lower case.
 * @param {string} id
 */
export const idOf = (id) => String(id).toLowerCase();
