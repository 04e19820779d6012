// Times in words, in the form of the user's system.

const clock = new Intl.DateTimeFormat([], { hour: "numeric", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat([], { weekday: "long" });
const date = new Intl.DateTimeFormat([], { day: "numeric", month: "long" });
const dateOfYear = new Intl.DateTimeFormat([], { day: "numeric", month: "long", year: "numeric" });
const short = new Intl.DateTimeFormat([], { day: "2-digit", month: "2-digit" });
const full = new Intl.DateTimeFormat([], { dateStyle: "full", timeStyle: "short" });

function daysAgo(then) {
  const noon = (day) => new Date(day.getFullYear(), day.getMonth(), day.getDate(), 12).getTime();
  return Math.round((noon(new Date()) - noon(then)) / 86_400_000);
}

/** Returns the same text for all times of a day. */
export function dayKey(timestamp) {
  return new Date(timestamp).toDateString();
}

/** "10:24" */
export function clockTime(timestamp) {
  return clock.format(new Date(timestamp));
}

/** "Wednesday, 4 February 2026 at 10:24" */
export function fullTime(timestamp) {
  return full.format(new Date(timestamp));
}

/** "Today", "Yesterday", "Monday", "4 February", "4 February 2024" */
export function dayName(timestamp) {
  const then = new Date(timestamp);
  const days = daysAgo(then);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days > 1 && days < 7) return weekday.format(then);
  return then.getFullYear() === new Date().getFullYear() ? date.format(then) : dateOfYear.format(then);
}

/** For a list: the time today, the weekday this week, or the date. */
export function listTime(timestamp) {
  const then = new Date(timestamp);
  const days = daysAgo(then);
  if (days <= 0) return clock.format(then);
  if (days === 1) return "Yesterday";
  return days < 7 ? weekday.format(then).slice(0, 3) : short.format(then);
}

/** "just now", "5 min ago", "yesterday at 10:24" */
export function agoName(timestamp) {
  const minutes = Math.floor((Date.now() - new Date(timestamp).getTime()) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const day = dayName(timestamp);
  return `${day === "Today" ? "today" : day === "Yesterday" ? "yesterday" : day} at ${clockTime(timestamp)}`;
}
