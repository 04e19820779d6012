// Pages as docs/javascript.md describes them, for the fuzz tests.

/** Numbers from 0 to 1 that the seed decides (mulberry32). */
export function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A page with the list of conversations and some histories. */
export class Page {
  histories = new Map();
  oldest = new Map(); // conversation id → the seq that its history was loaded from
  list = new Map(); // conversation id → as the page shows it
  isListed = false;
  listings = 0;
  #told = new Map(); // conversation id → when an event was about the membership; both count events
  #count = 0;

  /**
   * `loads` makes the requests of the page; by default the client does, and a request that fails is an error of the page.
   */
  constructor(client, onListed, loads = client) {
    this.client = client;
    this.loads = loads;
    this.onListed = onListed;
    this.on("message", "message_updated", "message_deleted", ({ conversation_id, seq, content }) =>
      this.histories.get(conversation_id)?.set(seq, content));
    this.on("state", ({ state, isListCurrent }) => {
      if (state === "online" && !(this.isListed && this.keepsList && isListCurrent)) this.loadList();
    });
    this.on("reload", ({ conversation_id, conversation_ids, only }) => {
      if (conversation_id === null && conversation_ids === undefined) this.loadList();
      if (only === "list") return;
      const all = conversation_id === null ? [...this.histories.keys()] : [conversation_id];
      for (const id of conversation_ids ?? all) if (this.histories.delete(id)) this.load(id);
      if (conversation_id !== null) this.loadOne(conversation_id);
    });
  }

  on(...types) {
    const act = types.pop();
    for (const type of types) this.client.addEventListener(type, ({ detail }) => act(detail));
  }

  /** Loads a history. Loads may cross. */
  load(id) {
    return this.ifFound(async () => {
      const { messages } = await this.loads.history(id, { limit: 4 });
      this.histories.set(id, new Map(messages.map(({ seq, content }) => [seq, content])));
      this.oldest.set(id, messages.at(-1)?.seq ?? 1);
    });
  }

  loadOne(id) {
    const began = this.#count;
    return this.ifFound(async () => this.take(await this.loads.conversation(id), began));
  }

  async loadList() {
    this.listings += 1;
    const listing = this.listings;
    const began = this.#count;
    const { conversations } = await this.loads.conversations().catch(() => ({}));
    if (conversations === undefined || listing !== this.listings) return;
    for (const id of this.list.keys()) {
      if (!conversations.some((body) => body.id === id) && !this.isToldSince(id, began)) this.list.delete(id);
    }
    for (const body of conversations) this.take(body, began);
    this.isListed = true;
    this.onListed();
  }

  async ifFound(load) {
    try {
      await load();
    } catch (error) {
      if (error.code !== "not_found") throw error; // the user is not in it
    }
  }

  /** Notes that an event told of the membership: older answers must not overwrite it. */
  told(id) {
    this.#count += 1;
    this.#told.set(id, this.#count);
  }

  isToldSince(id, began) {
    return (this.#told.get(id) ?? 0) > began;
  }

  remove(id) {
    this.told(id);
    this.list.delete(id);
  }

  shown() {
    return new Map([...this.list].map(([id, { name, count, readSeq }]) => [id, { name, count, readSeq }]));
  }
}

/** A page that follows the frames of features. */
export class NewPage extends Page {
  keepsList = true;

  constructor(...given) {
    super(...given);
    this.on("membership", ({ conversation_id: id, is_member, read_seq }) => {
      if (!is_member) return this.remove(id);
      const known = this.list.get(id);
      this.told(id);
      if (known === undefined) return this.loadOne(id);
      known.readSeq = Math.max(known.readSeq, read_seq);
    });
    this.on("member", ({ conversation_id: id, rev, member_count }) => this.follow(id, rev, { count: member_count }));
    this.on("conversation", ({ conversation_id: id, rev, name }) => this.follow(id, rev, { name }));
  }

  follow(id, rev, changes) {
    const known = this.list.get(id);
    if (known === undefined) this.loadOne(id); // a list under way may be older
    else if (rev > known.rev) Object.assign(known, changes, { rev });
  }

  take(body, began) {
    const known = this.list.get(body.id);
    if (known === undefined && this.isToldSince(body.id, began)) return; // removed meanwhile, or loaded again
    const readSeq = Math.max(known?.readSeq ?? 0, body.read_seq);
    if (known !== undefined && known.rev > body.last_rev) known.readSeq = readSeq;
    else this.list.set(body.id, { name: body.name, count: body.member_count, rev: body.last_rev, readSeq });
  }
}

/** A page of the time before features: it loads what an event says has changed. */
export class OldPage extends Page {
  #asked = new Map(); // conversation id → number of the newest request

  constructor(...given) {
    super(...given);
    this.on("conversation_added", ({ conversation_id: id }) => {
      this.told(id);
      this.loadOne(id);
    });
    this.on("conversation_removed", ({ conversation_id: id }) => this.remove(id));
    this.on("system", ({ conversation_id: id, event }) => {
      if (!["added", "removed", "renamed"].includes(event)) return;
      this.told(id);
      this.loadOne(id);
    });
    this.on("read", ({ conversation_id: id, positions }) => {
      const known = this.list.get(id);
      for (const { seq } of positions) if (known !== undefined) known.readSeq = Math.max(known.readSeq, seq);
    });
  }

  /** Only the newest request counts. */
  async loadOne(id) {
    const number = (this.#asked.get(id) ?? 0) + 1;
    this.#asked.set(id, number);
    await this.ifFound(async () => {
      const body = await this.loads.conversation(id);
      if (this.#asked.get(id) === number) this.take(body, null);
    });
  }

  take(body, began) {
    if (began !== null && this.isToldSince(body.id, began)) return;
    const readSeq = Math.max(this.list.get(body.id)?.readSeq ?? 0, body.read_seq);
    this.list.set(body.id, { name: body.name, count: body.member_count, readSeq });
  }
}
