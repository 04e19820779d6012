// Makes elements from data. Texts of users become text nodes; nothing here makes markup of them.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element. `attributes`: `on<event>` takes a function; null and false are not set. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return fill(element, ...children);
}

/** Replaces the children of an element; null ones are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes an icon from the page's sprite. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Makes a button with an icon, and a name for screen readers. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** Makes a name of a user or group that cannot change the direction of the text around it. */
export function name(text) {
  return h("bdi", {}, text);
}

const graphemes = new Intl.Segmenter();

function first(text) {
  return graphemes.segment(text).containing(0)?.segment.toUpperCase() ?? "";
}

/** Returns one or two letters for a name. */
export function initials(text) {
  const words = text.trim().split(/[\s._-]+/u).filter(Boolean);
  if (words.length === 0) return "?";
  return words.length === 1 ? first(words[0]) : first(words[0]) + first(words[1]);
}

const TONES = 10;

/** Returns the colour class of an id, the same on every page. */
export function tone(id) {
  let hash = 2166136261;
  for (const character of id) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  // Mixed once more: ids that are generated in a row differ in few places.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return `tone-${((hash ^ (hash >>> 16)) >>> 0) % TONES}`;
}

/** Makes the picture of a user (round) or a group. */
export function avatar(id, label, { isGroup = false, isOnline = null } = {}) {
  return h(
    "span",
    { class: `avatar ${tone(id)}${isGroup ? " is-group" : ""}`, "aria-hidden": "true" },
    h("span", {}, initials(label)),
    isOnline === null ? null : h("span", { class: `dot${isOnline ? " is-online" : ""}` }),
  );
}

/** Gives `parent` these children in this order, moving as few as possible. */
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const element of elements) {
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
}

let live = 0;

/** Announces a text to screen readers. */
export function announce(text) {
  const region = document.getElementById("live");
  region.textContent = text;
  clearTimeout(live);
  live = setTimeout(() => region.replaceChildren(), 5000);
}

/** Returns the text of an error for users; texts of the network or of a proxy would not help them. */
export function explain(error) {
  if (error.code === "network") return "No connection. Try again when you are back online.";
  return error.status ? error.message : "Something went wrong. Try again.";
}

/** Shows a notice for some seconds. */
export function toast(text) {
  const element = h("div", { class: "toast" }, h("span", { dir: "auto" }, text));
  const place = document.getElementById("toasts");
  place.append(element);
  if (place.matches(":popover-open")) place.hidePopover();
  place.showPopover(); // again: above a dialog that was opened since
  setTimeout(() => element.remove(), 6000);
}
