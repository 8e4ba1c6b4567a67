"use strict";
// One member beside the charts: its config and its parent's, metrics, curve, log. All by keyboard, too.

{
  const panel = $("panel");
  let before = null, shown = "";

  // A member's log and scores: in a report they are part of the page, else they are fetched (live.js).
  let logs = null, curves = null;
  G.outputs ??= (id) => {
    logs ??= new Map(S.remains.logs);
    curves ??= new Map(S.remains.curves);
    return { log: logs.get(id), curve: curves.get(id) };
  };

  const go = (id, label, title) => make("button", { title, ...(id === null || id === undefined ? { disabled: "" } : { click: () => G.show(id) }) }, label);
  const family = (id) => (M.parent[id] === null ? [...Array(N).keys()].filter((m) => M.parent[m] === null) : CHILDREN[M.parent[id]].filter((m) => M.generation[m] === M.generation[id]));
  const scored = (ids) => ids.filter((m) => finite(M.score[m])).sort(better);

  function around(id) {
    const siblings = family(id).sort((a, b) => M.place[a] - M.place[b]), at = siblings.indexOf(id);
    return { parent: M.parent[id], child: scored(CHILDREN[id])[0] ?? CHILDREN[id][0], above: siblings[at - 1], below: siblings[at + 1], siblings };
  }

  function configs(id) {
    const parent = M.parent[id], rows = S.space.map((d, i) => {
      const own = M.config[i][id], old = parent === null ? null : M.config[i][parent], changed = parent !== null && own !== old;
      const sign = !changed ? "" : typeof own === "number" && typeof old === "number" ? (own > old ? "↑" : "↓") : "≠";
      return make("tr", changed ? { class: "changed" } : {}, make("td", {}, d.name), make("td", { class: "n" }, number(own, 6) === "–" ? "None" : number(own, 6)),
        parent === null ? null : make("td", { class: "n" }, sign), parent === null ? null : make("td", { class: "n dim" }, old === null ? "None" : number(old, 6)));
    });
    for (const [name, value] of Object.entries(S.run.constants))
      rows.push(make("tr", { class: "dim" }, make("td", {}, name), make("td", { class: "n" }, value === null ? "None" : number(value, 6)), parent === null ? null : make("td", {}, ""), parent === null ? null : make("td", { class: "n" }, "constant")));
    return make("table", {}, make("tr", {}, make("th", {}, ""), make("th", { class: "n" }, "member " + id), parent === null ? null : make("th", {}, ""), parent === null ? null : make("th", { class: "n" }, "parent " + parent)), rows);
  }

  function metrics(id) {
    const parent = M.parent[id], rows = S.metrics.map((name, i) => [name, M.metrics[i][id], parent === null ? null : M.metrics[i][parent]]).filter((r) => r[1] !== null);
    if (!rows.length) return make("p", { class: "dim" }, "None.");
    return make("table", {}, rows.map(([name, own, old]) => make("tr", {}, make("td", {}, name), make("td", { class: "n" }, number(own, 6)), parent === null ? null : make("td", { class: "n dim" }, number(old, 6)))));
  }

  /** The reported scores; the parent's before them in grey. */
  function curve(id) {
    const own = G.outputs(id).curve, old = M.parent[id] === null ? undefined : G.outputs(M.parent[id]).curve;
    if (!own || own.filter(finite).length < 2) return null;
    const joined = [...(old || []), ...own], usable = joined.filter(finite), low = Math.min(...usable), high = Math.max(...usable);
    const W = 380, H = 90, x = (i) => 4 + (i * (W - 8)) / (joined.length - 1), y = (v) => H - 6 - ((v - low) / (high - low || 1)) * (H - 12);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Reported scores");
    const line = (from, values, colour) => {
      const points = values.map((v, i) => (finite(v) ? `${x(from + i).toFixed(1)},${y(v).toFixed(1)}` : null)).filter((p) => p).join(" ");
      const element = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      for (const [k, v] of [["points", points], ["fill", "none"], ["stroke", colour], ["stroke-width", "2"]]) element.setAttribute(k, v);
      svg.append(element);
    };
    if (old) line(0, old, css("faint"));
    line(old ? old.length : 0, own, css("accent"));
    return [make("h3", {}, "Reported scores" + (old ? ", after its parent's" : "")), svg, make("div", { class: "dim" }, `from ${number(low)} to ${number(high)}`)];
  }

  function why(id) {
    const texts = [STATE[M.state[id]]];
    if (M.rank[id] !== null) texts.push(`${ordinal(M.rank[id] + 1)} of its generation`);
    if (WON.has(id)) texts.push(id === best() ? "the best of the run" : "in the winning lineage");
    return texts.join(" · ");
  }

  /** Everything that the panel shows of a member, to see whether it has changed. */
  const facts = (id) => JSON.stringify([id, Object.values(M).map((c) => (c.length === N && !Array.isArray(c[0]) ? c[id] : c.map((column) => [column[id], column[M.parent[id]]]))), around(id).child, CHILDREN[id].length, WON.has(id), id === best(), G.outputs(id), dark()]);

  function render(id) {
    const now = facts(id);
    if (now === shown) return;
    shown = now;
    const a = around(id), log = G.outputs(id).log, [seconds, name] = unit(S.timeline.total), top = panel.scrollTop;
    const inside = panel.contains(document.activeElement) ? [...panel.querySelectorAll("button, pre")].indexOf(document.activeElement) : -1;
    panel.replaceChildren(...[
      make("button", { class: "close", click: G.hide, "aria-label": "Close" }, "✕"),
      make("h2", {}, "Member " + id), make("div", { class: "dim" }, `generation ${M.generation[id]} · path ${path(id).length > 60 ? "…" + path(id).slice(-58) : path(id)}`),
      make("div", {}, why(id)),
      make("div", {}, `${S.run.metric} `, make("b", {}, number(M.score[id], 6))),
      make("div", { class: "steps" }, go(a.parent, "← parent", "Arrow left"), go(a.child, `best of ${CHILDREN[id].length} children →`, "Arrow right"), go(a.above, "↑", "Better sibling: arrow up"), go(a.below, "↓", "Worse sibling: arrow down"),
        make("span", { class: "dim" }, `${a.siblings.indexOf(id) + 1} of ${counted(a.siblings.length, "sibling")}`)),
      make("h3", {}, "Config"), configs(id), make("h3", {}, "Metrics"), metrics(id), curve(id),
      make("h3", {}, "Training"),
      make("table", { class: "facts" }, [["time in training", M.seconds[id] === null ? "–" : duration(M.seconds[id])], ["slot", M.slot[id] === null ? "–" : String(M.slot[id])], ["attempts", String(M.attempts[id])],
        ["ended", M.ended[id] === null ? "–" : `${number(M.ended[id] / seconds, 4)} ${name} after the run began, as the ${ordinal(M.order[id])}`]].map(([k, v]) => make("tr", {}, make("td", {}, k), make("td", {}, v)))),
      M.reason[id] ? [make("h3", {}, M.state[id] === "failed" ? "Why it failed" : "Why an attempt failed"), make("pre", {}, M.reason[id])] : null,
      make("h3", {}, "End of the log"),
      log === undefined ? make("p", { class: "dim" }, G.live ? "…" : `Not in this report; see members/${String(id).padStart(4, "0")}/log.txt in the run's folder, if it is kept.`) : log === "" ? make("p", { class: "dim" }, "The log is empty.") : make("pre", { tabindex: "0" }, log),
    ].flat(2).filter((x) => x !== null));
    panel.scrollTop = top;
    if (inside >= 0) [...panel.querySelectorAll("button, pre")][inside]?.focus({ preventScroll: true });
  }
  G.panel = () => { if (G.selected !== null && G.selected < N) render(G.selected); };
  G.parts.push(() => G.panel());

  G.show = (id, focus = true) => {
    if (!(id >= 0 && id < N)) return;
    const opens = panel.hidden, another = G.selected !== id;
    if (opens) before = document.activeElement;
    G.selected = id;
    render(id);
    if (another) panel.scrollTop = 0;
    panel.hidden = false;
    document.body.classList.add("open");
    if (focus) panel.focus();
    requestAnimationFrame(() => { if (opens) window.dispatchEvent(new Event("resize")); G.mark(); });
  };

  G.hide = () => {
    panel.hidden = true;
    G.selected = null;
    shown = "";
    document.body.classList.remove("open");
    requestAnimationFrame(() => { window.dispatchEvent(new Event("resize")); G.mark(); });
    if (before && before.focus) before.focus();
  };

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "");
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (event.key === "/" && !typing) { event.preventDefault(); $("wanted").focus(); return; }
    if (event.key === "Escape" && !panel.hidden) { G.hide(); return; }
    if (panel.hidden || typing || event.altKey || event.ctrlKey || event.metaKey || document.activeElement?.tagName === "PRE") return;
    const a = around(G.selected), to = { ArrowLeft: a.parent, ArrowRight: a.child, ArrowUp: a.above, ArrowDown: a.below }[event.key];
    if (to !== undefined && to !== null) { event.preventDefault(); G.show(to); }
  });

  $("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = $("wanted").value.trim(), last = best();
    let member = /^[0-9]+$/.test(wanted) && Number(wanted) < N ? Number(wanted) : wanted === "best" ? last : undefined;
    if (member === undefined && wanted.includes("/")) {
      let here;
      for (const part of wanted.split("/")) {
        const children = here === undefined ? [...Array(N).keys()].filter((m) => M.parent[m] === null) : CHILDREN[here];
        here = children.find((m) => M.index[m] === Number(part));
        if (here === undefined) break;
      }
      member = here;
    }
    $("wanted").setCustomValidity(member !== undefined ? "" : N ? `No such member: enter 0 to ${N - 1}, a path such as 0/3/1, or best.` : "There is no member yet.");
    if (member === undefined) $("wanted").reportValidity(); else G.show(member);
  });
  $("wanted").addEventListener("input", () => $("wanted").setCustomValidity(""));
}
