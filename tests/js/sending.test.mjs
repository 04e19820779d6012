// Messages: sent until they are acknowledged or rejected, in order, each stored once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Bench, ME, OTHER, conversation, deleted, list, message, page, refusal, settle, stateOf } from "./support.mjs";

const sent = (socket) => socket.of("message").map((frame) => frame.client_id);
const error = (code, clientId, changes = {}) => ({
  type: "error", code, content: code, client_id: clientId, conversation_id: "a", ...changes,
});
const own = (clientId, rev, changes = {}) => message("a", rev, { sender_id: ME, client_id: clientId, ...changes });

test("a message is acknowledged by its own frame, which is emitted as well", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const promise = bench.client.send("a", "Hello", { clientId: "m-1" });
  assert.deepEqual(socket.of("message"), [{ type: "message", conversation_id: "a", content: "Hello", client_id: "m-1" }]);
  assert.equal(await stateOf(promise), "pending");
  socket.receive(own("m-1", 5));
  assert.equal((await promise).seq, 5);
  assert.equal(bench.of("message").length, 1);
  assert.deepEqual(bench.client.pending, []);
});

test("a clientId is generated if none is given: 32 hexadecimal digits", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.client.send("a", "1");
  bench.client.send("b", "2");
  const [first, second] = sent(socket);
  assert.match(first, /^[0-9a-f]{32}$/);
  assert.notEqual(first, second);
});

test("another user's message with the same client_id acknowledges nothing", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const promise = bench.client.send("a", "Hello", { clientId: "m-1" });
  socket.receive(message("a", 1, { client_id: "m-1", sender_id: OTHER }), message("b", 2, { client_id: "m-1", sender_id: ME }));
  assert.equal(await stateOf(promise), "pending");
});

test("a message without a connection waits for it, and is resent with the same id until acknowledged", async () => {
  const bench = new Bench();
  const promise = bench.client.send("a", "Hello", { clientId: "m-1" });
  const socket = await bench.online();
  assert.deepEqual(sent(socket), ["m-1"]);
  const next = await bench.again();
  assert.equal(next.sent[0].type, "resume", "which comes first");
  assert.deepEqual(sent(next), ["m-1"]);
  next.receive(own("m-1", 1));
  assert.equal((await promise).rev, 1);
  assert.deepEqual(sent(await bench.again()), []);
});

test("one message a conversation is under way; conversations do not wait for each other", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  for (const [id, name] of [["a", "a1"], ["a", "a2"], ["b", "b1"], ["a", "a3"]]) bench.client.send(id, name, { clientId: name });
  assert.deepEqual(sent(socket), ["a1", "b1"]);
  socket.receive(own("a1", 1));
  assert.deepEqual(sent(socket), ["a1", "b1", "a2"]);
  const next = await bench.again();
  assert.deepEqual(sent(next), ["a2", "b1"]);
  next.receive(own("a2", 2));
  assert.deepEqual(sent(next), ["a2", "b1", "a3"]);
});

test("at most 32 messages are under way", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  for (let index = 0; index < 40; index += 1) bench.client.send(`c${index}`, "x", { clientId: `m${index}` });
  assert.equal(sent(socket).length, 32);
  socket.receive(message("c0", 1, { sender_id: ME, client_id: "m0" }));
  assert.equal(sent(socket).length, 33);
});

test("a rejected message rejects its promise, and the next one is sent", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const first = bench.client.send("a", " ", { clientId: "m-1" });
  bench.client.send("a", "x", { clientId: "m-2" });
  socket.receive(error("empty_content", "m-1", { field: "content" }));
  const refused = await refusal(first);
  assert.deepEqual(
    [refused.name, refused.code, refused.field, refused.clientId, refused.conversationId],
    ["PulseError", "empty_content", "content", "m-1", "a"],
  );
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
  assert.deepEqual(bench.of("error"), []);
});

test("not_stored is retried with backoff, and the next message waits", async () => {
  const bench = new Bench({ storeSeconds: 60 });
  bench.random = 0.999;
  const socket = await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.send("a", "y", { clientId: "m-2" });
  for (const seconds of [1, 2, 4]) {
    socket.receive(error("not_stored", "m-1"));
    const before = sent(socket).length;
    await bench.clock.advance(seconds * 990);
    assert.equal(sent(socket).length, before);
    await bench.clock.advance(seconds * 10);
    assert.equal(sent(socket).length, before + 1);
  }
  assert.deepEqual(new Set(sent(socket)), new Set(["m-1"]));
  socket.receive(own("m-1", 1));
  await promise;
  assert.equal(sent(socket).at(-1), "m-2");
});

