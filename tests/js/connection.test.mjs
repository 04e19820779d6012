// The connection: reconnects, pings, and the token's end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { PulseClient } from "../../pulse_trio/web/pulse-client.js";
import { Bench, FakeWindow, later, message, refusal, settle } from "./support.mjs";

const waits = (bench) =>
  bench.of("state").filter(({ state }) => state === "waiting" || state === "offline").map(({ retryAt }) => retryAt);

/** Returns the milliseconds that the client waits. */
const delay = (bench) => bench.client.state.retryAt - bench.clock.time;

test("the token is in the subprotocols, and not in the URL", async () => {
  const bench = new Bench({ url: "https://chat.example/" });
  const socket = await bench.online();
  assert.equal(socket.url, "wss://chat.example/api/chat/ws?features=members,conversation,me");
  assert.deepEqual(socket.protocols, ["pulse.v1", "bearer.TOKEN"]);
});

test("the states: connecting, online, waiting, connecting, closed", async () => {
  const bench = new Bench();
  assert.equal(bench.client.state.state, "closed");
  const socket = await bench.online();
  socket.end(1011, "something went wrong");
  await settle();
  assert.deepEqual(bench.client.state, { state: "waiting", retryAt: bench.clock.time + 500, reason: "something went wrong" });
  await bench.clock.advance(500);
  bench.client.close();
  assert.deepEqual(bench.states, ["connecting", "online", "waiting", "connecting", "closed"]);
});

test("the client is online after `session`; connecting has a time limit", async () => {
  const bench = new Bench();
  bench.client.connect();
  bench.socket.open();
  await bench.clock.advance(14_999);
  assert.deepEqual(bench.states, ["connecting"]);
  await bench.clock.advance(1);
  assert.deepEqual(bench.states, ["connecting", "waiting"]);
  assert.ok(bench.sockets[0].isClosed);
});

test("connecting twice opens one connection, without a token none", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.connect();
  assert.equal(bench.sockets.length, 1);
  assert.throws(() => new Bench({ token: null }).client.connect(), { code: "not_authenticated" });
  assert.throws(() => new Bench({ url: undefined }), TypeError);
});

