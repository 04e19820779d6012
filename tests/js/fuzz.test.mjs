// A page of docs/javascript.md against a server that loses frames, cuts connections, answers late, removes the user and
// adds them again: in the end the page shows what the server has. FUZZ_SEEDS=FIRST-LAST runs other seeds.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Service } from "./service.mjs";
import { Bench, OTHER, settle } from "./support.mjs";

const [FIRST, LAST] = (process.env.FUZZ_SEEDS ?? "1-60").split("-").map(Number);
const STEPS = 120;
const CONVERSATIONS = ["a", "b"];
const PEOPLE = ["u1", "u2", "u3"];

/** Numbers from 0 to 1 that the seed decides (mulberry32). */
function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A page with the list of conversations and some histories. */
class Page {
  histories = new Map();
  oldest = new Map(); // conversation id → the seq that its history was loaded from
  list = new Map(); // conversation id → as the page shows it
  isListed = false;
  listings = 0;
  #told = new Map(); // conversation id → when an event was about the membership; both count events
  #count = 0;

  constructor(client, onListed) {
    this.client = client;
    this.onListed = onListed;
    this.on("message", "message_updated", "message_deleted", ({ conversation_id, seq, content }) =>
      this.histories.get(conversation_id)?.set(seq, content));
    this.on("state", ({ state, isListCurrent }) => {
      if (state === "online" && !(this.isListed && this.keepsList && isListCurrent)) this.loadList();
    });
    this.on("reload", ({ conversation_id, only }) => {
      if (conversation_id === null) this.loadList();
      if (only === "list") return;
      const stale = conversation_id === null ? [...this.histories.keys()] : [conversation_id];
      for (const id of stale) if (this.histories.delete(id)) this.load(id);
      if (conversation_id !== null) this.loadOne(conversation_id);
    });
  }

  on(...types) {
    const act = types.pop();
    for (const type of types) this.client.addEventListener(type, ({ detail }) => act(detail));
  }

  /** Loads a history. Loads may cross. */
  load(id) {
    return this.ifFound(async () => {
      const { messages } = await this.client.history(id, { limit: 4 });
      this.histories.set(id, new Map(messages.map(({ seq, content }) => [seq, content])));
      this.oldest.set(id, messages.at(-1)?.seq ?? 1);
    });
  }

  loadOne(id) {
    const began = this.#count;
    return this.ifFound(async () => this.take(await this.client.conversation(id), began));
  }

  async loadList() {
    this.listings += 1;
    const listing = this.listings;
    const began = this.#count;
    const { conversations } = await this.client.conversations().catch(() => ({}));
    if (conversations === undefined || listing !== this.listings) return;
    for (const id of this.list.keys()) {
      if (!conversations.some((body) => body.id === id) && !this.isToldSince(id, began)) this.list.delete(id);
    }
    for (const body of conversations) this.take(body, began);
    this.isListed = true;
    this.onListed();
  }

  async ifFound(load) {
    try {
      await load();
    } catch (error) {
      if (error.code !== "not_found") throw error; // the user is not in it
    }
  }

  /** Notes that an event told of the membership: older answers must not overwrite it. */
  told(id) {
    this.#count += 1;
    this.#told.set(id, this.#count);
  }

  isToldSince(id, began) {
    return (this.#told.get(id) ?? 0) > began;
  }

  remove(id) {
    this.told(id);
    this.list.delete(id);
  }

  shown() {
    return new Map([...this.list].map(([id, { name, count, readSeq }]) => [id, { name, count, readSeq }]));
  }
}

/** A page that follows the frames of features. */
class NewPage extends Page {
  keepsList = true;

  constructor(...given) {
    super(...given);
    this.on("membership", ({ conversation_id: id, is_member, read_seq }) => {
      if (!is_member) return this.remove(id);
      const known = this.list.get(id);
      this.told(id);
      if (known === undefined) return this.loadOne(id);
      known.readSeq = Math.max(known.readSeq, read_seq);
    });
    this.on("member", ({ conversation_id: id, rev, member_count }) => this.follow(id, rev, { count: member_count }));
    this.on("conversation", ({ conversation_id: id, rev, name }) => this.follow(id, rev, { name }));
  }