test("a message that cannot be stored for long is rejected as not_stored", async () => {
  const bench = new Bench({ storeSeconds: 20 });
  const socket = await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.send("a", "y", { clientId: "m-2" });
  let refused = 0;
  const began = bench.clock.time;
  while ((await stateOf(promise)) === "pending") {
    if (sent(socket).length > refused) {
      refused += 1;
      socket.receive(error("not_stored", "m-1"));
    }
    if (sent(socket).at(-1) === "m-2") break;
    await bench.clock.advance(500);
  }
  assert.equal((await refusal(promise)).code, "not_stored");
  assert.ok(refused > 3, `tried ${refused} times`);
  const took = bench.clock.time - began;
  assert.ok(took >= 20_000 && took < 40_000, `${took} ms`);
  assert.equal(sent(socket).at(-1), "m-2");
});

test("time without a connection does not count towards storeSeconds", async () => {
  const bench = new Bench({ storeSeconds: 20 });
  bench.random = 0;
  let socket = await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  for (let session = 0; session < 3; session += 1) {
    socket.receive(error("not_stored", "m-1"));
    await bench.clock.advance(8_000);
    bench.client.close();
    await bench.clock.advance(100_000);
    socket = await bench.online();
    assert.equal(await stateOf(promise), "pending");
  }
  socket.receive(error("not_stored", "m-1"));
  assert.equal((await refusal(promise)).code, "not_stored");
});

test("a message without an answer is sent again", async () => {
  const bench = new Bench({ answerSeconds: 30 });
  const socket = await bench.online();
  bench.client.send("a", "x", { clientId: "m-1" });
  await bench.clock.advance(10_000);
  for (let index = 0; index < 3; index += 1) {
    socket.receive({ type: "pong" });
    await bench.clock.advance(9_000);
  }
  assert.deepEqual(sent(socket), ["m-1", "m-1"]);
});

test("a wall clock that is set back delays no resend, pause or later message", async () => {
  const bench = new Bench({ answerSeconds: 2 });
  const socket = await bench.online();
  bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.send("b", "x", { clientId: "m-2" });
  bench.clock.step -= 3_600_000;
  await bench.clock.advance(2_000);
  assert.deepEqual(sent(socket), ["m-1", "m-2", "m-1", "m-2"]);
  socket.receive(error("rate_limited"));
  bench.clock.step -= 3_600_000;
  bench.client.send("c", "x", { clientId: "m-3" });
  await bench.clock.advance(2_000);
  assert.ok(sent(socket).includes("m-3"));
});

test("what is no text is not sent", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  for (const content of [null, undefined, 5, {}]) {
    await assert.rejects(bench.client.send("a", content), { name: "TypeError" });
  }
  assert.deepEqual([sent(socket), bench.client.pending], [[], []]);
});

test("rate_limited: messages without an answer wait, and are resent in order and more slowly", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const ids = ["a", "b", "c", "d"];
  const promises = ids.map((id) => bench.client.send(id, "x", { clientId: `m-${id}` }));
  assert.equal(sent(socket).length, 4);
  socket.receive(error("rate_limited", "m-b", { conversation_id: "b" }));
  socket.receive(own("m-a", 1)); // that one had been taken
  await promises[0];
  await bench.clock.advance(999);
  assert.equal(sent(socket).length, 4);
  await bench.clock.advance(130);
  assert.deepEqual(sent(socket).slice(4), ["m-b"]);
  await bench.clock.advance(20);
  assert.deepEqual(sent(socket).slice(4), ["m-b", "m-c"]);
  await bench.clock.advance(20);
  assert.deepEqual(sent(socket).slice(4), ["m-b", "m-c", "m-d"]);
  for (const [index, id] of ids.entries()) if (id !== "a") socket.receive(message(id, 1, { sender_id: ME, client_id: `m-${ids[index]}` }));
  await Promise.all(promises);
  assert.deepEqual(bench.of("error"), []);
});

