// Unsent messages in a storage that outlives the page.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bench, EPOCH, ME, OTHER, message, refusal, settle } from "./support.mjs";

const KEY = `pulse.outbox.${ME}`;

/** What the client uses of `localStorage`; `isFull` refuses to write, `isBlocked` to read. */
class FakeStorage {
  items = new Map();
  isFull = false;
  isBlocked = false;
  changes = 0;

  getItem = (key) => {
    if (this.isBlocked) throw new DOMException("blocked", "SecurityError");
    return this.items.get(key) ?? null;
  };

  setItem = (key, value) => {
    if (this.isFull) throw new DOMException("full", "QuotaExceededError");
    this.changes += 1;
    this.items.set(key, value);
  };

  removeItem = (key) => {
    this.changes += 1;
    this.items.delete(key);
  };

  /** The [clientId, failure] of what is stored for a user. */
  of(key = KEY) {
    return JSON.parse(this.getItem(key) ?? "[]").map((item) => [item.client_id, item.failure]);
  }
}

const own = (clientId, rev, conversation = "a") => message(conversation, rev, { sender_id: ME, client_id: clientId });
const rejection = (code, clientId) => ({ type: "error", code, content: "No, thanks", client_id: clientId, conversation_id: "a" });
const sent = (socket) => socket.of("message").map((frame) => frame.client_id);
const unsent = (bench) => bench.client.unsent.map(({ clientId, failure }) => [clientId, failure]);

function open(storage, options = {}) {
  return new Bench({ storage, userId: ME, ...options });
}

test("an unsent message is in the storage until the server has stored it", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const promise = bench.client.send("a", "1", { clientId: "m-1" });
  assert.deepEqual(storage.of(), [["m-1", null]]);
  const [waiting] = bench.client.unsent;
  assert.deepEqual([waiting.conversationId, waiting.content, waiting.userId], ["a", "1", ME]);
  assert.equal(waiting.createdAt, new Date(bench.clock.now()).toISOString());
  const socket = await bench.online();
  socket.receive(own("m-1", 1));
  await promise;
  assert.equal(storage.items.has(KEY), false);
  assert.deepEqual(bench.client.unsent, []);
  assert.deepEqual(bench.of("outbox"), [{ conversation_id: "a" }, { conversation_id: "a" }]);
});

test("the next page sends what the last one left, in order and with the same ids", async () => {
  const storage = new FakeStorage();
  const old = open(storage);
  old.client.send("a", "1", { clientId: "m-1" });
  old.client.send("a", "2", { clientId: "m-2" });
  const bench = open(storage);
  assert.deepEqual(unsent(bench), [["m-1", null], ["m-2", null]]);
  const socket = await bench.online();
  socket.receive(own("m-1", 1));
  socket.receive(own("m-2", 2));
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
  assert.equal(storage.items.has(KEY), false);
});

test("a rejected message stays, over the page's end too, until it is sent again or discarded", async () => {
  const storage = new FakeStorage();
  const first = open(storage);
  const socket = await first.online();
  const promises = ["m-1", "m-2", "m-3"].map((clientId) => first.client.send("a", clientId, { clientId }));
  for (const [index, promise] of promises.slice(0, 2).entries()) {
    const error = refusal(promise);
    socket.receive(rejection("invalid_text", `m-${index + 1}`));
    assert.equal((await error).code, "invalid_text");
  }
  assert.deepEqual(unsent(first), [["m-1", "No, thanks"], ["m-2", "No, thanks"], ["m-3", null]]);
  assert.deepEqual(first.client.pending.map(({ clientId }) => clientId), ["m-3"]);

  const bench = open(storage);
  const next = await bench.online();
  assert.deepEqual(unsent(bench), [["m-1", "No, thanks"], ["m-2", "No, thanks"], ["m-3", null]]);
  assert.deepEqual(sent(next), ["m-3"]);
  bench.client.discard("a", "m-2");
  const again = bench.client.send("a", "m-1", { clientId: "m-1" });
  assert.deepEqual(unsent(bench), [["m-1", null], ["m-3", null]]);
  assert.deepEqual(sent(next), ["m-3"]); // one at a time in a conversation
  next.receive(own("m-3", 1), own("m-1", 2));
  assert.deepEqual(sent(next), ["m-3", "m-1"]);
  await again;
  assert.equal(storage.items.has(KEY), false);
});