test("the backoff is a random part of 1, 2, 4 … 30 seconds", async () => {
  const bench = new Bench();
  bench.client.connect();
  const found = [];
  for (let index = 0; index < 7; index += 1) {
    bench.socket.end();
    await settle();
    found.push(delay(bench));
    await bench.clock.advance(found.at(-1));
  }
  assert.deepEqual(found, [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
  bench.random = 0;
  bench.socket.end();
  await settle();
  assert.equal(delay(bench), 0);
});

test("ten seconds online reset the backoff", async () => {
  const bench = new Bench();
  await bench.online();
  for (const [seconds, wait] of [[9, 500], [9, 1_000], [10, 500]]) {
    await bench.clock.advance(seconds * 1_000);
    bench.socket.end();
    await settle();
    assert.equal(delay(bench), wait);
    await bench.clock.advance(wait);
    bench.socket.session();
  }
});

test("1012: the client reconnects at a random moment of five seconds", async () => {
  const bench = new Bench();
  (await bench.online()).end(1012);
  await settle();
  assert.equal(delay(bench), 2_500);
});

test("4408: the client reconnects at once the first time, then with backoff", async () => {
  const bench = new Bench();
  (await bench.online()).end(4408);
  await settle();
  assert.equal(delay(bench), 0);
  await bench.clock.advance(0);
  bench.socket.session();
  bench.socket.end(4408);
  await settle();
  assert.equal(delay(bench), 1_000);
});

test("4429: the client reconnects later and sends more slowly", async () => {
  const bench = new Bench();
  (await bench.online()).end(4429);
  await settle();
  assert.equal(delay(bench), 5_500);
  for (const id of ["a", "b", "c"]) bench.client.send(id, "x");
  await bench.clock.advance(5_500);
  bench.socket.session();
  assert.equal(bench.socket.of("message").length, 1);
  await bench.clock.advance(20);
  assert.equal(bench.socket.of("message").length, 2);
});

test("4409: everything is reloaded", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  socket.receive(message("a", 3));
  const next = await bench.again(4409);
  assert.deepEqual(bench.of("reload"), [{ conversation_id: null }]);
  assert.deepEqual(next.of("resume")[0].revs, {});
});

test("1009 without a message under way halves the resume", async () => {
  const bench = new Bench({ resumeConversations: 2 });
  const socket = await bench.online();
  socket.receive(message("a", 1), message("b", 2));
  const next = await bench.again(1009);
  assert.deepEqual(next.of("resume")[0].revs, { b: 2 });
});

test("4401: the token is renewed and the connection opened at once", async () => {
  const bench = new Bench();
  await bench.online();
  bench.answer = () => [200, { access_token: "NEW", token_type: "bearer", expires_in: 3_600 }];
  bench.socket.end(4401);
  await settle();
  await bench.clock.advance(0);
  assert.deepEqual(bench.requests.map(({ method, path, token }) => [method, path, token]), [["POST", "/api/auth/renew", "Bearer TOKEN"]]);
  assert.equal(bench.client.token, "NEW");
  assert.deepEqual(bench.of("token").map((token) => token.access_token), ["NEW"]);
  assert.equal(bench.socket.protocols[1], "bearer.NEW");
});

test("4401: the client is not online while it renews the token", async () => {
  const bench = new Bench();
  await bench.online();
  bench.answer = () => later().promise;
  bench.socket.end(4401, "expired");
  assert.deepEqual(bench.client.state, { state: "connecting", reason: "expired" });
  bench.client.close();

  await bench.online();
  const asked = bench.requests.length;
  bench.client.addEventListener("state", ({ detail }) => detail.state === "connecting" && bench.client.close());
  bench.socket.end(4401);
  await settle();
  assert.deepEqual([bench.client.state.state, bench.requests.length], ["closed", asked]);
});

test("4401: a sign-in during a failed renewal wins", async () => {
  const bench = new Bench();
  await bench.online();
  const renewed = later();
  bench.answer = () => renewed.promise;
  bench.socket.end(4401);
  await settle();
  bench.client.token = "NEW";
  renewed.resolve([401, { code: "invalid_token", message: "no" }]);
  await bench.clock.advance(0);
  assert.equal(bench.socket.protocols[1], "bearer.NEW");
  assert.deepEqual(bench.of("signed_out"), []);
});

test("a listener to `closed` may sign in at once", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.addEventListener("state", ({ detail }) => {
    if (detail.reason === "signed_out") bench.client.token = "NEW";
  });
  bench.answer = () => [401, { code: "invalid_token", message: "no" }];
  await refusal(bench.client.me());
  assert.equal(bench.client.token, "NEW");
});

test("4401 and a rejected renewal sign out", async () => {
  for (const [status, code] of [[401, "invalid_token"], [403, "login_disabled"]]) {
    const bench = new Bench();
    await bench.online();
    bench.answer = () => [status, { code, message: "no" }];
    bench.socket.end(4401);
    await settle();
    assert.equal(bench.of("signed_out").length, 1);
    assert.deepEqual([bench.client.state.state, bench.client.state.reason], ["closed", "signed_out"]);
    assert.equal(bench.client.token, null);
    assert.equal(bench.clock.timers.size, 0);
  }
});

test("4401: a newer token is used", async () => {
  const bench = new Bench();
  await bench.online();
  bench.client.token = "NEW";
  bench.socket.end(4401);
  await bench.clock.advance(0);
  assert.deepEqual(bench.requests, []);
  assert.equal(bench.socket.protocols[1], "bearer.NEW");
});

test("after a rejected handshake an invalid token signs out", async () => {
  const bench = new Bench();
  bench.answer = () => [401, { code: "invalid_token", message: "no" }];
  bench.client.connect();
  bench.socket.end();
  await settle();
  assert.deepEqual(bench.requests.map(({ path, token }) => [path, token]), [["/api/auth/me", "Bearer TOKEN"]]);
  assert.equal(bench.of("signed_out").length, 1);
  await bench.clock.advance(60_000);
  assert.equal(bench.sockets.length, 1);
});

test("after a rejected handshake the client honours Retry-After", async () => {
  const bench = new Bench();
  bench.answer = () => [429, { code: "rate_limited", message: "no" }, { "Retry-After": "8" }];
  bench.client.connect();
  bench.socket.end();
  await settle();
  assert.equal(delay(bench), 9_000);
  bench.answer = () => new Error("no network");
  await bench.clock.advance(9_000);
  bench.socket.end();
  await settle();
  assert.equal(delay(bench), 1_000);
  assert.equal(bench.of("signed_out").length, 0);
});

