// The rows of a conversation: as data, and as elements.

import { avatar, h, icon, iconButton, name, tone } from "./dom.js";
import { countPeople, isEmojiOnly, listNames, rich } from "./text.js";
import { clockTime, dayKey, dayName, fullTime } from "./time.js";

const TOGETHER_MS = 5 * 60_000; // messages of one user within this form a group

/**
 * Returns the rows as data: day separators, the line before unread messages, and stored and unsent messages with their
 * place in a group.
 */
export function toRows({ messages, pending, before, newFrom, conversation, store, isLast }) {
  const rows = [];
  let previous = before;
  for (const message of messages) {
    if (previous === null || dayKey(previous.created_at) !== dayKey(message.created_at)) {
      rows.push({ kind: "day", key: `day ${dayKey(message.created_at)}`, text: dayName(message.created_at) });
    }
    if (message.seq === newFrom) rows.push({ kind: "new", key: "new" });
    const isMine = message.sender_id === store.me.id;
    // The key of the unsent message, so that the stored one takes its place.
    const key = (isMine && message.client_id) || message.id;
    rows.push({ kind: "message", key, message, isMine, state: "", failure: null });
    previous = message;
  }
  if (isLast) {
    for (const item of pending) {
      const { clientId, content, createdAt } = item;
      if (previous === null || dayKey(previous.created_at) !== dayKey(createdAt)) {
        rows.push({ kind: "day", key: `day ${dayKey(createdAt)}`, text: dayName(createdAt) });
      }
      const message = { id: clientId, content, created_at: createdAt, sender_id: store.me.id, sender_username: store.me.username, seq: null, rev: 0 };
      rows.push({ kind: "message", key: clientId, message, isMine: true, state: item.failure ? "failed" : "sending", failure: item.failure, item });
      previous = message;
    }
  }
  rows.forEach((row, index) => {
    if (row.kind !== "message") return;
    row.isFirst = !belongs(rows[index - 1], row) && !(index === 0 && before !== null && together(before, row.message));
    row.isLast = !belongs(rows[index + 1], row);
    if (row.isMine && row.state === "" && !row.message.is_deleted) {
      const readers = store.readers(conversation, row.message.seq);
      row.readers = readers;
      row.state = readers.count === 0 ? "sent" : "read";
    }
  });
  return rows;
}

function belongs(other, row) {
  return other?.kind === "message" && together(other.message, row.message);
}

function together(a, b) {
  const apart = Math.abs(new Date(a.created_at) - new Date(b.created_at));
  return a.sender_id === b.sender_id && apart < TOGETHER_MS && dayKey(a.created_at) === dayKey(b.created_at);
}

/** Returns all that a row shows in one text: the element is replaced only when it changes. */
export function signature(row) {
  if (row.kind !== "message") return row.text ?? "";
  const { message } = row;
  return [message.rev, message.is_deleted, row.isFirst, row.isLast, row.state, row.failure, row.readers?.count, row.readers?.names, row.canDelete].join();
}

/** Makes the element of a row. `act` has the functions of its buttons. */
export function toElement(row, { isGroup, act }) {
  if (row.kind === "day") return h("li", { class: "day", "data-key": row.key }, h("span", {}, row.text));
  if (row.kind === "new") return h("li", { class: "new-line", "data-key": row.key }, h("span", {}, "New messages"));
  const { message, isMine } = row;
  const classes = ["message", isMine ? "is-mine" : "is-theirs"];
  if (row.isFirst) classes.push("is-first");
  if (row.isLast) classes.push("is-last");
  if (row.state) classes.push(`is-${row.state}`);
  const showsName = isGroup && !isMine;
  const element = h(
    "li",
    { class: classes.join(" "), tabindex: -1, "data-key": row.key, "data-seq": message.seq, "aria-label": spoken(row) },
    showsName ? h("span", { class: "message-side" }, row.isLast ? avatar(message.sender_id, message.sender_username) : null) : null,
    h(
      "div",
      { class: "message-body" },
      showsName && row.isFirst ? h("div", { class: `message-name ${tone(message.sender_id)}` }, name(message.sender_username)) : null,
      h("div", { class: "message-line" }, bubble(message), meta(row), tools(row, act)),
      row.failure ? failure(row, act) : null,
    ),
  );
  return element;
}

function bubble(message) {
  if (message.is_deleted) return h("div", { class: "bubble is-deleted" }, h("p", { class: "text" }, "Message deleted"));
  const isBig = isEmojiOnly(message.content);
  return h("div", { class: `bubble${isBig ? " is-emoji" : ""}` }, h("p", { class: "text", dir: "auto" }, rich(message.content)));
}

function meta(row) {
  const { message } = row;
  const marks = { sending: ["clock", "Sending"], sent: ["sent", "Sent"], read: ["read", `Read by ${row.readers ? readerNames(row.readers) : ""}`], failed: ["alert", "Not sent"] };
  const [picture, label] = marks[row.state] ?? [null, ""];
  return h(
    "span",
    { class: "meta" },
    message.is_edited && !message.is_deleted ? h("span", {}, "edited") : null,
    h("time", { datetime: message.created_at, title: fullTime(message.created_at) }, clockTime(message.created_at)),
    picture ? h("span", { class: "mark", title: label }, icon(picture), h("span", { class: "unseen" }, label)) : null,
  );
}

function readerNames({ count, names }) {
  if (names.length === 0) return countPeople(count);
  return count > names.length ? `${names.join(", ")} and ${count - names.length} more` : listNames(names);
}

function tools(row, act) {
  if (row.message.is_deleted || row.message.seq === null) return null;
  const buttons = [];
  if (row.isMine) buttons.push(iconButton("edit", "Edit message", () => act.edit(row.message), { tabindex: -1 }));
  if (row.canDelete) buttons.push(iconButton("delete", "Delete message", () => act.remove(row.message), { tabindex: -1 }));
  return buttons.length ? h("span", { class: "tools" }, buttons) : null;
}

function failure(row, act) {
  return h(
    "div",
    { class: "failure", role: "alert" },
    h("span", { dir: "auto" }, `Not sent: ${row.failure}`),
    h("button", { type: "button", class: "link-button", onclick: () => act.retry(row.item) }, "Try again"),
    h("button", { type: "button", class: "link-button", onclick: () => act.discard(row.item) }, "Discard"),
  );
}

function spoken(row) {
  const { message } = row;
  const who = row.isMine ? "You" : message.sender_username;
  const text = message.is_deleted ? "Message deleted" : message.content;
  const edited = message.is_edited && !message.is_deleted ? ", edited" : "";
  return `${who}, ${clockTime(message.created_at)}${edited}: ${text}`;
}
