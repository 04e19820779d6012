// Chooses people for a new conversation or for a group.

import { avatar, explain, h, icon, iconButton, name } from "./dom.js";
import { nextPage } from "./paging.js";

const WAIT_MS = 180; // after the last key
const SHOWN = 20;
const MAX_PAGE = 200; // of the service
const MAX_SEARCHED = 2000; // found users who are members already; then a longer name must be typed

let dialogs = 0; // for ids; a dialog may open another

/** Opens a dialog with a heading; closing it removes it. */
export function dialog(title, ...children) {
  const id = `dialog-title-${++dialogs}`;
  const element = h(
    "dialog",
    { class: "dialog", "aria-labelledby": id },
    h("header", { class: "dialog-head" }, h("h2", { id }, title), iconButton("close", "Close", () => element.close())),
    ...children,
  );
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (event) => {
    if (event.target === element) element.close(); // a click beside it
  });
  document.body.append(element);
  element.showModal();
  return element;
}

/** Asks a question with one button for yes; resolves to true if it was pressed. */
export function ask(question, yes) {
  return new Promise((resolve) => {
    const confirmed = h("button", { type: "button", class: "button is-danger", onclick: () => element.close("yes") }, yes);
    const element = dialog(
      question,
      h("div", { class: "dialog-foot" }, h("button", { type: "button", class: "button", onclick: () => element.close() }, "Cancel"), confirmed),
    );
    element.setAttribute("role", "alertdialog");
    element.addEventListener("close", () => resolve(element.returnValue === "yes"));
    confirmed.focus();
  });
}

/** Finds people by the beginning of their names, and lists the chosen ones. */
export class PeoplePicker {
  #store;
  #except;
  #onChange;
  #timer;
  #asked;
  #found;
  #chips;
  #results;
  #status;

