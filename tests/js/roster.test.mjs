// The members in the web client's details, with a fake store.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Loads } from "../../pulse_trio/web/app/loads.js";
import { Roster } from "../../pulse_trio/web/app/roster.js";
import { FakeClock, later, settle } from "./support.mjs";

let clock; // of the test that runs
globalThis.setTimeout = (run, ms = 0) => clock.setTimeout(run, ms);
globalThis.clearTimeout = (handle) => clock.clearTimeout(handle);

/** A group, and the part of the store that the roster uses. */
class FakeStore extends EventTarget {
  requests = []; // of pages of members
  before = async () => {}; // before a page is read
  after = async () => {}; // before a page that was read is answered
  client = {
    members: async (id, { limit, cursor = 0 }) => {
      this.requests.push(cursor);
      await this.before(this.requests.length);
      const from = this.members.findIndex((user) => user.place >= cursor);
      const rest = from < 0 ? [] : this.members.slice(from);
      const page = { members: rest.slice(0, limit), next_cursor: rest[limit]?.place ?? null };
      await this.after(this.requests.length);
      return page;
    },
  };

  constructor(count) {
    super();
    clock = new FakeClock();
    this._loads = new Loads(() => true);
    this.places = 0;
    this.members = [];
    for (let number = 0; number < count; number += 1) this.join(`u${number}`);
  }

  load(...given) {
    return this._loads.run(...given);
  }

  get conversation() {
    return { users: this.members.slice(0, 100), member_count: this.members.length };
  }

  join(id) {
    this.members.push({ id, username: id, place: this.places++ });
  }

  tell(detail) {
    this.dispatchEvent(new CustomEvent("members", { detail: { conversation_id: "a", ...detail } }));
  }

  add(...ids) {
    for (const id of ids) this.join(id);
    this.tell({ event: "added", user_ids: ids });
  }

  /** As a service with features tells it: the members as they now are. */
  change(...members) {
    for (const [id, is_member] of members) {
      this.members = this.members.filter((user) => user.id !== id);
      if (is_member) this.join(id);
    }
    this.tell({ members: members.map(([id, is_member]) => ({ user_id: id, username: id, is_member })) });
  }

  remove(id) {
    this.members = this.members.filter((user) => user.id !== id);
    this.tell({ event: "removed", user_ids: [id] });
  }
}

/** A roster that shows a number of members. */
async function showing(count, shown) {
  const store = new FakeStore(count);
  const roster = new Roster(store, "a", () => {});
  const ids = () => roster.users(store.conversation).map((user) => user.id);
  while (ids().length < shown) {
    roster.showMore();
    await settle();
  }
  await clock.advance(60_000);
  store.requests = [];
  return { store, roster, ids };
}

const firstOf = (store, count) => store.members.slice(0, count).map((user) => user.id);

test("members that failed to load are loaded again", async () => {
  const { store, roster, ids } = await showing(400, 300);
  const fails = new Set([1, 3]);
  store.before = async (number) => {
    if (fails.has(number)) throw Object.assign(new Error("no"), { status: 503, retryAfter: null });
  };
  store.remove("u250");
  await clock.advance(60_000);
  assert.deepEqual(ids(), firstOf(store, 300));
  store.requests = [];
  roster.showMore();
  await clock.advance(60_000);
  assert.deepEqual(ids(), firstOf(store, 399));
});

test("a member who left and one who came are noticed, though the count is the same", async () => {
  const { store, ids } = await showing(300, 300);
  store.remove("u250");
  assert.equal(ids().includes("u250"), false); // at once
  store.add("new");
  await clock.advance(60_000);
  assert.deepEqual(ids(), firstOf(store, 300));
  assert.equal(ids().at(-1), "new");
});

