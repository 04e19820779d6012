// The form to sign in and to sign up.

import { PulseClient } from "/pulse-client.js";
import * as account from "./account.js";
import { h, icon } from "./dom.js";
import { countCharacters } from "./text.js";

const passwordMin = Number(document.querySelector('meta[name="pulse-password-min-chars"]').content);

const MAX_USERNAME = 32; // characters; of the service

/** Shows the form in `parent`; calls `onDone` after the sign-in. */
export function showSignIn(parent, { notice, onDone }) {
  const form = new SignIn(onDone);
  form.say(notice);
  parent.replaceChildren(form.element);
  form.username.focus();
}

class SignIn {
  constructor(onDone) {
    this._onDone = onDone;
    this._isNew = false;
    this.username = h("input", { id: "username", name: "username", autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: 64, required: true, dir: "auto", "aria-describedby": "username-problem" });
    this.password = h("input", { id: "password", name: "password", type: "password", maxlength: 300, required: true, "aria-describedby": "password-problem" });
    this._keep = h("input", { id: "keep", type: "checkbox" });
    this._keep.checked = true;
    this._show = h("button", { type: "button", class: "link-button", "aria-pressed": "false", onclick: () => this._reveal() }, "Show");
    this._problems = {
      username: h("p", { id: "username-problem", class: "problem" }),
      password: h("p", { id: "password-problem", class: "problem" }),
    };
    this._notice = h("p", { class: "notice", role: "alert" });
    this._title = h("h1", {});
    this._submit = h("button", { type: "submit", class: "button is-primary is-wide" });
    this._question = h("span", {});
    this._switch = h("button", { type: "button", class: "link-button", onclick: () => this._turn(!this._isNew) });
    const form = h(
      "form",
      { novalidate: true, onsubmit: (event) => this._onSubmit(event) },
      this._notice,
      h("div", { class: "field" }, h("label", { for: "username" }, "Username"), this.username, this._problems.username),
      h("div", { class: "field" }, h("div", { class: "field-head" }, h("label", { for: "password" }, "Password"), this._show), this.password, this._problems.password),
      h("label", { class: "check", for: "keep" }, this._keep, h("span", {}, "Keep me signed in on this device")),
      this._submit,
    );
    this.element = h(
      "main",
      { class: "welcome" },
      h("div", { class: "welcome-card" }, h("div", { class: "brand" }, icon("logo"), h("span", {}, "Pulse")), this._title, form, h("p", { class: "welcome-switch" }, this._question, this._switch)),
    );
    this._turn(false);
  }

  say(text) {
    this._notice.textContent = text;
  }

  _turn(isNew) {
    this._isNew = isNew;
    this._title.textContent = isNew ? "Create your account" : "Sign in to Pulse";
    this._submit.textContent = isNew ? "Create account" : "Sign in";
    this._question.textContent = isNew ? "Have an account already? " : "New here? ";
    this._switch.textContent = isNew ? "Sign in" : "Create an account";
    this.password.setAttribute("autocomplete", isNew ? "new-password" : "current-password");
    this._tell({});
    this.say("");
  }

  _reveal() {
    const isShown = this.password.type === "text";
    this.password.type = isShown ? "password" : "text";
    this._show.textContent = isShown ? "Show" : "Hide";
    this._show.setAttribute("aria-pressed", String(!isShown));
  }

  /** Shows problems by field, and focuses the first. */
  _tell(problems) {
    let first = null;
    for (const [field, element] of Object.entries(this._problems)) {
      element.textContent = problems[field] ?? "";
      this[field].toggleAttribute("aria-invalid", false);
      if (!problems[field]) continue;
      this[field].setAttribute("aria-invalid", "true");
      first ??= this[field];
    }
    first?.focus();
  }

  _missing() {
    const problems = {};
    if (this.username.value.trim() === "") problems.username = "Enter a username.";
    else if (this._isNew && countCharacters(this.username.value.trim()) > MAX_USERNAME) problems.username = `Use at most ${MAX_USERNAME} characters.`;
    const length = countCharacters(this.password.value);
    if (length === 0) problems.password = "Enter a password.";
    else if (this._isNew && length < passwordMin) problems.password = `Use at least ${passwordMin} characters.`;
    return problems;
  }

  async _onSubmit(event) {
    event.preventDefault();
    const problems = this._missing();
    this._tell(problems);
    this.say("");
    if (Object.keys(problems).length > 0) return;
    this._submit.disabled = true;
    try {
      const client = new PulseClient({});
      const username = this.username.value.trim();
      if (this._isNew) await client.register(username, this.password.value);
      await client.login(username, this.password.value);
      account.remember(client.token, await client.me(), this._keep.checked);
      this._onDone();
    } catch (error) {
      this._refused(error);
    } finally {
      this._submit.disabled = false;
    }
  }

  _refused(error) {
    if (error.code === "invalid_credentials") this._tell({ password: "Username or password is wrong." });
    else if (error.code === "username_taken") this._tell({ username: "This name is taken. Try another one." });
    else if (error.field in this._problems) this._tell({ [error.field]: sentence(error) });
    else this.say(error.status ? sentence(error) : "The service cannot be reached. Try again in a moment.");
  }
}

/** Rewrites the service's text about a field for users: "`username` must …" becomes "The username must …". */
function sentence({ message }) {
  const text = message.replace(/^`(\w+)`:?/u, "The $1");
  return /[.!?]$/u.test(text) ? text : `${text}.`;
}
