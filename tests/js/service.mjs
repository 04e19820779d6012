// A fake of the service as one user sees it: it speaks the protocol and answers REST to any number of clients. With
// `hasFeatures` false it is a service of before: it knows no features, cursors or revs of members.

import { EPOCH, ME, OTHER, message } from "./support.mjs";

const START = Date.UTC(2026, 1, 4, 10, 30);
const LISTED_USERS = 10;
const SHOWN_USERS = 100;
const PAGE = 50;
const FEATURES = ["conversation", "me", "members"];
const NOT_FOUND = [404, { code: "not_found", message: "There is no such conversation" }];

export class Service {
  rooms = new Map(); // id → {messages, rev, members, joined, name, propertiesRev, active}
  own = new Map(); // conversation id → {is_member, read_seq, me_rev}
  ownRev = 0;
  sessions = new Map(); // socket → {places, ownSent, isLive}; a place: {cursor, sent, isLive, isSure}
  lost = 0; // frames
  loses = () => false; // decides for each frame that a client can miss
  requests = []; // paths
  #active = 0; // counts activity

  constructor(ids, { hasFeatures = true } = {}) {
    this.hasFeatures = hasFeatures;
    for (const id of ids) this.open(id);
  }

  open(id, names = []) {
    const room = { messages: [], rev: 0, members: new Map(), name: `first ${id}`, propertiesRev: 0, active: 0 };
    for (const name of [ME, OTHER, ...names]) room.members.set(name, { is_member: true, rev: 0 });
    this.rooms.set(id, room);
    this.#touch(room);
    this.#moveOwn(id, { is_member: true, read_seq: 0 });
  }

  isInside(id) {
    return this.own.get(id).is_member;
  }

  // --- what happens ---