test("a discarded message is sent no more, and its promise is rejected", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const promise = refusal(bench.client.send("A", "1", { clientId: "m-1" }));
  bench.client.discard("A", "m-1");
  assert.equal((await promise).code, "discarded");
  assert.deepEqual(sent(await bench.online()), []);
  assert.equal(storage.items.has(KEY), false);
});

test("a message that another tab sent is removed, a rejected one as well", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const socket = await bench.online();
  const promise = refusal(bench.client.send("a", "1", { clientId: "m-1" }));
  socket.receive(rejection("invalid_text", "m-1"));
  await promise;
  const other = open(storage);
  other.client.send("b", "2", { clientId: "m-2" });
  assert.equal(bench.client.unsentCount, 2);
  assert.deepEqual(unsent(bench), [["m-1", "No, thanks"]]);
  socket.receive(own("m-1", 1), own("m-2", 1, "b"));
  assert.deepEqual([unsent(bench), storage.of(), bench.client.unsentCount], [[], [], 0]);
});

test("signing out discards what other tabs have not sent, too", async () => {
  const storage = new FakeStorage();
  open(storage).client.send("a", "1", { clientId: "m-1" });
  const bench = open(storage);
  open(storage).client.send("a", "2", { clientId: "m-2" });
  bench.client.discardAll();
  assert.deepEqual([bench.client.unsent, storage.items.size], [[], 0]);
  await settle();
});

test("another user's messages stay in the storage until that user is back", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  await bench.online();
  const promise = refusal(bench.client.send("a", "1", { clientId: "m-1" }));
  await bench.again(1006, { user_id: OTHER });
  assert.equal((await promise).code, "other_user");
  assert.deepEqual([unsent(bench), storage.of()], [[], [["m-1", null]]]);
  const others = refusal(bench.client.send("a", "2", { clientId: "m-2" }));
  assert.deepEqual(storage.of(`pulse.outbox.${OTHER}`), [["m-2", null]]);
  assert.deepEqual(sent(await bench.again(1006, { user_id: ME })), ["m-1"]);
  assert.equal((await others).code, "other_user");
});

test("without a userId messages are stored from the first session on", async () => {
  const storage = new FakeStorage();
  open(storage).client.send("a", "1", { clientId: "m-1" });
  const bench = new Bench({ storage });
  bench.client.send("b", "2", { clientId: "m-2" });
  assert.deepEqual([unsent(bench), storage.of()], [[["m-2", null]], [["m-1", null]]]);
  const socket = await bench.online();
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
  assert.deepEqual(storage.of(), [["m-1", null], ["m-2", null]]);
});

test("a storage that is full or broken loses no message of the page", async () => {
  const storage = new FakeStorage();
  storage.items.set(KEY, "{ not JSON");
  storage.isFull = true;
  const bench = open(storage);
  const promise = bench.client.send("a", "1", { clientId: "m-1" });
  assert.deepEqual(unsent(bench), [["m-1", null]]);
  const socket = await bench.online({ epoch: EPOCH });
  assert.deepEqual(sent(socket), ["m-1"]);
  socket.receive(own("m-1", 1));
  assert.equal((await promise).seq, 1);
  const blocked = () => {
    throw new DOMException("blocked", "SecurityError");
  };
  const other = open({ getItem: blocked, setItem: blocked, removeItem: blocked });
  other.client.send("a", "1", { clientId: "m-1" });
  assert.deepEqual(sent(await other.online()), ["m-1"]);
});

test("a message beyond the most that may wait is kept as rejected", async () => {
  const storage = new FakeStorage();
  const bench = open(storage, { maxPending: 1 });
  bench.client.send("a", "1", { clientId: "m-1" });
  assert.equal((await refusal(bench.client.send("a", "2", { clientId: "m-2" }))).code, "queue_full");
  assert.deepEqual(storage.of().map(([clientId, failure]) => [clientId, failure !== null]), [["m-1", false], ["m-2", true]]);
});

test("a message that was rejected before the first session is stored when its user is known", async () => {
  const storage = new FakeStorage();
  const bench = new Bench({ storage, maxPending: 1 });
  bench.client.send("a", "1", { clientId: "m-1" });
  await refusal(bench.client.send("a", "2", { clientId: "m-2" }));
  await bench.online();
  assert.deepEqual(bench.client.unsent.map(({ clientId, userId }) => [clientId, userId]), [["m-1", ME], ["m-2", ME]]);
  assert.deepEqual(storage.of().map(([clientId]) => clientId).sort(), ["m-1", "m-2"]);
});