test("a large group that keeps changing costs few requests", async () => {
  const { store, roster, ids } = await showing(5_000, 2_000);
  store.before = () => new Promise((resolve) => setTimeout(resolve, 200));
  for (let number = 0; number < 150; number += 1) {
    const gone = `u${number * 10}`;
    if (number % 2) store.add(`new${number}`);
    else store.remove(gone);
    assert.equal(ids().includes(gone), number % 2 === 1);
    await clock.advance(400);
  }
  assert.ok(ids().length > 1_900, `${ids().length} are left`);
  // In a minute: a load of 10 pages lasts 2 seconds, and then there is a rest of 5.
  assert.ok(store.requests.length <= 100, `${store.requests.length} requests`);
  roster.showMore();
  await clock.advance(1_000);
  assert.ok(ids().length > 2_000, "more are shown while it changes");
  await clock.advance(60_000);
  assert.deepEqual(ids(), firstOf(store, ids().length));
  const before = store.requests.length;
  await clock.advance(600_000);
  assert.equal(store.requests.length, before);
});

test("a page older than a removal does not bring the member back", async () => {
  const { store, ids } = await showing(300, 300);
  const answer = later();
  store.after = () => answer.promise;
  store.add("new");
  await settle(); // the page is read
  store.remove("u20");
  store.after = async () => {};
  answer.resolve();
  await settle();
  assert.equal(ids().includes("u20"), false);
  assert.equal(ids().includes("new"), true);
});

test("all is loaded again after frames may have been missed", async () => {
  const { store, ids } = await showing(300, 300);
  store.members.splice(200, 50);
  store.tell({ conversation_id: null });
  await clock.advance(10_000);
  assert.deepEqual(ids(), firstOf(store, 250));
});

test("known members are those that were loaded or named in frames", async () => {
  const { store, roster } = await showing(300, 100);
  assert.equal(roster.ids(store.conversation).has("u150"), false);
  store.add("new");
  assert.equal(roster.ids(store.conversation).has("new"), true);
  store.remove("new");
  assert.equal(roster.ids(store.conversation).has("new"), false);
  roster.showMore();
  await settle();
  assert.equal(roster.ids(store.conversation).has("u150"), true);
});

test("a closed roster does not delay the next one", async () => {
  const { store, roster } = await showing(300, 100);
  store.before = async () => {
    throw Object.assign(new Error("no"), { status: 503, retryAfter: 100 });
  };
  roster.showMore();
  await settle();
  roster.close();
  store.before = async () => {};
  const next = new Roster(store, "a", () => {});
  next.users(store.conversation);
  next.showMore();
  await settle();
  assert.equal(next.users(store.conversation).length, 200);
});

test("a closed roster sends no more requests", async () => {
  const { store, roster } = await showing(400, 300);
  store.remove("u1");
  await settle();
  store.remove("u2");
  roster.close();
  store.remove("u3");
  const before = store.requests.length;
  await clock.advance(60_000);
  assert.equal(store.requests.length, before);
});

// --- a service with features ---

test("members that come and go are shown at once, and nothing is loaded", async () => {
  const { store, roster, ids } = await showing(300, 300);
  store.change(["u250", false], ["new", true]);
  assert.deepEqual(ids(), firstOf(store, 300));
  store.change(["new", false]);
  assert.deepEqual(ids(), firstOf(store, 299));
  await clock.advance(60_000);
  assert.deepEqual(store.requests, []);
  assert.equal(roster.ids(store.conversation).has("new"), false);
});

test("a new member comes after those that are not shown", async () => {
  const { store, roster, ids } = await showing(300, 200);
  store.change(["new", true], ["u20", false]);
  assert.equal(ids().length, 199);
  assert.deepEqual([ids().includes("new"), roster.ids(store.conversation).has("new")], [false, true]);
  roster.showMore();
  await settle();
  assert.deepEqual(ids(), firstOf(store, 299));
  roster.showMore();
  await settle();
  assert.deepEqual([ids().at(-1), roster.hasMore], ["new", false]);
});

test("a page older than members that came and went has them as they now are", async () => {
  const { store, roster, ids } = await showing(150, 100);
  const answer = later();
  store.after = () => answer.promise;
  roster.showMore();
  await settle(); // the page is read
  store.change(["new", true], ["u120", false], ["late", true]);
  store.change(["late", false]);
  answer.resolve();
  await settle();
  assert.deepEqual(ids(), firstOf(store, 150));
});
