// The web client's store, with a fake client.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "../../pulse_trio/web/app/store.js";
import { FakeClock, ME, OTHER, conversation, later, list, members, membership, message, page, properties, settle } from "./support.mjs";

globalThis.document = { visibilityState: "hidden" };
let clock; // of the test that runs
globalThis.setTimeout = (run, ms = 0) => clock.setTimeout(run, ms);
globalThis.clearTimeout = (handle) => clock.clearTimeout(handle);

/** The part of `PulseClient` that the store uses. The functions in `answers` answer its requests. */
class FakeClient extends EventTarget {
  users = [{ id: ME, username: "me" }, { id: OTHER, username: "other" }];
  asked = [];
  unsent = [];
  answers = {
    conversations: () => list(this.conversationOf("a")),
    conversation: (id) => this.conversationOf(id),
    history: () => page("a", [3, 3], [2, 2], [1, 1]),
    readPositions: () => ({ positions: [] }),
  };

  constructor() {
    super();
    for (const name of Object.keys(this.answers)) {
      this[name] = async (...given) => {
        this.asked.push(name);
        return await this.answers[name](...given);
      };
    }
  }

  conversationOf(id, rev = 3, changes = {}) {
    return conversation(id, rev, { users: this.users, member_count: 2, is_group: true, read_seq: rev, ...changes });
  }

  /** Makes the next requests of a kind fail. */
  fail(name, times, error = Object.assign(new Error("no"), { status: 503, retryAfter: null })) {
    const answer = this.answers[name];
    let left = times;
    this.answers[name] = (...given) => {
      if (left === 0) return answer(...given);
      left -= 1;
      throw error;
    };
  }

  count(name) {
    return this.asked.filter((one) => one === name).length;
  }

