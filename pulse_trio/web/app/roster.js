// The members in the details: those in the conversation's `users`, or pages of members.

const MORE = 100; // members that are added at a time
const MAX_PAGE = 200; // of the service
const REST_MS = 5000; // between two loads of all shown members: they may be thousands and keep changing

let rosters = 0;

export class Roster {
  #store;
  #id;
  #key;
  #changed;
  #shown;
  #wanted;
  #loaded;
  #isStale;
  #rest;
  #isClosed;
  #added;
  #removed;
  #joined;
  #onMembers;

  /** `changed()` is called when the shown members change. */
  constructor(store, id, changed) {
    this.hasMore = false;
    this.#store = store;
    this.#id = id;
    this.#key = `members ${++rosters}`; // unique: a closed roster of the same conversation may still load
    this.#changed = changed;
    this.#shown = 0;
    this.#wanted = 0; // members to load; 0: `users` of the conversation are enough
    this.#loaded = null; // {users, cursor}
    this.#isStale = true;
    this.#rest = 0; // timer of the next load
    this.#isClosed = false;
    this.#added = new Set(); // ids from frames, which may be on no loaded page
    this.#removed = new Set(); // ids from frames since the load began; its pages may be older
    this.#joined = new Map(); // id → user, likewise
    this.#onMembers = (event) => this.#follow(event.detail);
    store.addEventListener("members", this.#onMembers);
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#rest);
    this.#store.removeEventListener("members", this.#onMembers);
  }

  /** Returns the members to show. */
  users(conversation) {
    const users = this.#loaded?.users ?? conversation.users;
    this.#shown = users.length;
    this.hasMore = users.length < conversation.member_count && this.#loaded?.cursor !== null;
    return users;
  }

  /** Returns the ids of all known members. */
  ids(conversation) {
    const ids = new Set(this.#added);
    for (const user of conversation.users) ids.add(user.id);
    for (const user of this.#loaded?.users ?? []) ids.add(user.id);
    return ids;
  }

  showMore() {
    this.#wanted = this.#shown + MORE;
    this.#run();
  }

  /** Follows a change of the members; without members and an event, frames may have been missed. */
  #follow({ conversation_id, event, user_ids = [], members }) {
    if (conversation_id !== null && conversation_id !== this.#id) return;
    if (members !== undefined) {
      this.#take(members);
      return;
    }
    this.#isStale = true;
    if (event === "added") for (const id of user_ids) this.#added.add(id);
    else if (event !== "removed") this.#added.clear();
    else {
      for (const id of user_ids) {
        this.#removed.add(id);
        this.#added.delete(id);
      }
      if (this.#loaded !== null) this.#loaded.users = this.#present(this.#loaded.users, new Set(user_ids));
    }
    this.#changed();
    if (this.#wanted > 0 && this.#rest === 0) this.#run();
  }

  /** Takes members as they now are: nothing need be loaded. */
  #take(members) {
    for (const { user_id: id, username, is_member } of members) {
      const [now, before] = is_member ? [this.#added, this.#removed] : [this.#removed, this.#added];
      now.add(id);
      before.delete(id);
      if (is_member) this.#joined.set(id, { id, username });
      else this.#joined.delete(id);
    }
    if (this.#loaded !== null) this.#settle(this.#loaded);
    this.#changed();
  }

  /** Works in what frames have said since the load began: new members come last. */
  #settle(loaded) {
    const known = new Set(loaded.users.map((user) => user.id));
    const joined = [...this.#joined.values()].filter((user) => !known.has(user.id));
    loaded.users = this.#present(loaded.cursor === null ? [...loaded.users, ...joined] : loaded.users);
  }

  #present(users, removed = this.#removed) {
    return users.filter((user) => !removed.has(user.id));
  }

  #loadBegins() {
    this.#removed.clear();
    this.#joined.clear();
  }

  #run() {
    return this.#store.load(this.#key, () => this.#load(), () => !this.#isClosed);
  }

  async #load() {
    if (this.#isStale && this.#rest === 0) await this.#loadAgain();
    while (!this.#isClosed && this.#loaded !== null && this.#loaded.cursor !== null && this.#loaded.users.length < this.#wanted) {
      this.#loadBegins();
      await this.#append(this.#loaded);
      this.#changed();
    }
  }

  /** Loads from the first member on. Changes meanwhile cause the next load. */
  async #loadAgain() {
    const loaded = { users: [], cursor: undefined };
    this.#loadBegins();
    this.#isStale = false;
    try {
      do await this.#append(loaded);
      while (!this.#isClosed && loaded.cursor !== null && loaded.users.length < this.#wanted);
    } catch (error) {
      this.#isStale = true;
      throw error;
    }
    this.#loaded = loaded;
    this.#changed();
    this.#rest = setTimeout(() => {
      this.#rest = 0;
      if (this.#isStale) this.#run();
    }, REST_MS);
    if (this.#isClosed) clearTimeout(this.#rest);
  }

  async #append(loaded) {
    const limit = Math.min(MAX_PAGE, this.#wanted - loaded.users.length);
    const page = await this.#store.client.members(this.#id, { limit, cursor: loaded.cursor });
    const known = new Set(loaded.users.map((user) => user.id));
    loaded.users = [...loaded.users, ...page.members.filter((user) => !known.has(user.id))];
    loaded.cursor = page.next_cursor;
    this.#settle(loaded);
  }
}
