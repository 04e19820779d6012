// Features of the server that the client asks for: members, properties, and the user's own sequence.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Bench, EPOCH, ME, OTHER, after, conversation, featured, later, list, members, membership, message, page, properties, settle,
} from "./support.mjs";

const names = (bench) => bench.events.map(([name]) => name).filter((name) => name !== "state");
const listsKept = (bench) => bench.of("state").filter(({ state }) => state === "online").map(({ isListCurrent }) => isListCurrent);

/** Waits until the client has reconnected after a gap. */
async function back(bench, changes) {
  await bench.clock.advance(0);
  bench.socket.session(changes);
  await settle();
  return bench.socket;
}

test("the handshake asks for the features, `features` tells which the server has", async () => {
  const bench = new Bench();
  assert.deepEqual(bench.client.features, []);
  const socket = await bench.online(featured(7));
  assert.equal(new URL(socket.url).searchParams.get("features"), "members,conversation,me");
  assert.deepEqual(bench.client.features, ["conversation", "me", "members"]);
  await bench.again();
  assert.deepEqual(bench.client.features, []);
});

test("a server without features is resumed as before, and the page loads its list each time", async () => {
  const bench = new Bench();
  await bench.online();
  const socket = await bench.again();
  assert.deepEqual(socket.sent[0], { type: "resume", revs: {}, epoch: EPOCH });
  assert.deepEqual(listsKept(bench), [false, false]);
});

// --- members and properties ---

test("members and properties are events, and the events of before follow", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(0));
  const moved = after(3, members("a", 5, { ann: true, bob: false }));
  const renamed = after(5, properties("a", 6, { name: "Team" }));
  socket.receive(moved, renamed);
  assert.deepEqual(bench.of("member"), [moved]);
  assert.deepEqual(bench.of("conversation"), [renamed]);
  const added = { event: "added", content: "User ann was added", sender_id: "ann", user_ids: ["ann"], user_count: 1, last_rev: 5 };
  const removed = { ...added, event: "removed", content: "User bob was removed", sender_id: "bob", user_ids: ["bob"] };
  const common = { type: "system", conversation_id: "a" };
  assert.deepEqual(bench.of("system"), [
    { ...common, derived_from: "member", ...added },
    { ...common, derived_from: "member", ...removed },
    { ...common, derived_from: "conversation", event: "renamed", content: "The conversation was changed", sender_id: OTHER, last_rev: 6 },
  ]);
  assert.deepEqual(names(bench), ["member", "system", "system", "conversation", "system"]);
});

test("one request that adds a thousand users is one event, and one of before with the first hundred", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(0));
  const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, index) => [`u${index}`, true]));
  socket.receive(after(1, members("a", 1_001, many, { member_count: 1_002 })));
  assert.deepEqual(bench.of("member").map((frame) => frame.members.length), [1_000]);
  const [{ user_ids, user_count, content }] = bench.of("system");
  assert.deepEqual([user_ids.length, user_count, content], [100, 1_000, "1000 users were added"]);
});

test("changes of all kinds move the resume point, and each is emitted once", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(0));
  socket.receive(after(0, message("a", 1)), after(1, members("a", 2, { ann: true })), after(2, properties("a", 3)));
  const next = await bench.again(1006, featured(0));
  assert.deepEqual(next.of("resume")[0].revs, { a: 3 });
  next.receive(after(1, members("a", 2, { ann: true })), after(2, properties("a", 3)), after(3, members("a", 4, { ann: false })));
  assert.deepEqual(bench.of("member").map(({ rev }) => rev), [2, 4]);
  assert.deepEqual(bench.of("conversation").map(({ rev }) => rev), [3]);
  assert.equal(bench.client.gaps, 0);
});

test("a change of the members that did not arrive is a gap", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(0));
  socket.receive(after(0, message("a", 1)), after(2, properties("a", 3)));
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(bench.of("conversation"), []);
  const next = await back(bench, featured(0));
  assert.deepEqual(next.of("resume")[0].revs, { a: 1 });
  next.receive(after(1, members("a", 2, { ann: true })), after(2, properties("a", 3)));
  assert.deepEqual(names(bench), ["message", "member", "system", "conversation", "system"]);
});

test("a change of the members is news though a page of history is newer", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(0));
  bench.answer = () => [200, page("a", [2, 9], [1, 1])];
  await bench.client.history("a");
  socket.receive(after(7, members("a", 8, { ann: true })), after(8, message("a", 9, { seq: 2 })));
  assert.deepEqual(names(bench), ["member", "system"], "the message is in the page, the member is not");
});

