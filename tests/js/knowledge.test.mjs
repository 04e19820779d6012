// Changes reach the page once and in order, and a session resumes where the last one ended.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bench, EPOCH, ME, OTHER, after, conversation, deleted, edited, later, list, message, page, settle } from "./support.mjs";

const revs = (bench, ...types) =>
  bench.events.filter(([type]) => (types.length ? types : ["message", "message_updated", "message_deleted"]).includes(type))
    .map(([, frame]) => frame.rev);

const resumed = (socket) => socket.of("resume").map((frame) => frame.revs);

test("the first frame resumes, with no revs and the epoch", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  assert.deepEqual(socket.sent[0], { type: "resume", revs: {}, epoch: EPOCH });
});

test("a frame is emitted once, and the next session resumes after the highest rev", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 7), message("b", 3), edited("a", 2, 8), message("a", 7), deleted("a", 2, 9), edited("a", 2, 8));
  assert.deepEqual(revs(bench), [7, 3, 8, 9]);
  const next = await bench.again();
  assert.deepEqual(next.sent[0], { type: "resume", revs: { a: 9, b: 3 }, epoch: EPOCH });
  next.receive(deleted("a", 2, 9), message("a", 10));
  assert.deepEqual(revs(bench), [7, 3, 8, 9, 10]);
});

test("a session resumes from a history that was loaded before it", async () => {
  const bench = new Bench();
  bench.answer = ({ path }) => [200, path.includes("/messages") ? page("a", [3, 5], [2, 2], [1, 4]) : list(conversation("b", 1))];
  await bench.client.conversations();
  await bench.client.history("a");
  const socket = await bench.online();
  assert.deepEqual(resumed(socket), [{ a: 5, b: 1 }]);
  socket.receive(edited("a", 3, 5), message("a", 6, { seq: 4 }));
  assert.deepEqual(revs(bench), [6]);
});

test("changes that a loaded history contains are not emitted, others are", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 10));
  bench.answer = () => [200, page("a", [12, 12], [11, 13])];
  await bench.client.history("a");
  // 11 is an edit of a message that is not in the page; 13 is the edit of one that is. The first version of that one
  // would take the page back.
  socket.receive(edited("a", 4, 11), message("a", 12), message("a", 12, { seq: 11 }), edited("a", 11, 13));
  assert.deepEqual(revs(bench), [10, 11]);
  assert.deepEqual(resumed(await bench.again()), [{ a: 13 }]);
});

test("a page of history does not move a known resume point", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 10));
  bench.answer = () => [200, page("a", [12, 12], [11, 11])];
  await bench.client.history("a");
  const next = await bench.again();
  assert.deepEqual(resumed(next), [{ a: 10 }], "an edit of an older message between would be missed");
  next.receive(message("a", 11), message("a", 12), message("a", 13));
  assert.deepEqual(revs(bench), [10, 13]);
});

test("an older page alone sets no resume point: the conversation is reloaded", async () => {
  const bench = new Bench();
  bench.answer = () => [200, page("a", [3, 90], [2, 2])];
  await bench.client.history("a", { beforeSeq: 4 });
  const socket = await bench.online();
  assert.deepEqual(resumed(socket), [{}]);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "a" }]);
});

test("of pages that were requested together the oldest sets the resume point", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const [newest, older] = [later(), later()];
  bench.answer = ({ path }) => (path.includes("before_seq") ? older.promise : newest.promise);
  const loads = [bench.client.history("a"), bench.client.history("a", { beforeSeq: 10 })];
  await settle();
  newest.resolve([200, page("a", [12, 12])]);
  older.resolve([200, page("a", [9, 9])]); // read before the edit 11 of its message
  await Promise.all(loads);
  socket.receive(edited("a", 9, 11), message("a", 12));
  assert.deepEqual(revs(bench), [11]);
});

test("a history requested before the session and answered after it is requested again", async () => {
  const bench = new Bench();
  bench.client.connect();
  const answers = [later(), later()];
  bench.answer = () => answers[bench.requests.length - 1].promise;
  const history = bench.client.history("a");
  await settle();
  bench.socket.session(); // what was committed before it is sent to nobody
  answers[0].resolve([200, page("a", [1, 1])]);
  await settle();
  answers[1].resolve([200, page("a", [5, 5])]);
  assert.equal((await history).messages[0].rev, 5);
  assert.deepEqual(resumed(await bench.again()), [{ a: 5 }]);
});

