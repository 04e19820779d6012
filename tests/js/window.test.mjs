// The part of a long history that is in the page.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Timeline } from "../../pulse_trio/web/app/timeline.js";
import { MessageWindow } from "../../pulse_trio/web/app/window.js";

/** A timeline with the messages from one seq to another. */
function known(from, to) {
  const timeline = new Timeline();
  timeline.merge(Array.from({ length: to - from + 1 }, (_, index) => ({ id: `m-${from + index}`, seq: from + index, rev: from + index })));
  return timeline;
}

/** The first and the last seq in the window, fitted to a timeline, and the seq before. */
function shown(window, timeline) {
  window.fit(timeline);
  const { messages, before } = window.cut(timeline);
  return [messages[0]?.seq, messages.at(-1)?.seq, before?.seq ?? null];
}

test("a window at the end follows new messages", () => {
  const window = new MessageWindow();
  assert.deepEqual(shown(window, known(1, 0)), [undefined, undefined, null]);
  assert.deepEqual(shown(window, known(1, 100)), [1, 100, null]);
  assert.deepEqual(shown(window, known(1, 300)), [101, 300, 100]);
  assert.equal(window.isFull(known(1, 300)), true);
});

test("a window further up moves by steps, and new messages wait below it", () => {
  const window = new MessageWindow();
  const timeline = known(1, 300);
  shown(window, timeline);
  window.follows = false;
  assert.equal(window.moveUp(timeline), true);
  assert.deepEqual(shown(window, timeline), [31, 230, 30]);
  assert.equal(window.moveUp(timeline), true);
  assert.deepEqual([shown(window, known(1, 400)), window.isAtStart, window.isAtEnd], [[1, 200, null], true, false]);
  assert.equal(window.moveUp(timeline), false);
  window.moveDown(timeline);
  assert.deepEqual(shown(window, timeline), [71, 270, 70]);
  window.moveDown(timeline);
  assert.deepEqual([shown(window, timeline), window.isAtEnd], [[101, 300, 100], true]);
});

test("at the first known message older ones must be loaded", () => {
  const window = new MessageWindow();
  const timeline = known(201, 300);
  shown(window, timeline);
  window.follows = false;
  assert.equal(window.moveUp(timeline), false);
  assert.deepEqual(shown(window, known(101, 300)), [201, 300, 200]);
  assert.equal(window.moveUp(known(101, 300)), true);
});

test("after a reload that drops the shown messages the window is at the end", () => {
  for (const rest of [known(901, 1_000), known(1, 50)]) {
    const window = new MessageWindow();
    shown(window, known(1, 800));
    window.follows = false;
    window.moveUp(known(1, 800));
    assert.equal(window.isAtEnd, false);
    assert.deepEqual(shown(window, rest).slice(0, 2), [rest.firstSeq, rest.lastSeq]);
    assert.equal(window.follows, true);
  }
});
