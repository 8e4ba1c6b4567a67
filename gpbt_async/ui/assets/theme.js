"use strict";
// Light or dark, as in the system or as chosen here before; set before anything is drawn. The event "theme" announces a
// change.

{
  const root = document.documentElement, media = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("gpbt-theme"); } catch { /* a page from a file may not store anything */ }

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