  follow(id, rev, changes) {
    const known = this.list.get(id);
    if (known === undefined) this.loadOne(id); // a list under way may be older
    else if (rev > known.rev) Object.assign(known, changes, { rev });
  }

  take(body, began) {
    const known = this.list.get(body.id);
    if (known === undefined && this.isToldSince(body.id, began)) return; // removed meanwhile, or loaded again
    const readSeq = Math.max(known?.readSeq ?? 0, body.read_seq);
    if (known !== undefined && known.rev > body.last_rev) known.readSeq = readSeq;
    else this.list.set(body.id, { name: body.name, count: body.member_count, rev: body.last_rev, readSeq });
  }
}

/** A page of the time before features: it loads what an event says has changed. */
class OldPage extends Page {
  #asked = new Map(); // conversation id → number of the newest request

  constructor(...given) {
    super(...given);
    this.on("conversation_added", ({ conversation_id: id }) => {
      this.told(id);
      this.loadOne(id);
    });
    this.on("conversation_removed", ({ conversation_id: id }) => this.remove(id));
    this.on("system", ({ conversation_id: id, event }) => {
      if (!["added", "removed", "renamed"].includes(event)) return;
      this.told(id);
      this.loadOne(id);
    });
    this.on("read", ({ conversation_id: id, positions }) => {
      const known = this.list.get(id);
      for (const { seq } of positions) if (known !== undefined) known.readSeq = Math.max(known.readSeq, seq);
    });
  }

