/** @import { Frame } from "./types.js" */

/** An error of the service or of the client. `code` is for programs, `message` for people. */
export class PulseError extends Error {
  /**
   * @param {string} code One of the service, or `network` (no answer), `aborted`, `bad_answer`, `queue_full`, `other_user`,
   *   `discarded`, `cannot_connect`, `client_id_reused`, `not_authenticated`.
   * @param {string} message
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
 * Returns the error that an `error` frame reports.
 * @param {Frame} frame
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
 * Names an error without its text, which may contain a token, or an address with a password.
 * @param {any} error
 */
export function kindOf(error) {
  const code = error?.cause?.code ?? error?.code;
  return `${error?.name ?? "Error"}${typeof code === "string" ? ` (${code})` : ""}`;
}

/**
 * Hides secrets in a text of the server or of a proxy, which may quote a request.
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
 * Returns an error code or the name of a field; undefined if it does not look like one, or quotes the token.
 * @param {unknown} name
 * @param {string | null} token
 */
export function nameOf(name, token) {
  const isName = typeof name === "string" && /^[a-z][a-z0-9_.[\]]{0,63}$/.test(name);
  return isName && !(token && name.includes(token)) ? name : undefined;
}
