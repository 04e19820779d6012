// The web client's store, with a client that the test plays.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "../../pulse_trio/web/app/store.js";
import { ME, OTHER, conversation, list, page, settle } from "./support.mjs";

globalThis.document = { visibilityState: "hidden" };
const { setTimeout } = globalThis;
globalThis.setTimeout = (run, ms) => setTimeout(run, ms).unref(); // the test does not wait for what comes later

/** What the store uses of `PulseClient`. */
class FakeClient extends EventTarget {
  users = [{ id: ME, username: "me" }, { id: OTHER, username: "other" }];

  conversations = async () => list(conversation("a", 3, { users: this.users, is_group: true, read_seq: 3 }));
  history = async () => page("a", [3, 3], [2, 2], [1, 1]);
  readPositions = async () => ({ positions: [] });
  read() {}
  watch() {}

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

test("after a restored backup nobody has read what was read before", async () => {
  const client = new FakeClient();
  const outbox = { all: () => [] };
  const store = new Store(client, { id: ME, username: "me" }, outbox);
  client.tell("state", { state: "online" });
  await settle();
  client.tell("read", { conversation_id: "a", positions: [{ user_id: OTHER, seq: 3 }] });
  const readers = () => store.readers(store.conversations.get("a"), 2).names;
  assert.deepEqual(readers(), ["other"]);
  client.tell("reload", { conversation_id: null });
  await settle();
  assert.deepEqual(readers(), []);
});
