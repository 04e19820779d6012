// The members in the details: those in the conversation's `users`, or pages of members.

const MORE = 100; // members that are added at a time
const MAX_PAGE = 200; // of the service
const REST_MS = 5000; // between two loads of all shown members: they may be thousands and keep changing

let rosters = 0;

export class Roster {
  /** `changed()` is called when the shown members change. */
  constructor(store, id, changed) {
    this.hasMore = false;
    this._store = store;
    this._id = id;
    this._key = `members ${++rosters}`; // unique: a closed roster of the same conversation may still load
    this._changed = changed;
    this._shown = 0;
    this._wanted = 0; // members to load; 0: `users` of the conversation are enough
    this._loaded = null; // {users, cursor}
    this._isStale = true;
    this._rest = 0; // timer of the next load
    this._isClosed = false;
    this._added = new Set(); // ids from frames, which may be on no loaded page
    this._removed = new Set(); // ids from frames since the load began; its pages may be older
    this._onMembers = (event) => this._follow(event.detail);
    store.addEventListener("members", this._onMembers);
  }

  close() {
    this._isClosed = true;
    clearTimeout(this._rest);
    this._store.removeEventListener("members", this._onMembers);
  }

  /** Returns the members to show. */
  users(conversation) {
    const users = this._loaded?.users ?? conversation.users;
    this._shown = users.length;
    this.hasMore = users.length < conversation.member_count && this._loaded?.cursor !== null;
    return users;
  }

  /** Returns the ids of all known members. */
  ids(conversation) {
    const ids = new Set(this._added);
    for (const user of conversation.users) ids.add(user.id);
    for (const user of this._loaded?.users ?? []) ids.add(user.id);
    return ids;
  }

  showMore() {
    this._wanted = this._shown + MORE;
    this._run();
  }

  /** Follows a change of the members; without an event, frames may have been missed. */
  _follow({ conversation_id, event, user_ids = [] }) {
    if (conversation_id !== null && conversation_id !== this._id) return;
    this._isStale = true;
    if (event === "added") for (const id of user_ids) this._added.add(id);
    else if (event !== "removed") this._added.clear();
    else {
      for (const id of user_ids) {
        this._removed.add(id);
        this._added.delete(id);
      }
      if (this._loaded !== null) this._loaded.users = this._present(this._loaded.users, new Set(user_ids));
    }
    this._changed();
    if (this._wanted > 0 && this._rest === 0) this._run();
  }

  _present(users, removed = this._removed) {
    return users.filter((user) => !removed.has(user.id));
  }

  _run() {
    return this._store.load(this._key, () => this._load(), () => !this._isClosed);
  }

  async _load() {
    if (this._isStale && this._rest === 0) await this._loadAgain();
    while (!this._isClosed && this._loaded !== null && this._loaded.cursor !== null && this._loaded.users.length < this._wanted) {
      this._removed.clear();
      await this._append(this._loaded);
      this._changed();
    }
  }

  /** Loads from the first member on. Changes meanwhile cause the next load. */
  async _loadAgain() {
    const loaded = { users: [], cursor: undefined };
    this._removed.clear();
    this._isStale = false;
    try {
      do await this._append(loaded);
      while (!this._isClosed && loaded.cursor !== null && loaded.users.length < this._wanted);
    } catch (error) {
      this._isStale = true;
      throw error;
    }
    this._loaded = loaded;
    this._changed();
    this._rest = setTimeout(() => {
      this._rest = 0;
      if (this._isStale) this._run();
    }, REST_MS);
    if (this._isClosed) clearTimeout(this._rest);
  }

  async _append(loaded) {
    const limit = Math.min(MAX_PAGE, this._wanted - loaded.users.length);
    const page = await this._store.client.members(this._id, { limit, cursor: loaded.cursor });
    const known = new Set(loaded.users.map((user) => user.id));
    loaded.users = this._present([...loaded.users, ...page.members.filter((user) => !known.has(user.id))]);
    loaded.cursor = page.next_cursor;
  }
}