test("after a lost connection the client does not check the token", async () => {
  const bench = new Bench();
  (await bench.online()).end();
  await settle();
  assert.deepEqual(bench.requests, []);
});

test("a silent server gets a ping after 25 seconds and is left after 10 more", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  await bench.clock.advance(24_999);
  assert.deepEqual(socket.of("ping"), []);
  await bench.clock.advance(1);
  assert.equal(socket.of("ping").length, 1);
  await bench.clock.advance(9_000);
  socket.receive({ type: "pong" });
  await bench.clock.advance(25_000);
  assert.equal(socket.of("ping").length, 2);
  await bench.clock.advance(9_999);
  assert.equal(bench.client.state.state, "online");
  await bench.clock.advance(1);
  assert.deepEqual([bench.client.state.state, bench.client.state.reason], ["waiting", "the server does not answer"]);
  assert.ok(socket.isClosed);
});

test("any frame postpones the ping", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  for (let index = 1; index < 10; index += 1) {
    await bench.clock.advance(20_000);
    socket.receive(message("a", index));
  }
  assert.deepEqual(socket.of("ping"), []);
});

test("a machine that slept through the deadline sends another ping", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  await bench.clock.advance(25_000);
  const [, timer] = [...bench.clock.timers].find(([, { at }]) => at === bench.clock.time + 10_000);
  bench.clock.time += 3_600_000; // the timers stood still
  timer.run();
  assert.equal(socket.of("ping").length, 2);
  assert.equal(bench.client.state.state, "online");
});

test("a sleep that only the wall clock counts sends another ping, too", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  await bench.clock.advance(25_000);
  bench.clock.step += 3_600_000;
  await bench.clock.advance(10_000);
  assert.equal(socket.of("ping").length, 2);
  assert.equal(bench.client.state.state, "online");
});

test("late events of an abandoned connection are ignored", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  await bench.clock.advance(35_000);
  await bench.clock.advance(1_000);
  bench.socket.session();
  socket.receive(message("a", 1));
  socket.end(4401);
  await settle();
  assert.deepEqual(bench.of("message"), []);
  assert.equal(bench.client.state.state, "online");
});

test("without a network the client is offline, and connects when there is one", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;
  const bench = new Bench({ window });
  bench.client.connect();
  assert.equal(bench.client.state.state, "offline");
  assert.equal(bench.sockets.length, 0);
  window.online(true);
  assert.equal(bench.sockets.length, 1);
  await bench.online();
  window.online(false); // is it? the server is asked
  assert.equal(bench.socket.of("ping").length, 1);
  await bench.clock.advance(5_000);
  assert.equal(bench.client.state.state, "offline");
  await bench.clock.advance(29_000);
  assert.equal(bench.sockets.length, 1);
  window.online(true);
  assert.equal(bench.sockets.length, 2);
});

test("a browser that wrongly reports no network is overruled after 30 seconds", async () => {
  const window = new FakeWindow();
  window.navigator.onLine = false;
  const bench = new Bench({ window });
  bench.client.connect();
  await bench.clock.advance(30_000);
  assert.equal(bench.sockets.length, 1);
});

test("a network that returns ends the wait and resets the backoff", async () => {
  const window = new FakeWindow();
  const bench = new Bench({ window });
  bench.client.connect();
  for (let index = 0; index < 5; index += 1) {
    bench.socket.end();
    await settle();
    await bench.clock.advance(delay(bench));
  }
  bench.socket.end();
  await settle();
  window.online(false);
  assert.equal(bench.client.state.state, "offline");
  window.online(true);
  assert.equal(bench.client.state.state, "connecting");
  bench.socket.end();
  await settle();
  assert.equal(delay(bench), 500);
});

test("a page that becomes visible ends the wait, or pings the server", async () => {
  const window = new FakeWindow();
  const bench = new Bench({ window, url: undefined });
  const socket = await bench.online();
  assert.equal(socket.url, "wss://chat.example/api/chat/ws?features=members,conversation,me");
  window.document.visibilityState = "hidden";
  window.show();
  assert.deepEqual(socket.of("ping"), []);
  window.document.visibilityState = "visible";
  window.show();
  assert.equal(socket.of("ping").length, 1);
  await bench.clock.advance(5_000);
  assert.equal(bench.client.state.state, "waiting");
  window.show();
  assert.equal(bench.client.state.state, "connecting");
});