test("a history of a resumed conversation is not requested again", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 4));
  socket.end();
  const answer = later();
  bench.answer = ({ path }) => (path.includes("/messages") ? answer.promise : [200, {}]);
  const history = bench.client.history("a");
  await bench.clock.advance(5_000);
  bench.socket.session();
  bench.socket.receive(message("a", 5));
  answer.resolve([200, page("a", [4, 4])]);
  assert.deepEqual((await history).messages.map((item) => item.rev), [5, 4], "what came meanwhile is worked in");
  assert.equal(bench.requests.filter(({ path }) => path.includes("/messages")).length, 1);
});

test("a list is requested again if a session began meanwhile", async () => {
  const bench = new Bench();
  bench.client.connect();
  const answers = [later(), later()];
  bench.answer = () => answers[bench.requests.length - 1].promise;
  const conversations = bench.client.conversations();
  await settle();
  bench.socket.session();
  answers[0].resolve([200, list(conversation("a", 1))]);
  await settle();
  answers[1].resolve([200, list(conversation("a", 2))]);
  assert.equal((await conversations).conversations[0].last_rev, 2);
});

test("changes that arrive as frames during a request are merged into the newest page", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const answer = later();
  bench.answer = () => answer.promise;
  const history = bench.client.history("a");
  await settle();
  socket.receive(edited("a", 2, 4), deleted("a", 1, 5), message("a", 6, { seq: 4 }), message("b", 9));
  answer.resolve([200, page("a", [3, 3], [2, 2], [1, 1])]);
  const found = await history;
  assert.deepEqual(found.messages.map((item) => [item.seq, item.rev]), [[4, 6], [3, 3], [2, 4], [1, 5]]);
  assert.equal(found.total, 4);
  assert.equal(found.messages[0].content, "content of 6");
  assert.deepEqual([found.messages[2].content, found.messages[2].is_edited], ["content of 4", true]);
  assert.deepEqual([found.messages[3].content, found.messages[3].is_deleted], ["", true]);
  assert.deepEqual(revs(bench), [4, 5, 6, 9]);
});

test("new messages are not added to an older page", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const answer = later();
  bench.answer = () => answer.promise;
  const history = bench.client.history("a", { beforeSeq: 3 });
  await settle();
  socket.receive(message("a", 9), edited("a", 2, 10));
  answer.resolve([200, page("a", [2, 2], [1, 1])]);
  assert.deepEqual((await history).messages.map((item) => [item.seq, item.rev]), [[2, 10], [1, 1]]);
});

test("conversations resume from the rev in a list", async () => {
  const bench = new Bench();
  bench.answer = () => [200, list(conversation("a", 12), conversation("b", 0))];
  const socket = await bench.online();
  await bench.client.conversations();
  socket.receive(message("a", 12), message("a", 13));
  assert.deepEqual(revs(bench), [13]);
  assert.deepEqual(resumed(await bench.again()), [{ a: 13, b: 0 }]);
});

test("a list does not move a known resume point", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 3));
  bench.answer = () => [200, list(conversation("a", 5))];
  await bench.client.conversations();
  socket.receive(message("a", 4), message("a", 5));
  assert.deepEqual(revs(bench), [3, 4, 5]);
});

test("a list sets no resume point while the history, which may be older, is requested", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const history = later();
  bench.answer = ({ path }) => (path.includes("/messages") ? history.promise : [200, list(conversation("a", 12))]);
  const loading = bench.client.history("a");
  await bench.client.conversations();
  socket.receive(message("a", 11), message("a", 12));
  history.resolve([200, page("a", [10, 10])]);
  assert.deepEqual((await loading).messages.map((item) => item.rev), [12, 11, 10]);
  assert.deepEqual(revs(bench), [11, 12]);
});

test("a history that fails changes nothing", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.answer = () => [503, { code: "unavailable", message: "no" }];
  await assert.rejects(bench.client.history("a"), { code: "unavailable" });
  bench.answer = () => [200, list(conversation("a", 3))];
  await bench.client.conversations();
  socket.receive(message("a", 3), message("a", 4));
  assert.deepEqual(revs(bench), [4]);
});

