// A page of docs/javascript.md against a server that loses live frames, cuts connections, answers late, removes the user
// and adds them again: in the end the page shows what the server has. FUZZ_SEEDS=FIRST-LAST runs other seeds.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bench, EPOCH, OTHER, list, message, settle } from "./support.mjs";

const [FIRST, LAST] = (process.env.FUZZ_SEEDS ?? "1-60").split("-").map(Number);
const STEPS = 120;
const PAGE = 4; // messages of a page of history
const CONVERSATIONS = ["a", "b"];

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

/** The service as one client sees it. */
class Service {
  rooms = new Map(CONVERSATIONS.map((id) => [id, { messages: [], rev: 0 }]));
  sessions = new Map(); // socket → conversation → {cursor, isLive, isSure}
  outside = new Set(); // conversations that the user is not in
  lost = 0;
  removals = 0;
  isQuiet = false; // nothing is lost or cut any more

  constructor(random) {
    this.random = random;
  }

  chance(probability) {
    return !this.isQuiet && this.random() < probability;
  }

  post(id) {
    const room = this.rooms.get(id);
    room.rev += 1;
    const seq = room.messages.length + 1;
    room.messages.push(message(id, room.rev, { seq, message_id: `${id}-m${seq}`, timestamp: "2026-02-04T10:30:00.000000Z" }));
    this.release(id, room.messages.at(-1));
  }

  edit(id) {
    const room = this.rooms.get(id);
    if (room.messages.length === 0) return;
    const index = Math.floor(this.random() * room.messages.length);
    room.rev += 1;
    const edited = { ...room.messages[index], type: "message_updated", rev: room.rev, content: `content of ${room.rev}` };
    room.messages[index] = { ...edited, is_edited: true, updated_at: "2026-02-04T10:30:00.000000Z" };
    this.release(id, room.messages[index]);
  }

  /** Removes the user, whose session hears of it. */
  removeUser(id) {
    if (this.sessions.size === 0 || this.outside.has(id)) return;
    this.outside.add(id);
    this.removals += 1;
    for (const [socket, places] of this.sessions) {
      places.delete(id);
      socket.receive({ type: "conversation_removed", conversation_id: id });
    }
  }

  addUser(id) {
    if (!this.outside.delete(id)) return;
    for (const [socket, places] of this.sessions) {
      places.set(id, { cursor: this.rooms.get(id).rev, isLive: true, isSure: false });
      socket.receive({ type: "conversation_added", conversation_id: id });
    }
  }

  release(id, frame) {
    for (const [socket, places] of this.sessions) {
      const place = places.get(id);
      if (!place?.isLive) continue; // the resume will bring it
      place.cursor = frame.rev;
      if (place.isSure && this.chance(0.2)) this.lost += 1;
      else socket.receive(frame);
    }
  }

  greet(socket) {
    this.sessions.clear();
    const places = new Map();
    for (const [id, { rev }] of this.rooms) if (!this.outside.has(id)) places.set(id, { cursor: rev, isLive: false, isSure: false });
    this.sessions.set(socket, places);
    socket.session();
    for (const [id, rev] of Object.entries(socket.of("resume")[0].revs)) places.get(id).cursor = rev;
    for (const [id, place] of places) place.isLive = place.cursor === this.rooms.get(id).rev;
  }

  /** Sends the next of what a resume brings: two changes. */
  resume() {
    for (const [socket, places] of this.sessions) {
      for (const [id, place] of places) {
        if (place.isLive) continue;
        const missed = this.rooms.get(id).messages.filter(({ rev }) => rev > place.cursor).sort((a, b) => a.rev - b.rev);
        for (const frame of missed.slice(0, 2)) socket.receive(frame);
        place.cursor = missed[Math.min(1, missed.length - 1)]?.rev ?? place.cursor;
        place.isLive = missed.length <= 2;
      }
    }
  }

  /** Reads what a request asks for, now. */
  answer(path) {
    const [, , , , id] = path.split("?")[0].split("/");
    return this.outside.has(id) ? [404, { code: "not_found", message: "There is no such conversation" }] : [200, this.read(path)];
  }

  read(path) {
    const [, , , , id, what] = path.split("?")[0].split("/");
    const inside = CONVERSATIONS.filter((one) => !this.outside.has(one));
    if (id === undefined) return list(...inside.map((one) => this.conversation(one)));
    if (what === undefined) return this.conversation(id);
    const messages = this.rooms.get(id).messages.slice(-PAGE).reverse();
    return { messages: messages.map(stored), total: this.rooms.get(id).messages.length, limit: PAGE, offset: 0 };
  }

  conversation(id) {
    const { rev, messages } = this.rooms.get(id);
    return { id, last_rev: rev, last_seq: messages.length, epoch: EPOCH, updated_at: "2026-02-04T10:30:00.000000Z" };
  }

  /** The client has been told where the conversations stand: from now on it can see what is missing. */
  listed() {
    for (const places of this.sessions.values()) for (const place of places.values()) place.isSure = place.isLive;
  }
}

