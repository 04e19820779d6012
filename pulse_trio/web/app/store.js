// The user's conversations as they now are. The connection keeps them up to date, views read them.
//
// Views listen to "change", once for a frame of the screen: its detail has the parts that changed, "list", "state",
// "people" and ids of conversations. "members" reports at once who was added to a conversation or removed.
//
// A service with features says what has changed (`member`, `conversation`, `membership`), and a list that was loaded once
// stays current over a lost connection. One without says that something changed; then it is loaded again.

import { messageOf } from "../pulse-client/index.js";
import { Answers } from "./answers.js";
import { applyMembers, applyProperties } from "./changes.js";
import { Loads } from "./loads.js";
import { Positions, Typists } from "./others.js";
import { nextPage } from "./paging.js";
import { Timeline } from "./timeline.js";

const LIST_PAGE = 200;
const MAX_LIST = 2000; // conversations; links lead to the others
const LIST_ROUNDS = 3; // loads of a list whose pages move meanwhile, as they do by offset
const PAGE = 100;
const KEPT = 300; // messages of a conversation that is not on the screen
const KEPT_TIMELINES = 12;
const MAX_WATCHED = 500; // users; of the service
const READERS_NAMED = 3;
const POSITION_PAGES = 5; // of 1,000 positions: the largest group by default
const BEHIND_MS = 3000;
const NAMED = 5; // users in a title, with the user
const DETAILS = ["name", "description", "owner_id", "member_count", "users", "isBrief", "details_rev"];

export class Store extends EventTarget {
  #typists;
  #positions;
  #changes;
  #watched;
  #loads;
  #older;
  #heardOf;
  #answers;
  #unsent;

  constructor(client, me) {
    super();
    this.client = client;
    this.me = me;
    this.#typists = new Typists((id) => this.#changed("list", id));
    this.conversations = new Map();
    this.timelines = new Map();
    this.online = new Map(); // user id → {is_online, last_seen_at}
    this.connection = { state: "connecting" };
    this.isListed = false;
    this.openId = null;
    this.#positions = new Map(); // conversation id → read positions of its members
    this.#changes = new Set();
    this.#watched = "";
    this.#loads = new Loads(() => this.connection.state === "online");
    this.#older = new Map(); // conversation id → promise of the page before the first message
    this.#heardOf = new Set(); // ids of conversations since the load of the list began
    this.#answers = new Answers();
    this.#unsent = null; // conversation id → the client's unsent messages there; null after a change of them
    this.#listen();
  }

  // --- for views ---

  /** Returns the conversations, the most recently active first. */
  list() {
    return [...this.conversations.values()].sort((a, b) => (a.updated_at < b.updated_at ? 1 : -1));
  }

  timeline(id) {
    let timeline = this.timelines.get(id);
    if (timeline === undefined) this.timelines.set(id, (timeline = new Timeline()));
    return timeline;
  }

  /** Returns the user's unsent and rejected messages in a conversation, in the order they were written. */
  unsent(id) {
    if (this.#unsent === null) {
      this.#unsent = new Map();
      for (const message of this.client.unsent) {
        const { conversationId } = message;
        this.#unsent.set(conversationId, [...(this.#unsent.get(conversationId) ?? []), message]);
      }
    }
    return this.#unsent.get(id) ?? [];
  }

  /** Returns the names of typing users. */
  typists(id) {
    return this.#typists.names(id);
  }

  unread(conversation) {
    return Math.max(0, conversation.last_seq - conversation.read_seq);
  }

  totalUnread() {
    let total = 0;
    for (const conversation of this.conversations.values()) total += this.unread(conversation);
    return total;
  }

  /** Returns the other user of a one-to-one conversation, null for a group. */
  other(conversation) {
    if (conversation.is_group) return null;
    return conversation.users.find((user) => user.id !== this.me.id) ?? this.me;
  }

