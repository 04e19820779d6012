// Socket.IO in PROCESSES processes behind one port (node:cluster). Its clients use WebSocket only, so they need no sticky
// sessions: a connection is one request.
"use strict";
const cluster = require("node:cluster");

if (cluster.isPrimary) {
  for (let n = 0; n < Number(process.env.PROCESSES); n++) cluster.fork();
  process.on("SIGTERM", () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill("SIGTERM");
    process.exit(0);
  });
} else {
  require("./socketio.js");
}