  post(id) {
    const room = this.rooms.get(id);
    const seq = room.messages.length + 1;
    room.rev += 1;
    this.#touch(room);
    const frame = message(id, room.rev, { seq, message_id: `${id}-m${seq}`, timestamp: this.#time(room) });
    room.messages.push(frame);
    this.#release(id, frame);
  }

  edit(id, seq) {
    const room = this.rooms.get(id);
    const old = room.messages[seq - 1];
    if (old === undefined) return;
    room.rev += 1;
    const edit = { type: "message_updated", rev: room.rev, content: `content of ${room.rev}`, is_edited: true };
    room.messages[seq - 1] = { ...old, ...edit, updated_at: old.timestamp };
    this.#release(id, room.messages[seq - 1]);
  }

  rename(id, name) {
    const room = this.rooms.get(id);
    room.name = name;
    if (this.hasFeatures) room.propertiesRev = room.rev += 1;
    this.#release(id, this.#properties(id), { event: "renamed", sender_id: OTHER });
  }

  /** Adds or removes others, in one request. */
  change(id, names, is_member) {
    const room = this.rooms.get(id);
    const changed = names.filter((name) => (room.members.get(name)?.is_member ?? false) !== is_member);
    if (changed.length === 0) return;
    for (const name of changed) this.#setMember(room, name, is_member);
    const event = { event: is_member ? "added" : "removed", sender_id: changed[0], user_ids: changed, user_count: changed.length };
    this.#release(id, this.#members(id, changed), event);
  }

  removeUser(id) {
    if (!this.isInside(id)) return;
    this.#setMember(this.rooms.get(id), ME, false);
    for (const { places } of this.sessions.values()) places.delete(id);
    this.#moveOwn(id, { is_member: false, read_seq: 0 }, { type: "conversation_removed", conversation_id: id });
  }

  addUser(id) {
    if (this.isInside(id)) return;
    const room = this.rooms.get(id);
    this.#setMember(room, ME, true);
    for (const { places } of this.sessions.values()) places.set(id, { cursor: room.rev, sent: room.rev, isLive: true, isSure: false });
    const place = { is_member: true, read_seq: room.messages.length };
    this.#moveOwn(id, place, { type: "conversation_added", conversation_id: id });
  }

  /** The user reads on another device. */
  read(id, seq) {
    const own = this.own.get(id);
    if (!own.is_member || seq <= own.read_seq) return;
    const positions = [{ user_id: ME, seq }];
    this.#moveOwn(id, { is_member: true, read_seq: seq }, { type: "read", conversation_id: id, positions });
  }

  // --- sessions ---

  /** Opens a session, and takes the client's `resume`. What it missed comes with `resume`. */
  greet(socket) {
    const places = new Map();
    for (const [id, { rev }] of this.rooms) {
      if (this.isInside(id)) places.set(id, { cursor: rev, sent: rev, isLive: false, isSure: false });
    }
    const session = { places, ownSent: this.ownRev };
    this.sessions.set(socket, session);
    socket.session(this.hasFeatures ? { features: FEATURES, me_rev: this.ownRev } : {});
    const { revs, me } = socket.of("resume")[0];
    for (const [id, rev] of Object.entries(revs)) {
      const place = places.get(id);
      if (place !== undefined) Object.assign(place, { cursor: rev, sent: rev, isSure: true });
      else if (!this.hasFeatures) socket.receive({ type: "conversation_removed", conversation_id: id });
    }
    for (const [id, place] of places) place.isLive = place.cursor === this.rooms.get(id).rev;
    if (me > this.ownRev) socket.receive({ type: "error", code: "cannot_resume", field: "me", content: "no" });
    else if (me !== undefined) {
      session.ownSent = me;
      const missed = [...this.own].filter(([, { me_rev }]) => me_rev > me).sort(([, a], [, b]) => a.me_rev - b.me_rev);
      for (const [id] of missed) this.#sendOwn(socket, session, id);
    }
  }

  forget(socket) {
    this.sessions.delete(socket);
  }

  /** Sends the next `count` of what a resume brings; returns true if all conversations are live. */
  resume(count = Infinity) {
    let isLive = true;
    for (const [socket, { places }] of this.sessions) {
      for (const [id, place] of places) {
        if (place.isLive) continue;
        const missed = this.#changes(id).filter(({ rev }) => rev > place.cursor).sort((a, b) => a.rev - b.rev);
        for (const frame of missed.slice(0, count)) this.#send(socket, place, frame);
        place.cursor = missed.slice(0, count).at(-1)?.rev ?? place.cursor;
        place.isLive = missed.length <= count;
        isLive &&= place.isLive;
      }
    }
    return isLive;
  }

  /** The client has been told where the conversations stand: from now on it can see what is missing. */
  listed() {
    for (const { places } of this.sessions.values()) for (const place of places.values()) place.isSure ||= place.isLive;
  }

  #release(id, frame, system) {
    for (const [socket, { places }] of this.sessions) {
      const place = places.get(id);
      if (place === undefined) continue;
      const { rev } = this.rooms.get(id);
      if (!this.hasFeatures && system !== undefined) {
        const head = { last_rev: rev, last_seq: this.rooms.get(id).messages.length, epoch: EPOCH };
        socket.receive({ type: "system", conversation_id: id, content: "", ...system, ...head });
      } else if (place.isLive) {
        place.cursor = rev;
        if (place.isSure && this.hasFeatures && this.loses()) this.lost += 1;
        else this.#send(socket, place, frame);
        place.sent = rev;
      } // else the resume will bring it
    }
  }

  #send(socket, place, frame) {
    socket.receive(this.hasFeatures ? { ...frame, prev_rev: place.sent } : frame);
    place.sent = frame.rev;
  }