test("a resume names the most recent conversations, the others are reloaded", async () => {
  const bench = new Bench({ resumeConversations: 2 });
  bench.answer = () => [200, list(conversation("a", 20), conversation("b", 30), conversation("c", 10))];
  await bench.client.conversations();
  const socket = await bench.online();
  assert.deepEqual(resumed(socket), [{ a: 20, b: 30 }]);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "c" }]);
  socket.receive(message("c", 40));
  const next = await bench.again();
  assert.deepEqual(resumed(next), [{ b: 30, c: 40 }]);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "c" }, { conversation_id: "a" }]);
  next.receive(message("a", 2));
  assert.deepEqual(revs(bench), [40, 2], "what was known of it is forgotten");
});

test("conversations beyond the resume are named in one event, and the list is not current", async () => {
  const bench = new Bench({ resumeConversations: 2 });
  const ids = ["a", "b", "c", "d", "e"];
  bench.answer = () => [200, list(...ids.map((id, index) => conversation(id, 50 - index)))];
  await bench.client.conversations();
  const featured = { features: ["conversation", "me", "members"], me_rev: 7 };
  const socket = await bench.online(featured);
  assert.deepEqual(Object.keys(resumed(socket)[0]), ["a", "b"]);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null, conversation_ids: ["c", "d", "e"] }]);
  await bench.client.conversations();
  const next = await bench.again(1006, featured);
  assert.equal(next.of("resume")[0].me, 7);
  assert.equal(bench.of("reload").length, 2);
  assert.deepEqual(bench.of("state").at(-1), { state: "online", isListCurrent: false });
});

test("an aborted history counts as not shown", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const answers = [];
  bench.answer = () => {
    const answer = later();
    answers.push(answer);
    return answer.promise;
  };
  const controller = new AbortController();
  const dropped = bench.client.history("a", { signal: controller.signal });
  answers[0].resolve([200, page("a", [4, 4], [3, 3])]);
  controller.abort(); // the answer is there, and the page has not seen it
  await assert.rejects(dropped, { name: "PulseError", code: "aborted", status: 0 });
  const shown = bench.client.history("a");
  answers[1].resolve([200, page("a", [3, 3], [2, 2])]);
  assert.equal((await shown).messages.length, 2);
  socket.receive(message("a", 4));
  assert.deepEqual(revs(bench), [4]);
});

test("every request that loads can be aborted, before it is made as well", async () => {
  const bench = new Bench();
  bench.answer = () => new Promise(() => {});
  const { client } = bench;
  const loads = [
    (signal) => client.history("a", { signal }),
    (signal) => client.conversations({ signal }),
    (signal) => client.conversation("a", { signal }),
    (signal) => client.readPositions("a", { signal }),
    (signal) => client.members("a", { signal }),
    (signal) => client.searchUsers("a", { signal }),
    (signal) => client.presence(ME, { signal }),
    (signal) => client.me({ signal }),
  ];
  for (const load of loads) {
    const before = bench.requests.length;
    await assert.rejects(load(AbortSignal.abort()), { code: "aborted" });
    assert.equal(bench.requests.length, before, "nothing is asked");
    const controller = new AbortController();
    const promise = load(controller.signal);
    await settle();
    controller.abort();
    await assert.rejects(promise, { code: "aborted" });
    assert.equal(bench.requests.length, before + 1);
  }
});

test("after a change of epoch everything is reloaded and nothing resumed", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 9));
  const next = await bench.again(1012, { epoch: "another" });
  assert.deepEqual(next.sent[0], { type: "resume", revs: {}, epoch: "another" });
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
  next.receive(message("a", 8));
  assert.deepEqual(revs(bench), [9, 8]);
});

test("a list without a session detects a change of epoch", async () => {
  const bench = new Bench();
  bench.answer = () => [200, list(conversation("a", 9))];
  await bench.client.conversations();
  bench.answer = () => [200, list(conversation("a", 3, { epoch: "another" }))];
  await bench.client.conversations();
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
  assert.deepEqual(resumed(await bench.online({ epoch: "another" })), [{ a: 3 }]);
});

test("a conversation that cannot be resumed is reloaded, the others resume", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 9), message("b", 5));
  const next = await bench.again();
  next.receive({ type: "error", code: "cannot_resume", content: "no", conversation_id: "a" });
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "a" }]);
  assert.deepEqual(bench.of("error"), []);
  next.receive(message("a", 4), message("b", 5));
  assert.deepEqual(revs(bench), [9, 5, 4]);
  assert.deepEqual(resumed(await bench.again()), [{ a: 4, b: 5 }]);
});

test("cannot_resume without a conversation reloads everything", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 9));
  const next = await bench.again();
  next.receive({ type: "error", code: "cannot_resume", content: "no" });
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
  assert.deepEqual(resumed(await bench.again()), [{}]);
});

