// The specification's service on Node.js: `ws` and `pg`. A frame is encoded once for the whole room, the token and
// the membership are checked when a connection opens, and a message is one prepared INSERT that commits by itself.
"use strict";
const http = require("node:http");
const { WebSocketServer, WebSocket } = require("ws");
const { memberName, onRequest, store, verify } = require("./store.js");

const rooms = new Map(); // conversation id → Map of user id → Set of connections

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
  broadcast(room, await store(conversationId, userId, username, frame.content));
}

const server = http.createServer(onRequest);
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
    onFrame(room, socket, conversationId, userId, username, raw).catch((error) => {
      console.error(error);
      socket.send('{"type":"error","content":"The message was not stored"}');
    });
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
