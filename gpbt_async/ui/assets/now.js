"use strict";
// The run's present activity: which member trains in which slot, what waits and for what, the GPUs. Only on live pages.

{
  const MOST = 64, slots = $("now-slots"), chips = new Map();
  const bytes = (n) => { let k = 0; while (n >= 1024 && k < 4) { n /= 1024; k++; } return number(n, 3) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][k]; };

  /** Seconds since a moment of the run's clock. */
  const since = (t) => Math.max(0, Date.now() / 1000 + G.ahead - t);

  const ago = (t) => ` ${duration(Math.floor(since(Number(t))))} ago`;

  function chip(t) {
    const state = JSON.stringify([t, M.rank[t.member], dark()]);
    let element = chips.get(t.slot);
    if (!element) {
      element = make("button", { class: "chip", click: () => G.show(Number(element.dataset.member)) });
      chips.set(t.slot, element);
    }
    if (element.dataset.state !== state) {
      Object.assign(element.dataset, { state, member: t.member, since: t.since ?? "" });
      element.replaceChildren(make("span", { class: "dim" }, "slot " + t.slot), make("b", {}, "member " + t.member), make("span", { class: "dim" }, "generation " + M.generation[t.member] + (t.attempt > 1 ? `, attempt ${t.attempt}` : "")),
        make("span", { class: "n" }, t.score === null ? "" : number(t.score)), make("time", {}, ""));
    }
    return element;
  }

  function clock() {
    for (const element of slots.querySelectorAll(".chip")) {
      const t = element.dataset.since;
      element.lastChild.textContent = t === "" ? "starting" : duration(Math.floor(since(Number(t))));
    }
    for (const element of document.querySelectorAll("#now-lead time")) element.textContent = ago(element.dataset.since);
  }

  function gpus(rows) {
    if (!rows.length) return null;
    const button = (word, label, row, title) => make("button", { click: () => G.steer(word, row.uuid), title, "aria-label": `${label} GPU ${row.gpu}` }, label);
    const state = (row) => ({ ok: "free", faulty: "set aside", dirty: "set aside" }[row.state] || row.state);
    return make("table", {}, make("tr", {}, ["GPU", "", "state", "members", "memory free", "load", "", ""].map((h) => make("th", {}, h))), rows.map((row) => make("tr", {},
      make("td", {}, make("b", {}, row.gpu)), make("td", {}, row.name), make("td", { class: row.state === "faulty" ? "failed" : "" }, state(row) + (row.leaving ? ", being drained" : "")),
      make("td", {}, row.members.map((id) => [make("button", { class: "plain", click: () => G.show(id) }, String(id)), " "])),
      make("td", {}, row.total && row.used !== null ? `${bytes(Math.max(0, row.total - row.used))} of ${bytes(row.total)}` : "–"),
      make("td", {}, [row.utilisation === null ? "" : row.utilisation + " %", row.temperature === null ? "" : row.temperature + " °C"].filter((x) => x).join(", ")),
      make("td", { class: "dim" }, row.reason || ""),
      make("td", {}, row.state === "drained" ? button("return", "return", row, "Let the run use it again") : [button("drain", "drain", row, "No new member starts there; members in training go on"), " ",
        row.members.length ? button("drain-now", "now", row, "Its members leave at once and lose their interval") : null]))));
  }

  function update() {
    const W = S.now, running = S.run.state === "running";
    $("now-section").hidden = $("steer").hidden = !running;
    if (!running) return $("really").close();
    const shown = W.training.slice(0, MOST).map(chip), used = new Set(shown);
    for (const [slot, element] of chips) if (!used.has(element)) chips.delete(slot);
    if (shown.length !== slots.childElementCount || shown.some((element, i) => slots.children[i] !== element)) {
      const at = shown.indexOf(document.activeElement);
      slots.replaceChildren(...shown);
      if (at >= 0) shown[at].focus({ preventScroll: true });
    }
    clock();
    const texts = [`${W.training.length} of ${counted(W.slots, "slot")} ${W.training.length === 1 ? "trains" : "train"}`];
    if (W.training.length > MOST) texts.push(`the first ${MOST} are shown`);
    if (W.free_slots) texts.push(`${W.free_slots} free, waiting for ${W.free_until}`);
    fill($("now-lead"), texts.join("; "), W.free_since === null ? null : make("time", { "data-since": W.free_since }, ago(W.free_since)));
    const why = W.waiting_for_gpus ? Object.entries(W.waiting_for_gpus.why).map(([gpu, reason]) => `GPU ${gpu}: ${reason}`).join("; ") : "";
    fill($("now-waiting"),
      W.paused ? make("li", { class: "why" }, W.paused_by_hand ? `${W.paused}: no new member starts, members in training go on.` : `Members wait: ${W.paused}`) : null,
      W.waiting_for_gpus ? make("li", { class: "why" }, `Waiting for a GPU${why ? ": " + why : ""}`) : null,
      W.waiting.map((w) => make("li", {}, make("button", { class: "plain", click: () => G.show(w.member) }, `member ${w.member}`), ` waits for ${w.for}` + (w.after ? ` (after ${crop(w.after, 160)})` : ""))),
      W.waiting_count > W.waiting.length ? make("li", { class: "dim" }, `and ${W.waiting_count - W.waiting.length} more`) : null);
    fill($("now-gpus"), gpus(W.gpus));
    $("pause").textContent = W.paused_by_hand ? "Go on" : "Pause";
    $("pause").title = W.paused_by_hand ? "Start members again" : "Start no new member; members in training go on";
  }
  G.parts.push(update);
  setInterval(() => { if (S && S.run.state === "running") clock(); }, 1000);
}