test("reconnect ends a wait and changes nothing else", async () => {
  const bench = new Bench();
  bench.client.reconnect();
  assert.equal(bench.sockets.length, 0);
  const socket = await bench.online();
  bench.client.reconnect();
  assert.equal(socket.of("ping").length, 1);
  socket.end();
  await settle();
  assert.equal(bench.client.state.state, "waiting");
  bench.client.reconnect();
  bench.client.reconnect();
  assert.equal(bench.client.state.state, "connecting");
  assert.equal(bench.sockets.length, 2);
  bench.socket.end();
  await settle();
  assert.equal(delay(bench), 500, "the backoff begins afresh");
});

test("close leaves no timer, listener or connection", async () => {
  const window = new FakeWindow();
  const bench = new Bench({ window });
  bench.answer = () => [200, { access_token: "NEW", token_type: "bearer", expires_in: 3_600 }];
  await bench.client.login("me", "password");
  const socket = await bench.online();
  bench.client.send("a", "x");
  socket.receive({ type: "error", code: "rate_limited", content: "no" });
  assert.ok(bench.clock.timers.size >= 3);
  bench.client.close();
  assert.equal(bench.clock.timers.size, 0);
  assert.deepEqual([socket.isClosed, socket.closedWith], [true, 1000]);
  window.online(false);
  window.online(true);
  window.show();
  socket.end();
  await bench.clock.advance(100_000);
  assert.equal(bench.sockets.length, 1);
  assert.deepEqual(bench.states.slice(-1), ["closed"]);
});

test("a listener to `connecting` may close, and connect again", async () => {
  for (const isAgain of [false, true]) {
    const bench = new Bench();
    let told = 0;
    bench.client.addEventListener("state", ({ detail }) => {
      if (detail.state !== "connecting" || told++ > 0) return;
      bench.client.close();
      if (isAgain) bench.client.connect();
    });
    bench.client.connect();
    assert.equal(bench.sockets.length, isAgain ? 1 : 0);
    bench.client.close();
    assert.deepEqual(bench.sockets.filter((socket) => !socket.isClosed), []);
    assert.equal(bench.clock.timers.size, 0);
  }
});

test("close while waiting, connecting, or checking the token", async () => {
  const waiting = new Bench();
  (await waiting.online()).end();
  await settle();
  waiting.client.close();
  const connecting = new Bench();
  connecting.client.connect();
  connecting.client.close();
  const asking = new Bench();
  asking.answer = () => later().promise;
  asking.client.connect();
  asking.socket.end();
  await settle();
  asking.client.close();
  for (const bench of [waiting, connecting, asking]) {
    await settle();
    assert.equal(bench.clock.timers.size, 0);
    await bench.clock.advance(100_000);
    assert.equal(bench.sockets.length, 1);
    assert.equal(bench.client.state.state, "closed");
  }
});

test("close while an expired token is renewed", async () => {
  const bench = new Bench();
  await bench.online();
  const renewed = later();
  bench.answer = () => renewed.promise;
  bench.socket.end(4401);
  await settle();
  bench.client.close();
  renewed.resolve([200, { access_token: "NEW", token_type: "bearer", expires_in: 100 }]);
  await settle();
  assert.equal(bench.clock.timers.size, 0);
  assert.equal(bench.client.token, "TOKEN");
  assert.equal(bench.sockets.length, 1);
});

test("close aborts all requests, renewals as well", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 100);
  await bench.client.login("me", "password");
  await bench.online();
  bench.answer = () => later().promise;
  await pass(bench, 80);
  assert.equal(bench.requests.at(-1).path, "/api/auth/renew");
  const asked = refusal(bench.client.me());
  assert.ok(bench.requests.slice(-2).every(({ init }) => !init.signal.aborted));
  bench.client.close();
  assert.ok(bench.requests.slice(-2).every(({ init }) => init.signal.aborted));
  assert.equal((await asked).code, "network");
  await settle();
  assert.equal(bench.clock.timers.size, 0);
  assert.deepEqual(bench.of("error"), []);
});