  read() {}
  watch() {}

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function open() {
  clock = new FakeClock();
  const client = new FakeClient();
  const store = new Store(client, { id: ME, username: "me" });
  return { client, store };
}

async function opened() {
  const { client, store } = open();
  client.tell("state", { state: "online" });
  await settle();
  return { client, store };
}

const NOT_FOUND = Object.assign(new Error("no"), { status: 404 });

const shown = (store, id) => store.timeline(id).items.map(({ seq, rev }) => [seq, rev]);

test("a restored backup clears the read positions", async () => {
  const { client, store } = await opened();
  client.tell("read", { conversation_id: "a", positions: [{ user_id: OTHER, seq: 3 }] });
  const readers = () => store.readers(store.conversations.get("a"), 2).names;
  assert.deepEqual(readers(), ["other"]);
  client.tell("reload", { conversation_id: null });
  await settle();
  assert.deepEqual(readers(), []);
});

// --- a request that fails on a connection that stays ---

test("a list that failed to load is loaded again", async () => {
  const { client, store } = open();
  store.open("a");
  client.fail("conversations", 3);
  client.tell("state", { state: "online" });
  await clock.advance(60_000);
  assert.equal(store.isListed, true);
  assert.deepEqual([...store.conversations.keys()], ["a"]);
  assert.equal(client.count("conversations"), 4);
  assert.deepEqual(shown(store, "a"), [[1, 1], [2, 2], [3, 3]]);
});

test("a list that keeps failing is requested with pauses", async () => {
  const { client } = open();
  client.fail("conversations", Infinity);
  client.tell("state", { state: "online" });
  await clock.advance(10 * 60_000);
  assert.ok(client.count("conversations") >= 10 && client.count("conversations") <= 60, `${client.count("conversations")} times`);
});

test("Retry-After is honoured", async () => {
  const { client } = open();
  client.fail("conversations", 1, Object.assign(new Error("no"), { status: 503, retryAfter: 100 }));
  client.tell("state", { state: "online" });
  await clock.advance(99_000);
  assert.equal(client.count("conversations"), 1);
  await clock.advance(100_000);
  assert.equal(client.count("conversations"), 2);
});

test("a request that is rejected for good is not repeated", async () => {
  const { client } = open();
  client.fail("conversations", Infinity, Object.assign(new Error("no"), { status: 401 }));
  client.tell("state", { state: "online" });
  await clock.advance(60_000);
  assert.equal(client.count("conversations"), 1);
});

test("nothing is requested without a connection, and at once with the next one", async () => {
  const { client, store } = open();
  client.fail("conversations", 1);
  client.tell("state", { state: "online" });
  await settle();
  client.tell("state", { state: "waiting" });
  await clock.advance(60_000);
  assert.equal(client.count("conversations"), 1);
  client.tell("state", { state: "online" });
  await settle();
  assert.equal(store.isListed, true);
});

test("a list that was half loaded on the last connection is loaded from the beginning", async () => {
  const { client, store } = open();
  const many = Array.from({ length: 200 }, (_, index) => client.conversationOf(`c${index}`));
  const pages = [later(), later(), later(), later()];
  let asked = 0;
  client.answers.conversation = (id) => (id === "c0" ? Promise.reject(NOT_FOUND) : client.conversationOf(id));
  client.answers.conversations = () => pages[asked++].promise;
  client.tell("state", { state: "online" });
  pages[0].resolve({ ...list(...many), total: 201 });
  await settle();
  client.tell("state", { state: "waiting" });
  client.tell("state", { state: "online" });
  pages[1].resolve({ ...list(client.conversationOf("last")), total: 201 });
  await settle();
  pages[2].resolve({ ...list(client.conversationOf("new"), ...many.slice(1)), total: 201 });
  pages[3].resolve({ ...list(client.conversationOf("last")), total: 201 });
  await settle();
  assert.equal(store.conversations.has("new"), true);
  assert.equal(store.conversations.has("c0"), false);
});

test("a conversation, read positions, a gap, a reload: each is retried", async () => {
  const { client, store } = await opened();
  store.open("a");
  await settle();
  client.fail("conversation", 1);
  client.tell("conversation_added", { conversation_id: "b" });
  client.fail("readPositions", 1);
  client.answers.history = (id, { afterSeq } = {}) => (afterSeq === 3 ? page("a", [5, 5], [4, 4]) : page("a", [3, 3], [2, 2], [1, 1]));
  client.fail("history", 1);
  client.tell("message", message("a", 5));
  await settle();
  assert.equal(store.conversations.has("b"), false);
  await clock.advance(30_000);
  assert.equal(store.conversations.has("b"), true);
  assert.deepEqual(shown(store, "a").map(([seq]) => seq), [1, 2, 3, 4, 5]);
  client.fail("conversations", 1);
  client.answers.conversations = ((answer) => (...given) => answer(...given))(client.answers.conversations);
  client.answers.readPositions = () => ({ positions: [{ user_id: OTHER, seq: 3 }] });
  client.fail("readPositions", 1);
  client.tell("reload", { conversation_id: null });
  const before = client.count("conversations");
  await clock.advance(30_000);
  assert.equal(client.count("conversations"), before + 1);
  assert.equal(store.readers(store.conversations.get("a"), 3).count, 1);
});

/** A store with messages 101 to 200 of conversation "a" on the screen, and its client, which has those before them. */
async function openedLong() {
  const { client, store } = open();
  const pageOf = (from, to) => page("a", ...Array.from({ length: to - from + 1 }, (_, index) => [to - index, to - index]));
  client.answers.conversations = () => list(client.conversationOf("a", 200));
  client.answers.conversation = () => client.conversationOf("a", 200);
  client.answers.history = (_id, { beforeSeq = 201 }) => pageOf(Math.max(1, beforeSeq - 100), beforeSeq - 1);
  client.tell("state", { state: "online" });
  await settle();
  store.open("a");
  await settle();
  assert.equal(store.timeline("a").firstSeq, 101);
  return { client, store };
}

test("older messages that could not be loaded are loaded again, after a pause", async () => {
  const { client, store } = await openedLong();
  client.fail("history", 2);
  client.fail("history", 1, Object.assign(new Error("slower"), { status: 429, retryAfter: 20 }));
  const older = store.loadOlder("a");
  assert.equal(store.loadOlder("a"), older);
  await clock.advance(19_000);
  assert.equal(client.count("history"), 2);
  await clock.advance(20_000);
  assert.equal(await older, true);
  assert.equal(client.count("history"), 5);
  assert.equal(store.timeline("a").isComplete, true);
});

test("older messages that are refused for good can be requested again", async () => {
  const { client, store } = await openedLong();
  client.fail("history", 1, NOT_FOUND);
  assert.equal(await store.loadOlder("a"), false);
  assert.equal(await store.loadOlder("a"), true);
  assert.equal(store.timeline("a").isComplete, true);
});

test("older messages are not requested again after the conversation was left", async () => {
  const { client, store } = await openedLong();
  client.fail("history", Infinity);
  const older = store.loadOlder("a");
  await settle();
  store.open("b");
  await clock.advance(60_000);
  assert.equal(await older, false);
  assert.ok(client.count("history") <= 4, `${client.count("history")} requests`); // with those of "b"
});

test("a page of older messages that arrives after a reload is dropped", async () => {
  const { client, store } = await openedLong();
  const { history } = client.answers;
  const [older, newest] = [later(), later()];
  client.answers.history = (_id, { beforeSeq }) => (beforeSeq === undefined ? newest : older).promise;
  const loaded = store.loadOlder("a");
  client.tell("reload", { conversation_id: "a" });
  await settle();
  older.resolve(await history("a", { beforeSeq: 101 }));
  await loaded;
  assert.equal(store.timeline("a").isLoaded, false);
  newest.resolve(await history("a", {}));
  await settle();
  assert.deepEqual([store.timeline("a").firstSeq, store.timeline("a").lastSeq], [101, 200]);
});

test("requests for a conversation end when it is left", async () => {
  const { client, store } = await opened();
  client.fail("history", Infinity);
  store.open("a");
  await settle();
  store.open(null);
  await clock.advance(600_000);
  assert.ok(client.count("history") <= 2);
});

// --- answers and live frames ---

test("a conversation that changed while it was loaded is loaded again", async () => {
  const { client, store } = await opened();
  const answers = [later(), later()];
  let asked = 0;
  client.answers.conversation = () => answers[asked++].promise;
  client.tell("system", { conversation_id: "a", event: "renamed" });
  await settle();
  client.tell("system", { conversation_id: "a", event: "added", user_ids: [OTHER], user_count: 1 });
  answers[0].resolve(client.conversationOf("a", 3, { name: "old" })); // read before the second change
  await settle();
  answers[1].resolve(client.conversationOf("a", 3, { name: "new" }));
  await settle();
  assert.equal(store.conversations.get("a").name, "new");
});

test("many additions at once cause one refresh", async () => {
  const { client } = await opened();
  const ids = Array.from({ length: 100 }, (_, index) => `user ${index}`);
  client.tell("system", { conversation_id: "a", event: "added", user_ids: ids, user_count: 1_000 });
  await settle();
  assert.equal(client.count("conversation"), 1);
});

test("a conversation that came, or moved up, during the load of the list is kept", async () => {
  const { client, store } = await opened();
  const many = Array.from({ length: 200 }, (_, index) => client.conversationOf(`c${index}`));
  const pages = [later(), later()];
  let asked = 0;
  client.answers.conversations = () => pages[asked++].promise;
  const gone = [];
  store.addEventListener("gone", ({ detail }) => gone.push(detail.id));
  client.tell("reload", { conversation_id: null });
  await settle();
  pages[0].resolve({ ...list(...many), total: 202 });
  await settle();
  client.tell("message", message("a", 4)); // from the second page to the first, which is read already
  client.tell("conversation_added", { conversation_id: "b" });
  await settle();
  pages[1].resolve({ ...list(client.conversationOf("c199")), total: 202 });
  await settle();
  assert.deepEqual(gone, []);
  assert.equal(store.conversations.has("a") && store.conversations.has("b"), true);
});

test("a conversation that the user is removed from during the load of the list does not come back", async () => {
  const { client, store } = await opened();
  const listing = later();
  client.answers.conversations = () => listing.promise;
  client.tell("reload", { conversation_id: null });
  await settle();
  client.tell("conversation_removed", { conversation_id: "a" });
  listing.resolve(list(client.conversationOf("a"), client.conversationOf("b")));
  await settle();
  assert.deepEqual([...store.conversations.keys()], ["b"]);
});

test("a late answer does not bring back a conversation that the user was removed from", async () => {
  for (const method of ["renameConversation", "addMembers"]) {
    const { client, store } = await opened();
    const answer = later();
    client[method] = () => answer.promise;
    const done = method === "addMembers" ? store.addMembers("a", ["u"]) : store.rename("a", { name: "new" });
    client.tell("conversation_removed", { conversation_id: "a" });
    answer.resolve(client.conversationOf("a"));
    await done;
    assert.equal(store.conversations.has("a"), false, method);
    client.tell("conversation_added", { conversation_id: "a" });
    await settle();
    assert.equal(store.conversations.has("a"), true, method);
  }
});

test("a late answer to leaving does not drop a conversation that the user was added to again", async () => {
  const { client, store } = await opened();
  const answer = later();
  client.removeMember = () => answer.promise;
  const left = store.removeMember("a", "me");
  client.tell("conversation_removed", { conversation_id: "a" });
  client.tell("conversation_added", { conversation_id: "a" });
  await settle();
  answer.resolve();
  await left;
  assert.equal(store.conversations.has("a"), true);
});

/** A client with a list of more than one page; `between(offset)` is called after each page was read. */
async function listed(count, between) {
  const { client, store } = open();
  const all = Array.from({ length: count }, (_, index) => client.conversationOf(`c${index}`));
  const gone = [];
  store.addEventListener("gone", ({ detail }) => gone.push(detail.id));
  client.answers.conversations = ({ limit, offset = 0 }) => {
    const answer = { conversations: all.slice(offset, offset + limit), total: all.length };
    between(all, offset);
    return answer;
  };
  client.answers.conversation = (id) => all.find((one) => one.id === id) ?? Promise.reject(NOT_FOUND);
  client.tell("state", { state: "online" });
  await settle();
  return { client, store, all, gone };
}

const again = async (client) => {
  client.tell("state", { state: "waiting" });
  client.tell("state", { state: "online" });
  await settle();
};

test("a list whose pages moved during its load loses no conversation", async () => {
  for (const [count, left] of [[201, 200], [450, 449]]) {
    let leaves = false;
    const { client, store, gone } = await listed(count, (all) => {
      if (leaves) all.splice(5, 1); // left in another tab: the first of the next page goes to this one
      leaves = false;
    });
    assert.equal(store.conversations.size, count);
    leaves = true;
    await again(client);
    assert.deepEqual([store.conversations.size, gone], [left, ["c5"]]);
  }
});

test("a list whose pages moved during its first load has all conversations", async () => {
  let leaves = true;
  const { store } = await listed(450, (all) => {
    if (leaves) all.splice(5, 1);
    leaves = false;
  });
  assert.equal(store.conversations.size, 449);
  assert.equal(store.conversations.has("c200"), true);
});

test("a list that keeps moving drops no conversation that exists", async () => {
  let moves = false;
  const { client, store, gone } = await listed(450, (all, offset) => {
    if (moves && offset === 200) all.unshift(all.splice(420, 1)[0]); // to a page that was read already
  });
  moves = true;
  await again(client);
  assert.deepEqual([store.conversations.size, gone], [450, []]);
  assert.ok(client.count("conversations") <= 3 + 9);
});

test("a conversation that is gone from a long list is dropped", async () => {
  const { client, store, all, gone } = await listed(450, () => {});
  all.splice(100, 2);
  await again(client);
  assert.deepEqual([store.conversations.size, gone], [448, ["c100", "c101"]]);
});

const OLD = { name: "old", description: "old", owner_id: OTHER, member_count: 2 };
const NEW = { name: "new", description: "new", owner_id: ME, member_count: 1, users: [{ id: ME, username: "me" }] };
const detailsOf = (store) => {
  const { name, description, owner_id, member_count, users } = store.conversations.get("a");
  return { name, description, owner_id, member_count, users };
};

test("an old list does not overwrite a newer answer", async () => {
  const { client, store } = await opened();
  const listing = later();
  client.answers.conversations = () => listing.promise;
  client.tell("reload", { conversation_id: null });
  await settle();
  client.answers.conversation = () => client.conversationOf("a", 3, NEW);
  client.tell("system", { conversation_id: "a", event: "renamed" });
  await settle();
  assert.deepEqual(detailsOf(store), NEW);
  listing.resolve(list(client.conversationOf("a", 4, OLD), client.conversationOf("b")));
  await settle();
  assert.deepEqual(detailsOf(store), NEW);
  assert.deepEqual([...store.conversations.keys()], ["a", "b"]);
  assert.equal(store.conversations.get("a").last_rev, 4); // that is ordered by itself
});

test("an old answer to a change does not overwrite a newer answer", async () => {
  const { client, store } = await opened();
  const answer = later();
  client.addMembers = () => answer.promise;
  const done = store.addMembers("a", ["u"]);
  client.answers.conversation = () => client.conversationOf("a", 3, NEW);
  client.tell("system", { conversation_id: "a", event: "added", user_ids: ["u"], user_count: 1 });
  await settle();
  answer.resolve(client.conversationOf("a", 3, OLD));
  await done;
  assert.deepEqual(detailsOf(store), NEW);
});

test("a frame after the start of two overlapping requests causes another", async () => {
  const { client, store } = await opened();
  const [renaming, listing, refreshing] = [later(), later(), later()];
  client.renameConversation = () => renaming.promise;
  client.answers.conversations = () => listing.promise;
  client.answers.conversation = () => refreshing.promise;
  const renamed = store.rename("a", { name: "new" });
  client.tell("reload", { conversation_id: null });
  client.tell("system", { conversation_id: "a", event: "renamed" });
  renaming.resolve(client.conversationOf("a", 3, NEW));
  await renamed;
  listing.resolve(list(client.conversationOf("a", 3, OLD))); // read before the change
  await settle();
  assert.deepEqual(detailsOf(store), NEW);
  refreshing.resolve(client.conversationOf("a", 3, { ...NEW, name: "newest" }));
  await settle();
  assert.equal(detailsOf(store).name, "newest");
});

test("a conversation that keeps changing is shown as it changes", async () => {
  const { client, store } = await opened();
  let answer = later();
  client.answers.conversation = () => answer.promise;
  const change = () => client.tell("system", { conversation_id: "a", event: "renamed" });
  change();
  for (let number = 0; number < 5; number += 1) {
    await settle();
    change(); // before each answer
    const { resolve } = answer;
    answer = later();
    resolve(client.conversationOf("a", 3, { name: `name ${number}` }));
    await settle();
    assert.equal(detailsOf(store).name, `name ${number}`);
  }
});

// --- a service with features ---

/** Loses the connection and comes back, on a service that resumes the user's own sequence. */
const resumed = async (client) => {
  client.tell("state", { state: "waiting" });
  client.tell("state", { state: "online", isListCurrent: true });
  await settle();
};

const idsOf = (store) => store.conversations.get("a").users.map((user) => user.id);

test("a list that was loaded is kept over a lost connection", async () => {
  const { client, store } = await opened();
  await resumed(client);
  assert.equal(client.count("conversations"), 1);
  await again(client);
  assert.equal(client.count("conversations"), 2, "on a connection that cannot keep it");
  assert.equal(store.isListed, true);
});

test("a thousand conversations that cannot be resumed cost one load of the list", async () => {
  const { client, store } = await opened();
  const ids = Array.from({ length: 1_000 }, (_, index) => `c${index}`);
  const all = () => ({ ...list(client.conversationOf("a"), ...ids.map((id) => client.conversationOf(id))), next_cursor: null });
  client.answers.conversations = all;
  client.tell("reload", { conversation_id: null, only: "list" });
  await settle();
  for (const id of ["c1", "a"]) {
    store.open(id);
    await settle();
  }
  client.asked = [];
  client.tell("state", { state: "waiting" });
  client.tell("state", { state: "online", isListCurrent: false });
  client.tell("reload", { conversation_id: null, conversation_ids: ["a", ...ids] });
  await settle();
  const count = (name) => client.count(name);
  assert.deepEqual([count("conversations"), count("conversation"), count("history")], [1, 0, 1]);
  assert.deepEqual([...store.timelines.keys()], ["a"], "one that is not on the screen is loaded when it is opened");
  assert.equal(store.conversations.size, 1_001);
});

test("a list that was never loaded is loaded, though the connection could keep it", async () => {
  const { client, store } = open();
  client.fail("conversations", 1, Object.assign(new Error("no"), { status: 404 })); // it is not repeated
  client.tell("state", { state: "online" });
  await settle();
  assert.equal(store.isListed, false);
  await resumed(client);
  assert.equal(store.isListed, true);
});

test("what frames may miss is loaded again for the conversation on the screen", async () => {
  const { client, store } = await opened();
  store.open("a");
  await settle();
  await resumed(client);
  assert.deepEqual([client.count("readPositions"), client.count("history"), client.count("conversation")], [2, 1, 0]);
});

test("a list that cannot be kept is loaded again, and no history", async () => {
  const { client, store } = open();
  client.answers.conversations = () => list(client.conversationOf("a"), client.conversationOf("c"));
  client.tell("state", { state: "online" });
  await settle();
  store.open("a");
  await settle();
  client.answers.conversations = () => list(client.conversationOf("a"), client.conversationOf("b"));
  client.tell("reload", { conversation_id: null, only: "list" });
  await settle();
  assert.deepEqual([client.count("conversations"), client.count("history")], [2, 1]);
  assert.deepEqual([...store.conversations.keys()], ["a", "b"]);
});

test("a membership of an unknown conversation loads that one, one that ended removes it", async () => {
  const { client, store } = await opened();
  const gone = [];
  store.addEventListener("gone", ({ detail }) => gone.push(detail.id));
  client.tell("membership", membership("b", 5, 0));
  client.tell("conversation_added", { conversation_id: "b", derived_from: "membership" });
  await settle();
  assert.equal(store.conversations.has("b"), true);
  client.tell("membership", membership("a", 6, false));
  client.tell("conversation_removed", { conversation_id: "a", derived_from: "membership" });
  assert.deepEqual([[...store.conversations.keys()], gone], [["b"], ["a"]]);
  assert.deepEqual([client.count("conversations"), client.count("conversation")], [1, 1]);
});

test("a read position of another device moves the unread count", async () => {
  const { client, store } = open();
  client.answers.conversations = () => list(client.conversationOf("a", 9, { read_seq: 2 }));
  client.tell("state", { state: "online" });
  await settle();
  const unread = () => store.unread(store.conversations.get("a"));
  assert.equal(unread(), 7);
  client.tell("membership", membership("a", 5, 6));
  assert.deepEqual([unread(), store.totalUnread()], [3, 3]);
  client.tell("membership", membership("a", 6, 4)); // this device has read more meanwhile
  assert.equal(unread(), 3);
  assert.equal(client.count("conversation"), 0);
});

test("members and properties are changed in place, without a request", async () => {
  const { client, store } = await opened();
  const told = [];
  store.addEventListener("members", ({ detail }) => told.push(detail.members.map(({ user_id }) => user_id)));
  const frame = members("a", 5, { ann: true, [OTHER]: false }, { member_count: 2 });
  client.tell("member", frame);
  client.tell("system", { conversation_id: "a", event: "added", user_ids: ["ann"], derived_from: "member" });
  client.tell("conversation", properties("a", 6, { name: "Team", description: "of two", owner_id: ME }));
  client.tell("system", { conversation_id: "a", event: "renamed", derived_from: "conversation" });
  await settle();
  assert.deepEqual(detailsOf(store), {
    ...{ name: "Team", description: "of two", owner_id: ME, member_count: 2 },
    users: [{ id: ME, username: "me" }, { id: "ann", username: "ann" }],
  });
  assert.equal(store.title(store.conversations.get("a")), "Team");
  assert.deepEqual(told, [["ann", OTHER]]);
  assert.deepEqual([client.count("conversation"), client.count("conversations")], [0, 1]);
});

test("readers are named by the members as they now are", async () => {
  const { client, store } = await opened();
  client.tell("read", { conversation_id: "a", positions: [{ user_id: "ann", seq: 3 }, { user_id: OTHER, seq: 3 }] });
  const names = () => store.readers(store.conversations.get("a"), 3).names;
  assert.deepEqual(names(), ["other"]);
  client.tell("member", members("a", 5, { ann: true, [OTHER]: false }));
  assert.deepEqual(names(), ["ann"]);
});

test("frames that an answer contains change nothing, entry by entry", async () => {
  const { client, store } = open();
  client.answers.conversations = () => list(client.conversationOf("a", 5, NEW));
  client.tell("state", { state: "online" });
  await settle();
  client.tell("conversation", properties("a", 4, OLD));
  client.tell("member", members("a", 5, { [OTHER]: true }));
  assert.deepEqual(detailsOf(store), NEW);
  client.tell("member", members("a", 6, { [OTHER]: true, ann: true }, { member_count: 2 })); // revs 5 and 6
  assert.deepEqual(idsOf(store), [ME, "ann"]);
});

test("a list shows the newest message of a history whose frames bring nothing new", async () => {
  const { client, store } = await opened(); // at rev 3
  client.answers.history = () => page("a", [5, 5], [4, 4], [3, 3], [2, 2], [1, 1]);
  store.open("a"); // while the session resumes: the client emits no frame of a change that a page has shown
  await settle();
  const { last_message, last_seq, last_rev } = store.conversations.get("a");
  assert.deepEqual([last_message.seq, last_seq, last_rev], [5, 5, 5]);
  assert.equal(store.unread(store.conversations.get("a")), 2);
});

test("an answer older than the frames does not undo them", async () => {
  const { client, store } = await opened();
  const listing = later();
  client.answers.conversations = () => listing.promise;
  client.tell("reload", { conversation_id: null, only: "list" });
  client.tell("member", members("a", 5, { [OTHER]: false }, { member_count: 1 }));
  client.tell("conversation", properties("a", 6, { name: "new", description: "new", owner_id: ME }));
  listing.resolve(list(client.conversationOf("a", 4, OLD)));
  await settle();
  assert.deepEqual(detailsOf(store), NEW);
  client.answers.conversations = () => list(client.conversationOf("a", 7, OLD)); // newer
  client.tell("reload", { conversation_id: null, only: "list" });
  await settle();
  assert.equal(detailsOf(store).name, "old");
});

test("a frame about a conversation that is not listed yet loads it: the list under way may be older", async () => {
  const { client, store } = open();
  const listing = later();
  client.answers.conversations = () => listing.promise;
  client.answers.conversation = () => client.conversationOf("a", 6, NEW);
  client.tell("state", { state: "online" });
  client.tell("conversation", properties("a", 6, NEW));
  await settle();
  listing.resolve(list(client.conversationOf("a", 4, OLD)));
  await settle();
  assert.deepEqual(detailsOf(store), NEW);
});

test("in a large group new members are counted, removed ones go, and a title keeps its names", async () => {
  const { client, store } = open();
  const people = Array.from({ length: 20 }, (_, index) => ({ id: `u${index}`, username: `user${index}` }));
  const body = (rev, from) => client.conversationOf("a", rev, { users: people.slice(from, from + 10), member_count: 20 - from, has_more_users: true });
  client.answers.conversations = () => list(body(3, 0));
  client.answers.conversation = () => body(20, 6);
  client.tell("state", { state: "online" });
  await settle();
  client.tell("member", members("a", 4, { ann: true }, { member_count: 21 }));
  assert.deepEqual([idsOf(store).includes("ann"), store.conversations.get("a").member_count], [false, 21]);
  for (let number = 0; number < 6; number += 1) {
    assert.equal(client.count("conversation"), 0);
    client.tell("member", members("a", 5 + number, { [`u${number}`]: false }));
    assert.equal(idsOf(store).includes(`u${number}`), false);
  }
  await settle();
  assert.equal(client.count("conversation"), 1, "4 of the shown users are left");
  assert.equal(idsOf(store).length, 10);
});

test("a thousand new members of a small group are counted, and the first hundred shown", async () => {
  const { client, store } = await opened();
  const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, index) => [`u${index}`, true]));
  client.tell("member", members("a", 1_004, many, { member_count: 1_002 }));
  const { users, member_count, isBrief } = store.conversations.get("a");
  assert.deepEqual([users.length, member_count, isBrief], [100, 1_002, true]);
});

