// A client on a bad network, driven by tests/javascript_fuzz line by line (`Program` there describes the lines).
// Environment: PULSE_URL, PULSE_TOKEN, PULSE_USER_ID, PULSE_SEED; PULSE_KIND: `page`, which follows docs/javascript.md, or
// `store`, the data layer of the web client.

import { createInterface } from "node:readline";
import { Store } from "../../pulse_trio/web/app/store.js";
import { PulseClient, PulseError } from "../../pulse_trio/web/pulse-client.js";
import { NewPage, randomOf } from "./page.mjs";

const { PULSE_URL: url, PULSE_TOKEN: token, PULSE_USER_ID: userId, PULSE_SEED: seed, PULSE_KIND: kind } = process.env;
const CHANGES = ["message", "message_updated", "message_deleted"];
const RETRY = 100; // milliseconds after a request of the page that failed
const TELL = 20; // milliseconds; at most so often the program says that something has changed

const random = randomOf(Number(seed));
const faults = []; // what must not happen
let requests = 0; // that are running

const NUMBERS = ["type", "conversation_id", "rev", "prev_rev", "me_rev", "prev_me_rev", "last_rev", "revs", "me", "is_member", "code", "field"];
const KEPT = 200; // frames, for the report of what went wrong
const frames = [];

function keep(way, data) {
  const frame = JSON.parse(data);
  frames.push(`${way} ${JSON.stringify(Object.fromEntries(NUMBERS.filter((name) => name in frame).map((name) => [name, frame[name]])))}`);
  if (frames.length > KEPT) frames.shift();
}

/** Keeps the numbers in the last frames. */
class KeepingSocket extends WebSocket {
  constructor(...given) {
    super(...given);
    frames.push("a connection");
    this.addEventListener("message", ({ data }) => keep("<", data));
  }

  send(data) {
    keep(">", data);
    super.send(data);
  }
}

const client = new PulseClient({
  url,
  WebSocket: KeepingSocket,
  token,
  userId,
  connectSeconds: 3,
  pingSeconds: 1.5,
  pongSeconds: 1,
  requestSeconds: 4,
  answerSeconds: 3,
  random: () => random() / 4, // short backoffs: more happens in a round
  fetch: async (...given) => {
    requests += 1;
    try {
      const response = await fetch(...given);
      const text = await response.text();
      return new Response(response.status === 204 ? null : text, response);
    } finally {
      requests -= 1;
      changed();
    }
  },
});

const print = (line) => console.log(JSON.stringify(line));

let isTelling = false;
function changed() {
  if (isTelling) return;
  isTelling = true;
  setTimeout(() => {
    isTelling = false;
    print({ changed: true });
  }, TELL);
}

/** Reports the outcome of a command. An error that is no PulseError is a fault. */
async function settle(key, promise) {
  try {
    const { seq } = (await promise) ?? {};
    print({ settled: key, error: null, seq: seq ?? null });
  } catch (error) {
    if (!(error instanceof PulseError)) faults.push(`${key}: ${error?.stack ?? error}`);
    print({ settled: key, error: error.code ?? "none", seq: null });
  }
}

// Each change is emitted once; those of others in order. A reload begins afresh.
const revs = new Map(); // conversation id → revs
for (const type of CHANGES) {
  client.addEventListener(type, ({ detail }) => {
    const { conversation_id: id, rev, sender_id } = detail;
    const known = revs.get(id) ?? new Set();
    revs.set(id, known);
    if (known.has(rev)) faults.push(`${type} ${id} ${rev} was emitted twice`);
    const isOwn = sender_id === userId && detail.client_id !== undefined; // the answer to a resend may be out of order
    if (!isOwn && rev < Math.max(0, ...(known.foreign ?? []))) faults.push(`${type} ${id} ${rev} is out of order`);
    known.add(rev);
    if (!isOwn) known.foreign = [rev];
    changed();
  });
}
client.addEventListener("reload", ({ detail }) => {
  if (detail.only === "list") return;
  const all = detail.conversation_id === null ? [...revs.keys()] : [detail.conversation_id];
  for (const id of detail.conversation_ids ?? all) revs.delete(id);
});
client.addEventListener("conversation_removed", ({ detail }) => revs.delete(detail.conversation_id));
for (const type of ["state", "member", "conversation", "membership", "read", "outbox", "reload"]) client.addEventListener(type, changed);
client.addEventListener("state", ({ detail }) => {
  if (detail.reason === "a change is missing") faults.push(`a change was lost:\n    ${frames.join("\n    ")}`);
});
client.addEventListener("signed_out", () => faults.push("signed out"));
client.addEventListener("error", ({ detail }) => {
  if (!["no_such_message", "not_a_member", "rate_limited", "not_stored", "unavailable"].includes(detail.code)) faults.push(`error ${detail.code}: ${detail.message}`);
});