test("a renewal that is answered after close has no effect", async () => {
  const bench = new Bench();
  const renewed = later();
  bench.answer = () => [200, { access_token: "ONE", token_type: "bearer", expires_in: 100 }];
  await bench.client.login("me", "password");
  await bench.online();
  bench.answer = () => renewed.promise;
  for (let index = 0; index < 4; index += 1) {
    await bench.clock.advance(20_000);
    bench.socket.receive({ type: "pong" });
  }
  assert.equal(bench.requests.at(-1).path, "/api/auth/renew");
  bench.client.close();
  renewed.resolve([200, { access_token: "TWO", token_type: "bearer", expires_in: 100 }]);
  await settle();
  assert.equal(bench.clock.timers.size, 0);
});

// --- tokens ---

const token = (name, seconds) => [200, { access_token: name, token_type: "bearer", expires_in: seconds }];

/** Advances the clock while the server answers pings. */
async function pass(bench, seconds) {
  for (let left = seconds; left > 0; left -= 20) {
    await bench.clock.advance(Math.min(left, 20) * 1_000);
    bench.socket.receive({ type: "pong" });
  }
}

test("login keeps the token, and renews it in time on the live connection", async () => {
  const bench = new Bench({ token: null });
  bench.answer = () => token("ONE", 3_600);
  assert.equal((await bench.client.login("me", "secret")).access_token, "ONE");
  const socket = await bench.online();
  assert.equal(socket.protocols[1], "bearer.ONE");
  assert.deepEqual(socket.of("auth"), [], "how long it is good for is known");
  bench.answer = () => token("TWO", 3_600);
  await pass(bench, 3_600 * 0.7);
  assert.equal(bench.client.token, "ONE");
  await pass(bench, 3_600 * 0.1);
  assert.equal(bench.client.token, "TWO");
  assert.deepEqual(socket.of("auth"), [{ type: "auth", token: "TWO" }]);
  assert.deepEqual(bench.of("token").map(({ access_token }) => access_token), ["ONE", "TWO"]);
  await pass(bench, 3_600 * 0.8);
  assert.equal(bench.requests.filter(({ path }) => path === "/api/auth/renew").length, 2);
  assert.equal(bench.sockets.length, 1);
});

test("a token is renewed though the machine slept and its timers stood still", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 3_600);
  await bench.client.login("me", "secret");
  await bench.online();
  bench.answer = () => token("TWO", 3_600);
  await pass(bench, 300);
  assert.equal(bench.client.token, "ONE");
  bench.clock.step += 2_700_000; // 45 minutes
  await pass(bench, 61);
  assert.equal(bench.client.token, "TWO");
});

test("a session that begins after a sleep renews the token at once", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 3_600);
  await bench.client.login("me", "secret");
  await bench.online();
  bench.answer = () => token("TWO", 3_600);
  bench.clock.step += 2_700_000;
  bench.socket.end(1012);
  await bench.clock.advance(5_000);
  bench.socket.session();
  await bench.clock.advance(0);
  assert.equal(bench.client.token, "TWO");
});

test("a wall clock that is set back delays no renewal, one that is set forward ends none", async () => {
  for (const step of [-3_600_000, 86_400_000]) {
    const bench = new Bench();
    bench.answer = () => token("ONE", 3_600);
    await bench.client.login("me", "secret");
    await bench.online();
    bench.clock.step += step;
    bench.answer = () => new Error("no network");
    await pass(bench, 3_000);
    bench.answer = () => token("TWO", 3_600);
    await pass(bench, 40);
    assert.equal(bench.client.token, "TWO", step);
  }
});

test("the server tells the lifetime of a token from elsewhere", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  assert.deepEqual(socket.sent.map(({ type }) => type), ["resume", "auth"]);
  socket.receive({ type: "auth", expires_in: 1_000 });
  bench.answer = () => token("TWO", 3_600);
  await pass(bench, 801);
  assert.equal(bench.client.token, "TWO");
});

test("a renewal that fails is retried, one that is rejected is not", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 3_600);
  await bench.client.login("me", "secret");
  bench.answer = () => new Error("no network");
  await bench.online();
  await pass(bench, 2_700);
  bench.answer = () => [403, { code: "login_disabled", message: "no" }];
  const before = bench.requests.length;
  assert.ok(before >= 2);
  await pass(bench, 100);
  assert.equal(bench.requests.length, before + 1);
  assert.deepEqual([bench.client.token, bench.client.state.state], ["ONE", "online"], "it is still good");
});