test("without a storage a rejected message is not kept", async () => {
  const bench = new Bench({ userId: ME });
  const socket = await bench.online();
  const promise = refusal(bench.client.send("a", "1", { clientId: "m-1" }));
  socket.receive(rejection("invalid_text", "m-1"));
  await promise;
  assert.deepEqual([bench.client.unsent, bench.client.unsentCount], [[], 0]);
});

// --- tokens that other tabs renew ---

test("a message written after another tab renewed the token is stored at once", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const socket = await bench.online();
  socket.receive({ type: "auth", expires_in: 3_600 });
  bench.client.takeRenewed("NEW");
  bench.client.send("a", "1", { clientId: "m-1" });
  assert.deepEqual(storage.of(), [["m-1", null]]);
  assert.deepEqual(sent(socket), ["m-1"]);
  assert.equal(socket.of("auth").at(-1).token, "NEW");
  assert.deepEqual([bench.client.token, bench.of("token")], ["NEW", []]);
  assert.throws(() => bench.client.takeRenewed("NEW\n"), TypeError);
});

test("a message of an unknown user that another user's session rejects stays in unsent", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  await bench.online();
  bench.client.token = "T2";
  const promise = refusal(bench.client.send("a", "1", { clientId: "m-1" }));
  bench.client.token = "T3";
  await bench.again(1006, { user_id: OTHER });
  assert.equal((await promise).code, "other_user");
  const [kept] = bench.client.unsent;
  assert.deepEqual([kept.clientId, kept.userId, kept.failure !== null], ["m-1", null, true]);
  assert.equal(storage.items.size, 0); // nobody knows whose list it belongs to
  bench.client.send("a", kept.content, { clientId: "m-1" });
  assert.deepEqual(sent(bench.socket), ["m-1"]);
  assert.deepEqual(storage.of(`pulse.outbox.${OTHER}`), [["m-1", null]]);
});

test("a message rejected before `auth` tells whose it is is stored after it", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const socket = await bench.online();
  socket.receive({ type: "auth", expires_in: 3_600 });
  bench.client.token = "T2";
  const promise = refusal(bench.client.send("a", "1", { clientId: "m-1" }));
  socket.receive({ type: "conversation_removed", conversation_id: "a" });
  assert.equal((await promise).code, "not_a_member");
  assert.equal(storage.items.size, 0);
  socket.receive({ type: "auth", expires_in: 3_600 });
  assert.deepEqual(storage.of().map(([clientId, failure]) => [clientId, failure !== null]), [["m-1", true]]);
  assert.deepEqual(bench.client.unsent.map(({ userId }) => userId), [ME]);
});

// --- order and users ---

test("without a userId, stored messages go before those in memory", async () => {
  const storage = new FakeStorage();
  open(storage).client.send("a", "1", { clientId: "m-1" });
  const bench = new Bench({ storage });
  bench.client.send("a", "2", { clientId: "m-2" });
  const socket = await bench.online();
  assert.deepEqual(sent(socket), ["m-1"]);
  assert.deepEqual(unsent(bench), [["m-1", null], ["m-2", null]]);
  assert.deepEqual(bench.client.pending.map(({ clientId }) => clientId), ["m-1", "m-2"]);
  assert.deepEqual(storage.of(), [["m-1", null], ["m-2", null]]);
  socket.receive(own("m-1", 1));
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
});

test("a message that is in the storage and in memory is there once, in its stored place", async () => {
  const storage = new FakeStorage();
  const first = open(storage, { maxPending: 1 });
  first.client.send("a", "1", { clientId: "m-1" });
  await refusal(first.client.send("a", "2", { clientId: "m-2" }));
  const bench = new Bench({ storage });
  for (const number of [3, 2, 1]) bench.client.send("a", String(number), { clientId: `m-${number}` });
  const socket = await bench.online();
  assert.deepEqual(unsent(bench), [["m-1", null], ["m-2", null], ["m-3", null]]);
  assert.deepEqual(storage.of(), [["m-1", null], ["m-2", null], ["m-3", null]]);
  for (const number of [1, 2, 3]) socket.receive(own(`m-${number}`, number));
  assert.deepEqual(sent(socket), ["m-1", "m-2", "m-3"]);
});

test("a userId without a token does not name the sender of what the next user writes", async () => {
  const storage = new FakeStorage();
  const bench = open(storage, { token: null });
  bench.answer = () => [200, { access_token: "BOB", token_type: "bearer", expires_in: 3_600 }];
  await bench.client.login("bob", "secret");
  bench.client.send("a", "by bob", { clientId: "m-1" });
  assert.equal(storage.items.size, 0);
  assert.deepEqual(sent(await bench.online({ user_id: OTHER })), ["m-1"]);
  assert.deepEqual([storage.of(), storage.of(`pulse.outbox.${OTHER}`)], [[], [["m-1", null]]]);
});