test("a rejected resume is halved", async () => {
  const bench = new Bench({ resumeConversations: 4 });
  bench.answer = () => [200, list(...["a", "b", "c"].map((id, index) => conversation(id, index + 1)))];
  await bench.client.conversations();
  const socket = await bench.online();
  socket.receive({ type: "error", code: "invalid_frame", field: "revs", content: "too many" });
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
  await bench.client.conversations();
  assert.deepEqual(resumed(await bench.again()), [{ b: 2, c: 3 }]);
});

test("a conversation that was only announced is reloaded after a reconnect", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive({ type: "conversation_added", conversation_id: "a" });
  assert.deepEqual(bench.of("conversation_added").map((frame) => frame.conversation_id), ["a"]);
  await bench.again();
  assert.deepEqual(bench.of("reload"), [{ conversation_id: "a" }]);
});

test("a conversation that the user was removed from is not resumed", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 3), { type: "conversation_removed", conversation_id: "a" });
  assert.equal(bench.of("conversation_removed").length, 1);
  assert.deepEqual(resumed(await bench.again()), [{}]);
  assert.deepEqual(bench.of("reload"), []);
});

/** A page as docs/javascript.md writes it, of one conversation. */
function pageOf(bench, id) {
  const shown = new Map();
  bench.client.addEventListener("message", ({ detail }) => shown.set(detail.seq, detail.content));
  const load = async () => {
    const { messages } = await bench.client.history(id);
    shown.clear();
    for (const { seq, content } of messages) shown.set(seq, content);
  };
  bench.client.addEventListener("reload", load);
  return { load, seqs: () => [...shown.keys()].sort((a, b) => a - b) };
}

test("after a removal and a new addition the conversation is reloaded, however the client learns of it", async () => {
  for (const how of ["added", "message", "list", "conversation"]) {
    const bench = new Bench();
    let last = 2;
    bench.answer = ({ path }) => {
      if (path.includes("/messages")) return [200, page("a", ...Array.from({ length: last }, (_, i) => [last - i, last - i]))];
      return [200, how === "list" ? list(conversation("a", last)) : conversation("a", last)];
    };
    const socket = await bench.online();
    const shown = pageOf(bench, "a");
    await shown.load();
    socket.receive({ type: "conversation_removed", conversation_id: "a" });
    last = 3;
    if (how === "added") socket.receive({ type: "conversation_added", conversation_id: "a" });
    if (how === "list") await bench.client.conversations();
    if (how === "conversation") await bench.client.conversation("a");
    await settle();
    last = 4;
    socket.receive(message("a", 4));
    await settle();
    assert.deepEqual(shown.seqs(), [1, 2, 3, 4], how);
    assert.deepEqual(bench.of("reload"), [{ conversation_id: "a" }], how);
    assert.deepEqual(resumed(await bench.again()), [{ a: 4 }], how);
  }
});

test("loading the history after a new addition replaces the reload", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 1), { type: "conversation_removed", conversation_id: "a" });
  bench.answer = () => [200, page("a", [2, 2], [1, 1])];
  await bench.client.history("a");
  socket.receive({ type: "conversation_added", conversation_id: "a" }, message("a", 3));
  assert.deepEqual(bench.of("reload"), []);
});

test("a list and read positions requested before a removal and a new addition are requested again", async () => {
  for (const what of ["conversations", "readPositions"]) {
    const bench = new Bench();
    const socket = await bench.online();
    socket.receive(message("a", 1));
    const answers = [later(), later()];
    bench.answer = () => answers[bench.requests.length - 1].promise;
    const found = bench.client[what]("a");
    await settle();
    socket.receive({ type: "conversation_removed", conversation_id: "a" }, { type: "conversation_added", conversation_id: "a" });
    const [old, fresh] = [3, 7].map((rev) => ({ ...list(conversation("a", rev)), positions: [{ user_id: OTHER, seq: rev }] }));
    answers[0].resolve([200, old]);
    await settle();
    answers[1].resolve([200, fresh]);
    assert.deepEqual(await found, fresh, what);
  }
});

