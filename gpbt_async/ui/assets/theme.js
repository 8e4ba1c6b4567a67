"use strict";
// Light or dark, as the system has it or as was chosen here before: known before anything is drawn. What was drawn hears
// of a change by the event "theme".

{
  const root = document.documentElement, media = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("gpbt-theme"); } catch { /* a page from a file may keep nothing */ }

  function set() {
    const wanted = chosen || (media.matches ? "dark" : "light"), changed = root.dataset.theme !== wanted, button = document.getElementById("theme");
    root.dataset.theme = wanted;
    if (button) button.textContent = wanted === "dark" ? "☀ light" : "☾ dark";
    if (changed) document.dispatchEvent(new Event("theme"));
  }
  set();
  media.addEventListener("change", set);
  document.addEventListener("DOMContentLoaded", () => {
    set();
    document.getElementById("theme").addEventListener("click", () => {
      chosen = root.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("gpbt-theme", chosen); } catch { /* as above */ }
      set();
    });
  });
}
