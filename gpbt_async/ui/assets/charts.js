"use strict";
// Score, schedule, parallel coordinates, importance.

// ---- score against intervals and time
{
  let ids = [], seconds = 1, name = "seconds", chosen = false;
  const x = (id) => ($("score-x").value === "ended" ? M.ended[id] / seconds : M.order[id]);

  function draw(element) {
    if (!ids.length) return nothing(element, "No member has a score yet.");
    const log = $("score-y").value === "log", time = $("score-x").value === "ended";
    const bx = (time ? S.best.t.map((t) => t / seconds) : S.best.interval).slice(), by_ = S.best.member.map((id) => M.score[id]);
    const last = Math.max(...[ids[ids.length - 1]].map(x), ids.reduce((most, id) => Math.max(most, x(id)), 0));
    if (bx.length) { bx.push(last); by_.push(by_[by_.length - 1]); }
    const won = S.lineage.filter((id) => finite(M.score[id])), accent = css("accent");
    const size = N > 3000 ? 4 : N > 400 ? 5 : 8;
    const traces = [
      { type: many(), mode: "markers", x: ids.map(x), y: ids.map((id) => M.score[id]), customdata: ids, hovertext: N > 3000 ? undefined : ids.map(hover), text: N > 3000 ? ids.map((id) => `member ${id} · ${number(M.score[id])}`) : undefined, hoverinfo: "text",
        marker: { size, opacity: N > 400 ? 0.6 : 0.9, color: ids.map((id) => M.generation[id]), colorscale: ramp(CIVIDIS.slice()), cmin: 0, cmax: Math.max(1, S.run.generations - 1),
          symbol: N > 3000 ? "circle" : ids.map((id) => SYMBOL[M.state[id]]), line: { width: 0 },
          colorbar: { title: { text: "generation", side: "right" }, thickness: 12, len: 0.7, outlinewidth: 0, ...(S.run.generations <= 8 ? { dtick: 1 } : {}) } } },
      { mode: "lines", x: bx, y: by_, line: { shape: "hv", width: 2.5, color: accent }, hoverinfo: "skip", name: "best so far" },
      { mode: "markers", x: won.map(x), y: won.map((id) => M.score[id]), customdata: won, hovertext: won.map(hover), hoverinfo: "text",
        marker: { symbol: "circle-open", size: 12, color: accent, line: { width: 2.5 } } },
    ];
    const low = scores[0], high = scores[Math.min(scores.length - 1, Math.floor(0.97 * scores.length))];
    const room = log ? [Math.log10(Math.min(low, high)) - 0.04, Math.log10(Math.max(low, high)) + 0.04] : [Math.min(low, high), Math.max(low, high)];
    const margin = log ? 0.02 * (room[1] - room[0]) : 0.05 * (room[1] - room[0] || 1);
    const shapes = time ? S.timeline.sessions.slice(1).map((t) => ({ type: "line", x0: t / seconds, x1: t / seconds, y0: 0, y1: 1, yref: "paper", line: { color: css("faint"), width: 1, dash: "dot" } })) : [];
    plot(element, traces, { height: 420, shapes: [...shapes, ...ring("score")], uirevision: time + ":" + log, xaxis: { title: { text: time ? name + " since the run began" : "intervals trained by all members" }, rangemode: "tozero" },
      yaxis: { title: { text: plain(S.run.metric, 40) }, type: log ? "log" : "linear", range: [room[0] - margin, room[1] + margin], ...(log ? { dtick: room[1] - room[0] > 1.5 ? 1 : "D2" } : {}) } });
  }
  function update() {
    ids = [];
    for (let id = 0; id < N; id++) if (finite(M.score[id]) && M.order[id] !== null) ids.push(id);
    [seconds, name] = unit(S.timeline.total);
    $("score-y").disabled = !positive;
    if (!chosen) $("score-y").value = G.decades ? "log" : "linear";
    else if (!positive) $("score-y").value = "linear";
    $("score-lead").textContent = "Every member that ended with a score; the line is the best so far, the rings are the winning lineage."
      + (scores.length > 40 ? " The worst 3 % may lie beyond the scale: zoom out to see them." : "")
      + (S.timeline.sessions.length > 1 ? " Dotted lines: the run was resumed; the time in between is left out." : "");
  }
  G.parts.push(update);

  // ---- by keyboard: in the order in which members ended, and from better to worse
  G.walks.score = {
    at: (id) => (finite(M.score[id]) && M.order[id] !== null ? [x(id), M.score[id]] : null),
    start: () => best() ?? ids[0],
    step(id, key) {
      if (key === "Home") return best();
      const along = ids.slice().sort(/Up|Down/.test(key) && !/Page/.test(key) ? (a, b) => (finite(M.score[a]) ? M.score[b] - M.score[a] : 0) : (a, b) => M.order[a] - M.order[b]);
      const far = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[key];
      return along[Math.max(0, Math.min(along.length - 1, along.indexOf(id) + far))];
    },
  };
  const entry = chart("score", draw);
  $("score-x").addEventListener("change", () => entry.draw());
  $("score-y").addEventListener("change", () => { chosen = true; entry.draw(); });
}