test("the outbox is bounded", async () => {
  const bench = new Bench({ maxPending: 2 });
  const socket = await bench.online();
  const first = bench.client.send("a", "1", { clientId: "m-1" });
  bench.client.send("a", "2");
  assert.equal((await refusal(bench.client.send("a", "3"))).code, "queue_full");
  socket.receive(own("m-1", 1));
  await first;
  assert.equal(await stateOf(bench.client.send("a", "3")), "pending");
});

test("the same message sent twice is one; another with its clientId is rejected", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const first = bench.client.send("a", "x", { clientId: "m-1" });
  const again = bench.client.send("a", "x", { clientId: "m-1" });
  assert.equal((await refusal(bench.client.send("a", "y", { clientId: "m-1" }))).code, "client_id_reused");
  assert.deepEqual(sent(socket), ["m-1"]);
  socket.receive(own("m-1", 1));
  assert.deepEqual(await first, await again);
});

test("pending messages of a closed page are sent by the next one", async () => {
  const old = new Bench();
  old.client.send("a", "1", { clientId: "m-1" });
  old.client.send("b", "2", { clientId: "m-2" });
  old.client.send("a", "3", { clientId: "m-3" });
  const kept = JSON.parse(JSON.stringify(old.client.pending));
  assert.deepEqual(kept.map(({ clientId, content }) => [clientId, content]), [["m-1", "1"], ["m-2", "2"], ["m-3", "3"]]);

  const bench = new Bench({ pending: kept });
  assert.deepEqual(bench.client.pending, kept);
  const socket = await bench.online();
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
  socket.receive(own("m-1", 1), error("not_a_member", "m-2", { conversation_id: "b" }));
  await settle();
  assert.equal(bench.of("message")[0].client_id, "m-1");
  const [told] = bench.of("error");
  assert.deepEqual([told.code, told.clientId, told.conversationId], ["not_a_member", "m-2", "b"]);
  assert.deepEqual(bench.client.pending.map(({ clientId }) => clientId), ["m-3"]);
});

test("pending messages of one user are not sent as another", async () => {
  const bench = new Bench();
  await bench.online();
  const refused = refusal(bench.client.send("a", "x", { clientId: "m-1" }));
  const [kept] = bench.client.pending;
  assert.equal(kept.userId, ME);
  const next = await bench.again(1006, { user_id: OTHER });
  assert.equal((await refused).code, "other_user");
  assert.deepEqual(sent(next), []);
  const imported = new Bench({ pending: [kept] });
  assert.deepEqual(sent(await imported.online({ user_id: OTHER })), []);
  assert.equal(imported.of("error")[0].code, "other_user");
});

const login = (name) => () => [200, { access_token: name, token_type: "bearer", expires_in: 3_600 }];

test("a message written before the next user's session is that user's", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.close();
  bench.answer = login("BOB");
  await bench.client.login("bob", "secret");
  bench.client.connect();
  const promise = bench.client.send("a", "by bob", { clientId: "m-1" });
  bench.client.read("a", 2);
  bench.socket.session({ user_id: OTHER });
  assert.equal(await stateOf(promise), "pending");
  assert.deepEqual(sent(bench.socket), ["m-1"]);
  assert.equal(bench.socket.of("read").length, 1);
  assert.equal(bench.client.pending[0].userId, OTHER);
});

test("messages and reads from before the first session are not sent by another user's", async () => {
  for (const signIn of [(client) => client.login("bob", "secret"), (client) => (client.token = "BOB")]) {
    const bench = new Bench();
    bench.client.connect();
    const refused = refusal(bench.client.send("a", "by alice"));
    bench.client.read("a", 2);
    bench.client.close();
    bench.answer = login("BOB");
    await signIn(bench.client);
    bench.client.connect();
    bench.socket.session({ user_id: OTHER });
    assert.equal((await refused).code, "other_user");
    assert.deepEqual([sent(bench.socket), bench.socket.of("read")], [[], []]);
  }
});

test("the user's next sign-in sends pending messages, also those written while signed out", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.send("a", "1", { clientId: "m-1" });
  bench.answer = () => [401, { code: "invalid_token", message: "no" }];
  await refusal(bench.client.me());
  bench.client.send("b", "2", { clientId: "m-2" });
  bench.answer = login("AGAIN");
  await bench.client.login("me", "secret");
  const socket = await bench.online();
  assert.deepEqual(sent(socket), ["m-1", "m-2"]);
});