test("a sign-in near its end is not renewed again and again", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 1_000);
  await bench.client.login("me", "secret");
  await bench.online();
  bench.answer = () => token("TWO", 250); // 0.75 of the time has gone: as long as the old one
  await pass(bench, 760);
  assert.equal(bench.socket.of("auth").length, 1);
  bench.socket.receive({ type: "auth", expires_in: 249 });
  await pass(bench, 230);
  assert.equal(bench.requests.length, 2);
  assert.equal(bench.client.token, "TWO");
});

test("a token of a year is not renewed at once though timers end at 24 days", async () => {
  const bench = new Bench();
  bench.answer = () => token("ONE", 365 * 86_400);
  await bench.client.login("me", "secret");
  await bench.clock.advance(200 * 86_400_000);
  assert.equal(bench.requests.length, 1);
  bench.answer = () => token("TWO", 365 * 86_400);
  await bench.clock.advance(80 * 86_400_000);
  assert.equal(bench.client.token, "TWO");
});

test("a new token of an identity provider is sent on the live connection", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.client.token = "NEW";
  assert.deepEqual(socket.of("auth").map((frame) => frame.token), ["TOKEN", "NEW"]);
});

test("a token of another user opens a new connection", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  bench.client.token = "OTHER";
  socket.receive({ type: "error", code: "invalid_token", content: "The token is another user's" });
  await bench.clock.advance(0);
  assert.equal(bench.sockets.length, 2);
  assert.equal(bench.socket.protocols[1], "bearer.OTHER");
});

test("a token that a WebSocket cannot carry is an error and not retried", async () => {
  const bench = new Bench({
    WebSocket: class {
      constructor() {
        throw new SyntaxError("an invalid subprotocol");
      }
    },
  });
  bench.client.connect();
  await bench.clock.advance(100_000);
  assert.equal(bench.of("error")[0].code, "cannot_connect");
  assert.deepEqual(bench.states, ["connecting", "closed"]);
});

// --- REST ---

test("every REST operation is requested as docs/rest.md says", async () => {
  const bench = new Bench();
  const { client } = bench;
  bench.answer = ({ method, path }) => {
    if (method === "DELETE") return [204];
    if (path.includes("/messages")) return [200, { messages: [], total: 0 }];
    return [200, { conversations: [], access_token: "NEW", expires_in: 9 }];
  };
  const expected = [
    [() => client.register("ada", "secret"), "POST", "/api/auth/register", { username: "ada", password: "secret" }],
    [() => client.me(), "GET", "/api/auth/me"],
    [() => client.searchUsers("a&b", { limit: 5 }), "GET", "/api/users?query=a%26b&limit=5"],
    [() => client.conversations(), "GET", "/api/chat/conversations"],
    [() => client.conversations({ limit: 2, offset: 4 }), "GET", "/api/chat/conversations?limit=2&offset=4"],
    [() => client.conversations({ limit: 2, cursor: "c+1" }), "GET", "/api/chat/conversations?limit=2&cursor=c%2B1"],
    [() => client.conversations({ cursor: null }), "GET", "/api/chat/conversations"],
    [() => client.searchUsers("a", { cursor: "c" }), "GET", "/api/users?query=a&cursor=c"],
    [() => client.conversation("c/1"), "GET", "/api/chat/conversations/c%2F1"],
    [
      () => client.createConversation({ name: "Team", isGroup: true, participantIds: ["u"] }),
      "POST",
      "/api/chat/conversations",
      { name: "Team", description: null, is_group: true, participant_ids: ["u"] },
    ],
    [() => client.renameConversation("c", { name: "New" }), "PATCH", "/api/chat/conversations/c", { name: "New" }],
    [() => client.addMembers("c", ["u"]), "POST", "/api/chat/conversations/c/members", { user_ids: ["u"] }],
    [() => client.removeMember("c", "me"), "DELETE", "/api/chat/conversations/c/members/me"],
    [() => client.history("c"), "GET", "/api/chat/conversations/c/messages"],
    [() => client.history("c", { beforeSeq: 9, limit: 3 }), "GET", "/api/chat/conversations/c/messages?before_seq=9&limit=3"],
    [() => client.history("c", { afterSeq: 0 }), "GET", "/api/chat/conversations/c/messages?after_seq=0"],
    [() => client.edit("c", "m", "new"), "PATCH", "/api/chat/conversations/c/messages/m", { content: "new" }],
    [() => client.remove("c", "m"), "DELETE", "/api/chat/conversations/c/messages/m"],
    [() => client.readPositions("c"), "GET", "/api/chat/conversations/c/read"],
    [() => client.presence("u"), "GET", "/api/chat/users/u/presence"],
    [() => client.renew(), "POST", "/api/auth/renew"],
    [() => client.login("ada", "secret"), "POST", "/api/auth/login", { username: "ada", password: "secret" }],
  ];
  for (const [call, method, path, body] of expected) {
    await call();
    const request = bench.requests.at(-1);
    assert.deepEqual([request.method, request.path, request.body], [method, path, body]);
    assert.equal(request.token, ["/api/auth/register", "/api/auth/login"].includes(path) ? undefined : "Bearer TOKEN");
    assert.equal(request.init.credentials, "omit");
  }
});

