// The sign-in: keeps the token for this tab or for the browser, and follows other tabs.

const SESSION = "pulse.session";
const SIGNED_OUT = "pulse.signed_out";
const NOTICE = "pulse.notice";

/** Wraps a storage of the browser. Where it is blocked or full, what is set lasts as long as the page. */
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

/** Returns `{token, userId, username}` of the sign-in, or null. */
export function current() {
  return parse(tab.getItem(SESSION)) ?? parse(local.getItem(SESSION));
}

/** Returns true if the sign-in outlives the tab. */
export function isKept() {
  return parse(tab.getItem(SESSION)) === null;
}

/**
 * Returns the storage that lasts as long as the sign-in, for the client. It throws where it is blocked or full: the client
 * keeps what it cannot write, and writes it later.
 */
export function place() {
  const name = isKept() ? "localStorage" : "sessionStorage";
  return {
    getItem: (key) => window[name].getItem(key),
    setItem: (key, value) => window[name].setItem(key, value),
    removeItem: (key) => window[name].removeItem(key),
  };
}

/** Keeps a token of `user` (`{id, username}`) for this tab, or for the browser until the sign-out. */
export function remember(token, user, isForLong) {
  const text = JSON.stringify({ token, userId: user.id, username: user.username });
  tab.removeItem(SESSION);
  (isForLong ? local : tab).setItem(SESSION, text);
}

/** Forgets the sign-in and reloads the page. `tell`: signs the other tabs out as well. */
export function forget(userId, { tell, notice = "" }) {
  const isMine = (store) => (parse(store.getItem(SESSION))?.userId ?? userId) === userId;
  for (const store of [tab, local]) if (isMine(store)) store.removeItem(SESSION);
  if (notice) tab.setItem(NOTICE, notice);
  if (tell) local.setItem(SIGNED_OUT, JSON.stringify({ userId, at: Date.now() }));
  location.replace("#/");
  location.reload();
}

/** Returns the notice that the page before the reload left, once. */
export function takeNotice() {
  const notice = tab.getItem(NOTICE) ?? "";
  tab.removeItem(NOTICE);
  return notice;
}

/** Follows other tabs: their sign-out, new token, or sign-in. */
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