test("two newest pages that cross: whichever the page shows, nothing is missing", async () => {
  for (const order of [[0, 1], [1, 0]]) {
    const bench = new Bench();
    const socket = await bench.online();
    bench.answer = () => [200, list(conversation("a", 3))];
    await bench.client.conversations();
    const answers = [later(), later()];
    let asked = 0;
    bench.answer = () => answers[asked++].promise;
    const shown = pageOf(bench, "a");
    const loads = [shown.load(), shown.load()];
    await settle();
    for (const index of order) {
      answers[index].resolve([200, page("a", ...[[4, 4], [3, 3], [2, 2], [1, 1]].slice(index))]);
      await loads[index];
    }
    socket.receive(message("a", 4));
    assert.deepEqual(shown.seqs(), [1, 2, 3, 4], `${order}`);
  }
});

test("a history of unknown epoch is reloaded when a session or list gives one", async () => {
  for (const how of ["session", "list"]) {
    const bench = new Bench();
    bench.answer = ({ path }) => [200, path.includes("/messages") ? page("a", [9, 9]) : list(conversation("b", 1))];
    await bench.client.history("a"); // the history may be restored from a backup after this
    if (how === "list") await bench.client.conversations();
    const socket = await bench.online();
    assert.deepEqual(bench.of("reload"), [{ conversation_id: null }], how);
    assert.deepEqual(resumed(socket), [how === "list" ? { b: 1 } : {}], how);
  }
});

test("a history requested before another user signed in is rejected", async () => {
  const bench = new Bench({ requestSeconds: 300 });
  await bench.online();
  const answer = later();
  bench.answer = ({ path }) => (path.includes("/messages") ? answer.promise : [200, {}]);
  const history = bench.client.history("a").catch((error) => error.code);
  await settle();
  bench.client.token = "ANOTHER";
  await bench.again(1006, { user_id: OTHER });
  answer.resolve([200, page("a", [1, 1])]);
  assert.equal(await history, "other_user");
  assert.equal(bench.requests.filter(({ path }) => path.includes("/messages")).length, 1);
});

test("another user's resume points are not used", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 3));
  const next = await bench.again(1006, { user_id: OTHER });
  assert.deepEqual(resumed(next), [{}]);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
});

test("a history requested before a change of epoch contains nothing of the lost one", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 1));
  const first = later();
  bench.answer = () => first.promise;
  const loaded = bench.client.history("a");
  await settle();
  socket.receive(message("a", 2, { content: "lost" }), message("a", 3, { content: "lost, too" }));
  socket.end();
  await bench.clock.advance(500);
  bench.socket.session({ epoch: "another" });
  bench.answer = () => [200, page("a", [2, 2], [1, 1])];
  first.resolve([200, page("a", [3, 3], [2, 2], [1, 1])]);
  assert.deepEqual((await loaded).messages.map(({ seq, content }) => [seq, content]), [[2, "content of 2"], [1, "content of 1"]]);
});

test("a history requested before the last session that did not resume its conversation is requested again", async () => {
  const bench = new Bench({ requestSeconds: 300 });
  const answers = [later(), later()];
  let asked = 0;
  bench.answer = ({ path }) => (path.includes("/messages") ? answers[asked++].promise : [200, {}]);
  const history = bench.client.history("a"); // the server reads the page now, and its answer is slow
  const first = await bench.online(); // an edit and a message came before it: nobody is sent them
  first.receive(message("a", 6, { seq: 5 }));
  const second = await bench.again();
  assert.deepEqual(resumed(second), [{ a: 6 }]);
  answers[0].resolve([200, page("a", [3, 3], [2, 2], [1, 1])]);
  await settle();
  assert.equal(asked, 2, "the page is older than the first session");
  answers[1].resolve([200, page("a", [5, 6], [4, 4], [3, 3], [2, 2], [1, 5])]);
  assert.deepEqual((await history).messages.map(({ seq, rev }) => [seq, rev]), [[5, 6], [4, 4], [3, 3], [2, 2], [1, 5]]);
});

test("a conversation requested before the last session that did not resume it is requested again", async () => {
  const bench = new Bench({ requestSeconds: 300 });
  const answers = [later(), later()];
  let asked = 0;
  bench.answer = ({ path }) => (path.endsWith("/conversations/a") ? answers[asked++].promise : [200, {}]);
  const found = bench.client.conversation("a");
  const first = await bench.online();
  first.receive(message("a", 6));
  await bench.again();
  answers[0].resolve([200, conversation("a", 3)]);
  await settle();
  assert.equal(asked, 2);
  answers[1].resolve([200, conversation("a", 6)]);
  assert.equal((await found).last_rev, 6);
});

