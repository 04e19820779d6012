// Who is signed in here: the token, for as long as the person wants, and the same for all tabs.

const SESSION = "pulse.session";
const SIGNED_OUT = "pulse.signed_out";
const NOTICE = "pulse.notice";

/** Storage that works where the browser blocks it, too: then for this page only. */
function storage(name) {
  const memory = new Map();
  const guarded = (act, otherwise) => {
    try {
      return act(window[name]);
    } catch {
      return otherwise();
    }
  };
  return {
    getItem: (key) => guarded((s) => s.getItem(key), () => memory.get(key) ?? null),
    setItem: (key, value) => guarded((s) => s.setItem(key, value), () => void memory.set(key, value)),
    removeItem: (key) => guarded((s) => s.removeItem(key), () => void memory.delete(key)),
  };
}

export const local = storage("localStorage");
export const tab = storage("sessionStorage");

function parse(text) {
  try {
    const value = JSON.parse(text);
    return typeof value?.token === "string" ? value : null;
  } catch {
    return null;
  }
}

/** `{token, userId, username}` of who is signed in, or null. */
export function current() {
  return parse(tab.getItem(SESSION)) ?? parse(local.getItem(SESSION));
}

/** Whether the sign-in outlives the tab. */
export function isKept() {
  return parse(tab.getItem(SESSION)) === null;
}

/** The storage that what belongs to this sign-in goes to. */
export function place() {
  return isKept() ? local : tab;
}

/** Keeps a token of `user` (`{id, username}`): for this tab, or for this browser until signed out. */
export function remember(token, user, isForLong) {
  const text = JSON.stringify({ token, userId: user.id, username: user.username });
  tab.removeItem(SESSION);
  (isForLong ? local : tab).setItem(SESSION, text);
}

/** Forgets the sign-in, and tells the other tabs if the person wanted it. The page starts afresh. */
export function forget(userId, { tell, notice = "" }) {
  const isMine = (store) => (parse(store.getItem(SESSION))?.userId ?? userId) === userId;
  for (const store of [tab, local]) if (isMine(store)) store.removeItem(SESSION);
  if (notice) tab.setItem(NOTICE, notice);
  if (tell) local.setItem(SIGNED_OUT, JSON.stringify({ userId, at: Date.now() }));
  location.replace("#/");
  location.reload();
}

/** What the last page wanted to say; once. */
export function takeNotice() {
  const notice = tab.getItem(NOTICE) ?? "";
  tab.removeItem(NOTICE);
  return notice;
}

/** Follows what other tabs do: a sign-out, a new token, a sign-in. */
export function follow({ userId, onToken }) {
  addEventListener("storage", (event) => {
    if (event.storageArea !== localStorage) return;
    if (event.key === SIGNED_OUT && userId !== null && event.newValue) {
      if (JSON.parse(event.newValue).userId === userId) forget(userId, { tell: false });
    } else if (event.key === SESSION && isKept()) {
      const session = parse(event.newValue);
      if (session?.userId === userId && userId !== null) onToken(session.token);
      else if (session || userId !== null) location.reload();
    }
  });
}
