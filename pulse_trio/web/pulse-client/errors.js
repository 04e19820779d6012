/** @import { Frame } from "./types.js" */

/** What was refused, or failed. `code` is for programs: those of the service, and a few of its own. */
export class PulseError extends Error {
  /**
   * @param {string} code One of the service, or `network` (no answer), `bad_answer`, `queue_full`, `other_user`.
   * @param {string} message For people.
   * @param {{field?: string | null, status?: number, retryAfter?: number | null, clientId?: string | null,
   *   conversationId?: string | null}} [details] `status` is 0 when no HTTP answer came; `retryAfter` is in seconds.
   */
  constructor(code, message, details = {}) {
    super(message);
    this.name = "PulseError";
    this.code = code;
    this.field = details.field ?? null;
    this.status = details.status ?? 0;
    this.retryAfter = details.retryAfter ?? null;
    this.clientId = details.clientId ?? null;
    this.conversationId = details.conversationId ?? null;
  }
}

/**
 * @param {Frame} frame An `error` frame.
 * @param {{clientId?: string | null, conversationId?: string | null}} [about]
 */
export function errorOf(frame, about = {}) {
  return new PulseError(frame.code, frame.content, {
    field: frame.field,
    clientId: about.clientId ?? frame.client_id,
    conversationId: about.conversationId ?? frame.conversation_id,
  });
}

/**
 * The kind of an error. Its text may have a token in it, or an address with a password.
 * @param {any} error
 */
export function kindOf(error) {
  const code = error?.cause?.code ?? error?.code;
  return `${error?.name ?? "Error"}${typeof code === "string" ? ` (${code})` : ""}`;
}

/**
 * A text of the server, or of a proxy, which may quote a request, without secrets of this client.
 * @param {unknown} text
 * @param {(string | null | undefined)[]} secrets
 */
export function withoutSecrets(text, secrets) {
  let safe = String(text ?? "");
  for (const secret of secrets) {
    if (!secret) continue;
    for (const form of [JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret), secret]) {
      safe = safe.replaceAll(form, "[hidden]");
    }
  }
  return safe;
}

/**
 * A code or the name of a field, for programs; undefined if it is none, or quotes the token.
 * @param {unknown} name
 * @param {string | null} token
 */
export function nameOf(name, token) {
  const isName = typeof name === "string" && /^[a-z][a-z0-9_.[\]]{0,63}$/.test(name);
  return isName && !(token && name.includes(token)) ? name : undefined;
}
