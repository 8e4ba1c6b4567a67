"use strict";
// The family tree: generations from left to right, families kept together, the better sibling above.
// Few members are drawn as dots and lines; many as strips of colour, with a ribbon from each parent to its children.

{
  let small = true, count = 1, wide = 0;
  const y = (id) => (SIZES[M.generation[id]] - 1) / 2 - M.place[id];

  /** Points of a curve from (x0, y0) to (x1, y1) that leaves and arrives level. */
  function bend(x0, y0, x1, y1, steps = 8) {
    return Array.from({ length: steps + 1 }, (_, i) => { const t = i / steps; return [x0 + t * (x1 - x0), y0 + t * t * (3 - 2 * t) * (y1 - y0)]; });
  }

  function lines(pairs) {
    const xs = [], ys = [];
    for (const [a, b] of pairs) {
      for (const [px, py] of bend(M.generation[a] + wide, y(a), M.generation[b] - wide, y(b))) { xs.push(px); ys.push(py); }
      xs.push(null); ys.push(null);
    }
    return { x: xs, y: ys };
  }

  function ribbons() {
    const families = new Map();
    for (let id = 0; id < N; id++) if (M.parent[id] !== null) {
      const key = M.parent[id] + ":" + M.generation[id];
      if (!families.has(key)) families.set(key, []);
      families.get(key).push(id);
    }
    const xs = [], ys = [];
    for (const family of families.values()) {
      const parent = M.parent[family[0]], x0 = M.generation[parent] + wide, x1 = M.generation[family[0]] - wide;
      const at = family.map(y), up = bend(x0, y(parent) + 0.5, x1, Math.max(...at) + 0.5), down = bend(x0, y(parent) - 0.5, x1, Math.min(...at) - 0.5);
      for (const [px, py] of [...up, ...down.reverse(), up[0]]) { xs.push(px); ys.push(py); }
      xs.push(null); ys.push(null);
    }
    const grey = dark() ? "rgba(160,172,190,.20)" : "rgba(80,95,115,.15)";
    return { x: xs, y: ys, mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: grey, hoverinfo: "skip" };
  }

  /** One column of cells a generation, and an empty one between. */
  function strips(by) {
    const rows = Math.max(...SIZES), columns = 2 * count - 1;
    const blank = () => Array.from({ length: rows }, () => new Array(columns).fill(null));
    const good = blank(), other = blank(), members = blank(), text = blank();
    for (let id = 0; id < N; id++) {
      const row = M.place[id] + Math.floor((rows - SIZES[M.generation[id]]) / 2), column = 2 * M.generation[id];
      members[row][column] = id;
      const value = goodness(id, by);
      if (value === null) other[row][column] = M.state[id] === "failed" ? 1 : 0; else good[row][column] = value;
      text[row][column] = hover(id);
    }
    const x = [];
    for (let g = 0; g < count; g++) x.push(g - wide, g + wide);
    const edges = Array.from({ length: rows + 1 }, (_, i) => rows / 2 - i);
    const common = { type: "heatmap", x, y: edges, customdata: members, text, hoverinfo: "text", hoverongaps: false, xgap: 0, ygap: 0 };
    const axis = goodnessAxis(by);
    return [
      { ...common, z: good, zmin: 0, zmax: 1, colorscale: axis.colorscale, colorbar: axis.colorbar, showscale: axis.showscale },
      { ...common, z: other, zmin: 0, zmax: 1, showscale: false, colorscale: [[0, css("line")], [1, css("bad")]] },
    ];
  }

  function dots(by) {
    const size = Math.max(7, Math.min(16, 420 / S.run.population, 1400 / count / 3)), ids = [...Array(N).keys()], axis = goodnessAxis(by);
    const failed = css("bad"), idle = css("faint");
    const groups = [ids.filter((id) => finite(M.score[id])), ids.filter((id) => !finite(M.score[id]))];
    const common = { mode: "markers", hoverinfo: "text" };
    const scored = { ...common, x: groups[0].map((id) => M.generation[id]), y: groups[0].map(y), customdata: groups[0], hovertext: groups[0].map(hover),
      marker: { ...axis, size: groups[0].map((id) => (WON.has(id) ? size * 1.25 : size)), color: groups[0].map((id) => goodness(id, by)), symbol: groups[0].map((id) => SYMBOL[M.state[id]]),
        line: { width: groups[0].map((id) => (WON.has(id) ? 2.5 : 0.6)), color: groups[0].map((id) => (WON.has(id) ? css("accent") : css("card"))) } } };
    if (N <= 80) Object.assign(scored, { mode: "markers+text", text: groups[0].map(String), textposition: "bottom center", textfont: { size: 10, color: css("faint") } });
    const rest = { ...common, x: groups[1].map((id) => M.generation[id]), y: groups[1].map(y), customdata: groups[1], hovertext: groups[1].map(hover),
      marker: { size: size * 0.8, symbol: groups[1].map((id) => SYMBOL[M.state[id]]), color: groups[1].map((id) => (M.state[id] === "failed" ? failed : idle)) } };
    return [scored, rest];
  }

  function draw(element) {
    if (!N) return nothing(element, "No member has begun yet.");
    small = N <= 1500 && S.run.population <= 60;
    count = Math.max(1, S.run.generations);
    wide = small ? 0 : Math.min(0.3, 0.12 + 0.004 * count);
    const by = $("tree-colour").value, accent = css("accent"), traces = [];
    if (small) {
      const edges = [];
      for (let id = 0; id < N; id++) if (M.parent[id] !== null) edges.push([M.parent[id], id]);
      traces.push({ ...lines(edges), mode: "lines", line: { width: 1, color: dark() ? "rgba(160,172,190,.38)" : "rgba(80,95,115,.32)" }, hoverinfo: "skip" });
    } else traces.push(ribbons(), ...strips(by));
    const won = lines(S.lineage.slice(1).map((id, i) => [S.lineage[i], id]));
    traces.push({ ...won, mode: "lines", line: { width: 6, color: css("card") }, opacity: 0.85, hoverinfo: "skip" });
    traces.push({ ...won, mode: "lines", line: { width: 3, color: accent }, hoverinfo: "skip" });
    if (small) traces.push(...dots(by));
    else traces.push({ x: S.lineage.map((id) => M.generation[id]), y: S.lineage.map(y), customdata: S.lineage, hovertext: S.lineage.map(hover), hoverinfo: "text", mode: "markers",
      marker: { size: count > 60 ? 4 : 9, color: css("card"), line: { width: 2.5, color: accent } } });
    if (S.lineage.length) {
      const id = S.lineage[S.lineage.length - 1];
      traces.push({ x: [M.generation[id]], y: [y(id)], customdata: [id], hovertext: [hover(id)], hoverinfo: "text", mode: "markers",
        marker: { symbol: "star", size: 20, color: accent, line: { width: 1.5, color: css("card") } } });
    }
    const height = small ? Math.max(260, Math.min(760, 70 + S.run.population * (S.run.population <= 14 ? 38 : 26))) : 720;
    plot(element, traces, { height, margin: { l: 24, r: 10, t: 30, b: 40 }, shapes: ring("tree"),
      xaxis: { title: { text: "generation" }, range: [-0.6, count - 0.4], showgrid: false, zeroline: false, ...(count <= 30 ? { dtick: 1 } : {}) },
      yaxis: { visible: false, fixedrange: false, range: [-S.run.population * 0.51 - 0.8, S.run.population * 0.51 + 0.4] } });
  }

  function update() {
    const few = N <= 1500 && S.run.population <= 60, families = `Each child begins with its parent's weights. Siblings are side by side, the best on top, families in the order of their parents.`;
    $("tree-lead").textContent = families + (few ? "" : ` ${counted(N, "member")}: one thin coloured line each; a ribbon leads from a parent to its children.`)
      + " The winning lineage is highlighted and ends in the star. Click a member for its config, metrics and log; drag to zoom, double-click to zoom out.";
    const keys = few ? [["●", "finished"], ["▼", "stopped early"], ["✕", "failed"], ["◇", "training"], ["○", "waiting"], ["★", "the best, and its lineage"]]
      : [["★", "the best, and its lineage"], ["red", "failed"], ["grey", "without a score yet"]];
    fill($("tree-key"), keys.map(([sign, text]) => make("span", {}, sign + " " + text)));
  }
  G.parts.push(update);

  // ---- by keyboard: up and down its generation, left to its parent, right to its best child
  const column = (id) => { const all = []; for (let m = 0; m < N; m++) if (M.generation[m] === M.generation[id]) all[M.place[m]] = m; return all; };
  G.walks.tree = {
    at: (id) => [M.generation[id], y(id)],
    start: () => best() ?? (N ? 0 : undefined),
    step(id, key) {
      if (key === "ArrowLeft") return M.parent[id];
      if (key === "ArrowRight") return CHILDREN[id].filter((m) => finite(M.score[m])).sort(better)[0] ?? CHILDREN[id][0];
      if (key === "Home") return best();
      const far = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[key], all = column(id);
      return all[Math.max(0, Math.min(all.length - 1, M.place[id] + far))];
    },
  };
  const entry = chart("tree", draw);
  $("tree-colour").addEventListener("change", () => entry.draw());
}
