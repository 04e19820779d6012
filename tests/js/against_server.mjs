// The client against the real service; run by tests/e2e/test_javascript_client.py, a part at a time.
// Environment: PULSE_URL, and variables of the part. It prints lines that the test waits for.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { PulseClient } from "../../pulse_trio/web/pulse-client.js";

const url = process.env.PULSE_URL;
const CHANGES = ["message", "message_updated", "message_deleted"];

/** A logged-in client with its events. */
async function person(username, options = {}) {
  const client = new PulseClient({ url, ...options });
  const user = await client.register(username, "a good password");
  await client.login(username, "a good password");
  return { ...told(client), client, id: user.id };
}

function told(client) {
  const events = [];
  const waiting = new Set();
  for (const type of [...CHANGES, "typing", "system", "conversation_added", "conversation_removed", "state", "reload", "token", "signed_out", "error"]) {
    client.addEventListener(type, ({ detail }) => {
      events.push([type, detail]);
      for (const check of waiting) check();
    });
  }
  /** The first event of a type that fits, also one that has come. */
  const heard = (type, fits = () => true) =>
    new Promise((resolve) => {
      const check = () => {
        const found = events.find(([name, detail]) => name === type && fits(detail));
        if (found === undefined) return;
        waiting.delete(check);
        resolve(found[1]);
      };
      waiting.add(check);
      check();
    });
  const online = () => {
    client.connect();
    return heard("state", ({ state }) => state === "online");
  };
  const revs = () => events.filter(([type]) => CHANGES.includes(type)).map(([, frame]) => frame.rev);
  return { events, heard, online, revs };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Prints a line for the test, and waits for its answer. */
async function checkpoint(text) {
  console.log(text);
  await lines.next();
}

const parts = {
  async walk() {
    const alice = await person("alice");
    const bob = await person("bob");
    assert.deepEqual(await alice.client.me(), { id: alice.id, username: "alice" });
    assert.deepEqual((await alice.client.searchUsers("bo")).users, [{ id: bob.id, username: "bob" }]);
    await Promise.all([alice.online(), bob.online()]);

    const team = await alice.client.createConversation({ name: "Team", isGroup: true });
    await alice.client.addMembers(team.id, [bob.id]);
    await bob.heard("conversation_added", (frame) => frame.conversation_id === team.id);
    assert.equal((await bob.client.conversation(team.id)).name, "Team");
    const first = await alice.client.members(team.id, { limit: 1 });
    const second = await alice.client.members(team.id, { cursor: first.next_cursor });
    assert.deepEqual([first.members, second.members], [[{ id: alice.id, username: "alice" }], [{ id: bob.id, username: "bob" }]]);
    assert.deepEqual([first.total, second.next_cursor], [2, null]);
    const read = await alice.client.readPositions(team.id, { limit: 1 });
    assert.deepEqual(read.positions, [{ user_id: alice.id, seq: 0 }]);
    const rest = await alice.client.readPositions(team.id, { cursor: read.next_cursor });
    assert.deepEqual(rest, { positions: [{ user_id: bob.id, seq: 0 }], next_cursor: null });

    const sent = await alice.client.send(team.id, "Hello, Bob 👋", { clientId: "m-1" });
    assert.equal((await bob.heard("message")).content, "Hello, Bob 👋");
    await alice.client.renameConversation(team.id, { description: "of two" });
    await bob.heard("system", ({ event }) => event === "renamed");
    assert.equal((await bob.client.conversation(team.id)).description, "of two");
    bob.client.typing(team.id);
    assert.equal((await alice.heard("typing")).sender_id, bob.id);
    await alice.client.edit(team.id, sent.message_id, "Hello, Bob!");
    assert.equal((await bob.heard("message_updated")).content, "Hello, Bob!");
    await alice.client.remove(team.id, sent.message_id);
    await bob.heard("message_deleted");
    // Sent again after all that, it is still the one.
    assert.equal((await alice.client.send(team.id, "Hello, Bob 👋", { clientId: "m-1" })).message_id, sent.message_id);

    await assert.rejects(alice.client.send(team.id, " "), { name: "PulseError", code: "empty_content", field: "content" });
    await assert.rejects(alice.client.send(team.id, "x".repeat(4_001)), { code: "content_too_long" });
    await assert.rejects(alice.client.send(bob.id, "x"), { code: "not_a_member" });
    await assert.rejects(alice.client.conversation(bob.id), { code: "not_found", status: 404 });
    assert.equal((await bob.client.send(team.id, "Hello, Alice!")).seq, 2);
    assert.deepEqual((await bob.client.history(team.id)).messages.map(({ seq, is_deleted }) => [seq, is_deleted]), [[2, false], [1, true]]);
    assert.deepEqual((await bob.client.conversations()).conversations.map(({ id }) => id), [team.id]);

    await bob.client.removeMember(team.id, "me");
    await bob.heard("conversation_removed");
    await assert.rejects(bob.client.send(team.id, "x"), { code: "not_a_member" });
    for (const { revs, events } of [alice, bob]) {
      assert.deepEqual(revs(), [2, 4, 5, 6]); // an addition, a new description and a removal have the others
      assert.deepEqual(events.filter(([type]) => type === "error" || type === "reload"), []);
    }
    assert.equal((await alice.client.renew()).token_type, "bearer");
    alice.client.close();
    bob.client.close();
  },

  // The service is killed while messages pour in.
  async kill() {
    const alice = await person("alice");
    const bob = await person("bob");
    const carol = await person("carol"); // she has a connection only at the end
    const ids = [bob.id, carol.id];
    const groups = [];
    for (const name of ["one", "two", "three"]) {
      groups.push((await alice.client.createConversation({ name, isGroup: true, participantIds: ids })).id);
    }
    await Promise.all([alice.online(), bob.online()]);
    await carol.client.conversations(); // which says of which epoch the histories are
    for (const id of groups) assert.equal((await carol.client.history(id)).messages.length, 0);
    const promises = [];
    for (let index = 0; index < 300; index += 1) promises.push(alice.client.send(groups[index % 3], `${index}`));
    await promises[30];
    await checkpoint("kill it");
    for (let index = 300; index < 400; index += 1) promises.push(alice.client.send(groups[index % 3], `${index}`));
    const acknowledged = await Promise.all(promises);
    assert.deepEqual(alice.client.pending, []);
    const expected = new Map(groups.map((id) => [id, []]));
    acknowledged.forEach((frame, index) => expected.get(groups[index % 3]).push(frame.content));
    assert.deepEqual(acknowledged.map(({ content }) => content), promises.map((_, index) => `${index}`));
    await carol.online();
    const last = await Promise.all(groups.map((id) => alice.client.send(id, "last")));
    for (const [index, id] of groups.entries()) {
      const contents = [...expected.get(id), "last"];
      for (const { heard, events } of [bob, carol]) {
        await heard("message", (frame) => frame.message_id === last[index].message_id);
        const found = events.filter(([type, frame]) => type === "message" && frame.conversation_id === id);
        assert.deepEqual(found.map(([, frame]) => frame.content), contents, "in order, each once");
      }
      const history = [];
      let beforeSeq;
      do {
        const { messages } = await alice.client.history(id, { beforeSeq, limit: 50 });
        history.unshift(...[...messages].reverse());
        beforeSeq = messages.at(-1)?.seq;
      } while (beforeSeq > 1);
      assert.deepEqual(history.map(({ content }) => content), contents);
    }
    for (const { client } of [alice, bob, carol]) client.close();
  },

  // A token that ends in some seconds, of a sign-in that goes on.
  async renewal() {
    const client = new PulseClient({ url, token: process.env.PULSE_TOKEN });
    const { heard, events, online } = told(client);
    await online();
    const { access_token, expires_in } = await heard("token");
    assert.notEqual(access_token, process.env.PULSE_TOKEN);
    assert.equal(expires_in, 3_600);
    await new Promise((resolve) => setTimeout(resolve, Number(process.env.PULSE_TOKEN_SECONDS) * 1_000));
    await client.send(process.env.PULSE_CONVERSATION, "still here");
    assert.deepEqual(events.filter(([type]) => type === "state").map(([, { state }]) => state), ["connecting", "online"]);
    client.close();
  },

  // A token that ends, and cannot be renewed; one that never was.
  async signed_out() {
    for (const token of [process.env.PULSE_TOKEN, "nonsense"]) {
      const client = new PulseClient({ url, token });
      const { heard } = told(client);
      client.connect();
      await heard("signed_out");
      assert.deepEqual([client.state.state, client.token], ["closed", null]);
    }
  },

  // Little is taken at once: everything arrives, in order.
  async limits() {
    const alice = await person("alice");
    const groups = [];
    for (const name of ["one", "two", "three", "four"]) groups.push((await alice.client.createConversation({ name, isGroup: true })).id);
    await alice.online();
    const frames = await Promise.all(Array.from({ length: 100 }, (_, index) => alice.client.send(groups[index % 4], `${index}`)));
    for (const [index, frame] of frames.entries()) assert.equal(frame.seq, Math.floor(index / 4) + 1);
    assert.deepEqual(alice.events.filter(([type]) => type === "error"), []);
    const large = alice.client.send(groups[0], "x".repeat(3_000));
    const small = alice.client.send(groups[1], "y");
    await assert.rejects(large, { code: "content_too_long" });
    assert.equal((await small).seq, 26);
    alice.client.close();
  },
};

await parts[process.argv[2]]();
console.log("done");
process.exit(0);
