// Links in texts: where they end.

import assert from "node:assert/strict";
import { test } from "node:test";

import { withoutTrailing } from "../../pulse_trio/web/app/text.js";

test("punctuation after a link is not part of it", () => {
  for (const [text, link] of [
    ["http://a.example", "http://a.example"],
    ["http://a.example/.", "http://a.example/"],
    ["http://a.example/x?!…", "http://a.example/x"],
    ["http://a.example/x)", "http://a.example/x"],
    ["http://a.example/x_(y)", "http://a.example/x_(y)"],
    ["http://a.example/x_(y)).", "http://a.example/x_(y)"],
    ["http://a.example/[1]{2}", "http://a.example/[1]{2}"],
    ["http://a.example/x”", "http://a.example/x"],
  ]) {
    assert.equal(withoutTrailing(text), link);
  }
});

test("a link with many brackets is parsed in linear time", () => {
  const many = 500_000;
  assert.equal(withoutTrailing(`http://a${")".repeat(many)}`), "http://a");
  assert.equal(withoutTrailing(`http://a${"(".repeat(many)}${")".repeat(many)}`).length, 8 + 2 * many);
});
