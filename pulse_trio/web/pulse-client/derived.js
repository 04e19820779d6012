/** @import { ConversationFrame, Frame, MemberFrame, MembershipFrame } from "./types.js" */

const MAX_USER_IDS = 100; // as in the `system` frames of a server without features

/**
 * Returns the `system` events of a server without features that a `member` frame replaces.
 * @param {MemberFrame} frame
 * @returns {Frame[]}
 */
export function systemsOfMembers(frame) {
  const added = frame.members.filter((member) => member.is_member);
  const removed = frame.members.filter((member) => !member.is_member);
  const events = [];
  if (added.length > 0) events.push(systemOf(frame, "added", added));
  if (removed.length > 0) events.push(systemOf(frame, "removed", removed));
  return events;
}

/**
 * Returns the `system` event that a `conversation` frame replaces.
 * @param {ConversationFrame} frame
 * @returns {Frame}
 */
export function systemOfConversation(frame) {
  const who = { content: "The conversation was changed", sender_id: frame.actor_id ?? frame.owner_id };
  return { ...common(frame), type: "system", event: "renamed", ...who, last_rev: frame.rev };
}

/**
 * @param {MembershipFrame} frame
 * @returns {Frame} `conversation_added` or `conversation_removed`.
 */
export function announcementOf(frame) {
  return { ...common(frame), type: frame.is_member ? "conversation_added" : "conversation_removed" };
}

/**
 * Returns the `read` frame of the user's own position.
 * @param {MembershipFrame} frame
 * @param {string | null} userId
 * @returns {Frame}
 */
export function readOf(frame, userId) {
  return { ...common(frame), type: "read", positions: [{ user_id: userId, seq: frame.read_seq }] };
}

/**
 * @param {MemberFrame} frame
 * @param {"added" | "removed"} event
 * @param {{user_id: string, username: string}[]} members
 */
function systemOf(frame, event, members) {
  const ids = members.map((member) => member.user_id);
  const who = members.length === 1 ? `User ${members[0].username} was` : `${members.length} users were`;
  const users = { sender_id: ids[0], user_ids: ids.slice(0, MAX_USER_IDS), user_count: ids.length };
  return { ...common(frame), type: "system", event, content: `${who} ${event}`, ...users, last_rev: frame.rev };
}

/** @param {{type: string, conversation_id: string}} frame */
function common({ type, conversation_id }) {
  return { conversation_id, derived_from: type };
}