  constructor(store, { onChange }) {
    this.chosen = new Map();
    this.#store = store;
    this.#except = new Set([store.me.id]);
    this.#onChange = onChange;
    this.#timer = 0;
    this.#asked = 0;
    this.#found = ""; // the search whose results are shown
    this.#chips = h("ul", { class: "chips", "aria-label": "Chosen", hidden: true });
    this.#results = h("ul", { class: "people", "aria-label": "People" });
    this.#status = h("p", { class: "hint", role: "status" }, "Type the beginning of a name.");
    this.input = h("input", { type: "search", class: "search-input", placeholder: "Name", "aria-label": "Find people", autocomplete: "off", autocapitalize: "none", spellcheck: "false", oninput: () => this.#later(), onkeydown: (event) => this.#onKey(event) });
    this.element = h("div", { class: "picker" }, this.#chips, h("div", { class: "search" }, icon("search"), this.input), this.#status, this.#results);
  }

  /** Excludes members from the search and from the chosen people. */
  leaveOut(ids) {
    const except = new Set([...ids, this.#store.me.id]);
    if (except.size === this.#except.size && [...except].every((id) => this.#except.has(id))) return;
    this.#except = except;
    for (const id of except) this.chosen.delete(id);
    this.#showChosen();
    this.#search();
  }

  /** Clears the chosen people and the search. */
  empty(ids) {
    for (const id of ids) this.chosen.delete(id);
    this.input.value = "";
    this.#showChosen();
    this.#search();
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#search(), WAIT_MS);
  }

  async #search() {
    const prefix = this.input.value.trim();
    const asked = ++this.#asked;
    if (prefix === "") return this.#show(prefix, [], "Type the beginning of a name.");
    try {
      // So many that members do not fill the results.
      const limit = Math.min(MAX_PAGE, SHOWN + this.#except.size);
      const found = [];
      let next = {};
      for (let read = limit; next !== null && found.length < SHOWN && read <= MAX_SEARCHED + limit; read += limit) {
        const page = await this.#store.client.searchUsers(prefix, { limit, ...next });
        if (asked !== this.#asked) return; // an older search
        found.push(...page.users.filter((user) => !this.#except.has(user.id)));
        next = nextPage(page, read);
      }
      found.splice(SHOWN);
      this.#show(prefix, found, found.length === 0 ? "Nobody found." : `${found.length} found.`);
    } catch (error) {
      if (asked === this.#asked) this.#show(prefix, [], explain(error));
    }
  }

  #show(prefix, users, status) {
    this.#found = prefix;
    this.#status.textContent = status;
    this.#status.classList.toggle("unseen", users.length > 0);
    this.#results.replaceChildren(
      ...users.map((user) => {
        const button = h(
          "button",
          { type: "button", class: "person", "aria-pressed": String(this.chosen.has(user.id)), onclick: () => this.#toggle(user, button) },
          avatar(user.id, user.username),
          name(user.username),
          icon("sent"),
        );
        return h("li", {}, button);
      }),
    );
  }

  #toggle(user, button) {
    if (!this.chosen.delete(user.id)) this.chosen.set(user.id, user);
    button?.setAttribute("aria-pressed", String(this.chosen.has(user.id)));
    this.#showChosen();
  }

  #showChosen() {
    this.#chips.replaceChildren(
      ...[...this.chosen.values()].map((one) =>
        h("li", { class: "chip" }, name(one.username), iconButton("close", `Remove ${one.username}`, () => this.#unchoose(one))),
      ),
    );
    this.#chips.hidden = this.chosen.size === 0;
    this.#onChange();
  }

  #unchoose(user) {
    this.#toggle(user, null);
    this.#search();
    this.input.focus();
  }

  /** Enter chooses the first result, never unchooses, and clears the field for the next name or another Enter. */
  #take(button) {
    if (button.getAttribute("aria-pressed") === "false") button.click();
    this.input.value = "";
    this.#search();
  }

  async #onKey(event) {
    const first = this.#results.querySelector("button");
    if (event.key === "Enter") {
      event.preventDefault();
      // The results may be of an older search.
      if (this.#found !== this.input.value.trim()) {
        clearTimeout(this.#timer);
        await this.#search();
        const found = this.#results.querySelector("button");
        if (found && this.#found === this.input.value.trim()) this.#take(found);
      } else if (first) this.#take(first);
      else if (this.input.value.trim() === "" && this.chosen.size > 0) this.input.form.requestSubmit();
    } else if (event.key === "ArrowDown" && first) {
      event.preventDefault();
      first.focus();
    }
  }
}

/** Opens the dialog for a new conversation: with one person, or a group. */
export function openNewChat(store) {
  const picker = new PeoplePicker(store, { onChange: () => update() });
  const isGroup = h("input", { type: "checkbox", id: "is-group", onchange: () => update() });
  const groupName = h("input", { id: "group-name", maxlength: 100, dir: "auto", autocomplete: "off" });
  const nameField = h("div", { class: "field" }, h("label", { for: "group-name" }, "Name of the group"), groupName);
  const problem = h("p", { class: "problem", role: "alert" });
  const submit = h("button", { type: "submit", class: "button is-primary" });
  const form = h(
    "form",
    { onsubmit: (event) => create(event) },
    picker.element,
    h("label", { class: "check", for: "is-group" }, isGroup, h("span", {}, "Make it a group")),
    nameField,
    problem,
    h("div", { class: "dialog-foot" }, submit),
  );
  const update = () => {
    const count = picker.chosen.size;
    if (count > 1) isGroup.checked = true;
    isGroup.disabled = count > 1;
    nameField.hidden = !isGroup.checked;
    submit.textContent = isGroup.checked ? "Create group" : "Start chat";
    submit.disabled = count === 0;
  };
  const create = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const id = await store.create({
        isGroup: isGroup.checked,
        name: isGroup.checked ? groupName.value.trim() || null : null,
        participantIds: [...picker.chosen.keys()],
      });
      element.close();
      location.hash = `#/c/${id}`;
    } catch (error) {
      problem.textContent = explain(error);
      submit.disabled = false;
    }
  };
  update();
  const element = dialog("New conversation", form);
  picker.input.focus();
}
