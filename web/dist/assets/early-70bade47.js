// Runs before anything is painted, as a file of its own because the page may hold no script: a pinned theme must not flash.
(() => {
  let pinned = null;
  try {
    pinned = localStorage.getItem("miniasynq-theme");
  } catch {
    // Storage may be forbidden; then the system decides.
  }
  const isDark = pinned === "dark" || (pinned !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.setAttribute("data-mantine-color-scheme", isDark ? "dark" : "light");
})();