  /** Only the newest request counts. */
  async loadOne(id) {
    const number = (this.#asked.get(id) ?? 0) + 1;
    this.#asked.set(id, number);
    await this.ifFound(async () => {
      const body = await this.client.conversation(id);
      if (this.#asked.get(id) === number) this.take(body, null);
    });
  }

  take(body, began) {
    if (began !== null && this.isToldSince(body.id, began)) return;
    const readSeq = Math.max(this.list.get(body.id)?.readSeq ?? 0, body.read_seq);
    this.list.set(body.id, { name: body.name, count: body.member_count, readSeq });
  }
}

async function run(seed, { PageClass, hasFeatures }) {
  const random = randomOf(seed);
  const bench = new Bench({ requestSeconds: 10_000, answerSeconds: 100 });
  bench.random = 0.1;
  const service = new Service(CONVERSATIONS, { hasFeatures });
  service.loses = () => random() < 0.2;
  let removals = 0;
  const late = []; // answers that are read already, or not yet, and are not there yet
  bench.answer = ({ path }) => {
    if (path === "/api/auth/me") return [200, { id: OTHER, username: "me" }];
    const readsAt = random();
    return new Promise((resolve) => late.push({ path, readsAt, resolve, read: null }));
  };
  /** Lets answers come, some of them read long before. */
  const answers = (probability) => {
    for (const entry of [...late]) {
      if (entry.read === null && (entry.readsAt < 0.5 || random() < probability)) entry.read = service.answer(entry.path);
      if (random() >= probability) continue;
      late.splice(late.indexOf(entry), 1);
      entry.resolve(entry.read ?? service.answer(entry.path));
    }
  };
  const page = new PageClass(bench.client, () => service.listed());
  const greeted = new Set();
  const connect = () => {
    if (bench.socket === undefined || bench.socket.isClosed || greeted.has(bench.socket)) return;
    greeted.add(bench.socket);
    service.greet(bench.socket);
  };
  const forgetClosed = () => {
    for (const socket of [...service.sessions.keys()]) if (socket.isClosed) service.forget(socket);
  };
  for (let step = 0; step < STEPS; step += 1) {
    const id = CONVERSATIONS[Math.floor(random() * CONVERSATIONS.length)];
    const count = service.rooms.get(id).messages.length;
    const what = random();
    if (what < 0.3) service.post(id);
    else if (what < 0.4) service.edit(id, 1 + Math.floor(random() * count));
    else if (what < 0.44) service.rename(id, `name ${step}`);
    else if (what < 0.5) service.change(id, PEOPLE.slice(Math.floor(random() * 3)), random() < 0.5);
    else if (what < 0.53) service.read(id, Math.ceil(random() * count));
    else if (what < 0.62) service.resume(2);
    else if (what < 0.75) answers(0.5);
    else if (what < 0.84) connect();
    else if (what < 0.89) bench.client.connect();
    else if (what < 0.92 && bench.socket !== undefined) bench.socket.end();
    else if (what < 0.95 && (random() < 0.5 || !page.histories.has(id))) page.load(id);
    else if (what < 0.965) {
      removals += service.isInside(id) ? 1 : 0;
      service.removeUser(id);
    } else if (what < 0.98) service.addUser(id);
    else await bench.clock.advance(random() < 0.2 ? 12_000 : 500);
    forgetClosed();
    await settle();
  }
  service.loses = () => false; // nothing is lost or cut any more
  CONVERSATIONS.forEach((id) => service.addUser(id));
  bench.client.connect();
  for (let turn = 0; turn < 40; turn += 1) {
    if (turn < 5) CONVERSATIONS.forEach((id) => service.post(id)); // what was lost is seen by what comes after it
    if (turn < 5) service.read("a", service.rooms.get("a").messages.length);
    connect();
    service.resume(2);
    answers(1);
    await bench.clock.advance(1_000);
    forgetClosed();
  }
  for (const [id, history] of page.histories) {
    const oldest = page.oldest.get(id);
    const right = service.rooms.get(id).messages.filter(({ seq }) => seq >= oldest).map(({ seq, content }) => [seq, content]);
    const shown = [...history].filter(([seq]) => seq >= oldest).sort(([a], [b]) => a - b);
    assert.deepEqual(shown, right, `seed ${seed}, ${id}`);
  }
  const { conversations } = service.answer("/api/chat/conversations")[1];
  const right = conversations.map(({ id, name, member_count, read_seq }) => [id, { name, count: member_count, readSeq: read_seq }]);
  assert.deepEqual(page.shown(), new Map(right), `seed ${seed}: the list`);
  const seen = bench.events.filter(([type]) => type.startsWith("message")).map(([, { conversation_id, rev }]) => [conversation_id, rev]);
  for (const id of CONVERSATIONS) {
    const revs = seen.filter(([conversation]) => conversation === id).map(([, rev]) => rev);
    assert.deepEqual(revs, [...new Set(revs)].sort((a, b) => a - b), `seed ${seed}: once, in order`);
  }
  return { lost: service.lost, removals, gaps: bench.client.gaps };
}

const KINDS = [
  ["a page that follows members, properties and memberships", { PageClass: NewPage, hasFeatures: true }],
  ["a page that loads what has changed", { PageClass: OldPage, hasFeatures: true }],
  ["a page that loads what has changed, of a server without features,", { PageClass: OldPage, hasFeatures: false }],
];

for (const [name, kind] of KINDS) {
  test(`${name} converges on what the server has`, async () => {
    let [lost, removals, gaps] = [0, 0, 0];
    for (let seed = FIRST; seed <= LAST; seed += 1) {
      const figures = await run(seed, kind);
      lost += figures.lost;
      removals += figures.removals;
      gaps += figures.gaps;
    }
    assert.ok(4 * removals > LAST - FIRST, `the user was removed ${removals} times`);
    if (kind.hasFeatures) assert.ok(3 * lost > LAST - FIRST && gaps > 0, `${lost} frames were lost, ${gaps} gaps were seen`);
    else assert.equal(gaps, 0);
  });
}
