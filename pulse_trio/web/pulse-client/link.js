import { SECOND } from "./timers.js";

/**
 * @import { Timers } from "./timers.js"
 * @import { Frame } from "./types.js"
 */

const PROBE = 5 * SECOND; // milliseconds for the answer to `probe`
const CLOSING = SECOND; // milliseconds for the answer to a close frame

/** One WebSocket, from its handshake to its end. It pings a silent server: browsers do not notice a dead one. */
export class Link {
  isOpen = false; // the handshake has succeeded
  isReady = false; // `session` has arrived
  #isOver = false;
  #receivedAt = 0;
  #pingedAt = 0;
  #pingedWallAt = 0; // the other clock may stand still while the machine sleeps
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
   * @param {(code: number, reason: string) => void} options.onEnd Called once, unless `close` was; the code is 1006
   *   without a close frame.
   * @throws {Error} The WebSocket rejects the URL or the token.
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
    socket.onerror = () => {}; // `close` follows
    this.#timer = options.timers.set(options.times.connect, () => this.#end(1006, "connecting took too long"));
  }

  /** @param {Frame} frame */
  send(frame) {
    if (!this.#isOver) this.#socket.send(JSON.stringify(frame));
  }

  /** Pings the server now. */
  probe() {
    if (this.isReady && !this.#isOver) this.#ping(Math.min(PROBE, this.#options.times.pong));
  }

  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    const { timers } = this.#options;
    const socket = this.#socket;
    timers.clear(this.#timer);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    socket.close(1000);
    // The package ws waits 30 seconds for the answer of a peer that may be gone, and keeps Node.js running.
    if (typeof socket.terminate !== "function") return;
    socket.onclose = timers.setKept(CLOSING, () => socket.terminate());
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
    this.#receivedAt = this.#options.timers.now();
    let frame;
    try {
      frame = JSON.parse(String(data));
    } catch {
      return; // not a frame of this service
    }
    if (frame.type === "session" && !this.isReady) {
      this.isReady = true;
      this.#options.timers.clear(this.#timer);
      this.#watchSilence();
    }
    this.#options.onFrame(frame);
  }

  #watchSilence() {
    const { timers, times } = this.#options;
    const silence = Math.max(0, timers.now() - this.#receivedAt);
    if (silence >= times.ping) this.#ping(times.pong);
    else this.#timer = timers.set(times.ping - silence, () => this.#watchSilence());
  }

  #sincePing() {
    const { timers } = this.#options;
    return Math.max(timers.now() - this.#pingedAt, timers.wallTime() - this.#pingedWallAt);
  }

  /** @param {number} patience Milliseconds for the answer. */
  #ping(patience) {
    const { timers } = this.#options;
    timers.clear(this.#timer);
    this.#pingedAt = timers.now();
    this.#pingedWallAt = timers.wallTime();
    this.#receivedAt = Math.min(this.#receivedAt, this.#pingedAt - 1);
    this.send({ type: "ping" });
    this.#timer = timers.set(patience, () => {
      if (this.#receivedAt >= this.#pingedAt) this.#watchSilence();
      // The machine slept meanwhile: frames that arrived are read after this timer.
      else if (this.#sincePing() > 2 * patience) this.#ping(patience);
      else this.#end(1006, "the server does not answer");
    });
  }
}