  title(conversation) {
    const other = this.other(conversation);
    if (other !== null) return other.username;
    const others = conversation.users.filter((user) => user.id !== this.me.id).slice(0, 4);
    return conversation.name || others.map((user) => user.username).join(", ") || "Only you";
  }

  /** Returns true, false, or null: not known. */
  isOnline(userId) {
    return this.online.get(userId)?.is_online ?? null;
  }

  /** Returns how many others have read up to `seq`, and some of their names. */
  readers(conversation, seq) {
    const members = this.#members(conversation);
    const isNamed = (userId) => members.has(userId);
    // Former members do not count; in a large group only the server knows them.
    const isCounted = (userId) => userId !== this.me.id && (conversation.isBrief || isNamed(userId));
    const { count, ids } = this.#positions.get(conversation.id)?.readers(seq, READERS_NAMED, isCounted, isNamed) ?? { count: 0, ids: [] };
    return { count, names: ids.map((userId) => members.get(userId)) };
  }

  /** Returns the names of the members by id. */
  #members(conversation) {
    conversation.members ??= new Map(conversation.users.map((user) => [user.id, user.username]));
    return conversation.members;
  }

  // --- actions ---

  /** Notes which conversation is on the screen (null: none), and loads what it needs. */
  open(id) {
    if (this.openId !== null && this.openId !== id) this.timelines.get(this.openId)?.trim(KEPT);
    this.openId = id;
    if (id === null) return;
    const timeline = this.timeline(id);
    this.timelines.delete(id); // in order of last use
    this.timelines.set(id, timeline);
    for (const other of this.timelines.keys()) {
      if (this.timelines.size <= KEPT_TIMELINES) break;
      if (other !== id) this.timelines.delete(other);
    }
    this.#watch();
    // Before the list is loaded, `#catchUp` does this: after the session began, nothing is missed.
    if (this.isListed) this.#loadOpen(id);
  }

  /**
   * Loads the page before the first known message, as `Loads.run` does; requests for the same page share one answer.
   * Resolves to false if the page was rejected, or the conversation was left meanwhile.
   */
  loadOlder(id) {
    let page = this.#older.get(id);
    if (page === undefined) {
      const load = () => this.#loadOlder(id);
      page = this.#loads.run(`older ${id}`, load, () => id === this.openId).finally(() => this.#older.delete(id));
      this.#older.set(id, page);
    }
    return page;
  }

  async #loadOlder(id) {
    const timeline = this.timeline(id);
    if (!timeline.isLoaded || timeline.isComplete) return;
    const { firstSeq } = timeline;
    const page = await this.client.history(id, { beforeSeq: firstSeq, limit: PAGE });
    if (timeline.firstSeq !== firstSeq) return; // a reload has emptied it, and this page alone would look like the newest
    this.#merge(id, timeline, page);
  }

  /** Adds a page of history to a timeline. A frame of a change that it shows may not come, so the list gets it from here. */
  #merge(id, timeline, page) {
    const messages = page.messages.map(messageOf);
    timeline.merge(messages);
    const conversation = this.conversations.get(id);
    if (conversation !== undefined) for (const message of messages) this.#noteMessage(conversation, message);
    this.#changed("list", id);
  }

  /** Takes a message that may be newer than what the list shows. */
  #noteMessage(conversation, message) {
    if (message.seq >= conversation.last_seq && message.rev > (conversation.last_message?.rev ?? 0)) {
      conversation.last_message = message;
      if (message.seq > conversation.last_seq) conversation.updated_at = message.created_at;
      conversation.last_seq = message.seq;
    }
    conversation.last_rev = Math.max(conversation.last_rev, message.rev);
  }

  /** Sends a message; with the `clientId` of one that was rejected, sends it again. `unsent` has it until it is stored. */
  async send(id, content, clientId) {
    try {
      this.#receive(await this.client.send(id, content, { clientId }));
    } catch (error) {
      if (error.code === undefined) throw error; // the client keeps the message, with its failure
    }
  }

  async edit(message, content) {
    await this.client.edit(message.conversation_id, message.id, content);
  }

  async remove(message) {
    await this.client.remove(message.conversation_id, message.id);
  }

  /** Marks everything up to `seq` as read. */
  markRead(id, seq) {
    const conversation = this.conversations.get(id);
    if (conversation === undefined || seq <= conversation.read_seq) return;
    conversation.read_seq = seq;
    this.client.read(id, seq);
    this.#changed("list", id);
  }

  async create(request) {
    const began = this.#answers.begin();
    const body = await this.client.createConversation(request);
    this.#take(body, began);
    return body.id;
  }

  async rename(id, names) {
    const began = this.#answers.begin();
    this.#take(await this.client.renameConversation(id, names), began);
  }

  /** Adds members; returns the known member counts before and after. Members already there are no error. */
  async addMembers(id, userIds) {
    const began = this.#answers.begin();
    const before = this.conversations.get(id)?.member_count ?? 0;
    const body = await this.client.addMembers(id, userIds);
    this.#take(body, began);
    return { before, after: body.member_count };
  }

  async removeMember(id, userId) {
    const began = this.#answers.begin();
    await this.client.removeMember(id, userId);
    if (userId !== "me") await this.#refresh(id);
    else if (!this.#answers.isRemovedSince(id, began)) this.#drop(id); // else the user may have been added again
  }

  /** Loads for a view, as `Loads.run` does. */
  load(key, load, isWanted) {
    return this.#loads.run(key, load, isWanted);
  }

  // --- events of the client ---

  #listen() {
    // Of a frame of features the client also derives the events of before, which say less.
    const on = (type, act) => this.client.addEventListener(type, ({ detail }) => detail?.derived_from || act(detail));
    on("state", (state) => {
      const isNew = state.state === "online" && this.connection.state !== "online";
      this.connection = state;
      this.#changed("state");
      if (!isNew) return;
      this.#loads.hurry();
      if (state.isListCurrent && this.isListed) this.#resumed();
      else this.#catchUp();
    });
    for (const type of ["message", "message_updated", "message_deleted"]) on(type, (frame) => this.#receive(frame));
    on("typing", (frame) => {
      if (frame.sender_id !== this.me.id) this.#typists.typed(frame.conversation_id, frame.sender_id, frame.sender_username);
    });
    on("system", (frame) => {
      if (!["added", "removed", "renamed"].includes(frame.event)) return;
      this.#answers.change(frame.conversation_id);
      if (frame.event !== "renamed") this.#notifyMembers(frame);
      this.#refresh(frame.conversation_id);
    });
    on("read", (frame) => this.#read(frame));
    on("outbox", ({ conversation_id }) => {
      this.#unsent = null;
      this.#changed("list", conversation_id);
    });
    on("users", (frame) => {
      for (const user of frame.users) this.online.set(user.user_id, user);
      this.#changed("people");
    });
    on("conversation_added", (frame) => this.#refresh(frame.conversation_id));
    on("conversation_removed", (frame) => this.#drop(frame.conversation_id));
    on("member", (frame) => {
      this.#notifyMembers(frame);
      this.#apply(frame, applyMembers);
    });
    on("conversation", (frame) => this.#apply(frame, applyProperties));
    on("membership", (frame) => this.#takeMembership(frame));
    on("reload", (detail) => {
      if (detail?.only === "list") this.#reloadList();
      else if (detail?.conversation_ids !== undefined) this.#reloadHistories(detail.conversation_ids);
      else this.#reload(detail?.conversation_id ?? null);
    });
  }

  /** Continues where the last connection ended: only what frames may miss is loaded again. */
  #resumed() {
    const id = this.openId;
    this.#watched = "";
    this.#watch();
    if (id === null) return;
    if (!this.conversations.has(id)) this.#loadOpen(id);
    else {
      this.#loadNewest(id);
      this.#loadPositions(id);
    }
  }

  async #catchUp() {
    this.#notifyMembers({ conversation_id: null });
    this.#watched = "";
    await this.#loadList();
    this.#watch();
    if (this.openId !== null) this.#loadOpen(this.openId);
    // Missed changes come with the resume. If they did not, reload the history: better twice than never.
    setTimeout(() => {
      for (const [id, timeline] of this.timelines) {
        const conversation = this.conversations.get(id);
        if (timeline.isLoaded && conversation !== undefined && timeline.rev < conversation.listed_rev) this.#reload(id);
      }
    }, BEHIND_MS);
  }

  async #reloadList() {
    await this.#loadList();
    if (this.openId !== null) this.#loadOpen(this.openId); // a list has fewer `users`
  }

  #loadList() {
    return this.#loads.run("list", async () => {
      let reading;
      for (let round = 0; round < LIST_ROUNDS && !reading?.isWhole; round += 1) reading = await this.#readList();
      const missing = [...this.conversations.keys()].filter((id) => !this.#heardOf.has(id));
      if (reading.pages === 1) for (const id of missing) this.#drop(id); // one page shows one moment
      else if (reading.isComplete) this.#check(missing);
      this.isListed = true;
      this.#changed("list");
    });
  }

  /**
   * Loads the list by page, up to `MAX_LIST`. It is not whole if a conversation moved to another page between two
   * requests. By cursor one that moves was read before, or comes as a frame; that frame is lost if the session ends first.
   */
  async #readList() {
    this.#heardOf.clear();
    let isSame = true; // the number of conversations
    let hasCursors = false;
    let total;
    let pages = 0;
    let read = 0; // conversations: a page by cursor may be shorter than its limit
    let next = {};
    while (next !== null && read < MAX_LIST) {
      const began = this.#answers.begin();
      const page = await this.client.conversations({ limit: LIST_PAGE, ...next });
      for (const body of page.conversations) this.#take(body, began);
      isSame &&= pages === 0 || page.total === total;
      hasCursors = page.next_cursor !== undefined;
      total = page.total;
      pages += 1;
      read += page.conversations.length;
      next = nextPage(page, pages * LIST_PAGE);
    }
    const isFull = this.#heardOf.size >= Math.min(total, MAX_LIST);
    return { pages, isComplete: next === null, isWhole: pages === 1 || (isFull && (hasCursors || isSame)) };
  }

  /** Loads conversations that were on no page, one after the other: only "not found" proves that they are gone. */
  async #check(ids) {
    for (const id of ids) if (this.conversations.has(id) && !this.#heardOf.has(id)) await this.#refresh(id);
  }

  /** Takes a conversation from the answer to a request that began at `began`. Newer frames and answers win. */
  #take(body, began) {
    if (this.#answers.isRemovedSince(body.id, began)) return;
    const known = this.conversations.get(body.id);
    const isLate = !this.#answers.accept(body.id, began);
    if (isLate && known !== undefined && known.epoch !== body.epoch) return;
    const isOutdated = known?.epoch === body.epoch && (isLate || body.last_rev < known.details_rev);
    const last = body.last_message ? messageOf(body.last_message) : null;
    const conversation = { ...body, last_message: last, read_seq: body.read_seq ?? body.last_seq };
    conversation.listed_rev = conversation.details_rev = body.last_rev;
    conversation.isBrief = body.has_more_users ?? body.users.length < body.member_count; // `users` are the first members
    if (conversation.isBrief && known?.users.length > body.users.length) conversation.users = known.users; // until it is refreshed
    if (isOutdated) for (const key of DETAILS) conversation[key] = known[key];
    if (known !== undefined && known.epoch === body.epoch) {
      conversation.listed_rev = Math.max(known.listed_rev, body.last_rev);
      if (known.last_rev > body.last_rev) {
        const { last_message, last_seq, last_rev } = known;
        const updated_at = known.updated_at > body.updated_at ? known.updated_at : body.updated_at;
        Object.assign(conversation, { last_message, last_seq, last_rev, updated_at });
      }
      if (known.read_seq > conversation.read_seq) {
        conversation.read_seq = known.read_seq;
        this.client.read(body.id, known.read_seq); // it was marked while offline
      }
    }
    this.conversations.set(body.id, conversation);
    this.#heardOf.add(body.id);
    this.#watch();
    this.#changed("list", body.id);
  }

  #refresh(id) {
    return this.#loads.run(`conversation ${id}`, async () => {
      const began = this.#answers.begin();
      try {
        this.#take(await this.client.conversation(id), began);
      } catch (error) {
        if (error.status !== 404) throw error;
        if (this.#answers.isAcceptedSince(id, began)) this.#refresh(id); // added again meanwhile
        else this.#drop(id);
      }
    });
  }

  #drop(id) {
    this.#answers.remove(id);
    this.#heardOf.delete(id);
    const conversation = this.conversations.get(id);
    if (conversation === undefined) return;
    this.conversations.delete(id);
    this.timelines.delete(id);
    this.#positions.delete(id);
    // Unsent messages there cannot be sent, and have no place to be shown.
    const unsent = this.unsent(id);
    for (const item of unsent) this.client.discard(id, item.clientId);
    this.dispatchEvent(new CustomEvent("gone", { detail: { id, title: this.title(conversation), unsent } }));
    this.#changed("list", id);
  }

  #loadNewest(id) {
    const load = async () => {
      const timeline = this.timeline(id);
      if (timeline.isLoaded) return;
      const rev = this.conversations.get(id)?.last_rev ?? 0;
      const page = await this.client.history(id, { limit: PAGE });
      timeline.rev = Math.max(timeline.rev, rev, ...page.messages.map((message) => message.rev));
      this.#merge(id, timeline, page);
      if (timeline.hasGap) this.#fill(id);
    };
    return this.#loads.run(`newest ${id}`, load, () => id === this.openId);
  }

  /** Loads what the conversation on the screen needs. */
  async #loadOpen(id) {
    const listed = this.conversations.get(id);
    // A list has fewer `users` of a conversation than its own answer.
    const refreshed = listed === undefined || listed.isBrief ? this.#refresh(id) : null;
    if (listed === undefined) await refreshed;
    if (!this.conversations.has(id)) return;
    this.#loadNewest(id);
    this.#loadPositions(id);
  }

  #loadPositions(id) {
    const load = async () => {
      let cursor;
      for (let number = 0; number < POSITION_PAGES && cursor !== null; number += 1) {
        const page = await this.client.readPositions(id, { cursor });
        this.#read({ conversation_id: id, positions: page.positions });
        cursor = page.next_cursor ?? null;
      }
    };
    return this.#loads.run(`positions ${id}`, load, () => id === this.openId);
  }

  /** Loads messages that are missing between the known ones and a new one. */
  #fill(id) {
    const load = async () => {
      const timeline = this.timelines.get(id);
      while (timeline?.hasGap) {
        const page = await this.client.history(id, { afterSeq: timeline.lastSeq, limit: LIST_PAGE });
        if (page.messages.length === 0) return;
        this.#merge(id, timeline, page);
      }
    };
    return this.#loads.run(`gap ${id}`, load, () => this.timelines.has(id));
  }

  /**
   * Emits "members" with `members`, as they now are, or with the `user_ids` of those added or removed (`event`). A null id,
   * or neither: frames may have been missed.
   */
  #notifyMembers({ conversation_id, event, user_ids, members }) {
    this.dispatchEvent(new CustomEvent("members", { detail: { conversation_id, event, user_ids, members } }));
  }

  /** Takes a frame about members or properties. */
  #apply(frame, apply) {
    const id = frame.conversation_id;
    const conversation = this.conversations.get(id);
    const timeline = this.timelines.get(id);
    this.#heardOf.add(id);
    if (timeline !== undefined) timeline.rev = Math.max(timeline.rev, frame.rev);
    if (conversation === undefined) {
      this.#refresh(id); // a list that is being loaded may be older than the frame
      return;
    }
    conversation.last_rev = Math.max(conversation.last_rev, frame.rev);
    if (!apply(conversation, frame)) return;
    if (conversation.isBrief && conversation.users.length < NAMED) this.#refresh(id); // most of those shown were removed
    this.#watch();
    this.#changed("list", id);
  }

  #takeMembership({ conversation_id: id, is_member, read_seq }) {
    if (!is_member) {
      this.#drop(id);
      return;
    }
    this.#heardOf.add(id);
    if (this.conversations.has(id)) this.#read({ conversation_id: id, positions: [{ user_id: this.me.id, seq: read_seq }] });
    else this.#refresh(id);
  }

  #reload(id) {
    this.#notifyMembers({ conversation_id: id });
    if (id === null) this.#positions.clear(); // after a restored backup they may point at lost messages
    this.#reloadHistories(id === null ? [...this.timelines.keys()] : [id]);
    if (id === null) this.#loadList();
    else this.#refresh(id);
  }

  /** Drops loaded histories; the one on the screen is loaded again. */
  #reloadHistories(ids) {
    for (const id of ids) {
      const timeline = this.timelines.get(id);
      if (timeline === undefined) continue;
      if (id !== this.openId) this.timelines.delete(id);
      else {
        timeline.reset();
        this.#loadOpen(id);
      }
      this.#changed(id);
    }
  }

  #receive(frame) {
    const message = messageOf(frame);
    const id = message.conversation_id;
    const isNew = frame.type === "message";
    this.#heardOf.add(id);
    const conversation = this.conversations.get(id);
    if (conversation === undefined) this.#refresh(id);
    else this.#noteMessage(conversation, message);
    const timeline = this.timelines.get(id);
    if (timeline !== undefined) {
      timeline.rev = Math.max(timeline.rev, message.rev);
      timeline.add(message);
      if (timeline.hasGap) this.#fill(id);
    }
    this.#typists.stopped(id, message.sender_id);
    this.#changed("list", id);
    if (isNew && message.sender_id !== this.me.id) {
      this.dispatchEvent(new CustomEvent("arrived", { detail: message }));
    }
  }

  #read(frame) {
    const id = frame.conversation_id;
    let positions = this.#positions.get(id);
    if (positions === undefined) this.#positions.set(id, (positions = new Positions()));
    for (const { user_id, seq } of frame.positions) {
      positions.take(user_id, seq);
      const conversation = this.conversations.get(id);
      if (user_id === this.me.id && conversation !== undefined && seq > conversation.read_seq) {
        conversation.read_seq = seq; // read in another tab
      }
    }
    this.#changed("list", id);
  }

  // --- housekeeping ---

  /** Watches presence: first of the open conversation and of one-to-ones, then of members of groups. */
  #watch() {
    const ids = new Set();
    const open = this.conversations.get(this.openId);
    const groups = [];
    if (open) for (const user of open.users) ids.add(user.id);
    for (const conversation of this.list()) {
      if (conversation.is_group) groups.push(conversation);
      else ids.add(this.other(conversation).id);
    }
    for (const group of groups) for (const user of group.users) if (ids.size < MAX_WATCHED) ids.add(user.id);
    ids.delete(this.me.id);
    const wanted = [...ids].slice(0, MAX_WATCHED);
    const key = [...wanted].sort().join();
    if (key === this.#watched || this.connection.state !== "online" || wanted.length === 0) return;
    this.#watched = key;
    this.client.watch(wanted);
  }

  #changed(...what) {
    const isFirst = this.#changes.size === 0;
    for (const part of what) this.#changes.add(part);
    if (!isFirst) return;
    const tell = () => {
      const changes = this.#changes;
      this.#changes = new Set();
      this.dispatchEvent(new CustomEvent("change", { detail: changes }));
    };
    // A page in the background has no animation frames, but its title shows the unread count.
    if (document.visibilityState === "visible") requestAnimationFrame(tell);
    else setTimeout(tell, 100);
  }
}