test("a session resumes from the list where a history has newer messages: members may have changed between", async () => {
  const bench = new Bench();
  const history = later();
  bench.answer = ({ path }) => (path.includes("/messages") ? history.promise : [200, list(conversation("a", 8))]);
  const loading = bench.client.history("a");
  await bench.client.conversations();
  history.resolve([200, page("a", [9, 16], [8, 15])]);
  await loading;
  const socket = await bench.online(featured(0));
  assert.deepEqual(socket.of("resume")[0].revs, { a: 8 });
  socket.receive(after(8, properties("a", 11)), after(11, message("a", 15, { seq: 8 })), after(15, message("a", 16, { seq: 9 })));
  assert.deepEqual(names(bench), ["conversation", "system"]);
});

test("a conversation older than the history that was resumed from is requested again", async () => {
  const bench = new Bench();
  bench.answer = () => [200, list(conversation("b", 1))];
  await bench.client.conversations(); // which tells the epoch
  const answers = [later(), later()];
  let asked = 0;
  bench.answer = ({ path }) => (path.includes("/messages") ? [200, page("a", [9, 16])] : answers[asked++].promise);
  const found = bench.client.conversation("a");
  await bench.client.history("a");
  answers[0].resolve([200, conversation("a", 8, { name: "old" })]);
  await settle();
  answers[1].resolve([200, conversation("a", 17, { name: "new" })]);
  assert.equal((await found).name, "new");
});

test("a conversation that must be reloaded is requested again if the answer is older than a frame about it", async () => {
  // The frame says nothing of what changed before the session, so the page cannot keep what it knows.
  const bench = new Bench();
  await bench.online(featured(0));
  bench.answer = () => [200, list(conversation("a", 5, { name: "old" }), conversation("b", 5))];
  await bench.client.conversations();
  const socket = await bench.again(1006, featured(0));
  socket.receive({ type: "error", code: "cannot_resume", content: "no", conversation_id: "a" });
  const answers = [later(), later()];
  let asked = 0;
  bench.answer = () => answers[asked++].promise;
  const found = bench.client.conversations();
  socket.receive(after(9, members("a", 10, { ann: true })));
  answers[0].resolve([200, list(conversation("a", 9, { name: "new" }), conversation("b", 5))]);
  await settle();
  answers[1].resolve([200, list(conversation("a", 10, { name: "new", member_count: 3 }), conversation("b", 5))]);
  assert.deepEqual((await found).conversations.map(({ last_rev }) => last_rev), [10, 5]);
  // From then on the page has what frames build on.
  const late = later();
  bench.answer = () => late.promise;
  const again = bench.client.conversations();
  socket.receive(after(10, properties("a", 11, { name: "newest" })));
  late.resolve([200, list(conversation("a", 10, { name: "new" }), conversation("b", 5))]);
  assert.deepEqual((await again).conversations.map(({ last_rev }) => last_rev), [10, 5]);
});

test("a frame about the user's own removal opens nothing again", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(4));
  socket.receive(after(0, message("a", 1)), membership("a", 5, false), after(1, members("a", 2, { [ME]: false })));
  assert.deepEqual(names(bench), ["message", "membership", "conversation_removed"]);
  assert.deepEqual((await bench.again(1006, featured(5))).of("resume")[0].revs, {});
});

// --- the user's own sequence ---

test("memberships are events, and the events of before follow", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  const frames = [membership("a", 11, 3), membership("a", 12, 5), membership("a", 13, false), membership("b", 14, 0)];
  socket.receive(...frames);
  assert.deepEqual(bench.of("membership"), frames);
  const of = (type) => ({ type, derived_from: "membership" });
  assert.deepEqual(bench.of("conversation_added"), ["a", "b"].map((id) => ({ conversation_id: id, ...of("conversation_added") })));
  assert.deepEqual(bench.of("conversation_removed"), [{ conversation_id: "a", ...of("conversation_removed") }]);
  assert.deepEqual(bench.of("read"), [{ conversation_id: "a", ...of("read"), positions: [{ user_id: ME, seq: 5 }] }]);
});

test("a read position in a listed conversation announces no conversation", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  bench.answer = () => [200, list(conversation("a", 9, { read_seq: 4 }))];
  await bench.client.conversations();
  socket.receive(membership("a", 11, 6));
  assert.deepEqual(names(bench), ["membership", "read"]);
});

test("a session resumes the user's own sequence, and the list is kept", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  assert.deepEqual(socket.sent[0], { type: "resume", revs: {}, epoch: EPOCH });
  bench.answer = () => [200, list(conversation("a", 1), conversation("b", 1))];
  await bench.client.conversations();
  socket.receive(membership("a", 11, 0));
  const next = await bench.again(1006, featured(15));
  assert.equal(next.sent[0].me, 11);
  next.receive(membership("a", 11, 0), membership("b", 13, 0, { prev_me_rev: 11 }), membership("a", 15, 2, { prev_me_rev: 13 }));
  assert.deepEqual(bench.of("membership").map(({ me_rev }) => me_rev), [11, 13, 15]);
  assert.equal((await bench.again(1006, featured(15))).sent[0].me, 15);
  assert.deepEqual(listsKept(bench), [false, true, true]);
  assert.deepEqual([bench.of("reload"), bench.client.gaps], [[], 0]);
});

