// A page of docs/javascript.md against a server that loses frames, cuts connections, answers late, removes the user and
// adds them again: in the end the page shows what the server has. FUZZ_SEEDS=FIRST-LAST runs other seeds.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Service } from "./service.mjs";
import { NewPage, OldPage, randomOf } from "./page.mjs";
import { Bench, OTHER, settle } from "./support.mjs";

const [FIRST, LAST] = (process.env.FUZZ_SEEDS ?? "1-60").split("-").map(Number);
const STEPS = 120;
const CONVERSATIONS = ["a", "b"];
const PEOPLE = ["u1", "u2", "u3"];

async function run(seed, { PageClass, hasFeatures }) {
  const random = randomOf(seed);
  const resumeConversations = seed % 3 === 0 ? 1 : 1_000;
  const bench = new Bench({ requestSeconds: 10_000, answerSeconds: 100, resumeConversations });
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
