// Elements from data. Everything that people wrote goes in as text: there is no way from here to markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `attributes`: `class`, `on<event>` with a function, anything else as an attribute (null and false: not set). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return fill(element, ...children);
}

/** Gives an element these children, without those that are none. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A picture of the sprite in the page. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a picture and a name for those who do not see it. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes }, icon(name));
}

/** A person's or a group's name, kept from turning the text around it. */
export function name(text) {
  return h("bdi", {}, text);
}

const graphemes = new Intl.Segmenter();

function first(text) {
  return graphemes.segment(text).containing(0)?.segment.toUpperCase() ?? "";
}

/** One or two letters for a name. */
export function initials(text) {
  const words = text.trim().split(/[\s._-]+/u).filter(Boolean);
  if (words.length === 0) return "?";
  return words.length === 1 ? first(words[0]) : first(words[0]) + first(words[1]);
}

const TONES = 10;

/** The same colour for the same id, here and everywhere. */
export function tone(id) {
  let hash = 2166136261;
  for (const character of id) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  // Mixed once more: ids that are made one after the other differ in few places.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return `tone-${((hash ^ (hash >>> 16)) >>> 0) % TONES}`;
}

/** The picture of a person (round) or a group. */
export function avatar(id, label, { isGroup = false, isOnline = null } = {}) {
  return h(
    "span",
    { class: `avatar ${tone(id)}${isGroup ? " is-group" : ""}`, "aria-hidden": "true" },
    h("span", {}, initials(label)),
    isOnline === null ? null : h("span", { class: `dot${isOnline ? " is-online" : ""}` }),
  );
}

/** Makes the children of `parent` these elements, in this order, touching only what has to move. */
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

/** Tells those who listen to the page. */
export function announce(text) {
  const region = document.getElementById("live");
  region.textContent = text;
  clearTimeout(live);
  live = setTimeout(() => region.replaceChildren(), 5000);
}

/** What went wrong, for a person: what the network or a proxy says is for nobody. */
export function explain(error) {
  if (error.code === "network") return "No connection. Try again when you are back online.";
  return error.status ? error.message : "Something went wrong. Try again.";
}

/** Tells everybody that something went wrong or was done, for some seconds. */
export function toast(text) {
  const element = h("div", { class: "toast" }, h("span", { dir: "auto" }, text));
  const place = document.getElementById("toasts");
  place.append(element);
  if (place.matches(":popover-open")) place.hidePopover();
  place.showPopover(); // anew: above a dialog that was opened since
  setTimeout(() => element.remove(), 6000);
}
