"use strict";
// Charts by keyboard: in a chart with the focus, arrow keys go from member to member, a ring shows the place, a line below
// describes the member, Enter opens its panel. Each chart defines its steps (G.walks). And the list of all keys.

const KEYS = [["Tab", "to the next chart or button"], ["↑ ↓", "in the tree: up and down its generation; in the slots: to another slot; in the scores: to a better or worse one"],
  ["← →", "in the tree: to the parent, to the best child; elsewhere: earlier, later"], ["Page ↑ ↓, Home", "ten members further; to the best"], ["Enter", "show the member beside the charts; in there ← → go to the parent and the best child, ↑ ↓ to siblings"],
  ["Esc", "close the member, or this list"], ["/", "find a member by its number or path"], ["?", "this list"]];

/** The ring around the member that is shown, or that the keyboard has reached: a shape, which is quick to move. */
function ring(id) {
  const walk = G.walks[id], here = walk?.cursor ?? G.selected, at = here === null || here === undefined || here >= N ? null : walk?.at(here);
  if (!at || !finite(at[0]) || !finite(at[1])) return [];
  return [{ type: "circle", xref: "x", yref: walk.yref || "y", xsizemode: "pixel", ysizemode: "pixel", xanchor: at[0], yanchor: at[1], x0: -13, x1: 13, y0: -13, y1: 13, line: { color: css("link"), width: 3 } }];
}

/** Move the rings to their members. */
G.mark = () => {
  for (const id of Object.keys(G.walks)) {
    const element = $(id);
    if (!element.classList.contains("js-plotly-plot")) continue;
    const kept = (element.layout.shapes || []).filter((shape) => shape.type !== "circle");
    Plotly.relayout(element, { shapes: [...kept, ...ring(id)] });
  }
};

{
  const describe = (id) => [`member ${id}`, `generation ${M.generation[id]}`, STATE[M.state[id]], `${crop(S.run.metric, 40)} ${number(M.score[id])}` + (M.rank[id] === null ? "" : ` (${ordinal(M.rank[id] + 1)} of its generation)`),
    ...S.space.slice(0, 6).map((d, i) => `${crop(d.name, 24)} ${M.config[i][id] === null ? "None" : number(M.config[i][id])}`)].join(" · ");

  for (const name of ["tree", "score", "slots"]) {
    const element = $(name), line = $(name + "-said"), walk = G.walks[name];
    walk.cursor = null;
    const go = (id) => {
      if (id === undefined || id === null) return;
      walk.cursor = id;
      line.textContent = describe(id);
      if (G.selected !== null) G.show(id, false); else G.mark();
    };
    element.addEventListener("focus", () => { if (S && element.matches(":focus-visible")) go(G.selected ?? walk.cursor ?? walk.start()); });
    element.addEventListener("blur", () => { walk.cursor = null; line.textContent = ""; G.mark(); });
    element.addEventListener("keydown", (event) => {
      if (!S || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "Enter" && walk.cursor !== null) { event.preventDefault(); G.show(walk.cursor); return; }
      if (!/^(Arrow(Up|Down|Left|Right)|Page(Up|Down)|Home)$/.test(event.key)) return;
      event.preventDefault();
      go(walk.cursor === null ? (G.selected ?? walk.start()) : walk.step(walk.cursor, event.key));
    });
  }
  G.parts.push(() => Object.entries(G.walks).forEach(([name, walk]) => { if (walk.cursor !== null) $(name + "-said").textContent = describe(walk.cursor); }));

  const dialog = $("keys");
  $("keys-table").append(...KEYS.map(([key, does]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, does))));
  $("help").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "?" || dialog.open || document.querySelector("dialog[open]") || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "")) return;
    event.preventDefault();
    dialog.showModal();
  });
}
