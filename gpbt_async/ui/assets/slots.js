"use strict";
// The slots' time: above, how all slots were used; below, a row for each slot, a bar for each member, idle time by cause.

{
  const MOST = 64, BUCKETS = 9;
  let T = null, seconds = 1, name = "seconds", shown = 0, causes = [];

  /** Segments as one line with gaps; three points each, so that the pointer finds one. */
  function segments(list, text, custom) {
    const x = [], y = [], texts = [], members = [];
    for (const s of list) {
      x.push(s.begin / seconds, (s.begin + s.end) / 2 / seconds, s.end / seconds, null);
      y.push(s.slot, s.slot, s.slot, null);
      const t = text(s);
      texts.push(t, t, t, "");
      const member = custom ? s.member : null;
      members.push(member, member, member, null);
    }
    return { x, y, hovertext: texts, customdata: members, hoverinfo: "text", mode: "lines", xaxis: "x", yaxis: "y2" };
  }

  function rows(from) {
    const bars = [];
    for (let i = 0; i < from.slot.length; i++) if (from.slot[i] < shown) bars.push({ slot: from.slot[i], begin: from.begin[i], end: from.end[i], member: from.member ? from.member[i] : null });
    return bars;
  }

  function draw(element) {
    if (!T.busy.slot.length) return nothing(element, "No member has trained yet.");
    const height = Math.max(9, Math.min(26, 900 / shown)), gantt = shown * height, area = 120, gap = 26, all = gantt + area + gap, stops = ramp(), traces = [];
    const middles = T.parts.busy.map((_, i) => ((i + 0.5) * T.width) / seconds);
    for (const kind of ["busy", ...causes]) {
      const y = T.parts[kind].map((v) => (T.width ? (100 * v) / (T.width * T.slots) : 0)), label = kind === "busy" ? "training" : CAUSE[kind];
      const fill = kind === "busy" ? (dark() ? "#2f6f62" : "#7cc4b0") : CAUSES[kind];
      traces.push({ x: middles, y, stackgroup: "all", mode: "lines", line: { width: 0, shape: "hvh" }, fillcolor: fill, hoverinfo: "text", hovertext: y.map((v) => `${label}: ${v.toFixed(1)} %`), xaxis: "x", yaxis: "y" });
    }
    for (const cause of causes) traces.push({ ...segments(rows(T.idle[cause]), (s) => `slot ${s.slot}: ${CAUSE[cause]}, ${duration(s.end - s.begin)}`), line: { width: height * 0.4, color: CAUSES[cause] } });
    const buckets = Array.from({ length: BUCKETS + 2 }, () => []);
    for (const bar of rows(T.busy)) {
      const good = bar.member === null ? null : goodness(bar.member);
      buckets[good !== null ? Math.min(BUCKETS - 1, Math.floor(good * BUCKETS)) : bar.member !== null && M.state[bar.member] === "failed" ? BUCKETS : BUCKETS + 1].push(bar);
    }
    // a hair shorter than they are, so that one bar is distinct from the next
    const hair = T.busy.slot.length / shown < 250 ? T.total / 1600 : 0;
    buckets.forEach((list, i) => {
      if (!list.length) return;
      const colour = i < BUCKETS ? shade((i + 0.5) / BUCKETS, stops) : i === BUCKETS ? css("bad") : css("faint");
      const cut = list.map((s) => ({ ...s, end: Math.max(s.begin + (s.end - s.begin) * 0.5, s.end - hair) }));
      traces.push({ ...segments(cut, (s) => `<b>member ${s.member}</b> · slot ${s.slot} · ${duration(s.end - s.begin)}<br>${plain(S.run.metric)} ${number(M.score[s.member])}, ${STATE[M.state[s.member]]}`, true), line: { width: height * 0.72, color: colour } });
    });
    const shapes = T.sessions.slice(1).map((t) => ({ type: "line", x0: t / seconds, x1: t / seconds, y0: 0, y1: 1, yref: "paper", line: { color: css("faint"), width: 1, dash: "dot" } }));
    plot(element, traces, { height: all + 78, margin: { l: 56, r: 12, t: 32, b: 46 }, shapes: [...shapes, ...ring("slots")], hoverdistance: 12,
      xaxis: { title: { text: name + " since the run began" }, range: [0, T.total / seconds], anchor: "y2", showgrid: false, zeroline: false },
      yaxis: { domain: [1 - area / all, 1], range: [0, 101], fixedrange: true, tickvals: [0, 50, 100], ticktext: ["0 %", "50 %", "100 %"], anchor: "x" },
      yaxis2: { domain: [0, gantt / all], range: [shown - 0.5, -0.5], fixedrange: true, title: { text: "slot" }, showgrid: false, zeroline: false, dtick: Math.max(1, Math.ceil(18 / height)), anchor: "x" } });
  }

  function update() {
    T = S.timeline;
    [seconds, name] = unit(T.total);
    shown = Math.min(T.slots, MOST);
    causes = Object.keys(CAUSES).filter((c) => S.summary.idle_s[c] > 0);
    const offered = S.summary.busy_s + Object.values(S.summary.idle_s).reduce((a, b) => a + b, 0);
    $("slots-lead").textContent = `The slots trained ${percent(S.summary.utilisation)} of the time. Above: all slots together. Below: a row for each slot; thick bars are members, coloured by score, thin bars are idle time, coloured by cause. Drag sideways to zoom.`
      + (T.slots > MOST ? ` The first ${MOST} of ${T.slots} slots are drawn; the area above covers all.` : "") + (T.sessions.length > 1 ? " Dotted lines: the run was resumed; the time in between is left out." : "");
    const busy = make("span", {}, make("i", { style: `background:${dark() ? "#2f6f62" : "#7cc4b0"}` }), `training ${offered ? percent(S.summary.busy_s / offered) : "–"}`);
    fill($("slots-key"), busy, causes.map((c) => make("span", {}, make("i", { style: `background:${CAUSES[c]};height:6px` }), `${CAUSE[c]} ${percent(S.summary.idle_s[c] / offered)}`)));
  }
  G.parts.push(update);

  // ---- by keyboard: along a slot, and to the member that trained in another slot at the time
  const bars = () => rows(T.busy).filter((b) => b.member !== null).sort((a, b) => a.begin - b.begin);
  const bar = (id) => { const own = bars().filter((b) => b.member === id); return own[own.length - 1]; };
  G.walks.slots = {
    yref: "y2",
    at(id) { const b = bar(id); return b && [(b.begin + b.end) / 2 / seconds, b.slot]; },
    start: () => (best() !== undefined && bar(best()) ? best() : bars()[0]?.member),
    step(id, key) {
      const here = bar(id), middle = here && (here.begin + here.end) / 2, all = bars();
      if (!here || key === "Home") return this.start();
      const far = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[key];
      if (far) { const own = all.filter((b) => b.slot === here.slot); return own[Math.max(0, Math.min(own.length - 1, own.indexOf(own.find((b) => b.begin === here.begin)) + far))].member; }
      const other = all.filter((b) => b.slot === here.slot + (key === "ArrowUp" ? -1 : 1));
      return other.sort((a, b) => Math.abs((a.begin + a.end) / 2 - middle) - Math.abs((b.begin + b.end) / 2 - middle))[0]?.member;
    },
  };
  chart("slots", draw);
}
