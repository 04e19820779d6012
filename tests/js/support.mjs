// Fakes of a browser's surroundings: a clock that the test advances, a WebSocket and a fetch that it answers. The client
// is the real one.

import { PulseClient } from "../../pulse_trio/web/pulse-client.js";

export const ME = "0190a6c0-0000-7000-8000-00000000000a";
export const OTHER = "0190a6c0-0000-7000-8000-00000000000b";
export const EPOCH = "5f1d7a02c4b8e963";
const START = Date.UTC(2026, 1, 4, 10, 30);

/** Lets promises settle. */
export async function settle() {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** A clock that only `advance` moves. */
export class FakeClock {
  time = START;
  step = 0; // milliseconds by which somebody has set the wall clock
  timers = new Map();
  #next = 1;

  setTimeout = (run, ms) => {
    if (ms > 2 ** 31 - 1) ms = 1; // as browsers do
    this.timers.set(this.#next, { at: this.time + ms, run });
    return this.#next++;
  };

  clearTimeout = (handle) => {
    this.timers.delete(handle);
  };

  now = () => this.time + this.step;
  monotonic = () => this.time;

  async advance(ms) {
    const end = this.time + ms;
    await settle();
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0]);
      if (due.length === 0) break;
      const [handle, timer] = due[0];
      this.timers.delete(handle);
      this.time = Math.max(this.time, timer.at);
      timer.run();
      await settle();
    }
    this.time = end;
  }
}

/** The server's side of one connection. */
class FakeSocket {
  sent = []; // frames of the client
  isClosed = false;

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    if (this.isClosed) throw new Error("sent on a closed socket");
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.isClosed = true;
    this.closedWith = code;
  }

  /** Acts as the server. */
  open() {
    this.onopen?.({});
  }

  receive(...frames) {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  session(changes = {}) {
    this.open();
    this.receive({ type: "session", user_id: ME, username: "me", epoch: EPOCH, ...changes });
  }

  end(code = 1006, reason = "") {
    this.isClosed = true;
    this.onerror?.({});
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }

  of(type) {
    return this.sent.filter((frame) => frame.type === type);
  }
}

/** A window whose network the test switches. */
export class FakeWindow extends EventTarget {
  navigator = { onLine: true };
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  location = { origin: "https://chat.example" };

  online(isOnline) {
    this.navigator.onLine = isOnline;
    this.dispatchEvent(new Event(isOnline ? "online" : "offline"));
  }

  show() {
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
}

/** A client in fake surroundings. */
export class Bench {
  clock = new FakeClock();
  sockets = [];
  requests = [];
  events = [];
  random = 0.5;
  /** Answers requests: [status, body, headers], or an Error. */
  answer = () => [200, {}];

  constructor(options = {}) {
    const bench = this;
    this.client = new PulseClient({
      url: "http://chat.example",
      token: "TOKEN",
      window: null,
      clock: this.clock,
      random: () => this.random,
      WebSocket: class {
        constructor(url, protocols) {
          const socket = new FakeSocket(url, protocols);
          bench.sockets.push(socket);
          return socket;
        }
      },
      fetch: (url, init) => this.#fetch(url, init),
      ...options,
    });
    for (const type of EVENTS) {
      this.client.addEventListener(type, (event) => this.events.push([type, event.detail]));
    }
  }

  async #fetch(url, init) {
    const { pathname, search } = new URL(url);
    const request = {
      method: init.method,
      path: pathname + search,
      body: init.body === undefined ? undefined : JSON.parse(init.body),
      token: init.headers.Authorization,
      init,
    };
    this.requests.push(request);
    const aborted = new Promise((resolve) => init.signal.addEventListener("abort", () => resolve(new Error("aborted"))));
    const answer = await Promise.race([this.answer(request), aborted]);
    if (answer instanceof Error) throw answer;
    const [status, body, headers] = answer;
    return new Response(body === undefined ? null : JSON.stringify(body), { status, headers });
  }

  /** The newest connection. */
  get socket() {
    return this.sockets.at(-1);
  }

  /** Connects, up to the `session` frame. */
  async online(changes) {
    this.client.connect();
    this.socket.session(changes);
    await settle();
    return this.socket;
  }