test("a history requested two resumed sessions ago is not requested again", async () => {
  const bench = new Bench({ requestSeconds: 300 });
  const socket = await bench.online();
  socket.receive(message("a", 1));
  const answer = later();
  bench.answer = ({ path }) => (path.includes("/messages") ? answer.promise : [200, {}]);
  const history = bench.client.history("a");
  await settle();
  (await bench.again()).receive(message("a", 2));
  (await bench.again()).receive(message("a", 3));
  answer.resolve([200, page("a", [1, 1])]);
  assert.deepEqual((await history).messages.map(({ rev }) => rev), [3, 2, 1]);
});

test("a history requested before a removal and a new addition is requested again", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 1));
  const answers = [later(), later()];
  bench.answer = () => answers[bench.requests.length - 1].promise;
  const history = bench.client.history("a");
  await settle();
  socket.receive({ type: "conversation_removed", conversation_id: "a" });
  socket.receive({ type: "conversation_added", conversation_id: "a" }); // 2 was stored between
  socket.receive(message("a", 3));
  answers[0].resolve([200, page("a", [1, 1])]);
  await settle();
  answers[1].resolve([200, page("a", [3, 3], [2, 2], [1, 1])]);
  assert.deepEqual((await history).messages.map(({ rev }) => rev), [3, 2, 1]);
});

test("a page of a history that a list showed to be lost is requested again", async () => {
  const bench = new Bench();
  bench.answer = () => [200, list(conversation("a", 9))];
  await bench.client.conversations();
  const answers = [later(), later()];
  let asked = 0;
  const others = [200, list(conversation("a", 3, { epoch: "another" }))];
  bench.answer = ({ path }) => (path.includes("/messages") ? answers[asked++].promise : others);
  const history = bench.client.history("a");
  await bench.client.conversations();
  answers[0].resolve([200, page("a", [9, 9])]);
  await settle();
  answers[1].resolve([200, page("a", [3, 3])]);
  assert.deepEqual((await history).messages.map(({ rev }) => rev), [3]);
});

test("read positions requested before the session are requested again", async () => {
  const bench = new Bench();
  bench.client.connect();
  const answers = [later(), later()];
  bench.answer = () => answers[bench.requests.length - 1].promise;
  const found = bench.client.readPositions("a");
  await settle();
  bench.socket.session(); // what was read before it is told to nobody
  answers[0].resolve([200, { positions: [{ user_id: OTHER, seq: 1 }] }]);
  await settle();
  answers[1].resolve([200, { positions: [{ user_id: OTHER, seq: 2 }] }]);
  assert.deepEqual(await found, { positions: [{ user_id: OTHER, seq: 2 }] });
});

// --- changes that did not arrive ---

/** Waits until the client has reconnected. */
async function back(bench) {
  await bench.clock.advance(0); // at once, if it is the first time for a while
  while (bench.socket.isClosed) await bench.clock.advance(500);
  bench.socket.session();
  await settle();
  return bench.socket;
}

/** A frame that follows the one of the rev before. */
const live = (frame) => after(frame.rev - 1, frame);

test("after a gap the client reconnects and emits every change once and in order", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(live(message("a", 1)), live(message("b", 5)), live(message("a", 3)));
  assert.equal(socket.isClosed, true);
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(revs(bench), [1, 5]);
  const next = await back(bench);
  assert.deepEqual(resumed(next), [{ a: 1, b: 5 }]);
  next.receive(...[message("a", 2), message("a", 3), message("a", 4), message("b", 6)].map(live));
  assert.deepEqual(revs(bench), [1, 5, 2, 3, 4, 6]);
  assert.equal(bench.sockets.length, 2);
  assert.deepEqual(bench.of("reload"), []);
});

test("a gap right after a list or a conversation is detected", async () => {
  for (const load of ["conversations", "conversation"]) {
    const bench = new Bench();
    const socket = await bench.online();
    const answers = { conversations: list(conversation("a", 3)), conversation: conversation("a", 3) };
    bench.answer = () => [200, answers[load]];
    await bench.client[load]("a");
    socket.receive(live(message("a", 5)));
    assert.equal(bench.client.gaps, 1, load);
    const next = await back(bench);
    assert.deepEqual(resumed(next), [{ a: 3 }]);
    next.receive(live(message("a", 4)), live(message("a", 5)));
    assert.deepEqual(revs(bench), [4, 5]);
  }
});