test("messages from before the first sign-in belong to the first user", async () => {
  const bench = new Bench({ token: null });
  bench.client.send("a", "x", { clientId: "m-1" });
  bench.answer = login("ONE");
  await bench.client.login("me", "secret");
  assert.deepEqual(sent(await bench.online()), ["m-1"]);
});

test("a renewal is no sign-in: messages from before the first session are sent", async () => {
  const bench = new Bench();
  bench.client.send("a", "x", { clientId: "m-1" });
  bench.answer = login("NEW");
  await bench.client.renew();
  assert.deepEqual(sent(await bench.online()), ["m-1"]);
});

test("after a new token nothing is sent until the server confirms its user", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive({ type: "auth", expires_in: 3_600 });
  bench.client.token = "NEW";
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.read("a", 3);
  assert.deepEqual([sent(socket), socket.of("read")], [[], []]);
  socket.receive({ type: "auth", expires_in: 3_600 });
  assert.deepEqual([sent(socket), socket.of("read").length], [["m-1"], 1]);

  bench.client.token = "BOB";
  bench.client.send("b", "by bob", { clientId: "m-2" });
  socket.receive({ type: "error", code: "invalid_token", content: "The token is another user's" });
  await bench.clock.advance(0);
  bench.socket.session({ user_id: OTHER });
  assert.deepEqual([sent(socket), sent(bench.socket)], [["m-1"], ["m-2"]]);
  assert.equal((await refusal(promise)).code, "other_user");
});

test("a token that arrives during the handshake is sent after it", async () => {
  const bench = new Bench();
  bench.client.connect();
  bench.answer = login("BOB");
  await bench.client.login("bob", "secret");
  bench.client.send("a", "by bob", { clientId: "m-1" });
  bench.socket.session();
  assert.deepEqual([sent(bench.socket), bench.socket.of("auth")], [[], [{ type: "auth", token: "BOB" }]]);
});

test("a message that closes the connection by its size is rejected, the others are sent", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const small = bench.client.send("a", "small", { clientId: "m-1" });
  const large = bench.client.send("b", "\u0001".repeat(30), { clientId: "m-2" });
  bench.client.send("c", "x".repeat(100), { clientId: "m-3" });
  socket.end(1009);
  const refused = await refusal(large);
  assert.deepEqual([refused.code, refused.clientId], ["content_too_long", "m-2"]);
  await bench.clock.advance(2_000);
  bench.socket.session();
  assert.deepEqual(sent(bench.socket), ["m-1", "m-3"]);
  assert.equal(await stateOf(small), "pending");
});

test("a resume that closes the connection by its size is halved, and no smaller message rejected", async () => {
  const bench = new Bench({ resumeConversations: 8 });
  const socket = await bench.online();
  for (let index = 0; index < 8; index += 1) socket.receive(message(`conversation ${index}`, index + 1));
  const promise = bench.client.send("a", "x".repeat(100), { clientId: "m-1" });
  const next = await bench.again();
  assert.equal(Object.keys(next.of("resume")[0].revs).length, 8);
  assert.deepEqual(sent(next), ["m-1"]);
  const last = await bench.again(1009);
  assert.equal(Object.keys(last.of("resume")[0].revs).length, 4);
  assert.equal(await stateOf(promise), "pending");
  last.end(1009);
  assert.equal((await refusal(promise)).code, "content_too_long", "which is larger than this resume");
});

test("the answer to a resend may be out of order: nothing between is missed", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 10));
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  const next = await bench.again();
  next.receive(own("m-1", 15), message("a", 11), message("a", 14), own("m-1", 15), message("a", 16));
  assert.equal((await promise).rev, 15);
  assert.deepEqual(bench.of("message").map((frame) => frame.rev), [10, 15, 11, 14, 16]);
});

test("the answer to a message with the page's clientId may be out of order", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 5));
  bench.client.send("a", "x", { clientId: "m-1" });
  socket.receive(own("m-1", 9), message("a", 6), message("a", 7), message("a", 8), own("m-1", 9), message("a", 10));
  assert.deepEqual(bench.of("message").map((frame) => frame.rev), [5, 9, 6, 7, 8, 10]);
  assert.deepEqual((await bench.again()).of("resume")[0].revs, { a: 10 });
});

