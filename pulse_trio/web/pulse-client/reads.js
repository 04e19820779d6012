/** @import { Frame, SignIn } from "./types.js" */

/** Read positions that the server has not confirmed: the highest of each conversation. */
export class Reads {
  /** @type {Map<string, {seq: number, signIn: SignIn}>} */
  #positions = new Map();

  /**
   * Notes a position; returns false if this sign-in has one as high.
   * @param {string} id The conversation's.
   * @param {number} seq
   * @param {SignIn} signIn
   */
  note(id, seq, signIn) {
    const known = this.#positions.get(id);
    if (known?.signIn === signIn && seq <= known.seq) return false;
    this.#positions.set(id, { seq, signIn });
    return true;
  }

  /**
   * Lists the frames to send to a session.
   * @param {string | null} userId Whose session it is.
   * @returns {Frame[]}
   */
  frames(userId) {
    const own = [...this.#positions].filter(([, { signIn }]) => signIn.userId === userId);
    return own.map(([id, { seq }]) => readFrame(id, seq));
  }

  /**
   * Drops the positions of other users.
   * @param {SignIn} signIn The newest.
   * @param {string | null} userId Whose session it is.
   */
  keepOnly(signIn, userId) {
    for (const [id, position] of this.#positions) {
      if (position.signIn !== signIn && position.signIn.userId !== userId) this.#positions.delete(id);
    }
  }

  /**
   * Takes a `read` frame; returns true if it confirms a position.
   * @param {Frame} frame
   * @param {string | null} userId
   */
  confirm(frame, userId) {
    const noted = this.#positions.get(frame.conversation_id);
    if (noted === undefined) return false;
    /** @type {{user_id: string, seq: number}[]} */
    const positions = frame.positions ?? [];
    const isConfirmed = positions.some((position) => position.user_id === userId && position.seq >= noted.seq);
    if (isConfirmed) this.#positions.delete(frame.conversation_id);
    return isConfirmed;
  }

  /** @param {string} id A conversation that the user has left, or where the position was rejected. */
  forget(id) {
    this.#positions.delete(id);
  }
}

/**
 * @param {string} id The conversation's.
 * @param {number} seq
 * @returns {Frame}
 */
export function readFrame(id, seq) {
  return { type: "read", conversation_id: id, seq };
}