test("changes that no page of history has are no gap", async () => {
  for (const messages of [[[9, 9], [8, 8]], [[2, 2], [1, 1]]]) {
    const bench = new Bench();
    const socket = await bench.online();
    bench.answer = () => [200, page("a", ...messages)];
    await bench.client.history("a");
    socket.receive(live(edited("a", messages[0][0], 11)));
    assert.equal(bench.client.gaps, 0);
    assert.deepEqual(revs(bench), [11]);
  }
});

test("revs of kinds that the client did not ask for are no gap", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(after(0, message("a", 1)), after(1, message("a", 5)));
  assert.equal(bench.client.gaps, 0);
  socket.receive(after(7, message("a", 9)));
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(resumed(await back(bench)), [{ a: 5 }]);
});

test("a server that names no change before does not cause a search", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 1), message("a", 3), edited("a", 1, 9));
  assert.equal(bench.client.gaps, 0);
  assert.deepEqual(revs(bench), [1, 3, 9]);
});

test("a resume skips what changed again, and misses nothing", async () => {
  const bench = new Bench();
  (await bench.online()).receive(message("a", 5));
  const socket = await bench.again();
  socket.receive(after(5, edited("a", 2, 8))); // 6 and 7 were changes of the same message
  bench.answer = () => [200, list(conversation("a", 11))];
  await bench.client.conversations();
  socket.receive(after(8, edited("a", 3, 11)), after(11, message("a", 12, { seq: 6 })));
  assert.equal(bench.client.gaps, 0);
  socket.receive(after(13, message("a", 14, { seq: 8 })));
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(revs(bench), [5, 8, 11, 12]);
});

test("a message that changes twice while the client catches up is no gap", async () => {
  const bench = new Bench();
  (await bench.online()).receive(after(0, message("a", 1)));
  const socket = await bench.again();
  // It was changed to 2 when the resume began, and to 3 before it was sent.
  socket.receive({ type: "system", event: "left", conversation_id: "a", sender_id: OTHER, last_rev: 2, last_seq: 1 });
  socket.receive(after(1, edited("a", 1, 3)), after(3, message("a", 4, { seq: 2 })));
  assert.equal(bench.client.gaps, 0);
  assert.deepEqual(revs(bench), [1, 3, 4]);
});

test("a change that is lost while the client catches up is a gap", async () => {
  const bench = new Bench();
  (await bench.online()).receive(message("a", 5));
  const socket = await bench.again();
  socket.receive(after(6, message("a", 7)));
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(resumed(await back(bench)), [{ a: 5 }]);
});

test("the first change after an empty resume may be missing", async () => {
  const bench = new Bench();
  (await bench.online()).receive(message("a", 5));
  (await bench.again()).receive(live(message("a", 7)));
  assert.equal(bench.client.gaps, 1);
});

test("the first change after a history that is resumed may be missing", async () => {
  const bench = new Bench();
  (await bench.online()).receive({ type: "system", event: "left", conversation_id: "a", sender_id: OTHER, last_rev: 9, last_seq: 2 });
  bench.answer = () => [200, page("a", [2, 5], [1, 1])]; // 6 to 9 are changes that no page has
  await bench.client.history("a");
  const socket = await bench.again();
  assert.deepEqual(resumed(socket), [{ a: 5 }]);
  socket.receive(after(7, edited("a", 1, 8)));
  assert.equal(bench.client.gaps, 1);
});

test("the answer to a resend is out of order and no gap", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(live(message("a", 1)));
  const sent = bench.client.send("a", "hello", { clientId: "mine" });
  await bench.clock.advance(31_000); // no answer: it is sent again
  socket.receive(live(message("a", 9, { sender_id: ME, client_id: "mine" })));
  assert.equal((await sent).rev, 9);
  assert.equal(bench.client.gaps, 0);
  socket.receive(live(message("a", 2)));
  assert.deepEqual(revs(bench), [1, 9, 2]);
  assert.deepEqual(resumed(await bench.again()), [{ a: 2 }]);
});

test("the answer to a resend in its order is followed by the next change", async () => {
  const bench = new Bench();
  (await bench.online()).receive(message("a", 5));
  const sent = bench.client.send("a", "hello", { clientId: "mine" });
  const socket = await bench.again(); // it is sent again
  socket.receive(after(5, message("a", 8, { sender_id: ME, client_id: "mine" })), after(8, message("a", 9)));
  await sent;
  assert.equal(bench.client.gaps, 0);
  assert.deepEqual(revs(bench), [5, 8, 9]);
});

