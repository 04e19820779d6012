// Texts of users as nodes: text, and links to http and https only.

import { h } from "./dom.js";

// No blanks, no quotes or brackets that end a link in prose, and no invisible characters that could reverse it.
const LINK = /\bhttps?:\/\/[^\s<>"`\p{Cc}\p{Cf}]+/giu;
const TRAILING = /[.,;:!?'*_~…)\]}»”’]/u;
const PAIRS = { ")": "(", "]": "[", "}": "{" };
const EMOJI = /^(?:\p{Regional_Indicator}{2}|[0-9#*]\uFE0F?\u20E3|\p{Emoji_Presentation}|\p{Extended_Pictographic})/u;
const graphemes = new Intl.Segmenter();

/** Counts characters (code points), as the service does. */
export function countCharacters(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** Returns a text as nodes: links and text. */
export function rich(content) {
  const nodes = [];
  let end = 0;
  for (const match of content.matchAll(LINK)) {
    const shown = withoutTrailing(match[0]);
    const url = safeUrl(shown);
    if (url === null) continue;
    nodes.push(content.slice(end, match.index));
    nodes.push(h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer", title: url.href }, shown));
    end = match.index + shown.length;
  }
  nodes.push(content.slice(end));
  return nodes;
}

/** Cuts the end of a sentence from a link. Looks at each character once: links can be long. */
export function withoutTrailing(link) {
  const counts = new Map();
  for (const character of link) counts.set(character, (counts.get(character) ?? 0) + 1);
  let end = link.length;
  while (TRAILING.test(link.charAt(end - 1))) {
    const last = link.charAt(end - 1);
    // A bracket that the link opened belongs to it.
    if (last in PAIRS && (counts.get(PAIRS[last]) ?? 0) >= counts.get(last)) break;
    counts.set(last, counts.get(last) - 1);
    end -= 1;
  }
  return link.slice(0, end);
}

function safeUrl(text) {
  if (!URL.canParse(text)) return null;
  const url = new URL(text);
  // A username before the host makes a link look like another host's.
  const isPlain = url.username === "" && url.password === "";
  return (url.protocol === "http:" || url.protocol === "https:") && isPlain ? url : null;
}

/** Returns true for a text of one to three emoji, which are shown large. */
export function isEmojiOnly(content) {
  const text = content.trim();
  if (text.length > 60) return false;
  const parts = [...graphemes.segment(text)].map((part) => part.segment).filter((part) => part.trim() !== "");
  return parts.length > 0 && parts.length <= 3 && parts.every((part) => EMOJI.test(part));
}

/** "1 person", "2 people". */
export function countPeople(count) {
  return count === 1 ? "1 person" : `${count} people`;
}

/** "Ann", "Ann and Bob", "Ann, Bob and 3 more". */
export function listNames(names, most = 3) {
  if (names.length <= 1) return names.join("");
  if (names.length <= most) return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
}
