// The specification's service on Node.js: `ws` and `pg`. A frame is encoded once for the whole room, the token and
// the membership are checked when a connection opens, and a message is one prepared INSERT that commits by itself.
"use strict";
const http = require("node:http");
const { randomUUID } = require("node:crypto");
const jwt = require("jsonwebtoken");
const { Pool } = require("pg");
const { WebSocketServer, WebSocket } = require("ws");

const secret = process.env.SECRET_KEY;
const pool = new Pool({
  host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER,
  database: process.env.PGDATABASE, max: 10,
});
const rooms = new Map(); // conversation id → Map of user id → Set of connections

function verify(token) {
  try {
    return jwt.verify(token, secret, { algorithms: ["HS256"] }).sub;
  } catch {
    return null;
  }
}

async function memberName(conversationId, userId) {
  const { rows } = await pool.query({
    name: "member",
    text: `SELECT u.username FROM users u JOIN conversation_users m ON m.user_id = u.id
           WHERE m.conversation_id = $1 AND u.id = $2`,
    values: [conversationId, userId],
  });
  return rows.length ? rows[0].username : null;
}

function broadcast(room, frame, excludedUserId) {
  const data = Buffer.from(JSON.stringify(frame));
  for (const [userId, sockets] of room) {
    if (userId === excludedUserId) continue;
    for (const socket of sockets) {
      if (socket.readyState === WebSocket.OPEN) socket.send(data, { binary: false });
    }
  }
}

function tellPresence(room, userId, content) {
  broadcast(room, { type: "system", content, sender_id: userId, active_users: [...room.keys()] });
}

async function onFrame(room, socket, conversationId, userId, username, raw) {
  const frame = JSON.parse(raw);
  if (frame.type === "typing") {
    broadcast(room, { type: "typing", sender_id: userId, sender_username: username }, userId);
    return;
  }
  if (frame.type !== "message") return;
  if (typeof frame.content !== "string" || !frame.content.trim()) {
    socket.send('{"type":"error","content":"Message content cannot be empty"}');
    return;
  }
  const id = randomUUID(), now = new Date();
  await pool.query({
    name: "insert",
    text: `INSERT INTO messages (id, conversation_id, sender_id, content, is_edited, created_at, updated_at)
           VALUES ($1, $2, $3, $4, false, $5, $5)`,
    values: [id, conversationId, userId, frame.content, now],
  });
  broadcast(room, {
    type: "message", content: frame.content, sender_id: userId, sender_username: username, message_id: id,
    timestamp: now.toISOString(), is_edited: false,
  });
}

async function readPage(request, response, conversationId, query) {
  const userId = verify((request.headers.authorization || "").replace(/^Bearer /, ""));
  const status = userId === null ? 401 : (await memberName(conversationId, userId)) === null ? 403 : 200;
  if (status !== 200) {
    response.writeHead(status).end();
    return;
  }
  const limit = Math.min(Number(query.get("limit") ?? 50), 100), offset = Number(query.get("offset") ?? 0);
  const { rows } = await pool.query({
    name: "page",
    text: `SELECT m.id, m.conversation_id, m.sender_id, u.username AS sender_username, m.content, m.is_edited,
                  m.created_at, m.updated_at
           FROM messages m JOIN users u ON u.id = m.sender_id
           WHERE m.conversation_id = $1 ORDER BY m.created_at DESC LIMIT $2 OFFSET $3`,
    values: [conversationId, limit, offset],
  });
  const body = Buffer.from(JSON.stringify({ messages: rows, limit, offset }));
  response.writeHead(200, { "content-type": "application/json", "content-length": body.length }).end(body);
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const found = /^\/api\/chat\/conversations\/([0-9a-f-]{36})\/messages$/.exec(url.pathname);
  if (!found) {
    response.writeHead(404).end();
    return;
  }
  readPage(request, response, found[1], url.searchParams).catch((error) => {
    console.error(error);
    response.writeHead(500).end();
  });
});
const webSockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });

server.on("upgrade", async (request, stream, head) => {
  try {
    const url = new URL(request.url, "http://localhost");
    const conversationId = url.pathname.split("/").pop();
    const userId = verify(url.searchParams.get("token"));
    const username = userId === null ? null : await memberName(conversationId, userId);
    if (username === null) {
      stream.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
      return;
    }
    webSockets.handleUpgrade(request, stream, head, (socket) => join(socket, conversationId, userId, username));
  } catch (error) {
    console.error(error);
    stream.destroy();
  }
});

function join(socket, conversationId, userId, username) {
  let room = rooms.get(conversationId);
  if (!room) rooms.set(conversationId, (room = new Map()));
  let mine = room.get(userId);
  if (!mine) room.set(userId, (mine = new Set()));
  mine.add(socket);
  tellPresence(room, userId, `User ${username} joined the conversation`);
  socket.on("message", (raw) => {
    onFrame(room, socket, conversationId, userId, username, raw).catch((error) => console.error(error));
  });
  socket.on("error", (error) => console.error(error));
  socket.on("close", () => {
    mine.delete(socket);
    if (mine.size) return;
    room.delete(userId);
    if (room.size) tellPresence(room, userId, `User ${username} left the conversation`);
    else rooms.delete(conversationId);
  });
}

// ws does not ping by itself; its documentation shows this.
setInterval(() => {
  for (const socket of webSockets.clients) socket.ping();
}, 20000).unref();

process.on("SIGTERM", () => process.exit(0));
server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 2048 });