test("the answer to a resend that is here before the list tells the head is no gap", async () => {
  const bench = new Bench();
  bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.send("a", "y", { clientId: "m-2" });
  const socket = await bench.online();
  const answer = later();
  bench.answer = () => answer.promise;
  const listed = bench.client.conversations();
  socket.receive(after(18, message("a", 19, { sender_id: ME, client_id: "m-1" })));
  answer.resolve([200, list(conversation("a", 18))]);
  await listed;
  socket.receive(after(19, message("a", 20, { sender_id: ME, client_id: "m-2" })), after(20, message("a", 21)));
  assert.deepEqual([bench.client.gaps, revs(bench)], [0, [19, 20, 21]]);
  socket.receive(after(22, message("a", 23)));
  assert.equal(bench.client.gaps, 1, "a change that is missing is found");
});

test("a change that does not exist is looked for once", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(live(message("a", 1)), live(message("a", 3)));
  const next = await back(bench);
  next.receive(live(message("a", 3)), live(message("a", 4)));
  assert.equal(bench.client.gaps, 1);
  assert.deepEqual(revs(bench), [1, 3, 4]);
});

test("a server that always skips revs is reconnected to less and less often, and nothing is missing", async () => {
  const bench = new Bench();
  let socket = await bench.online();
  const waits = [];
  for (let rev = 1; rev <= 41; rev += 2) {
    socket.receive(live(message("a", rev)));
    if (!socket.isClosed) continue;
    const closedAt = bench.clock.time;
    socket = await back(bench);
    waits.push(bench.clock.time - closedAt);
    socket.receive(after(rev - 2, message("a", rev))); // what the resume brings
    await bench.clock.advance(11_000);
  }
  assert.deepEqual(revs(bench), Array.from({ length: 21 }, (_, index) => 2 * index + 1));
  assert.deepEqual(waits.slice(0, 3), [0, 0, 0]);
  assert.ok(waits.slice(8).every((wait) => wait >= 15_000 && wait <= 31_000), `${waits}`);
});

test("gaps that a later edit explains do not hide real ones", async () => {
  const bench = new Bench();
  let socket = await bench.online();
  socket.receive(live(message("a", 1)), live(message("a", 2)));
  let rev = 2;
  for (let time = 0; time < 4; time += 1) {
    rev += 2;
    socket.receive(live(edited("a", 2, rev))); // the edit before it, of the same message, is lost
    assert.equal(socket.isClosed, true);
    socket = await back(bench);
    socket.receive(after(rev - 2, edited("a", 2, rev))); // the message as it now is
  }
  socket.receive(live(message("a", rev + 2, { seq: 4 })));
  assert.equal(bench.client.gaps, 5);
  socket = await back(bench);
  assert.deepEqual(resumed(socket), [{ a: rev }]);
  socket.receive(live(message("a", rev + 1, { seq: 3 })), live(message("a", rev + 2, { seq: 4 })));
  assert.deepEqual(revs(bench).slice(-2), [rev + 1, rev + 2]);
});

test("a server that omits a change on every connection is not reconnected to without a pause", async () => {
  const bench = new Bench();
  bench.client.connect();
  let told = null;
  let rev = 0;
  for (const end = bench.clock.time + 60_000; bench.clock.time < end; await bench.clock.advance(100)) {
    if (bench.socket === told) continue;
    told = bench.socket;
    told.session();
    for (let resumed = told.of("resume")[0].revs.a ?? 0; resumed < rev; resumed += 1) told.receive(live(message("a", resumed + 1)));
    rev += 3;
    told.receive(live(message("a", rev - 2)), live(message("a", rev)));
  }
  assert.ok(bench.client.gaps > 3);
  assert.ok(bench.sockets.length < 15, `${bench.sockets.length} connections in a minute`);
  assert.deepEqual(revs(bench), Array.from({ length: rev - 2 }, (_, index) => index + 1));
});

test("a gap during a request for the history is detected", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.answer = ({ path }) => (path.includes("/messages") ? answers[asked++].promise : [200, list(conversation("a", 1))]);
  const answers = [later(), later()];
  let asked = 0;
  const history = bench.client.history("a");
  await bench.client.conversations();
  socket.receive(live(message("a", 3))); // 2 is missing
  assert.equal(bench.client.gaps, 1);
  await back(bench);
  answers[0].resolve([200, page("a", [1, 1])]);
  await settle();
  answers[1].resolve([200, page("a", [3, 3], [2, 2], [1, 1])]);
  assert.deepEqual((await history).messages.map(({ rev }) => rev), [3, 2, 1]);
});
