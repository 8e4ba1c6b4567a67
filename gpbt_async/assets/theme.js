"use strict";
// Light or dark, as the system has it or as was chosen here before: known before anything is drawn.

{
  let chosen = null;
  try { chosen = localStorage.getItem("gpbt-theme"); } catch { /* a page from a file may keep nothing */ }
  document.documentElement.dataset.theme = chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}
