// Sets the chosen colours before the first paint.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("pulse.theme");
  } catch {
    // Storage is blocked: follow the system.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
