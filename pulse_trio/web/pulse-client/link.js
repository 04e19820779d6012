import { SECOND } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { Frame } from "./types.js"
 */

const PROBE = 5 * SECOND; // how long a connection may take to answer when there is reason to doubt it

/** One WebSocket, from its handshake to its end. It asks after a server that is silent: browsers cannot see that. */
export class Link {
  isOpen = false; // the handshake has succeeded
  isReady = false; // `session` has come
  #isOver = false;
  #heardAt = 0;
  #askedAt = 0;
  /** @type {any} */
  #socket;
  /** @type {{handle: any} | null} */
  #timer = null;
  #options;

  /**
   * @param {object} options
   * @param {any} options.WebSocket
   * @param {string} options.url
   * @param {string} options.token
   * @param {Timers} options.timers
   * @param {{connect: number, ping: number, pong: number}} options.times Milliseconds.
   * @param {(frame: Frame) => void} options.onFrame
   * @param {(code: number, reason: string) => void} options.onEnd Once, unless `close` was called; the code is 1006
   *   when no close frame came.
   * @throws {Error} The URL or the token cannot be used.
   */
  constructor(options) {
    this.#options = options;
    const socket = new options.WebSocket(options.url, ["pulse.v1", `bearer.${options.token}`]);
    this.#socket = socket;
    socket.onopen = () => {
      this.isOpen = true;
    };
    socket.onmessage = (/** @type {{data: unknown}} */ event) => this.#received(event.data);
    socket.onclose = (/** @type {{code: number, reason: unknown}} */ event) =>
      this.#end(event.code || 1006, String(event.reason ?? ""));
    socket.onerror = () => {}; // `close` follows, and says as much
    this.#timer = options.timers.set(options.times.connect, () => this.#end(1006, "connecting took too long"));
  }

  /** @param {Frame} frame */
  send(frame) {
    if (!this.#isOver) this.#socket.send(JSON.stringify(frame));
  }

  /** Asks now whether the server is there. */
  probe() {
    if (this.isReady && !this.#isOver) this.#ask(Math.min(PROBE, this.#options.times.pong));
  }

  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#options.timers.clear(this.#timer);
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.onerror = () => {};
    this.#socket.close(1000);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #end(code, reason) {
    if (this.#isOver) return;
    this.close();
    this.#options.onEnd(code, reason);
  }

  /** @param {unknown} data */
  #received(data) {
    this.#heardAt = this.#options.timers.now();
    let frame;
    try {
      frame = JSON.parse(String(data));
    } catch {
      return; // nothing that this service sends
    }
    if (frame.type === "session" && !this.isReady) {
      this.isReady = true;
      this.#options.timers.clear(this.#timer);
      this.#listen();
    }
    this.#options.onFrame(frame);
  }

  #listen() {
    const { timers, times } = this.#options;
    const silence = Math.max(0, timers.now() - this.#heardAt);
    if (silence >= times.ping) this.#ask(times.pong);
    else this.#timer = timers.set(times.ping - silence, () => this.#listen());
  }

  /** @param {number} patience */
  #ask(patience) {
    const { timers } = this.#options;
    timers.clear(this.#timer);
    this.#askedAt = timers.now();
    this.#heardAt = Math.min(this.#heardAt, this.#askedAt - 1);
    this.send({ type: "ping" });
    this.#timer = timers.set(patience, () => {
      if (this.#heardAt >= this.#askedAt) this.#listen();
      // The machine slept meanwhile: what came is only read after this.
      else if (timers.now() - this.#askedAt > 2 * patience) this.#ask(patience);
      else this.#end(1006, "the server does not answer");
    });
  }
}
