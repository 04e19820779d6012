// Frames about the members and properties of a conversation, applied to what the page shows of it.
//
// `details_rev` is the rev up to which name, owner and members are known: from an answer, or from a frame.

const SHOWN = 100; // users of a conversation, as the service shows them; pages of members have the others

/** Applies a `member` frame; returns false if its changes are known. */
export function applyMembers(conversation, frame) {
  if (frame.rev <= conversation.details_rev) return false;
  const users = new Map(conversation.users.map((user) => [user.id, user]));
  for (const { user_id, username, is_member, rev } of frame.members) {
    if (rev <= conversation.details_rev) continue;
    users.delete(user_id); // one who was removed and added again is the last one
    if (!is_member || conversation.isBrief) continue; // a new member comes after those that are not shown
    if (users.size < SHOWN) users.set(user_id, { id: user_id, username });
    else conversation.isBrief = true;
  }
  conversation.users = [...users.values()];
  conversation.members = undefined; // names by id, made from `users`
  conversation.member_count = frame.member_count;
  conversation.details_rev = frame.rev;
  return true;
}

/** Applies a `conversation` frame; returns false if its changes are known. */
export function applyProperties(conversation, frame) {
  if (frame.rev <= conversation.details_rev) return false;
  const { name, description, owner_id } = frame;
  Object.assign(conversation, { name, description, owner_id, details_rev: frame.rev });
  return true;
}