// ---- the score beside metrics on data of their own, by generation
{
  const add = (i) => {
    const id = "gaps-" + i, box = make("div", { class: "chart", id, role: "img", "aria-label": `${S.run.metric} and ${S.summary.gaps[i].metric} by generation` });
    $("gaps").append(box);
    chart(id, (element) => {
      const gap = S.summary.gaps[i], rows = gap.generations, x = rows.map((r) => r.generation);
      const text = (r) => `generation ${r.generation}, best ${counted(r.members, "member")}<br>${plain(S.run.metric)} <b>${number(r.score)}</b><br>${plain(gap.metric)} <b>${number(r.metric)}</b>` + (gap.alike ? `<br>difference ${number(r.metric - r.score)}` : "");
      const line = (name, y, color, dash, more) => ({ x, y, name: plain(name, 24), mode: "lines+markers", line: { color, width: 2, dash }, marker: { size: 6, symbol: dash === "dot" ? "square" : "circle" }, hovertext: rows.map(text), hoverinfo: "text", ...more });
      plot(element, [line(S.run.metric, rows.map((r) => r.score), css("soft"), "solid"), line(gap.metric, rows.map((r) => r.metric), css("accent"), "dot", gap.alike ? {} : { yaxis: "y2" })],
        { height: 260, showlegend: true, legend: { orientation: "h", y: 1.15 }, margin: { l: 56, r: gap.alike ? 12 : 56, t: 30, b: 40 },
          xaxis: { range: [-0.5, Math.max(1, S.run.generations) - 0.5], title: { text: "generation" }, zeroline: false, ...(S.run.generations <= 12 ? { dtick: 1 } : {}) },
          yaxis: { type: gap.alike && G.decades && rows.every((r) => r.metric > 0 && r.score > 0) ? "log" : "linear" }, ...(gap.alike ? {} : { yaxis2: { overlaying: "y", side: "right", showgrid: false } }) }, false);
    });
  };
  G.parts.push(() => {
    const gaps = S.summary.gaps;
    for (let i = $("gaps").childElementCount; i < gaps.length; i++) add(i);
    $("gaps-section").hidden = $("gaps-link").hidden = !gaps.length;
    $("gaps-lead").textContent = "Means over the best members of each generation by the score, of the score and of a metric that selected no parent. If the score goes on improving and the metric does not, the run overfits the data of its score.";
  });
}