test("a REST error is a PulseError; an invalid token signs out", async () => {
  const bench = new Bench();
  bench.answer = () => [422, { code: "invalid_field", message: "`limit`: no", field: "limit" }];
  const refused = await refusal(bench.client.me());
  assert.deepEqual([refused.code, refused.message, refused.field, refused.status], ["invalid_field", "`limit`: no", "limit", 422]);
  bench.answer = () => [429, { code: "rate_limited", message: "no" }, { "Retry-After": "3" }];
  assert.equal((await refusal(bench.client.me())).retryAfter, 3);
  bench.answer = () => [502, undefined];
  assert.deepEqual([(await refusal(bench.client.me())).code, bench.of("signed_out").length], ["bad_answer", 0]);
  bench.answer = () => new Error("no network");
  assert.equal((await refusal(bench.client.me())).code, "network");
  await bench.online();
  bench.answer = () => [401, { code: "invalid_token", message: "no" }];
  assert.equal((await refusal(bench.client.me())).status, 401);
  assert.equal(bench.of("signed_out").length, 1);
  assert.equal(bench.client.state.state, "closed");
});

test("a request has a time limit", async () => {
  const bench = new Bench({ requestSeconds: 7 });
  bench.answer = () => later().promise;
  const asked = refusal(bench.client.me());
  await bench.clock.advance(7_000);
  assert.equal((await asked).code, "network");
  assert.equal(bench.clock.timers.size, 0);
});

// --- no token in an error's text ---

const UNSENDABLE = ["a-secret\n", " a-secret", "a-secret\r\nX-Other: 1", "a-secret\u0000", "a-secret\u00e9"];

test("a token that cannot be sent is rejected, without the token in the text", async () => {
  for (const token of UNSENDABLE) {
    const isRefused = (error) => error instanceof TypeError && !error.message.includes("a-secret");
    assert.throws(() => new Bench({ token }), isRefused);
    const bench = new Bench();
    assert.throws(() => (bench.client.token = token), isRefused);
    assert.equal(bench.client.token, "TOKEN");
    bench.answer = () => [200, { access_token: token, token_type: "bearer", expires_in: 60 }];
    for (const error of [await refusal(bench.client.login("me", "password")), await refusal(bench.client.renew())]) {
      assert.equal(error.code, "bad_answer");
      assert.ok(!error.message.includes("a-secret"));
    }
    assert.equal(bench.client.token, "TOKEN");
  }
});

test("an empty token counts as none", () => {
  const bench = new Bench({ token: "" });
  assert.equal(bench.client.token, null);
  bench.client.token = "TOKEN";
  bench.client.token = "";
  assert.equal(bench.client.token, null);
});

test("a browser's error texts, which contain the token, are not passed on", async () => {
  class WebSocket {
    constructor(url, protocols) {
      throw new SyntaxError(`The subprotocol '${protocols[1]}' is invalid`);
    }
  }
  const fetch = async (url, init) => {
    throw new TypeError(`${init.headers.Authorization} is an invalid header value`);
  };
  const bench = new Bench({ token: "a-secret=", WebSocket, fetch });
  bench.client.connect();
  const errors = [bench.of("error")[0], await refusal(bench.client.me())];
  assert.deepEqual(errors.map(({ code }) => code), ["cannot_connect", "network"]);
  assert.match(errors[0].message, /SyntaxError/);
  assert.match(errors[1].message, /GET \/api\/auth\/me: TypeError/);
  for (const error of errors) assert.ok(!error.message.includes("a-secret"), error.message);
});