test("a message that was deleted meanwhile is acknowledged by its deletion", async () => {
  const bench = new Bench();
  await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  const next = await bench.again();
  next.receive({ ...deleted("a", 3, 4), sender_id: ME, client_id: "m-1" });
  assert.equal((await promise).type, "message_deleted");
});

test("an acknowledgement of a known message is not emitted again", async () => {
  const bench = new Bench();
  await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  bench.answer = () => [200, list(conversation("a", 8))];
  bench.socket.end();
  await bench.client.conversations();
  await bench.clock.advance(1_000);
  bench.socket.session();
  bench.socket.receive(own("m-1", 8));
  await promise;
  assert.deepEqual(bench.of("message"), []);
});

test("pending messages are rejected when the user is removed from their conversation", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  const promises = ["1", "2"].map((text) => bench.client.send("a", text));
  const other = bench.client.send("b", "3");
  socket.receive({ type: "conversation_removed", conversation_id: "a" });
  for (const promise of promises) assert.equal((await refusal(promise)).code, "not_a_member");
  assert.equal(await stateOf(other), "pending");
});

test("pending messages survive close, and are sent after connect", async () => {
  const bench = new Bench();
  await bench.online();
  const promise = bench.client.send("a", "x", { clientId: "m-1" });
  bench.client.close();
  assert.equal(bench.client.pending.length, 1);
  const socket = await bench.online();
  socket.receive(own("m-1", 1));
  assert.equal((await promise).rev, 1);
});

test("errors about no message are emitted", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive({ type: "error", code: "unknown_type", content: "no such type", field: "type" });
  const [told] = bench.of("error");
  assert.deepEqual([told.code, told.message, told.field, told.status], ["unknown_type", "no such type", "type", 0]);
});

test("typing is sent while connected, every two seconds at most", async () => {
  const bench = new Bench();
  bench.client.typing("a");
  const socket = await bench.online();
  for (let index = 0; index < 21; index += 1) {
    bench.client.typing("a");
    bench.client.typing("b");
    await bench.clock.advance(100);
  }
  assert.deepEqual(socket.of("typing").map((frame) => frame.conversation_id), ["a", "b", "a", "b"]);
});

test("typing after a message is sent at once", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.client.typing("a");
  bench.client.typing("b");
  bench.client.send("a", "x");
  bench.client.typing("a");
  bench.client.typing("a");
  bench.client.typing("b");
  assert.deepEqual(socket.of("typing").map((frame) => frame.conversation_id), ["a", "b", "a"]);
});

test("the highest read position of each conversation is sent until confirmed", async () => {
  const bench = new Bench();
  bench.client.read("a", 3);
  bench.client.read("a", 5);
  bench.client.read("a", 4);
  const reads = (socket) => socket.of("read").map((frame) => [frame.conversation_id, frame.seq]);
  const socket = await bench.online();
  assert.deepEqual(reads(socket), [["a", 5]]);
  bench.client.read("b", 1);
  socket.receive(
    { type: "read", conversation_id: "a", positions: [{ user_id: OTHER, seq: 9 }, { user_id: ME, seq: 4 }] },
    { type: "read", conversation_id: "b", positions: [{ user_id: ME, seq: 1 }] },
  );
  assert.equal(bench.of("read").length, 2);
  const next = await bench.again();
  assert.deepEqual(reads(next), [["a", 5]]);
  next.receive({ type: "error", code: "no_such_message", field: "seq", content: "beyond", conversation_id: "a" });
  assert.deepEqual(bench.of("error").map(({ code }) => code), ["no_such_message"]);
  assert.deepEqual(reads(await bench.again()), []);
});

test("a read position that could not be stored is retried with backoff, a rejected one is not", async () => {
  const bench = new Bench();
  bench.random = 0.999;
  const socket = await bench.online();
  bench.client.read("a", 5);
  const refuse = (code) => socket.receive({ type: "error", code, field: "seq", content: "no", conversation_id: "a" });
  for (const [index, seconds] of [2, 3].entries()) {
    refuse("not_stored");
    await bench.clock.advance(seconds * 1_000 - 50);
    assert.equal(socket.of("read").length, index + 1);
    await bench.clock.advance(50);
    assert.deepEqual(socket.of("read").at(-1), { type: "read", conversation_id: "a", seq: 5 });
    assert.equal(socket.of("read").length, index + 2);
  }
  assert.deepEqual(bench.of("error"), []);
  refuse("not_stored");
  refuse("no_such_message");
  await bench.clock.advance(10_000);
  assert.equal(socket.of("read").length, 3);
  assert.deepEqual(bench.of("error").map(({ code }) => code), ["no_such_message"]);
});