/** The page of docs/javascript.md; a request that fails is made again. */
class PageKind {
  constructor() {
    this.page = new NewPage(client, changed, {
      history: (id, options) => this.#again(() => client.history(id, { ...options, limit: 20 })),
      conversation: (id) => this.#again(() => client.conversation(id)),
      conversations: () => this.#again(() => client.conversations({ limit: 200 })),
    });
  }

  async #again(load) {
    for (;;) {
      try {
        return await load();
      } catch (error) {
        if (error.status === 404) throw error;
        if (!(error instanceof PulseError)) faults.push(String(error.stack));
        await new Promise((resolve) => setTimeout(resolve, RETRY));
      }
    }
  }

  show(id) {
    this.page.load(id);
  }

  send(id, content) {
    return client.send(id, content);
  }

  read(id, seq) {
    client.read(id, seq);
  }

  isReady() {
    return this.page.isListed;
  }

  list() {
    const shown = [...this.page.shown()];
    return Object.fromEntries(shown.map(([id, { name, count, readSeq }]) => [id, { name, member_count: count, read_seq: readSeq }]));
  }

  histories() {
    const known = [...this.page.histories].filter(([id]) => this.page.list.has(id));
    return Object.fromEntries(known.map(([id, messages]) => [id, this.#from(messages, this.page.oldest.get(id))]));
  }

  /** Messages before the oldest that was loaded may have come as edits. */
  #from(messages, oldest) {
    const rows = [...messages].filter(([seq]) => seq >= oldest).sort(([a], [b]) => a - b);
    return rows.map(([seq, content]) => [seq, content ?? ""]);
  }
}

/** The data layer of the web client. */
class StoreKind {
  constructor() {
    globalThis.document = { visibilityState: "hidden" };
    this.store = new Store(client, { id: userId, username: "store" });
    this.store.addEventListener("change", changed);
  }

  show(id) {
    this.store.open(id);
  }

  /** `Store.send` swallows errors, which the client keeps; the driver wants to know them. */
  async send(id, content) {
    let outcome;
    const { send } = client;
    client.send = (...given) => (outcome = send.apply(client, given));
    const done = this.store.send(id, content);
    delete client.send;
    await done;
    return outcome;
  }

  /** People read what is there. */
  read(id, seq) {
    const conversation = this.store.conversations.get(id);
    if (conversation !== undefined) this.store.markRead(id, Math.min(seq, conversation.last_seq));
  }

  isReady() {
    return this.store.isListed;
  }

  list() {
    const rows = [...this.store.conversations.values()].map((conversation) => {
      const { id, name, description, member_count, read_seq, last_seq, last_rev, last_message } = conversation;
      const users = conversation.isBrief ? undefined : conversation.users.map((user) => user.id).sort();
      return [id, { name, description, member_count, read_seq, last_seq, last_rev, users, last_message: last_message?.content ?? null, unread: this.store.unread(conversation) }];
    });
    return Object.fromEntries(rows);
  }

  histories() {
    const loaded = [...this.store.timelines].filter(([, timeline]) => timeline.isLoaded);
    return Object.fromEntries(loaded.map(([id, { items }]) => [id, items.map(({ seq, content }) => [seq, content])]));
  }
}

const shown = kind === "store" ? new StoreKind() : new PageKind();
const acts = {
  connect: () => client.connect(),
  reconnect: () => client.reconnect(),
  close: () => client.close(),
  show: ({ conversation }) => shown.show(conversation),
  send: ({ key, conversation, content }) => settle(key, shown.send(conversation, content)),
  edit: ({ key, conversation, message, content }) => settle(key, client.edit(conversation, message, content)),
  remove: ({ key, conversation, message }) => settle(key, client.remove(conversation, message)),
  read: ({ conversation, seq }) => shown.read(conversation, seq),
  typing: ({ conversation }) => client.typing(conversation),
  report: ({ number }) => {
    const { gaps } = client;
    const isIdle = client.state.state === "online" && requests === 0 && shown.isReady() && client.pending.length === 0;
    print({ report: number, state: client.state.state, requests, pending: client.pending, isIdle, list: shown.list(), histories: shown.histories(), gaps, faults });
  },
  frames: ({ number }) => print({ report: number, frames }),
};

print({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  acts[command.do](command);
}
process.exit(0);