  #moveOwn(id, place, before) {
    this.ownRev += 1;
    this.own.set(id, { ...place, me_rev: this.ownRev });
    for (const [socket, session] of this.sessions) {
      if (!this.hasFeatures) socket.receive(before);
      else if (this.loses()) {
        this.lost += 1;
        session.ownSent = this.ownRev;
      } else this.#sendOwn(socket, session, id);
    }
  }

  #sendOwn(socket, session, id) {
    const own = this.own.get(id);
    socket.receive({ type: "membership", conversation_id: id, ...own, prev_me_rev: session.ownSent });
    session.ownSent = own.me_rev;
  }

  // --- objects ---

  #setMember(room, name, is_member) {
    if (this.hasFeatures) room.rev += 1;
    room.members.delete(name); // it is added at the end
    room.members.set(name, { is_member, rev: room.rev });
  }

  #names(id) {
    return [...this.rooms.get(id).members].filter(([, { is_member }]) => is_member).map(([name]) => name);
  }

  #members(id, names) {
    const { members } = this.rooms.get(id);
    const entries = names.map((name) => ({ user_id: name, username: name, ...members.get(name), actor_id: OTHER }));
    const rev = entries.at(-1).rev;
    return { type: "member", conversation_id: id, rev, member_count: this.#names(id).length, members: entries };
  }

  #properties(id) {
    const { name, propertiesRev } = this.rooms.get(id);
    const fields = { name, description: null, owner_id: OTHER, actor_id: OTHER };
    return { type: "conversation", conversation_id: id, rev: propertiesRev, ...fields };
  }

  #changes(id) {
    const { messages, members } = this.rooms.get(id);
    return [...messages, ...[...members.keys()].map((name) => this.#members(id, [name])), this.#properties(id)];
  }

  #touch(room) {
    this.#active += 1;
    room.active = this.#active;
  }

  #time({ active }) {
    return new Date(START + 1_000 * active).toISOString().replace("Z", "000Z");
  }

  // --- REST ---

  /** Reads what a request asks for, now. */
  answer(path) {
    this.requests.push(path);
    const url = new URL(path, "http://chat.example");
    const [, , , kind, id, what] = url.pathname.split("/");
    if (kind !== "conversations") return [200, {}];
    const query = Object.fromEntries(url.searchParams);
    if (id === undefined) return [200, this.#list(query)];
    if (!this.rooms.has(id) || !this.isInside(id)) return NOT_FOUND;
    if (what === undefined) return [200, this.#conversation(id, SHOWN_USERS)];
    if (what === "messages") return [200, this.#history(id, query)];
    if (what === "read") return [200, { positions: [], next_cursor: null }];
    throw new Error(`${path} is not answered here`);
  }

  #list({ limit = PAGE, offset = 0, cursor }) {
    const all = [...this.rooms].filter(([id]) => this.isInside(id)).sort(([, a], [, b]) => b.active - a.active);
    const rest = cursor === undefined ? all.slice(offset) : all.filter(([, { active }]) => active < Number(cursor));
    const shown = rest.slice(0, limit);
    const conversations = shown.map(([id]) => this.#conversation(id, LISTED_USERS));
    const page = { conversations, total: all.length, limit: Number(limit), offset: Number(offset) };
    if (this.hasFeatures) page.next_cursor = rest.length > shown.length ? String(shown.at(-1)[1].active) : null;
    return page;
  }

  #conversation(id, most) {
    const room = this.rooms.get(id);
    const names = this.#names(id);
    const body = {
      ...{ id, name: room.name, description: null, is_group: true, owner_id: OTHER, epoch: EPOCH },
      ...{ created_at: this.#time({ active: 0 }), updated_at: this.#time(room), member_count: names.length },
      users: names.slice(0, most).map((name) => ({ id: name, username: name })),
      last_message: room.messages.length > 0 ? stored(room.messages.at(-1)) : null,
      ...{ total_messages: room.messages.length, last_seq: room.messages.length, last_rev: room.rev },
      read_seq: this.own.get(id).read_seq,
    };
    return this.hasFeatures ? { ...body, has_more_users: names.length > most } : body;
  }

  #history(id, { limit = PAGE, before_seq = Infinity, after_seq }) {
    const { messages } = this.rooms.get(id);
    const found =
      after_seq === undefined
        ? messages.slice(0, before_seq - 1).slice(-limit)
        : messages.slice(Number(after_seq)).slice(0, limit);
    return { messages: found.reverse().map(stored), total: messages.length, limit: Number(limit), offset: 0 };
  }
}

/** A message as REST shows it. */
function stored(frame) {
  const { message_id, timestamp, type, ...rest } = frame;
  return { ...rest, id: message_id, created_at: timestamp, updated_at: frame.updated_at ?? timestamp, is_edited: frame.is_edited, is_deleted: false };
}