test("a membership that did not arrive is a gap", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  socket.receive(membership("a", 12, 0));
  assert.equal(bench.client.gaps, 1);
  const next = await back(bench, featured(12));
  assert.equal(next.sent[0].me, 10);
  next.receive(membership("b", 11, 0), membership("a", 12, 0));
  assert.deepEqual(bench.of("membership").map(({ me_rev }) => me_rev), [11, 12]);
  assert.equal(bench.client.gaps, 1);
});

test("an own sequence that cannot be resumed makes the page load its list, and nothing else", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  socket.receive(after(0, message("a", 1)));
  const next = await bench.again(1006, featured(6));
  assert.equal(next.sent[0].me, 10);
  next.receive({ type: "error", code: "cannot_resume", field: "me", content: "no" });
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null, only: "list" }]);
  assert.deepEqual(bench.of("error"), []);
  next.receive(membership("a", 7, 1), after(1, message("a", 2)));
  assert.deepEqual([bench.of("membership").length, bench.of("message").length], [1, 2]);
  const last = await bench.again(1006, featured(7));
  assert.deepEqual([last.sent[0].me, last.sent[0].revs], [7, { a: 2 }]);
});

test("the own sequence of another history or user is not resumed", async () => {
  for (const changes of [{ epoch: "another" }, { user_id: OTHER }]) {
    const bench = new Bench();
    await bench.online(featured(10));
    const next = await bench.again(1006, featured(4, changes));
    assert.equal("me" in next.sent[0], false);
    assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
    next.receive(membership("a", 5, 0));
    assert.deepEqual(listsKept(bench), [false, false]);
    assert.equal(bench.of("membership").length, 1);
  }
});

test("after a server without the own sequence the list is loaded again", async () => {
  const bench = new Bench();
  await bench.online(featured(10));
  await bench.again();
  const next = await bench.again(1006, featured(12));
  assert.equal("me" in next.sent[0], false, "what changed on the connection between is not known");
  assert.deepEqual(listsKept(bench), [false, false, false]);
});

test("a close code that loses everything loses the own sequence", async () => {
  const bench = new Bench();
  await bench.online(featured(10));
  const next = await bench.again(4409, featured(10));
  assert.equal("me" in next.sent[0], false);
});

test("a membership confirms a read position, and a removal forgets it", async () => {
  const bench = new Bench();
  await bench.online(featured(10));
  bench.client.read("a", 5);
  bench.client.read("b", 5);
  bench.socket.receive(membership("a", 11, 5), membership("b", 12, false));
  const next = await bench.again(1006, featured(12));
  assert.deepEqual(next.of("read"), []);
});

test("a removal rejects the messages under way", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  const sent = bench.client.send("a", "hello").catch((error) => error.code);
  socket.receive(membership("a", 11, false));
  assert.equal(await sent, "not_a_member");
});

test("after a removal and a new addition in one session the history is loaded again", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  socket.receive(after(0, message("a", 1)), membership("a", 11, false), membership("a", 12, 2));
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "a" }]);
  socket.receive(after(5, message("a", 6)));
  assert.equal(bench.client.gaps, 0, "its frames began afresh");
});

test("after a removal and a new addition while the client was away its rev is resumed", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  socket.receive(after(0, message("a", 1)), membership("a", 11, 1));
  const next = await bench.again(1006, featured(13));
  assert.deepEqual([next.sent[0].revs, next.sent[0].me], [{ a: 1 }, 11]);
  next.receive(membership("a", 13, 2, { prev_me_rev: 11 }), after(1, message("a", 2)), after(2, members("a", 4, { [ME]: true })));
  assert.deepEqual(names(bench), ["message", "membership", "conversation_added", "membership", "read", "message", "member", "system"]);
  assert.deepEqual([bench.of("reload"), bench.client.gaps], [[], 0]);
});

test("frames of unknown types and fields are ignored", async () => {
  const bench = new Bench();
  const socket = await bench.online(featured(10));
  socket.receive({ type: "features", features: ["me"], me_rev: 99 }, { type: "unheard_of", conversation_id: "a", rev: 7 });
  socket.receive(membership("a", 11, 0, { unheard_of: true }));
  assert.deepEqual(names(bench), ["membership", "conversation_added"]);
});