/** A message as REST shows it. */
function stored(frame) {
  const { message_id, timestamp, type, ...rest } = frame;
  return { ...rest, id: message_id, created_at: timestamp, updated_at: frame.updated_at ?? timestamp, is_deleted: false };
}

/** The page that docs/javascript.md calls always right. */
class Page {
  histories = new Map();
  oldest = new Map(); // conversation id → the seq that its history was loaded from
  listings = 0;

  constructor(client, onListed) {
    this.client = client;
    for (const type of ["message", "message_updated", "message_deleted"]) {
      client.addEventListener(type, ({ detail }) => this.histories.get(detail.conversation_id)?.set(detail.seq, detail.content));
    }
    client.addEventListener("state", async ({ detail }) => {
      if (detail.state !== "online") return;
      this.listings += 1;
      const listing = this.listings;
      await client.conversations().catch(() => {});
      if (listing === this.listings) onListed();
    });
    client.addEventListener("reload", ({ detail }) => {
      const stale = detail.conversation_id === null ? [...this.histories.keys()] : [detail.conversation_id];
      for (const id of stale) if (this.histories.delete(id)) this.load(id);
    });
  }

  /** Loads may cross. */
  async load(id) {
    try {
      const { messages } = await this.client.history(id);
      this.histories.set(id, new Map(messages.map(({ seq, content }) => [seq, content])));
      this.oldest.set(id, messages.at(-1)?.seq ?? 1);
    } catch (error) {
      if (error.code !== "not_found") throw error; // the user is not in it
    }
  }
}

async function run(seed) {
  const random = randomOf(seed);
  const bench = new Bench({ requestSeconds: 10_000, answerSeconds: 100 });
  bench.random = 0.1;
  const service = new Service(random);
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
  const page = new Page(bench.client, () => service.listed());
  const greeted = new Set();
  const connect = () => {
    if (bench.socket === undefined || bench.socket.isClosed || greeted.has(bench.socket)) return;
    greeted.add(bench.socket);
    service.greet(bench.socket);
  };
  for (let step = 0; step < STEPS; step += 1) {
    const id = CONVERSATIONS[Math.floor(random() * CONVERSATIONS.length)];
    const what = random();
    if (what < 0.35) service.post(id);
    else if (what < 0.5) service.edit(id);
    else if (what < 0.6) service.resume();
    else if (what < 0.75) answers(0.5);
    else if (what < 0.85) connect();
    else if (what < 0.9) bench.client.connect();
    else if (what < 0.93 && bench.socket !== undefined) bench.socket.end();
    else if (what < 0.96 && (random() < 0.5 || !page.histories.has(id))) page.load(id);
    else if (what < 0.97) service.removeUser(id);
    else if (what < 0.98) service.addUser(id);
    else await bench.clock.advance(random() < 0.2 ? 12_000 : 500);
    if (bench.socket?.isClosed) service.sessions.delete(bench.socket);
    await settle();
  }
  service.isQuiet = true;
  CONVERSATIONS.forEach((id) => service.addUser(id));
  bench.client.connect();
  for (let turn = 0; turn < 40; turn += 1) {
    if (turn < 5) CONVERSATIONS.forEach((id) => service.post(id)); // what was lost is seen by what comes after it
    connect();
    service.resume();
    answers(1);
    await bench.clock.advance(1_000);
    if (bench.socket?.isClosed) service.sessions.delete(bench.socket);
  }
  for (const [id, history] of page.histories) {
    const oldest = page.oldest.get(id);
    const right = service.rooms.get(id).messages.filter(({ seq }) => seq >= oldest).map(({ seq, content }) => [seq, content]);
    const shown = [...history].filter(([seq]) => seq >= oldest).sort(([a], [b]) => a - b);
    assert.deepEqual(shown, right, `seed ${seed}, ${id}`);
  }
  const seen = bench.events.filter(([type]) => type.startsWith("message")).map(([, { conversation_id, rev }]) => [conversation_id, rev]);
  for (const id of CONVERSATIONS) {
    const revs = seen.filter(([conversation]) => conversation === id).map(([, rev]) => rev);
    assert.deepEqual(revs, [...new Set(revs)].sort((a, b) => a - b), `seed ${seed}: once, in order`);
  }
  return { lost: service.lost, removals: service.removals, gaps: bench.client.gaps };
}

test("the page converges on what the server has", async () => {
  let [lost, removals, gaps] = [0, 0, 0];
  for (let seed = FIRST; seed <= LAST; seed += 1) {
    const figures = await run(seed);
    lost += figures.lost;
    removals += figures.removals;
    gaps += figures.gaps;
  }
  assert.ok(10 * removals > LAST - FIRST, `the user was removed ${removals} times`);
  assert.ok(3 * lost > LAST - FIRST && gaps > 0, `${lost} frames were lost, ${gaps} gaps were seen`);
});
