/**
 * Returns the error that an `error` frame reports.
 * @param {Frame} frame
 * @param {{clientId?: string | null, conversationId?: string | null}} [about]
 */
export function errorOf(frame: Frame, about?: {
    clientId?: string | null;
    conversationId?: string | null;
}): PulseError;
/**
 * Names an error without its text, which may contain a token, or an address with a password.
 * @param {any} error
 */
export function kindOf(error: any): string;
/**
 * Hides secrets in a text of the server or of a proxy, which may quote a request.
 * @param {unknown} text
 * @param {(string | null | undefined)[]} secrets
 */
export function withoutSecrets(text: unknown, secrets: (string | null | undefined)[]): string;
/**
 * Returns an error code or the name of a field; undefined if it does not look like one, or quotes the token.
 * @param {unknown} name
 * @param {string | null} token
 */
export function nameOf(name: unknown, token: string | null): string | undefined;
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
    constructor(code: string, message: string, details?: {
        field?: string | null;
        status?: number;
        retryAfter?: number | null;
        clientId?: string | null;
        conversationId?: string | null;
    });
    code: string;
    field: string | null;
    status: number;
    retryAfter: number | null;
    clientId: string | null;
    conversationId: string | null;
}
import type { Frame } from "./types.js";
