// The page: signs in, creates the client, and shows the conversation that the address names.

import { PulseClient } from "/pulse-client.js";
import * as account from "./account.js";
import { Banner } from "./banner.js";
import { announce, h, toast } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Sidebar } from "./sidebar.js";
import { showSignIn } from "./signin.js";
import { Store } from "./store.js";
import { Thread } from "./thread.js";

const app = document.getElementById("app");

function start() {
  const session = account.current();
  if (session === null) {
    account.follow({ userId: null, onToken: () => {} });
    showSignIn(app, { notice: account.takeNotice(), onDone: () => location.reload() });
  } else {
    showChats(session);
  }
}

function showChats({ token, userId, username }) {
  const me = { id: userId, username };
  const client = new PulseClient({ token, userId, storage: account.place() });
  const store = new Store(client, me);
  const drafts = new Drafts(account.tab, userId);

  const signOut = () => {
    client.close();
    client.discardAll();
    drafts.clear();
    account.forget(userId, { tell: true });
  };
  account.follow({ userId, onToken: (renewed) => client.takeRenewed(renewed) });
  client.addEventListener("token", () => account.remember(client.token, me, account.isKept()));
  client.addEventListener("signed_out", () => {
    client.close();
    account.forget(userId, { tell: false, notice: "Your sign-in has ended. Please sign in again." });
  });

  const thread = new Thread(store, client, drafts);
  const sidebar = new Sidebar(store, { signOut, onAgain: () => thread.focus() });
  const banner = new Banner(store);
  const pane = h("div", { class: "pane" }, banner.element, thread.element);
  const layout = h("main", { class: "layout" }, sidebar.element, pane);
  app.replaceChildren(layout);

  const route = () => {
    const id = /^#\/c\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
    layout.classList.toggle("has-thread", id !== null);
    sidebar.select(id);
    thread.show(id);
  };
  const title = () => {
    const unread = store.totalUnread();
    const open = store.conversations.get(store.openId);
    document.title = `${unread ? `(${unread}) ` : ""}${open ? `${store.title(open)} – ` : ""}Pulse`;
  };
  // The thread first: it marks messages as read, which the list then does not count.
  store.addEventListener("change", (event) => {
    thread.update(event.detail);
    sidebar.update(event.detail);
    banner.update(event.detail);
    title();
  });
  store.addEventListener("gone", (event) => {
    const { id, title: left, unsent } = event.detail;
    if (unsent.length > 0) toast(`Not sent to “${left}”: ${unsent.map((item) => item.content).join(" · ").slice(0, 200)}`);
    if (id !== store.openId) return;
    toast(`You are no longer in “${left}”.`);
    location.replace("#/"); // not in the browser's history
  });
  store.addEventListener("arrived", (event) => {
    const message = event.detail;
    const conversation = store.conversations.get(message.conversation_id);
    if (message.conversation_id === store.openId) announce(`${message.sender_username}: ${message.content}`);
    else if (conversation) announce(`New message from ${message.sender_username} in ${store.title(conversation)}`);
  });
  addEventListener("hashchange", () => {
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close(); // it belonged to the last conversation
    route();
    title();
  });
  route();
  client.connect();
}

start();