// ---- each hyperparameter along the winning lineage
{
  const noise = (id) => ((id * 2654435761) % 4294967296) / 4294967296 - 0.5;
  const choice = (d) => d.kind === "choice";
  const option = (v) => (v === null ? "None" : v === true ? "True" : v === false ? "False" : String(v));

  function population(d, values) {
    const grey = css("faint"), ids = [...Array(N).keys()];
    if (choice(d)) {
      const cells = new Map();
      for (const id of ids) { const k = M.generation[id] * d.options.length + d.options.indexOf(values[id]); cells.set(k, (cells.get(k) || 0) + 1); }
      const rows = [...cells].map(([k, n]) => { const g = Math.floor(k / d.options.length); return [g, k % d.options.length, n / SIZES[g]]; });
      return [{ x: rows.map((r) => r[0]), y: rows.map((r) => r[1]), mode: "markers", hoverinfo: "text", hovertext: rows.map((r) => `${plain(option(d.options[r[1]]))}: ${percent(r[2])} of generation ${r[0]}`),
        marker: { color: grey, opacity: 0.4, symbol: "square", size: rows.map((r) => 3 + 15 * Math.sqrt(r[2])) } }];
    }
    if (N <= 1500) return [{ x: ids.map((id) => M.generation[id] + 0.5 * noise(id)), y: values, customdata: ids, hovertext: ids.map(hover), hoverinfo: "text", mode: "markers", marker: { color: grey, opacity: 0.35, size: 5 } }];
    const by = SIZES.map(() => []);
    for (const id of ids) by[M.generation[id]].push(values[id]);
    const used = by.map((v, g) => [g, v.sort((a, b) => a - b)]).filter(([, v]) => v.length);
    const q = (p) => used.map(([, v]) => v[Math.min(v.length - 1, Math.floor(p * v.length))]), xs = used.map(([g]) => g);
    const band = (a, b, alpha) => ({ x: [...xs, ...xs.slice().reverse()], y: [...q(b), ...q(a).reverse()], mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: dark() ? `rgba(160,172,190,${alpha})` : `rgba(80,95,115,${alpha})`, hoverinfo: "skip" });
    return [band(0.05, 0.95, 0.15), band(0.25, 0.75, 0.22), { x: xs, y: q(0.5), mode: "lines", line: { width: 1.2, color: grey, dash: "dot" }, hoverinfo: "skip" }];
  }

  const add = (i) => {
    const id = "schedule-" + i, box = make("div", { class: "chart", id, role: "img", "aria-label": "Schedule of " + S.space[i].name });
    $("schedule").append(box);
    chart(id, (element) => {
      const d = S.space[i], values = M.config[i], won = S.lineage, accent = css("accent");
      const y = won.map((m) => (choice(d) ? d.options.indexOf(values[m]) : values[m]));
      const traces = [...population(d, values),
        { x: won.map((m) => M.generation[m]), y, mode: "lines", line: { shape: "hvh", width: 2.5, color: accent }, hoverinfo: "skip" },
        { x: won.map((m) => M.generation[m]), y, mode: "markers", customdata: won, hovertext: won.map((m) => `generation ${M.generation[m]}, member ${m}<br>${plain(d.name)} <b>${plain(number(values[m], 6))}</b>`), hoverinfo: "text",
          marker: { size: S.run.generations > 60 ? 3 : 7, color: css("card"), line: { width: 2, color: accent } } }];
      const axis = choice(d) ? { tickvals: d.options.map((_, k) => k), ticktext: d.options.map((o) => plain(option(o), 14)), range: [-0.5, d.options.length - 0.5], zeroline: false } : d.log ? { type: "log", ...(d.high / d.low > 50 ? { dtick: Math.ceil(Math.log10(d.high / d.low) / 5) } : {}) } : { nticks: 6 };
      plot(element, traces, { height: 220, margin: { l: 50, r: 8, t: 30, b: 32 }, title: { text: plain(d.name, 40), font: { size: 13, color: css("ink") }, x: 0, xref: "paper", y: 0.98, yref: "container" },
        xaxis: { range: [-0.5, Math.max(1, S.run.generations) - 0.5], showgrid: false, zeroline: false, ...(S.run.generations <= 12 ? { dtick: 1 } : {}) }, yaxis: axis }, false);
    });
  };
  G.parts.push(() => {
    for (let i = $("schedule").childElementCount; i < S.space.length; i++) add(i);
    $("schedule-lead").textContent = S.lineage.length
      ? "The values of the best member's ancestors, generation by generation; in grey the whole population" + (N <= 1500 ? "." : ": half of it in the darker band, 90 % in the lighter one, the dotted line is the median.") + " Squares show the share of each option."
      : "There is no winning lineage yet: no member has finished.";
  });
}

