// Two devices of one user with the real client and the web client's store: one stays, one is away for a while. Then both
// show the same, and the one that was away has loaded no list.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "../../pulse_trio/web/app/store.js";
import { Service } from "./service.mjs";
import { Bench, FakeClock, ME, OTHER, settle } from "./support.mjs";

globalThis.document = { visibilityState: "hidden" };
const clock = new FakeClock();
globalThis.setTimeout = (run, ms = 0) => clock.setTimeout(run, ms);
globalThis.clearTimeout = (handle) => clock.clearTimeout(handle);

class Device {
  bench = new Bench();
  paths = []; // of requests since `leave`

  constructor(service) {
    this.service = service;
    this.bench.answer = ({ path }) => {
      this.paths.push(path);
      return service.answer(path);
    };
    this.store = new Store(this.bench.client, { id: ME, username: ME });
  }

  async connect() {
    this.bench.client.connect();
    await this.#greeted();
  }

  async leave() {
    this.service.forget(this.bench.socket);
    this.bench.socket.end();
    await settle();
    this.paths.length = 0;
  }

  async comeBack() {
    await this.bench.clock.advance(1_000);
    await this.#greeted();
  }

  async #greeted() {
    this.service.greet(this.bench.socket);
    await settle();
    while (!this.service.resume(2)) await settle();
    await settle();
  }

  lists() {
    return this.paths.filter((path) => /conversations(\?|$)/.test(path));
  }

  /** What the page shows, with the history of each conversation. */
  async shown() {
    const shown = new Map();
    for (const conversation of this.store.list()) {
      const { listed_rev, details_rev, members, total_messages, ...fields } = conversation; // those that a view uses
      this.store.open(conversation.id);
      await settle();
      const items = this.store.timeline(conversation.id).items.map(({ seq, rev, content }) => [seq, rev, content]);
      shown.set(conversation.id, { ...fields, items, title: this.store.title(conversation), unread: this.store.unread(conversation) });
    }
    return shown;
  }
}

async function devices({ hasFeatures = true } = {}) {
  const service = new Service(["a", "b", "c"], { hasFeatures });
  service.removeUser("c");
  for (const id of ["a", "b"]) for (let seq = 1; seq <= 5; seq += 1) service.post(id);
  const [stays, away] = [new Device(service), new Device(service)];
  for (const device of [stays, away]) {
    await device.connect();
    device.store.open("a");
    await settle();
  }
  await away.leave();
  return { service, stays, away };
}

/** Compares both devices, and a new one that loads everything. */
async function assertSame({ service, stays, away }) {
  const fresh = new Device(service);
  await fresh.connect();
  const right = await fresh.shown();
  assert.deepEqual(await stays.shown(), right, "the one that stayed");
  assert.deepEqual(await away.shown(), right, "the one that was away");
  for (const { bench } of [stays, away]) assert.equal(bench.client.gaps, 0);
}

test("added to, removed from and added again while away: the same as if it had never left", async () => {
  const all = await devices();
  const { service, away } = all;
  service.addUser("c");
  service.post("c");
  service.removeUser("c");
  service.post("c");
  service.addUser("c");
  service.post("c");
  await settle();
  await away.comeBack();
  assert.deepEqual(away.lists(), []);
  assert.equal(away.paths.filter((path) => path === "/api/chat/conversations/c").length, 1, "it is loaded, alone");
  await assertSame(all);
});

test("removed from a conversation on the screen and added again while away: it is resumed", async () => {
  const all = await devices();
  const { service, away } = all;
  const gone = [];
  away.store.addEventListener("gone", ({ detail }) => gone.push(detail.id));
  service.removeUser("a");
  service.post("a");
  service.edit("a", 2);
  service.change("a", ["ann"], true);
  service.addUser("a");
  service.post("a");
  service.rename("a", "another name");
  await settle();
  await away.comeBack();
  assert.deepEqual(away.paths, ["/api/chat/conversations/a/read"], "positions of others are not kept");
  assert.deepEqual(gone, []);
  await assertSame(all);
});

test("removed while away, and added again after the return", async () => {
  const all = await devices();
  const { service, away } = all;
  service.removeUser("a");
  service.removeUser("b");
  service.post("b");
  await away.comeBack();
  assert.deepEqual([...away.store.conversations.keys()], []);
  service.addUser("b");
  await settle();
  service.post("b");
  await settle();
  assert.deepEqual(away.lists(), []);
  await assertSame(all);
});

test("members, names and read positions that changed while away", async () => {
  const all = await devices();
  const { service, away } = all;
  service.change("b", ["u1", "u2", "u3"], true);
  service.change("b", ["u2"], false);
  service.change("b", [OTHER], false);
  service.rename("b", "one name");
  service.rename("b", "another name");
  service.change("b", [OTHER], true);
  service.post("b");
  service.read("b", 4);
  service.edit("a", 5);
  service.edit("a", 5);
  await settle();
  await away.comeBack();
  assert.deepEqual(away.lists(), []);
  assert.equal(away.paths.includes("/api/chat/conversations/b"), false);
  await assertSame(all);
});

test("a large group whose members changed while away", async () => {
  const service = new Service([]);
  service.open("a", Array.from({ length: 150 }, (_, index) => `u${index}`));
  service.post("a");
  const [stays, away] = [new Device(service), new Device(service)];
  for (const device of [stays, away]) {
    await device.connect();
    device.store.open("a");
    await settle();
  }
  await away.leave();
  service.change("a", ["new1", "new2"], true);
  service.change("a", ["u3", "u140"], false);
  await settle();
  await away.comeBack();
  assert.deepEqual([away.lists(), away.paths.includes("/api/chat/conversations/a")], [[], false]);
  for (const { store } of [stays, away]) {
    const { users, member_count } = store.conversations.get("a");
    assert.deepEqual([users.some(({ id }) => id === "u3"), member_count], [false, 152]);
  }
});

test("a sequence that went back is not resumed: the list is loaded again", async () => {
  const all = await devices();
  const { service, away } = all;
  service.ownRev = 0; // the server has another sequence, and keeps its epoch
  for (const own of service.own.values()) own.me_rev = 0;
  service.forget(all.stays.bench.socket);
  service.removeUser("b");
  await away.comeBack();
  assert.equal(away.lists().length, 1);
  assert.deepEqual([...away.store.conversations.keys()], ["a"]);
});

test("of a service without features the list is loaded after each return", async () => {
  const all = await devices({ hasFeatures: false });
  const { service, away } = all;
  service.addUser("c");
  service.removeUser("b");
  service.rename("a", "another name");
  service.post("a");
  await settle();
  await away.comeBack();
  assert.ok(away.lists().length > 0);
  await assertSame(all);
});
