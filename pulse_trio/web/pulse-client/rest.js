import { PulseError, kindOf, nameOf, withoutSecrets } from "./errors.js";

/** @import { Clock } from "./types.js" */

/** Requests to the REST API, each with a time limit. */
export class Rest {
  /** @type {Set<AbortController>} */
  #running = new Set();
  #options;

  /**
   * @param {{url: string, fetch: typeof globalThis.fetch, clock: Clock, milliseconds: number,
   *   secrets: () => (string | null)[]}} options `milliseconds`: the limit. `secrets`: hidden in error texts.
   */
  constructor(options) {
    this.#options = options;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{query?: Record<string, string | number | undefined>, body?: object, token: string | null,
   *   signal?: AbortSignal}} options
   * @returns {Promise<any>} The JSON of the answer.
   * @throws {PulseError} The answer is an error, is no JSON, or did not come (`network`), or `signal` aborted (`aborted`).
   */
  async request(method, path, { query = {}, body, token, signal }) {
    const { url, fetch, clock, milliseconds } = this.#options;
    const pairs = Object.entries(query).filter(([, value]) => value !== undefined);
    const search = pairs.length > 0 ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : "";
    /** @type {Record<string, string>} */
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const json = body === undefined ? undefined : JSON.stringify(body);
    const aborted = () => new PulseError("aborted", `${method} ${path} was aborted`);
    if (signal?.aborted) throw aborted();
    const controller = new AbortController();
    const abort = () => controller.abort();
    signal?.addEventListener("abort", abort);
    this.#running.add(controller);
    const timer = clock.setTimeout(abort, milliseconds);
    let response;
    let text;
    try {
      response = await fetch(url + path + search, {
        method,
        headers,
        body: json,
        credentials: "omit",
        cache: "no-store",
        signal: controller.signal,
      });
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw aborted();
      throw new PulseError("network", `No answer to ${method} ${path}: ${kindOf(error)}`);
    } finally {
      clock.clearTimeout(timer);
      this.#running.delete(controller);
      signal?.removeEventListener("abort", abort);
    }
    if (signal?.aborted) throw aborted();
    const answer = parsed(text);
    if (response.ok) {
      if (answer === undefined && text !== "") {
        throw new PulseError("bad_answer", `${method} ${path} was not answered with JSON`, { status: response.status });
      }
      return answer;
    }
    const secrets = [token, ...this.#options.secrets(), /** @type {any} */ (body)?.password];
    const message = withoutSecrets(answer?.message ?? `HTTP ${response.status}`, secrets);
    throw new PulseError(nameOf(answer?.code, token) ?? "bad_answer", message, {
      field: nameOf(answer?.field, token),
      status: response.status,
      retryAfter: Number(response.headers.get("Retry-After")) || null,
    });
  }

  /** Aborts every request that is running; each rejects with `network`. */
  abortAll() {
    for (const controller of this.#running) controller.abort(new Error("the client was closed"));
  }
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
