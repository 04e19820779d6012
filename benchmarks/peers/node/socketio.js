// The specification's service on Socket.IO: token and membership are checked when a connection opens, a message is one
// prepared INSERT that commits by itself before it is emitted, and connection state recovery is on: a client that is
// back within two minutes gets from memory what it missed. With REDIS_URL it is one of several processes (see
// socketio_cluster.js), which the Redis adapter connects; that adapter has no recovery.
"use strict";
const http = require("node:http");
const { Server } = require("socket.io");
const { memberName, onRequest, store, verify } = require("./store.js");

const server = http.createServer(onRequest); // for what is not below /socket.io/
const url = process.env.REDIS_URL;
const io = new Server(server, {
  transports: ["websocket"], serveClient: false, perMessageDeflate: false, httpCompression: false,
  ...(url ? {} : { connectionStateRecovery: { maxDisconnectionDuration: 2 * 60 * 1000, skipMiddlewares: false } }),
});

io.use(async (socket, next) => {
  try {
    const { token, conversation_id: conversationId } = socket.handshake.auth;
    const userId = verify(token);
    const username = userId === null ? null : await memberName(conversationId, userId);
    if (username === null) {
      next(new Error("not a member"));
      return;
    }
    Object.assign(socket.data, { conversationId, userId, username });
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  const { conversationId, userId, username } = socket.data;
  socket.join(conversationId);
  socket.on("message", async (frame) => {
    try {
      if (typeof frame?.content !== "string" || !frame.content.trim()) {
        socket.emit("error", { type: "error", content: "Message content cannot be empty" });
        return;
      }
      io.to(conversationId).emit("message", await store(conversationId, userId, username, frame.content));
    } catch (error) {
      console.error(error);
      socket.emit("error", { type: "error", content: "The message was not stored" });
    }
  });
  socket.on("typing", () => {
    socket.to(conversationId).volatile.emit("typing", { type: "typing", sender_id: userId, sender_username: username });
  });
});

process.on("SIGTERM", () => process.exit(0));

async function connectRedis() {
  const { createAdapter } = require("@socket.io/redis-adapter");
  const { createClient } = require("redis");
  const publisher = createClient({ url }), subscriber = publisher.duplicate();
  for (const client of [publisher, subscriber]) client.on("error", (error) => console.error(error));
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

(url ? connectRedis() : Promise.resolve()).then(() => {
  server.listen({ port: Number(process.env.PORT), host: "127.0.0.1", backlog: 2048 });
});
