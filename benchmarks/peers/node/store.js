// What both servers on Node.js share: tokens, membership, the INSERT that commits by itself, and the page of REST.
"use strict";
const { randomUUID } = require("node:crypto");
const jwt = require("jsonwebtoken");
const { Pool } = require("pg");

const secret = process.env.SECRET_KEY;
const pool = new Pool({
  host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER,
  database: process.env.PGDATABASE, max: 10,
});

// Returns the id of the user, or null for a token that is not valid.
function verify(token) {
  try {
    return jwt.verify(token, secret, { algorithms: ["HS256"] }).sub;
  } catch {
    return null;
  }
}

// Returns the user's name, or null for a user who is not a member.
async function memberName(conversationId, userId) {
  const { rows } = await pool.query({
    name: "member",
    text: `SELECT u.username FROM users u JOIN conversation_users m ON m.user_id = u.id
           WHERE m.conversation_id = $1 AND u.id = $2`,
    values: [conversationId, userId],
  });
  return rows.length ? rows[0].username : null;
}

// Stores a message, and returns its frame.
async function store(conversationId, userId, username, content) {
  const id = randomUUID(), now = new Date();
  await pool.query({
    name: "insert",
    text: `INSERT INTO messages (id, conversation_id, sender_id, content, is_edited, created_at, updated_at)
           VALUES ($1, $2, $3, $4, false, $5, $5)`,
    values: [id, conversationId, userId, content, now],
  });
  return {
    type: "message", content, sender_id: userId, sender_username: username, message_id: id,
    timestamp: now.toISOString(), is_edited: false,
  };
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
           WHERE m.conversation_id = $1 ORDER BY m.created_at DESC, m.id DESC LIMIT $2 OFFSET $3`,
    values: [conversationId, limit, offset],
  });
  const body = Buffer.from(JSON.stringify({ messages: rows, limit, offset }));
  response.writeHead(200, { "content-type": "application/json", "content-length": body.length }).end(body);
}

// The handler of HTTP requests: GET /api/chat/conversations/{id}/messages.
function onRequest(request, response) {
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
}

// Without it `pg` ends the process when the server closes a connection that nobody uses.
pool.on("error", (error) => console.error(error));

module.exports = { memberName, onRequest, store, verify };
