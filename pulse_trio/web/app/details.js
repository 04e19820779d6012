// A conversation's people and name, and what can be changed of them.

import { avatar, h, iconButton, name, toast } from "./dom.js";
import { PeoplePicker, ask, dialog } from "./newchat.js";
import { agoName } from "./time.js";

/** The dialog about a conversation; it follows what happens to it. */
export function openDetails(store, id) {
  const body = h("div", { class: "details" });
  const element = dialog("Details", body);
  let shown = "";
  const render = () => {
    const conversation = store.conversations.get(id);
    if (conversation === undefined) return element.close();
    const now = JSON.stringify([conversation.name, conversation.description, conversation.owner_id, conversation.users, conversation.users.map((user) => store.isOnline(user.id))]);
    if (now === shown) return;
    shown = now;
    // Whoever is writing in a field goes on with it.
    if (!body.contains(document.activeElement) || document.activeElement.tagName !== "INPUT") {
      body.replaceChildren(...parts(store, conversation, element));
    }
  };
  store.addEventListener("change", render);
  element.addEventListener("close", () => store.removeEventListener("change", render));
  render();
}

function parts(store, conversation, element) {
  if (!conversation.is_group) return [people(store, conversation)];
  return [names(store, conversation), people(store, conversation), adding(store, conversation), leaving(store, conversation, element)];
}

function names(store, conversation) {
  const title = h("input", { id: "details-name", maxlength: 100, dir: "auto", autocomplete: "off", value: conversation.name ?? "" });
  const about = h("input", { id: "details-about", maxlength: 1000, dir: "auto", autocomplete: "off", value: conversation.description ?? "" });
  const save = h("button", { type: "submit", class: "button" }, "Save");
  const onsubmit = async (event) => {
    event.preventDefault();
    save.disabled = true;
    save.focus();
    try {
      await store.rename(conversation.id, { name: title.value.trim() || null, description: about.value.trim() || null });
      toast("Saved.");
    } catch (error) {
      toast(error.message);
    } finally {
      save.disabled = false;
    }
  };
  return h(
    "form",
    { onsubmit },
    h("div", { class: "field" }, h("label", { for: "details-name" }, "Name"), title),
    h("div", { class: "field" }, h("label", { for: "details-about" }, "Description"), about),
    save,
  );
}

function people(store, conversation) {
  const isOwner = conversation.owner_id === store.me.id;
  const count = conversation.users.length;
  const row = (user) => {
    const isMe = user.id === store.me.id;
    const isOnline = isMe ? true : store.isOnline(user.id);
    const seen = store.online.get(user.id)?.last_seen_at;
    const state = isOnline ? "Online" : seen ? `Last seen ${agoName(seen)}` : isOnline === false ? "Offline" : "";
    return h(
      "li",
      { class: "person" },
      avatar(user.id, user.username, { isOnline }),
      h("span", { class: "person-name" }, name(user.username), isMe ? " (you)" : ""),
      h("span", { class: "hint" }, conversation.is_group && user.id === conversation.owner_id ? `Owner${state ? " · " : ""}` : "", state),
      conversation.is_group && isOwner && !isMe ? iconButton("close", `Remove ${user.username}`, () => remove(store, conversation, user)) : null,
    );
  };
  return h("section", {}, h("h3", {}, count === 1 ? "1 person" : `${count} people`), h("ul", { class: "people" }, conversation.users.map(row)));
}

async function remove(store, conversation, user) {
  if (!(await ask(`Remove ${user.username} from this group?`, "Remove"))) return;
  try {
    await store.removeMember(conversation.id, user.id);
  } catch (error) {
    toast(error.message);
  }
}

function adding(store, conversation) {
  const except = new Set(conversation.users.map((user) => user.id));
  const add = h("button", { type: "submit", class: "button", disabled: true }, "Add");
  const picker = new PeoplePicker(store, { except, onChange: () => (add.disabled = picker.chosen.size === 0) });
  const onsubmit = async (event) => {
    event.preventDefault();
    add.focus();
    try {
      await store.addMembers(conversation.id, [...picker.chosen.keys()]);
    } catch (error) {
      toast(error.message);
    }
  };
  return h("form", { onsubmit }, h("h3", {}, "Add people"), picker.element, add);
}

function leaving(store, conversation, element) {
  const leave = async () => {
    if (!(await ask("Leave this group? You will not see it any more.", "Leave"))) return;
    try {
      element.close();
      location.hash = "#/";
      await store.removeMember(conversation.id, "me");
    } catch (error) {
      toast(error.message);
    }
  };
  return h("button", { type: "button", class: "button is-danger is-quiet", onclick: leave }, "Leave group");
}
