"use strict";
// The head of the page, the tiles, the table of failures.

{
  const tile = (label, value, ...more) => make("div", { class: "tile" }, make("div", { class: "label", title: label }, label), make("div", { class: "value" }, value), make("div", { class: "more" }, more));

  function head() {
    const R = S.run, paused = G.live && S.now.paused_by_hand, badge = $("state");
    $("name").textContent = R.name;
    badge.textContent = paused ? "paused" : R.state;
    badge.className = "badge " + (paused ? "paused" : R.state);
    const last = R.told === null ? "" : new Date(R.told * 1000).toLocaleString();
    const notices = {
      running: G.live ? "" : `The run was going on when this report was written; its last event was at ${last}. Write the report again for newer data.`,
      interrupted: `The run was interrupted and can be resumed${R.reason ? ": " + R.reason : "."}` + (G.live ? ` Go on with: gpbt-async resume ${S.now.typed}` : ""),
      failed: `The run has failed: ${R.reason}`,
    };
    const which = G.live && (S.now.to_retry ? counted(S.now.to_retry, "failed member") : S.now.reopens && "what has failed");
    const retry = which ? `Once the cause is fixed, ${which} can be tried again: gpbt-async resume ${S.now.typed} --retry-failed` : "";
    const findings = (S.summary.findings || []).map((f) => make("p", { class: "notice", role: "status" }, make("b", {}, `${f.code}: `), f.text, f.remedy ? make("span", { class: "dim" }, ` – ${f.remedy}`) : null));
    fill($("notice"), [G.problem || "", notices[R.state] || "", retry].filter((text) => text).map((text) => make("p", { class: "notice", role: "status" }, text)), findings);
  }

  function tiles() {
    const R = S.run, total = S.summary, kinds = total.members, id = best();
    const settled = kinds.finished + kinds.failed + kinds.stopped, of = R.population * R.generations;
    const rest = [[kinds.failed, "failed for good"], [kinds.stopped, "stopped early"], [S.failures.attempts.failed, S.failures.attempts.failed === 1 ? "attempt failed" : "attempts failed"], [kinds.lost, kinds.lost === 1 ? "attempt lost" : "attempts lost"]].filter(([n]) => n).map(([n, w]) => `${n.toLocaleString("en")} ${w}`);
    const offered = total.busy_s + Object.values(total.idle_s).reduce((a, b) => a + b, 0);
    const strip = make("div", { class: "bar", "aria-hidden": "true" }, [["busy", total.busy_s], ...Object.entries(total.idle_s)].filter(([, v]) => v > 0)
      .map(([k, v]) => make("span", { style: `width:${((100 * v) / offered).toFixed(2)}%;background:${k === "busy" ? (dark() ? "#2f6f62" : "#7cc4b0") : CAUSES[k]}` })));
    const most = Object.entries(total.idle_s).sort((a, b) => b[1] - a[1]).find(([, v]) => v > 0);
    const done = make("div", { class: "bar", "aria-hidden": "true" }, make("span", { class: "done", style: `width:${((100 * settled) / of).toFixed(2)}%` }));
    fill($("tiles"),
      tile(`best ${R.metric} (${R.mode})`, number(total.score, 5), id === undefined ? "no member has finished yet" : make("button", { class: "plain", click: () => G.show(best()) }, `member ${id}, generation ${M.generation[id]}`),
        total.choice ? ` chosen by ${total.choice.value === null ? "the score: " + total.choice.metric + " was not reported" : `${total.choice.metric} ${number(total.choice.value)}`}, among ${counted(total.choice.among.length, "member")}` : null),
      tile("members", [settled.toLocaleString("en"), settled === of ? null : make("small", {}, ` of ${of.toLocaleString("en")}`)], rest.length ? rest.join(", ") : "nothing failed", R.state === "running" ? done : null),
      tile("generations", String(R.generations), `${counted(R.population, "member")} each, ${counted(R.parents, "parent")}`),
      tile(R.state === "running" ? "trains for" : "took", duration(total.wall_s), `${counted(total.slots, "slot")}; ${duration(total.busy_s)} of training`),
      tile("slots busy", offered ? percent(total.utilisation) : "–", most && offered ? `most idle: ${CAUSE[most[0]]}, ${percent(most[1] / offered)}` : "", strip),
      tile("searcher", R.searcher, `${R.schedule}, ${R.history}, ${R.selection}, seed ${R.seed}`));
  }

  // ---- failures
  const kind = { failed: "failed", lost: "lost", "no score": "no score" };
  let shown = null;

  function failures() {
    const now = JSON.stringify([S.failures, S.remains.tracebacks]);
    if (now === shown) return;
    shown = now;
    const F = S.failures, table = $("failures"), open = new Set([...table.querySelectorAll("details[open]")].map((d) => d.dataset.of));
    const sums = [[F.attempts.failed, "attempt", "failed"], [F.attempts["no score"], "training", "ended without a finite score"], [F.attempts.lost, "attempt", "lost through no fault of the member"]].filter(([n]) => n);
    $("failures-lead").textContent = sums.length
      ? sums.map(([n, what, how]) => `${counted(n, what)} ${how}`).join("; ") + ". A member is tried again until its attempts are used up; reasons that differ only in numbers are shown once."
      : "Nothing has failed.";
    const traceback = (f, text) => text && make("details", { "data-of": f.reason, ...(open.has(f.reason) ? { open: "" } : {}) }, make("summary", {}, text.split("\n").slice(1, 2).map((l) => l.trim())[0] || "traceback"), make("pre", {}, text));
    fill(table, F.list.length ? make("table", {}, make("tr", {}, ["what", "attempts", "members that failed for good", "reason, and end of the traceback", "members"].map((h, i) => make("th", i === 1 || i === 2 ? { class: "n" } : {}, h))),
      F.list.map((f, i) => make("tr", {}, make("td", {}, kind[f.kind] || f.kind), make("td", { class: "n" }, f.attempts.toLocaleString("en")), make("td", { class: "n" }, String(f.for_good)),
        make("td", {}, f.reason, traceback(f, S.remains.tracebacks[i]) || null),
        make("td", {}, f.members.slice(0, 8).map((id) => [make("button", { class: "plain", click: () => G.show(id) }, String(id)), " "]), f.attempts > 8 && f.members.length > 8 ? "…" : "")))) : null,
      F.kinds > F.list.length ? make("p", { class: "dim" }, `and ${F.kinds - F.list.length} more kinds`) : null);
  }
  G.parts.push(head, tiles, failures);

  document.addEventListener("theme", () => { if (S) G.update(S); });

  // a report contains its data
  if ($("report_data")) {
    G.update(JSON.parse($("report_data").textContent));
    document.documentElement.dataset.ready = "true";
  }
}