  /** Ends the connection and reconnects. */
  async again(code = 1006, changes = {}) {
    this.socket.end(code);
    await this.clock.advance(31_000);
    this.socket.session(changes);
    await settle();
    return this.socket;
  }

  /** The details of the events of a type. */
  of(type) {
    return this.events.filter(([name]) => name === type).map(([, detail]) => detail);
  }

  get states() {
    return this.of("state").map(({ state }) => state);
  }
}

const EVENTS = [
  ...["state", "message", "message_updated", "message_deleted", "typing", "system", "presence", "read", "users"],
  ...["member", "conversation", "membership", "conversation_added", "conversation_removed", "reload", "token", "signed_out", "error", "outbox"],
];

const minute = (rev) => `2026-02-04T10:${String(rev % 60).padStart(2, "0")}:00.000000Z`;

/** A `message` frame; by default one message for each rev. */
export function message(conversation, rev, changes = {}) {
  return {
    type: "message",
    conversation_id: conversation,
    message_id: `${conversation}-m${changes.seq ?? rev}`,
    content: `content of ${rev}`,
    sender_id: OTHER,
    sender_username: "other",
    timestamp: minute(rev),
    is_edited: false,
    seq: rev,
    rev,
    ...changes,
  };
}

/** A frame as a server with features sends it: with the rev of the change before. */
export const after = (rev, frame) => ({ ...frame, prev_rev: rev });

/** A `member` frame; `users` has the names of those who now are members (true) or not (false). */
export function members(conversation, rev, users, changes = {}) {
  const entries = Object.entries(users).map(([name, is_member], index, { length }) => ({
    user_id: name,
    username: name,
    is_member,
    rev: rev - length + index + 1,
    actor_id: OTHER,
  }));
  return { type: "member", conversation_id: conversation, rev, member_count: 2, members: entries, ...changes };
}

/** A `conversation` frame. */
export function properties(conversation, rev, changes = {}) {
  const fields = { name: `name of ${rev}`, description: null, owner_id: OTHER, actor_id: OTHER };
  return { type: "conversation", conversation_id: conversation, rev, ...fields, ...changes };
}

/** A `membership` frame; a false `readSeq`: the user is not a member. */
export function membership(conversation, meRev, readSeq, changes = {}) {
  const own = { is_member: readSeq !== false, read_seq: readSeq || 0, me_rev: meRev, prev_me_rev: meRev - 1 };
  return { type: "membership", conversation_id: conversation, ...own, ...changes };
}

/** The fields of a `session` frame of a server with all features. */
export const featured = (meRev, changes = {}) => ({ features: ["conversation", "me", "members"], me_rev: meRev, ...changes });

export function edited(conversation, seq, rev) {
  return message(conversation, rev, { type: "message_updated", seq, is_edited: true, updated_at: minute(rev) });
}

export function deleted(conversation, seq, rev) {
  const { content, is_edited, ...frame } = message(conversation, rev, { seq });
  return { ...frame, type: "message_deleted", updated_at: minute(rev) };
}

/** A page of history of messages [seq, rev]. */
export function page(conversation, ...messages) {
  return {
    messages: messages.map(([seq, rev]) => ({
      id: `${conversation}-m${seq}`,
      conversation_id: conversation,
      sender_id: OTHER,
      sender_username: "other",
      content: `content of ${rev}`,
      is_edited: rev !== seq,
      is_deleted: false,
      created_at: minute(seq),
      updated_at: minute(rev),
      seq,
      rev,
    })),
    total: messages.length,
    limit: 50,
    offset: 0,
  };
}

export function conversation(id, rev, changes = {}) {
  return { id, last_rev: rev, last_seq: rev, epoch: EPOCH, updated_at: minute(rev), last_message: null, ...changes };
}

export function list(...conversations) {
  return { conversations, total: conversations.length, limit: 50, offset: 0 };
}

/** Returns the error that a promise rejects with. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not rejected");
}

/** Returns the state of a promise. */
export async function stateOf(promise) {
  const pending = {};
  const first = await Promise.race([promise.then(() => "fulfilled", () => "rejected"), settle().then(() => pending)]);
  return first === pending ? "pending" : first;
}

/** A promise that the test answers. */
export function later() {
  let resolve;
  const promise = new Promise((resolved) => (resolve = resolved));
  return { promise, resolve };
}
