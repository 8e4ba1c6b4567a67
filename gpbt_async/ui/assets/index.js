"use strict";
// All runs in a folder: those that go on first, then the others, the latest first.

{
  let latest = null;

  function ago(t) {
    const s = Math.max(0, Date.now() / 1000 - t);
    return s < 60 ? "just now" : s < 172800 ? duration(s) + " ago" : new Date(t * 1000).toLocaleDateString();
  }

  function row(r) {
    const link = make("a", { href: `runs/${encodeURIComponent(r.run)}/` }, r.run);
    if (!r.state) return make("tr", {}, make("td", {}, link), make("td", { class: "dim", colspan: "5" }, "reading …"));
    const state = make("span", { class: "badge " + (r.paused_by_hand ? "paused" : r.state) }, r.paused_by_hand ? "paused" : r.state);
    if (r.error) return make("tr", {}, make("td", {}, link), make("td", {}, state), make("td", { class: "dim", colspan: "4" }, r.error));
    return make("tr", {}, make("td", {}, link), make("td", {}, state),
      make("td", { class: "n" }, number(r.score, 6)), make("td", { class: "dim" }, crop(r.metric, 30)),
      make("td", {}, make("span", {}, `${r.members.toLocaleString("en")} of ${r.of.toLocaleString("en")} members`), make("div", { class: "bar" }, make("span", { class: "done", style: `width:${((100 * r.members) / r.of).toFixed(1)}%` }))),
      make("td", { class: "dim" }, r.t === null ? "" : ago(r.t)));
  }

  function update() {
    if (!latest) return;
    const order = (r) => [r.state === "running" ? 0 : 1, -(r.t || 0)];
    const runs = latest.runs.slice().sort((a, b) => order(a)[0] - order(b)[0] || order(a)[1] - order(b)[1]);
    $("path").textContent = latest.path;
    $("none").hidden = runs.length > 0;
    $("none").textContent = `There is no run in ${latest.path} yet. New runs appear here.`;
    fill($("runs"), runs.length ? make("tr", {}, make("th", {}, "run"), make("th", {}, "state"), make("th", { class: "n" }, "best score"), make("th", {}, "metric"), make("th", {}, "progress"), make("th", {}, "last change")) : null, runs.map(row));
    document.documentElement.dataset.ready = "true";
  }

  setInterval(update, 10000);
  follow((index) => { latest = index; update(); }, (text) => { $("link").textContent = text; });
}