test("a history that has every message is not behind when the members have changed", async () => {
  const { client, store } = await opened();
  store.open("a");
  await settle();
  client.tell("member", members("a", 5, { ann: true }));
  client.answers.conversations = () => list(client.conversationOf("a", 5, { last_seq: 3, read_seq: 3 }));
  await again(client);
  await clock.advance(10_000);
  assert.equal(client.count("history"), 1);
});

/** A client whose list has cursors: positions in the order of activity, which `between(all, cursor)` changes. */
async function listedByCursor(count, between = () => {}) {
  const { client, store } = open();
  const all = Array.from({ length: count }, (_, index) => client.conversationOf(`c${index}`));
  const order = new Map(all.map(({ id }, index) => [id, index])); // a smaller number is more recent
  const gone = [];
  const asked = [];
  store.addEventListener("gone", ({ detail }) => gone.push(detail.id));
  client.answers.conversations = ({ limit, cursor, offset }) => {
    asked.push(offset ?? cursor ?? null);
    const rest = all.filter(({ id }) => order.get(id) > Number(cursor ?? -Infinity)).sort((a, b) => order.get(a.id) - order.get(b.id));
    const shown = rest.slice(0, limit);
    const next_cursor = rest.length > limit ? String(order.get(shown.at(-1).id)) : null;
    const answer = { conversations: shown, total: all.length, next_cursor };
    between({ all, order }, cursor);
    return answer;
  };
  client.answers.conversation = (id) => all.find((one) => one.id === id) ?? Promise.reject(NOT_FOUND);
  client.tell("state", { state: "online" });
  await settle();
  return { client, store, all, order, gone, asked };
}