// ---- all configs at once
{
  let ids = [];
  const integers = (n) => { const step = Math.max(1, Math.ceil(n / 12)), at = Array.from({ length: Math.ceil(n / step) }, (_, k) => k * step); return { tickvals: at, ticktext: at.map(String) }; };
  const powers = (low, high) => {
    const at = [];
    for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.log10(high) + 1e-9; p++) at.push(p);
    return at.length > 1 ? at : [Math.log10(low), Math.log10(high)];
  };
  function dimension(d, i) {
    const values = ids.map((id) => M.config[i][id]), label = plain(d.name, 16);
    if (d.kind === "choice") {
      const place = (v) => d.options.findIndex((o) => o === v);
      return { label, values: values.map(place), range: [0, d.options.length - 1], tickvals: d.options.map((_, k) => k), ticktext: d.options.map((o) => crop(o === null ? "None" : o, 12)) };
    }
    if (!d.log) return { label, values, range: [d.low, d.high], nticks: 7 };
    const at = powers(d.low, d.high);
    return { label, values: values.map(Math.log10), range: [Math.log10(d.low), Math.log10(d.high)], tickvals: at, ticktext: at.map((p) => number(10 ** p, 2)) };
  }
  // a live page redraws often, so of very many lines it draws the best tenth, and others evenly
  const MOST = 2000;
  function drawn(all) {
    if (!G.live || all.length <= MOST) return all;
    const good = new Set(all.slice().sort(better).slice(0, Math.min(MOST / 2, Math.ceil(all.length / 10))));
    const others = all.filter((id) => !good.has(id)), step = others.length / (MOST - good.size);
    return [...good, ...Array.from({ length: MOST - good.size }, (_, k) => others[Math.floor(k * step)])];
  }

  chart("parallel", (element) => {
    if (ids.length < 2) return nothing(element, "This chart needs two members with a score.");
    if (!WEBGL) return nothing(element, "This chart needs WebGL, which this browser does not have; the table below has the best members.");
    const log = G.decades, values = ids.map((id) => (log ? Math.log10(M.score[id]) : M.score[id]));
    const ordered = values.slice().sort((a, b) => (S.run.mode === "max" ? b - a : a - b)), limit = ordered[Math.max(1, Math.floor(ordered.length / 10)) - 1];
    const range = [Math.min(ordered[0], ordered[Math.floor(0.97 * (ordered.length - 1))]), Math.max(ordered[0], ordered[Math.floor(0.97 * (ordered.length - 1))])];
    const step = (range[1] - range[0]) || 1, at = Array.from({ length: 6 }, (_, k) => range[0] + (k * step) / 5);
    const score = { label: plain(S.run.metric, 16), values: values.map((v) => Math.min(Math.max(v, range[0]), range[1])), range, tickvals: at, ticktext: at.map((v) => number(log ? 10 ** v : v, 3)),
      ...(ids.length > 30 ? { constraintrange: [Math.min(ordered[0], limit), Math.max(ordered[0], limit)] } : {}) };
    const generation = { label: "generation", values: ids.map((id) => M.generation[id]), range: [0, Math.max(1, S.run.generations - 1)], ...integers(S.run.generations) };
    element.style.minWidth = 90 * (S.space.length + 2) + "px";
    const font = { color: css("soft"), size: 12 };
    plot(element, [{ type: "parcoords", line: { color: ids.map((id) => goodness(id)), cmin: 0, cmax: 1, colorscale: ramp() }, dimensions: [generation, ...S.space.map(dimension), score],
      labelfont: { ...font, color: css("ink") }, tickfont: font, rangefont: { ...font, color: "rgba(0,0,0,0)" }, unselected: { line: { color: css("faint"), opacity: N > 2000 ? 0.02 : 0.08 } } }],
      { height: 400, margin: { l: 60, r: 60, t: 44, b: 16 }, paper_bgcolor: css("card") }, false);
  });
  G.parts.push(() => {
    const all = [];
    for (let id = 0; id < N; id++) if (finite(M.score[id]) && M.state[id] !== "waiting") all.push(id);
    ids = drawn(all);
    $("parallel-lead").textContent = "One line for each member with a score, coloured as in the tree. Drag along an axis to select a range" + (ids.length > 30 ? " (at first the best tenth by score)" : "") + ", click the axis to undo; drag a name to move its axis."
      + (ids.length < all.length ? ` ${ids.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} are drawn, with the best tenth among them; the report draws all.` : "");
    const top = all.filter((id) => M.state[id] === "finished").sort(better).slice(0, 20);
    fill($("leaders"), make("table", {},
      make("tr", {}, make("th", {}, "member"), make("th", { class: "n" }, "generation"), make("th", { class: "n" }, S.run.metric), S.space.map((d) => make("th", { class: "n" }, d.name))),
      top.map((id) => make("tr", {}, make("td", {}, make("button", { class: "plain", click: () => G.show(id) }, String(id))), make("td", { class: "n" }, String(M.generation[id])),
        make("td", { class: "n" }, number(M.score[id])), S.space.map((_, i) => make("td", { class: "n" }, number(M.config[i][id])))))));
  });
}

