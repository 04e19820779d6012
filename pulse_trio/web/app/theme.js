// Before anything is painted: the colours that this person chose, if not those of the system.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("pulse.theme");
  } catch {
    // Storage is blocked: the system's colours it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
