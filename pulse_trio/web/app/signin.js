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
  #onDone;
  #isNew;
  #keep;
  #show;
  #problems;
  #notice;
  #title;
  #submit;
  #question;
  #switch;

  constructor(onDone) {
    this.#onDone = onDone;
    this.#isNew = false;
    this.username = h("input", { id: "username", name: "username", autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: 64, required: true, dir: "auto", "aria-describedby": "username-problem" });
    this.password = h("input", { id: "password", name: "password", type: "password", maxlength: 300, required: true, "aria-describedby": "password-problem" });
    this.#keep = h("input", { id: "keep", type: "checkbox" });
    this.#keep.checked = true;
    this.#show = h("button", { type: "button", class: "link-button", "aria-pressed": "false", onclick: () => this.#reveal() }, "Show");
    this.#problems = {
      username: h("p", { id: "username-problem", class: "problem" }),
      password: h("p", { id: "password-problem", class: "problem" }),
    };
    this.#notice = h("p", { class: "notice", role: "alert" });
    this.#title = h("h1", {});
    this.#submit = h("button", { type: "submit", class: "button is-primary is-wide" });
    this.#question = h("span", {});
    this.#switch = h("button", { type: "button", class: "link-button", onclick: () => this.#turn(!this.#isNew) });
    const form = h(
      "form",
      { novalidate: true, onsubmit: (event) => this.#onSubmit(event) },
      this.#notice,
      h("div", { class: "field" }, h("label", { for: "username" }, "Username"), this.username, this.#problems.username),
      h("div", { class: "field" }, h("div", { class: "field-head" }, h("label", { for: "password" }, "Password"), this.#show), this.password, this.#problems.password),
      h("label", { class: "check", for: "keep" }, this.#keep, h("span", {}, "Keep me signed in on this device")),
      this.#submit,
    );
    this.element = h(
      "main",
      { class: "welcome" },
      h("div", { class: "welcome-card" }, h("div", { class: "brand" }, icon("logo"), h("span", {}, "Pulse")), this.#title, form, h("p", { class: "welcome-switch" }, this.#question, this.#switch)),
    );
    this.#turn(false);
  }

  say(text) {
    this.#notice.textContent = text;
  }

  #turn(isNew) {
    this.#isNew = isNew;
    this.#title.textContent = isNew ? "Create your account" : "Sign in to Pulse";
    this.#submit.textContent = isNew ? "Create account" : "Sign in";
    this.#question.textContent = isNew ? "Have an account already? " : "New here? ";
    this.#switch.textContent = isNew ? "Sign in" : "Create an account";
    this.password.setAttribute("autocomplete", isNew ? "new-password" : "current-password");
    this.#tell({});
    this.say("");
  }

  #reveal() {
    const isShown = this.password.type === "text";
    this.password.type = isShown ? "password" : "text";
    this.#show.textContent = isShown ? "Show" : "Hide";
    this.#show.setAttribute("aria-pressed", String(!isShown));
  }

  /** Shows problems by field, and focuses the first. */
  #tell(problems) {
    let first = null;
    for (const [field, element] of Object.entries(this.#problems)) {
      element.textContent = problems[field] ?? "";
      this[field].toggleAttribute("aria-invalid", false);
      if (!problems[field]) continue;
      this[field].setAttribute("aria-invalid", "true");
      first ??= this[field];
    }
    first?.focus();
  }

  #missing() {
    const problems = {};
    if (this.username.value.trim() === "") problems.username = "Enter a username.";
    else if (this.#isNew && countCharacters(this.username.value.trim()) > MAX_USERNAME) problems.username = `Use at most ${MAX_USERNAME} characters.`;
    const length = countCharacters(this.password.value);
    if (length === 0) problems.password = "Enter a password.";
    else if (this.#isNew && length < passwordMin) problems.password = `Use at least ${passwordMin} characters.`;
    return problems;
  }

  async #onSubmit(event) {
    event.preventDefault();
    const problems = this.#missing();
    this.#tell(problems);
    this.say("");
    if (Object.keys(problems).length > 0) return;
    this.#submit.disabled = true;
    try {
      const client = new PulseClient({});
      const username = this.username.value.trim();
      if (this.#isNew) await client.register(username, this.password.value);
      await client.login(username, this.password.value);
      account.remember(client.token, await client.me(), this.#keep.checked);
      this.#onDone();
    } catch (error) {
      this.#refused(error);
    } finally {
      this.#submit.disabled = false;
    }
  }

  #refused(error) {
    if (error.code === "invalid_credentials") this.#tell({ password: "Username or password is wrong." });
    else if (error.code === "username_taken") this.#tell({ username: "This name is taken. Try another one." });
    else if (error.field in this.#problems) this.#tell({ [error.field]: sentence(error) });
    else this.say(error.status ? sentence(error) : "The service cannot be reached. Try again in a moment.");
  }
}

/** Rewrites the service's text about a field for users: "`username` must …" becomes "The username must …". */
function sentence({ message }) {
  const text = message.replace(/^`(\w+)`:?/u, "The $1");
  return /[.!?]$/u.test(text) ? text : `${text}.`;
}