// ---- importance
{
  const tells = (r) => r.parent !== null || r.shares.some((s) => s !== null);
  let names = [];
  const value = (r, k) => (k === 0 ? r.parent : r.shares[k - 1]), trend = (r, k) => (k === 0 ? null : r.trends[k - 1]);
  const arrow = (t) => (t === null || Math.abs(t) < 0.15 ? "" : t > 0 ? " ↑" : " ↓");
  const text = (r, k) => `${names[k]}, ${r.generation === null ? "all generations together" : "generation " + r.generation}<br>${value(r, k) === null ? "unknown" : `explains <b>${percent(value(r, k))}</b> of the ranks' variance`}`
    + (trend(r, k) === null ? "" : `<br>rank correlation with being better: ${trend(r, k).toFixed(2)}`) + `<br>${counted(r.members, "member")} compared`;

  chart("importance", (element) => {
    const all = S.importance.find((r) => r.generation === null), each = S.importance.filter((r) => r.generation !== null), some = each.some(tells);
    names = ["which parent", ...S.space.map((d) => d.name)].map((n) => plain(n));
    // by number: a category with the name of one of JavaScript's own properties would be lost
    const named = { tickvals: names.map((_, k) => k), ticktext: ["which parent", ...S.space.map((d) => plain(d.name, 24))], range: [names.length - 0.5, -0.5], showgrid: false, zeroline: false };
    if (!all || !tells(all)) return nothing(element, "This chart needs ten members with a sibling and a score.");
    const rows = names.map((_, k) => k), shares = rows.map((k) => value(all, k)), bars = { type: "bar", orientation: "h", y: rows, x: shares, text: rows.map((k) => (shares[k] === null ? "" : percent(shares[k]) + arrow(trend(all, k)))),
      textposition: "outside", cliponaxis: false, hovertext: rows.map((k) => text(all, k)), hoverinfo: "text", marker: { color: rows.map((k) => (k ? (dark() ? "#6d8fc9" : "#3b5c96") : css("faint"))) }, width: 0.6 };
    const traces = [bars], most = Math.max(0.05, ...shares);
    const more = { height: 96 + 34 * names.length, margin: { l: 110, r: 10, t: 34, b: 44 }, bargap: 0.3, yaxis: named,
      xaxis: { domain: [0, some ? 0.26 : 0.6], range: [0, 1.35 * most], tickformat: ".0%", nticks: 4, title: { text: "all generations" }, zeroline: false } };
    if (some) {
      traces.push({ type: "heatmap", xaxis: "x2", x: each.map((r) => r.generation), y: rows, z: rows.map((k) => each.map((r) => value(r, k))), hovertext: rows.map((k) => each.map((r) => text(r, k))), hoverinfo: "text",
        text: rows.map((k) => each.map((r) => (value(r, k) === null || each.length > 16 ? "" : percent(value(r, k)) + arrow(trend(r, k))))), texttemplate: "%{text}", zmin: 0, zmax: 1, hoverongaps: false,
        xgap: each.length > 60 ? 0 : 2, ygap: 2, colorscale: dark() ? [[0, "#1e232b"], [0.15, "#20456e"], [0.5, "#7c7b78"], [1, "#fee838"]] : [[0, "#f0f2f5"], [0.15, "#c9d3e4"], [0.5, "#5a6f9e"], [1, "#00224e"]],
        colorbar: { thickness: 12, len: 0.9, outlinewidth: 0, tickformat: ".0%" } });
      more.xaxis2 = { domain: [0.3, 1], title: { text: "generation" }, showgrid: false, zeroline: false, ...(each.length <= 20 ? { dtick: 1 } : {}) };
    }
    plot(element, traces, more, false);
  });
  $("importance-lead").textContent = "How much of the difference between siblings each hyperparameter explains by itself: the share of the variance of their score ranks in a one-way analysis over bins of equal counts, minus what chance explains (ε²). "
    + "Siblings are compared with siblings, because most of a score is inherited: the first row is the share of the ranks' variance between families. ↑ ↓: larger, or smaller, values were better. Interactions are not covered; few members make the result noisy, and a local search tries only small changes.";
}