// --- a storage that fails for a moment ---

test("a message that a full storage did not take is put there with the next change", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  storage.isFull = true;
  bench.client.send("a", "1", { clientId: "m-1" });
  bench.client.send("b", "2", { clientId: "m-2" });
  assert.deepEqual(storage.of(), []);
  assert.equal(bench.client.unsentCount, 2);
  storage.isFull = false;
  bench.client.send("a", "3", { clientId: "m-3" });
  assert.deepEqual(storage.of(), [["m-1", null], ["m-2", null], ["m-3", null]]);
});

test("a session tries the storage again", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  storage.isFull = true;
  bench.client.send("a", "1", { clientId: "m-1" });
  storage.isFull = false;
  await bench.online();
  assert.deepEqual(storage.of(), [["m-1", null]]);
});

test("a message that could not be removed is removed with the next change", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  bench.client.send("a", "1", { clientId: "m-1" }).catch(() => {});
  bench.client.send("a", "2", { clientId: "m-2" });
  storage.isFull = true;
  bench.client.discard("a", "m-1");
  assert.deepEqual([storage.of().length, bench.client.unsentCount], [2, 1]);
  storage.isFull = false;
  bench.client.send("a", "3", { clientId: "m-3" });
  assert.deepEqual(storage.of(), [["m-2", null], ["m-3", null]]);
});

test("a list that could not be read is not overwritten", async () => {
  const storage = new FakeStorage();
  open(storage).client.send("a", "1", { clientId: "m-1" });
  storage.isBlocked = true;
  const bench = open(storage);
  bench.client.send("a", "2", { clientId: "m-2" });
  storage.isBlocked = false;
  assert.deepEqual(storage.of(), [["m-1", null]]);
  bench.client.send("a", "3", { clientId: "m-3" });
  assert.deepEqual(storage.of(), [["m-1", null], ["m-2", null], ["m-3", null]]);
});

test("a message that is not in the storage changes nothing there", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const socket = await bench.online();
  socket.receive(own("of another device", 1));
  assert.equal(storage.changes, 0);
});

test("a list that could not be read is loaded with the next session", async () => {
  const storage = new FakeStorage();
  open(storage).client.send("a", "1", { clientId: "m-1" });
  storage.isBlocked = true;
  const bench = open(storage);
  bench.client.send("a", "2", { clientId: "m-2" });
  storage.isBlocked = false;
  const socket = await bench.online();
  assert.deepEqual(unsent(bench), [["m-1", null], ["m-2", null]]);
  assert.deepEqual([sent(socket), storage.of()], [["m-1"], [["m-1", null], ["m-2", null]]]);
});

// --- giving up ---

test("discarding a message needs its conversation and its clientId", () => {
  const bench = open(new FakeStorage());
  assert.throws(() => bench.client.discard("m-1"), TypeError);
});

test("giving everything up writes the storage once", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const promises = ["m-1", "m-2", "m-3"].map((clientId) => refusal(bench.client.send("a", "x", { clientId })));
  const before = storage.changes;
  bench.client.discardAll();
  assert.deepEqual([storage.changes - before, storage.items.size, bench.client.unsent], [1, 0, []]);
  for (const promise of promises) assert.equal((await promise).code, "discarded");
  assert.deepEqual(sent(await bench.online()), []);
});

test("giving up a message of an earlier page is no error", async () => {
  const storage = new FakeStorage();
  const first = open(storage);
  for (const clientId of ["m-1", "m-2"]) first.client.send("a", "x", { clientId });
  const pending = [{ conversationId: "b", content: "x", clientId: "m-3", userId: ME }];
  const bench = open(storage, { pending });
  bench.client.discard("a", "m-1");
  bench.client.discardAll();
  await settle();
  assert.deepEqual([bench.of("error"), bench.client.unsent], [[], []]);
});

test("another tab may have sent a stored message first: its answer is no gap", async () => {
  const storage = new FakeStorage();
  const bench = open(storage);
  const socket = await bench.online();
  socket.receive(message("a", 5));
  const promise = bench.client.send("a", "1");
  const { client_id } = socket.of("message")[0];
  socket.receive(own(client_id, 9));
  assert.equal((await promise).rev, 9);
  assert.deepEqual([bench.client.gaps, bench.socket], [0, socket]);
});
