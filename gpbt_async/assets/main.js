"use strict";
// The head of the page, the tiles, the table of failures, the theme.

{
  const R = S.run, total = S.summary, kinds = total.members, best = S.lineage[S.lineage.length - 1];
  $("name").textContent = R.name;
  const badge = $("state");
  badge.textContent = R.state;
  badge.classList.add(R.state);
  const told = R.told === null ? "" : new Date(R.told * 1000).toLocaleString();
  const notices = {
    running: `The run was going on when this was written; its last news is of ${told}. Write the report again for newer ones.`,
    interrupted: `The run was interrupted and can be resumed${R.reason ? ": " + R.reason : "."}`,
    failed: `The run has failed: ${R.reason}`,
  };
  if (notices[R.state]) $("notice").append(make("p", { class: "notice", role: "status" }, notices[R.state]));

  const tile = (label, value, ...more) => make("div", { class: "tile" }, make("div", { class: "label", title: label }, label), make("div", { class: "value" }, value), make("div", { class: "more" }, more));
  const settled = kinds.finished + kinds.failed + kinds.stopped, of = R.population * R.generations;
  const rest = [[kinds.failed, "failed for good"], [kinds.stopped, "stopped early"], [S.failures.attempts.failed, S.failures.attempts.failed === 1 ? "attempt failed" : "attempts failed"], [kinds.lost, kinds.lost === 1 ? "attempt lost" : "attempts lost"]].filter(([n]) => n).map(([n, w]) => `${n.toLocaleString("en")} ${w}`);
  const strip = make("div", { class: "bar", "aria-hidden": "true" });
  const offered = total.busy_s + Object.values(total.idle_s).reduce((a, b) => a + b, 0);
  const paint = () => strip.replaceChildren(...[["busy", total.busy_s], ...Object.entries(total.idle_s)].filter(([, v]) => v > 0)
    .map(([k, v]) => make("span", { style: `width:${(100 * v) / offered}%;background:${k === "busy" ? (dark() ? "#2f6f62" : "#7cc4b0") : CAUSES[k]}` })));
  const most = Object.entries(total.idle_s).sort((a, b) => b[1] - a[1]).find(([, v]) => v > 0);
  $("tiles").append(
    tile(`best ${R.metric} (${R.mode})`, number(total.score, 5), best === undefined ? "nobody has finished yet" : make("button", { class: "plain", click: () => G.show(best) }, `member ${best}, generation ${M.generation[best]}`)),
    tile("members", settled.toLocaleString("en") + (settled === of ? "" : ` of ${of.toLocaleString("en")}`), rest.length ? rest.join(", ") : "nothing failed"),
    tile("generations", String(R.generations), `${counted(R.population, "member")} each, ${counted(R.parents, "parent")}`),
    tile("took", duration(total.wall_s), `${counted(total.slots, "slot")}; ${duration(total.busy_s)} of training`),
    tile("slots busy", offered ? percent(total.utilisation) : "–", most && offered ? `most idle: ${CAUSE[most[0]]}, ${percent(most[1] / offered)}` : "", strip),
    tile("searcher", R.searcher, `${R.schedule}, ${R.history}, ${R.selection}, seed ${R.seed}`));

  // ---- failures
  const F = S.failures, table = $("failures"), name = { failed: "failed", lost: "lost", "no score": "no score" };
  const sums = [[F.attempts.failed, "attempt", "failed"], [F.attempts["no score"], "training", "ended without a finite score"], [F.attempts.lost, "attempt", "lost through no fault of the member"]].filter(([n]) => n);
  $("failures-lead").textContent = sums.length
    ? sums.map(([n, what, how]) => `${counted(n, what)} ${how}`).join("; ") + ". A member is tried again until its attempts are used up; reasons that differ in numbers only are told once."
    : "Nothing has failed.";
  if (F.list.length) {
    table.append(make("table", {}, make("tr", {}, ["what", "attempts", "members that failed for good", "reason, and the traceback's end", "members"].map((h, i) => make("th", i === 1 || i === 2 ? { class: "n" } : {}, h))),
      F.list.map((f, i) => make("tr", {}, make("td", {}, name[f.kind] || f.kind), make("td", { class: "n" }, f.attempts.toLocaleString("en")), make("td", { class: "n" }, String(f.for_good)),
        make("td", {}, f.reason, S.remains.tracebacks[i] ? make("details", {}, make("summary", {}, S.remains.tracebacks[i].split("\n").slice(1, 2).map((l) => l.trim())[0] || "traceback"), make("pre", {}, S.remains.tracebacks[i])) : null),
        make("td", {}, f.members.slice(0, 8).map((id) => [make("button", { class: "plain", click: () => G.show(id) }, String(id)), " "]), f.attempts > 8 && f.members.length > 8 ? "…" : "")))));
    if (F.kinds > F.list.length) table.append(make("p", { class: "dim" }, `and ${F.kinds - F.list.length} more kinds`));
  }

  // ---- light and dark
  const media = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("gpbt-theme"); } catch { /* a page from a file may keep nothing */ }
  function theme() {
    const wanted = chosen || (media.matches ? "dark" : "light");
    const changed = document.documentElement.dataset.theme !== wanted;
    document.documentElement.dataset.theme = wanted;
    $("theme").textContent = wanted === "dark" ? "☀ light" : "☾ dark";
    paint();
    if (changed) G.redraw();
  }
  $("theme").addEventListener("click", () => {
    chosen = dark() ? "light" : "dark";
    try { localStorage.setItem("gpbt-theme", chosen); } catch { /* as above */ }
    theme();
  });
  media.addEventListener("change", theme);
  theme();
  document.documentElement.dataset.ready = "true";
}
