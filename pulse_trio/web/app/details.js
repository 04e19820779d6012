// The dialog of a conversation: its members, name and description.

import { avatar, explain, h, iconButton, name, toast } from "./dom.js";
import { PeoplePicker, ask, dialog } from "./newchat.js";
import { Roster } from "./roster.js";
import { countPeople } from "./text.js";
import { agoName } from "./time.js";

const SHOW_MORE = "Show more people";

/**
 * Opens the dialog of a conversation and keeps it up to date. The fields are made once, so their contents stay.
 */
export function openDetails(store, id) {
  const first = store.conversations.get(id);
  const section = h("section", {});
  const roster = new Roster(store, id, () => render());
  const element = dialog("Details", h("div", { class: "details" }));
  const forms = first.is_group ? [names(store, first), adding(store, first)] : [];
  const [naming, inviting] = forms.map((form) => form.element);
  element.lastChild.append(...(first.is_group ? [naming, section, inviting, leaving(store, first, element)] : [section]));
  let shown = "";
  const render = () => {
    const conversation = store.conversations.get(id);
    if (conversation === undefined) return element.close();
    for (const form of forms) form.follow(conversation, roster);
    const users = roster.users(conversation);
    const now = JSON.stringify([conversation.owner_id, conversation.member_count, users, users.map((user) => store.isOnline(user.id)), roster.hasMore]);
    if (now === shown) return;
    shown = now;
    const focused = section.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    section.replaceChildren(...people(store, conversation, users));
    if (roster.hasMore) section.append(h("button", { type: "button", class: "button is-quiet", "aria-label": SHOW_MORE, onclick: () => roster.showMore() }, SHOW_MORE));
    if (focused) [...section.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === focused)?.focus();
  };
  store.addEventListener("change", render);
  element.addEventListener("close", () => {
    store.removeEventListener("change", render);
    roster.close();
  });
  render();
}

function names(store, conversation) {
  const title = h("input", { id: "details-name", maxlength: 100, dir: "auto", autocomplete: "off" });
  const about = h("input", { id: "details-about", maxlength: 1000, dir: "auto", autocomplete: "off" });
  const fields = { name: title, description: about };
  const known = { name: "", description: "" }; // as the server has them
  const follow = (now) => {
    for (const [key, input] of Object.entries(fields)) {
      const value = now[key] ?? "";
      if (input.value === known[key]) input.value = value; // else the user has changed the field
      known[key] = value;
    }
  };
  const save = h("button", { type: "submit", class: "button" }, "Save");
  const onsubmit = async (event) => {
    event.preventDefault();
    // Only the changed fields: others may have changed the rest meanwhile.
    const changed = Object.entries(fields).filter(([key, input]) => input.value.trim() !== known[key]);
    save.disabled = true;
    try {
      await store.rename(conversation.id, Object.fromEntries(changed.map(([key, input]) => [key, input.value.trim() || null])));
      toast("Saved.");
    } catch (error) {
      toast(explain(error));
    } finally {
      save.disabled = false;
    }
  };
  const element = h(
    "form",
    { onsubmit },
    h("div", { class: "field" }, h("label", { for: "details-name" }, "Name"), title),
    h("div", { class: "field" }, h("label", { for: "details-about" }, "Description"), about),
    save,
  );
  follow(conversation);
  return { element, follow };
}

function people(store, conversation, users) {
  const isOwner = conversation.owner_id === store.me.id;
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
  return [h("h3", {}, countPeople(conversation.member_count)), h("ul", { class: "people" }, users.map(row))];
}

async function remove(store, conversation, user) {
  if (!(await ask(`Remove ${user.username} from this group?`, "Remove"))) return;
  try {
    await store.removeMember(conversation.id, user.id);
  } catch (error) {
    toast(explain(error));
  }
}

function adding(store, conversation) {
  const add = h("button", { type: "submit", class: "button", disabled: true }, "Add");
  const picker = new PeoplePicker(store, { onChange: () => update() });
  let isAdding = false;
  // A disabled button would lose the focus, so it only looks disabled while a request runs.
  const update = () => {
    add.disabled = picker.chosen.size === 0 && !isAdding;
    add.setAttribute("aria-disabled", String(isAdding));
  };
  const onsubmit = async (event) => {
    event.preventDefault();
    if (isAdding) return;
    add.focus();
    const ids = [...picker.chosen.keys()];
    isAdding = true;
    update();
    try {
      const { before, after } = await store.addMembers(conversation.id, ids);
      if (document.activeElement === add) picker.input.focus(); // `add` becomes disabled
      picker.empty(ids);
      // Members may come and go at the same time, so the text claims only what is certain.
      toast(after - before === ids.length ? "Added." : "Everybody you chose is a member; some were members already.");
    } catch (error) {
      toast(explain(error));
    } finally {
      isAdding = false;
      update();
    }
  };
  const follow = (now, roster) => picker.leaveOut(roster.ids(now));
  return { element: h("form", { onsubmit }, h("h3", {}, "Add people"), picker.element, add), follow };
}

function leaving(store, conversation, element) {
  const leave = async () => {
    if (!(await ask("Leave this group? You will not see it any more.", "Leave"))) return;
    button.disabled = true;
    try {
      await store.removeMember(conversation.id, "me");
      element.close();
      location.replace("#/"); // not in the browser's history
    } catch (error) {
      toast(explain(error));
    } finally {
      button.disabled = false;
    }
  };
  const button = h("button", { type: "button", class: "button is-danger is-quiet", onclick: leave }, "Leave group");
  return button;
}