test("read positions of one user are not sent as another", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.read("a", 3);
  assert.deepEqual((await bench.again(1006, { user_id: OTHER })).of("read"), []);
});

test("watch is sent again with every connection, and after rate_limited", async () => {
  const bench = new Bench();
  bench.client.watch([OTHER]);
  const watched = (socket) => socket.of("watch").map((frame) => frame.user_ids);
  assert.deepEqual(watched(await bench.online()), [[OTHER]]);
  bench.client.watch([]);
  assert.deepEqual(watched(bench.socket), [[OTHER], []]);
  const next = await bench.again();
  assert.deepEqual(watched(next), [[]]);
  next.receive({ type: "error", code: "rate_limited", content: "slower" });
  await bench.clock.advance(2_000);
  assert.deepEqual(watched(next), [[], []]);
  next.receive({ type: "users", users: [{ user_id: OTHER, is_online: true, last_seen_at: null }] });
  assert.equal(bench.of("users")[0].users[0].is_online, true);
});

const unavailable = (field) => ({ type: "error", code: "unavailable", content: "in a moment", field });

test("watch is retried with backoff while the server is unavailable", async () => {
  const bench = new Bench();
  bench.random = 0.999;
  const socket = await bench.online();
  bench.client.watch([OTHER]);
  for (const [index, seconds] of [2, 3, 5].entries()) {
    socket.receive(unavailable("user_ids"));
    await bench.clock.advance(seconds * 1_000 - 50);
    assert.equal(socket.of("watch").length, index + 1);
    await bench.clock.advance(50);
    assert.equal(socket.of("watch").length, index + 2);
  }
  assert.deepEqual(socket.of("watch").at(-1).user_ids, [OTHER]);
  assert.deepEqual(bench.of("error"), []);
  socket.receive(unavailable("user_ids"));
  const next = await bench.again();
  await bench.clock.advance(10_000);
  assert.equal(next.of("watch").length, 1, "a new session is told it anyway");
});

test("auth is retried while the server is unavailable, and after rate_limited", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  assert.equal(socket.of("auth").length, 1);
  socket.receive(unavailable());
  await bench.clock.advance(2_000);
  assert.equal(socket.of("auth").length, 2);
  socket.receive({ type: "error", code: "rate_limited", content: "slower" });
  await bench.clock.advance(2_000);
  assert.equal(socket.of("auth").length, 3);
  assert.deepEqual([socket.of("watch"), bench.of("error")], [[], []]);
  socket.receive({ type: "auth", expires_in: 3_600 }, unavailable());
  await bench.clock.advance(10_000);
  assert.equal(socket.of("auth").length, 3);
});

test("a conversation's id in upper case equals the one in lower case", async () => {
  const bench = new Bench({ pending: [{ conversationId: "B", content: "old", clientId: "m-0" }] });
  const socket = await bench.online();
  const stored = bench.client.send("A", "hello", { clientId: "m-1" });
  bench.client.read("A", 1);
  bench.client.typing("A");
  for (const type of ["read", "typing"]) assert.deepEqual(socket.of(type).map((frame) => frame.conversation_id), ["a"]);
  assert.deepEqual(socket.of("message").map((frame) => frame.conversation_id), ["b", "a"]);
  socket.receive(own("m-1", 1), { type: "read", conversation_id: "a", positions: [{ user_id: ME, seq: 1 }] });
  assert.equal((await stored).seq, 1);
  socket.receive(message("b", 1, { sender_id: ME, client_id: "m-0" }));
  assert.deepEqual(bench.client.pending, []);
  let answer;
  bench.answer = () => new Promise((resolve) => (answer = resolve));
  const history = bench.client.history("A");
  await settle();
  socket.receive(message("a", 2));
  answer([200, page("a", [1, 1])]);
  assert.deepEqual((await history).messages.map(({ seq }) => seq), [2, 1]);
  assert.match(bench.requests.at(-1).path, /\/a\/messages/);
  assert.deepEqual((await bench.again()).of("read"), [], "it is confirmed");
});