test("a list is loaded by cursor, each page once", async () => {
  const { store, asked } = await listedByCursor(450);
  assert.deepEqual(asked, [null, "199", "399"]);
  assert.equal(store.conversations.size, 450);
});

test("by cursor, pages that move lose and drop no conversation", async () => {
  let moves = false;
  const { client, store, gone, asked } = await listedByCursor(450, ({ all, order }, cursor) => {
    if (!moves || cursor !== "199") return;
    order.set("c420", -1); // it moves to a page that was read, by a message
    client.tell("message", message("c420", 4));
    all.splice(5, 1); // left on another device
  });
  moves = true;
  asked.length = 0;
  await again(client);
  assert.deepEqual(asked, [null, "199", "399"]);
  assert.deepEqual([store.conversations.size, gone], [450, []], "the one that was left was on a page");
  client.tell("membership", membership("c5", 9, false));
  assert.deepEqual(gone, ["c5"]);
});

test("by cursor, a conversation that moves while its frame is lost is found by reading again", async () => {
  let hasMoved = false;
  const { store, asked } = await listedByCursor(450, ({ order }, cursor) => {
    if (hasMoved || cursor !== "199") return;
    hasMoved = true;
    order.set("c420", -1); // and the session ends before the frame about it
  });
  assert.deepEqual(asked.slice(0, 4), [null, "199", "399", null]);
  assert.equal(store.conversations.size, 450);
  assert.ok(store.conversations.has("c420"));
});

