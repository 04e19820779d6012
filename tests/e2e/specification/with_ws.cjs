// For Node.js without a WebSocket of its own: Debian's package node-ws.
globalThis.WebSocket = require("/usr/share/nodejs/ws");