test("reconnect does not wait for the reason of a rejected handshake", async () => {
  const bench = new Bench();
  const answers = [];
  bench.answer = () => new Promise((resolve) => answers.push(resolve)); // a network that is gone without a word
  bench.client.connect();
  bench.socket.end();
  await settle();
  assert.deepEqual([bench.sockets.length, answers.length], [1, 1]);
  bench.client.reconnect();
  await bench.clock.advance(0);
  assert.equal(bench.sockets.length, 2);
  bench.socket.session();
  assert.equal(bench.client.state.state, "online");
  answers[0]([503, { code: "unavailable", message: "no" }, { "Retry-After": "100" }]);
  await bench.clock.advance(5_000);
  assert.equal(bench.client.state.state, "online");
});

test("reconnect does not wait for a renewal without an answer", async () => {
  const bench = new Bench();
  const answers = [];
  bench.answer = () => new Promise((resolve) => answers.push(resolve));
  const socket = await bench.online();
  socket.end(4401);
  await settle();
  bench.client.reconnect();
  await bench.clock.advance(0);
  assert.equal(bench.sockets.length, 2);
  bench.socket.session();
  answers[0]([401, { code: "invalid_token", message: "no" }]);
  await settle();
  assert.deepEqual([bench.client.state.state, bench.client.token], ["online", "TOKEN"]);
});

test("a peer that does not answer the close frame is left after a second", async () => {
  const bench = new Bench();
  const socket = await bench.online();
  let ends = 0;
  socket.terminate = () => (ends += 1); // of the package ws
  bench.client.close();
  assert.deepEqual([socket.closedWith, bench.clock.timers.size], [1000, 1]);
  await bench.clock.advance(1_000);
  assert.deepEqual([ends, bench.clock.timers.size], [1, 0]);
  const next = await bench.online();
  next.terminate = () => (ends += 1);
  bench.client.close();
  next.onclose({ code: 1000 });
  assert.equal(bench.clock.timers.size, 0, "it has answered");
  await bench.clock.advance(2_000);
  assert.equal(ends, 1);
});

test("without a WebSocket, connect names the package to install", () => {
  const given = globalThis.WebSocket;
  globalThis.WebSocket = undefined;
  try {
    const client = new PulseClient({ url: "http://chat.example", token: "TOKEN", window: null });
    assert.throws(() => client.connect(), { name: "PulseError", code: "cannot_connect", message: /npm install ws/ });
    assert.equal(client.state.state, "closed");
  } finally {
    globalThis.WebSocket = given;
  }
});

test("close and connect while the client asks why a handshake was rejected", async () => {
  const bench = new Bench();
  bench.answer = () => new Promise(() => {});
  bench.client.connect();
  bench.socket.end();
  await settle();
  bench.client.close();
  bench.client.connect();
  await bench.clock.advance(1_000);
  assert.equal(bench.sockets.length, 2);
});

test("a token or password that the server quotes is hidden in errors and states", async () => {
  const password = 'a "secret" pässword';
  const bench = new Bench({ token: "SECRET.TOKEN" });
  bench.answer = ({ token, body }) => [403, { code: `Bearer ${token}`, field: token, message: `No: ${token} ${JSON.stringify(body)} ${body?.password}` }];
  const texts = [];
  for (const ask of [(client) => client.me(), (client) => client.register("me", password), (client) => client.login("me", password)]) {
    const error = await ask(bench.client).catch((found) => found);
    texts.push(error.message, error.code, String(error.field));
    assert.match(error.message, /^No: .*\[hidden\]/);
  }
  const socket = await bench.online();
  socket.receive({ type: "error", code: "invalid_frame", field: "SECRET.TOKEN", content: "No: SECRET.TOKEN" });
  const [error] = bench.of("error");
  texts.push(error.message, error.code, String(error.field));
  socket.end(1011, "No: bearer.SECRET.TOKEN");
  await settle();
  texts.push(...bench.of("state").map(({ reason }) => String(reason)));
  for (const text of texts) assert.doesNotMatch(text, /SECRET|secret|pässword/);
});