test("a conversation on no page is dropped only if the service says that it does not exist", async () => {
  const { client, store, all, order, gone } = await listedByCursor(450, () => {});
  all.splice(100, 1);
  order.set("c300", -Infinity); // on no page, though it exists
  await again(client);
  assert.deepEqual([store.conversations.size, gone], [449, ["c100"]]);
});

// --- large groups ---

test("views of members are notified of additions, removals and missed frames", async () => {
  const { client, store } = await opened();
  const told = [];
  store.addEventListener("members", ({ detail }) => told.push([detail.conversation_id, detail.event, detail.user_ids]));
  client.tell("system", { conversation_id: "a", event: "added", user_ids: ["u"], user_count: 1 });
  client.tell("system", { conversation_id: "a", event: "renamed" });
  client.tell("system", { conversation_id: "a", event: "removed", user_ids: ["u"], user_count: 1 });
  client.tell("reload", { conversation_id: "a" });
  await again(client);
  assert.deepEqual(told, [["a", "added", ["u"]], ["a", "removed", ["u"]], ["a", undefined, undefined], [null, undefined, undefined]]);
});

test("in a large group the first members are named, and all readers counted", async () => {
  const { client, store } = open();
  const people = Array.from({ length: 150 }, (_, index) => ({ id: `u${index}`, username: `user${index}` }));
  people.push({ id: ME, username: "me" });
  const group = (shown) => client.conversationOf("a", 3, { users: people.slice(0, shown), member_count: 151 });
  const pages = [people.slice(0, 100), people.slice(100)];
  client.answers.conversations = () => list(group(10));
  client.answers.conversation = () => group(100);
  client.answers.readPositions = (id, { cursor }) => ({
    positions: pages[cursor ?? 0].map((user) => ({ user_id: user.id, seq: 3 })),
    next_cursor: cursor === undefined ? 1 : null,
  });
  const known = () => store.conversations.get("a");
  store.open("a");
  client.tell("state", { state: "online" });
  await settle();
  assert.deepEqual([client.count("conversation"), known().users.length, known().member_count], [1, 100, 151]);
  assert.deepEqual(store.readers(known(), 3), { count: 150, names: ["user0", "user1", "user2"] });
  assert.equal(store.title(known()), "user0, user1, user2, user3");
  // A later list has fewer of them: what is known stays until the conversation has come again.
  client.answers.conversation = () => later().promise;
  client.tell("state", { state: "waiting" });
  client.tell("state", { state: "online" });
  await settle();
  assert.deepEqual([client.count("conversations"), known().users.length], [2, 100]);
});
