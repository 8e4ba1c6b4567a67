"use strict";
// What the whole page shares: the report's data, numbers and times as text, colours. The user's texts are only ever set
// as text. G.update takes in a report's data: once in a report, again and again on a page that follows a run. It computes
// what depends on the data, calls each of G.parts to update its texts, and redraws the charts in view.

const G = { charts: [], parts: [], walks: {}, selected: null, live: false };
let S = null, M = null, N = 0;

const $ = (id) => document.getElementById(id);

/** An element with attributes, and children that are elements or text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (name === "click") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** Give an element these children, unless its own are equal; the focus stays. */
function fill(element, ...children) {
  const fresh = element.cloneNode(false);
  fresh.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  if (fresh.isEqualNode(element)) return;
  const able = () => [...element.querySelectorAll("button, a, summary, pre, input")];
  const at = able().indexOf(document.activeElement);
  element.replaceChildren(...fresh.childNodes);
  if (at >= 0) able()[at]?.focus({ preventScroll: true });
}

/** Text for Plotly, which takes some tags for markup. */
function plain(text, most = 200) {
  return crop(text, most).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** Text of at most so many characters. */
const crop = (text, most) => (String(text).length > most ? String(text).slice(0, most - 1) + "…" : String(text));

const finite = (x) => typeof x === "number" && isFinite(x);

function number(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (typeof x !== "number") return String(x);
  if (Number.isInteger(x) && Math.abs(x) < 1e9) return String(x);
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return x.toExponential(digits - 1).replace(/\.?0+e/, "e");
  return String(Number(x.toPrecision(digits)));
}

function duration(seconds) {
  if (!finite(seconds)) return "–";
  if (seconds < 10) return number(seconds, 3) + " s";
  if (seconds < 90) return Math.round(seconds) + " s";
  const m = Math.floor(seconds / 60);
  if (m < 90) return m + " min";
  const h = Math.floor(m / 60);
  return h < 48 ? `${h} h ${m % 60} min` : `${Math.floor(h / 24)} d ${h % 24} h`;
}

const percent = (x) => (100 * x >= 10 || x === 0 ? Math.round(100 * x) : (100 * x).toFixed(1)) + " %";
const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const ordinal = (n) => n + (["th", "st", "nd", "rd"][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] || "th");

/** The largest unit in which a run's time is a sensible number: [seconds, name]. */
function unit(total) {
  if (total > 3 * 86400) return [86400, "days"];
  if (total > 3 * 3600) return [3600, "hours"];
  return total > 180 ? [60, "minutes"] : [1, "seconds"];
}

// ---- members

const path = (id) => (M.parent[id] === null ? "" : path(M.parent[id]) + "/") + M.index[id];
let WON = new Set(), SIZES = [], CHILDREN = [];
const better = (a, b) => (S.run.mode === "max" ? M.score[b] - M.score[a] : M.score[a] - M.score[b]);
const best = () => S.lineage[S.lineage.length - 1];

/** Take in a report's data: compute what several parts need, have each part update its texts, draw the charts in view. */
G.update = (data, draw = true) => {
  S = data;
  M = S.members;
  N = M.generation.length;
  WON = new Set(S.lineage);
  SIZES = S.summary.generations.map(() => 0);
  CHILDREN = Array.from({ length: N }, () => []);
  for (let id = 0; id < N; id++) {
    SIZES[M.generation[id]]++;
    if (M.parent[id] !== null) CHILDREN[M.parent[id]].push(id);
  }
  weigh();
  for (const part of G.parts) part();
  if (draw) G.redraw();
};

const STATE = { finished: "finished", stopped: "stopped early", failed: "failed", training: "training", trained: "being published", waiting: "waiting" };
const SYMBOL = { finished: "circle", stopped: "triangle-down", failed: "x", training: "diamond-open", trained: "diamond", waiting: "circle-open" };

function hover(id) {
  const lines = [`<b>member ${id}</b> · generation ${M.generation[id]} · ${STATE[M.state[id]]}`];
  lines.push(`${plain(S.run.metric)} <b>${number(M.score[id])}</b>` + (M.rank[id] === null ? "" : `, ${ordinal(M.rank[id] + 1)} of its generation`));
  S.space.slice(0, 8).forEach((d, i) => lines.push(`${plain(d.name)} ${plain(number(M.config[i][id]))}`));
  if (S.space.length > 8) lines.push(`and ${S.space.length - 8} more: click`);
  return lines.join("<br>");
}

// ---- colours

const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
// by Okabe and Ito: distinct for people with any kind of colour blindness
const CAUSES = { start: "#0072b2", searcher: "#e69f00", checkpoint: "#56b4e9", evidence: "#cc79a7", device: "#d55e00", disk: "#8c510a", paused: "#f0e442", no_work: "#9aa3ad" };
const CAUSE = { start: "starting or ending a process", searcher: "waiting for the searcher", checkpoint: "waiting for a checkpoint",
  evidence: "waiting for members of the generation above", device: "no usable GPU", disk: "no room on the disk", paused: "paused by hand", no_work: "nothing to do" };

const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

const dark = () => document.documentElement.dataset.theme === "dark";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

/** Viridis from the worst (0) to the best (1); the best stands out from the background in either theme. */
function ramp(colours = VIRIDIS) {
  const stops = dark() ? colours.slice(2) : colours.slice(0, 9).reverse();
  return stops.map((colour, i) => [i / (stops.length - 1), colour]);
}

function shade(t, stops = ramp()) {
  const x = Math.min(Math.max(t, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(x), stops.length - 2), f = x - i;
  const [a, b] = [stops[i][1], stops[i + 1][1]].map((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16)));
  return "#" + a.map((v, k) => Math.round(v + f * (b[k] - v)).toString(16).padStart(2, "0")).join("");
}

// How good: 0 at the worst tenth, 1 at the best; logarithmic where losses span decades.
let scores = [], positive = false, BEST = 0, WORST = 1;
const scaled = (score) => (G.decades ? Math.log(score) : score);
function weigh() {
  scores = M.score.filter(finite).sort((a, b) => (S.run.mode === "max" ? b - a : a - b));
  const tenth = scores[Math.min(scores.length - 1, Math.floor(0.9 * scores.length))];
  positive = scores.length > 0 && Math.min(scores[0], scores[scores.length - 1]) > 0;
  G.decades = positive && S.run.mode === "min" && tenth / scores[0] > 20;
  [BEST, WORST] = scores.length ? [scaled(scores[0]), scaled(tenth)] : [0, 1];
}

function goodness(id, by = "score") {
  if (!finite(M.score[id])) return null;
  if (by === "rank") return M.rank[id] === null ? 0 : 1 - M.rank[id] / Math.max(1, SIZES[M.generation[id]] - 1);
  return WORST === BEST ? 1 : Math.min(Math.max((scaled(M.score[id]) - WORST) / (BEST - WORST), 0), 1);
}

/** The legend of goodness for a Plotly colour axis. */
function goodnessAxis(by = "score") {
  const at = [0, 0.25, 0.5, 0.75, 1];
  const label = (t) => number(G.decades ? Math.exp(WORST + t * (BEST - WORST)) : WORST + t * (BEST - WORST), 3);
  const text = by === "rank" ? at.map((t) => (t === 1 ? "best" : t === 0 ? "last" : "")) : at.map((t) => (t ? "" : "worse than ") + label(t));
  return { cmin: 0, cmax: 1, colorscale: ramp(), showscale: scores.length > 0, colorbar: {
    title: { text: plain(by === "rank" ? "rank" : S.run.metric, 24), side: "right" }, tickvals: at, ticktext: text, thickness: 12, len: 0.7, outlinewidth: 0, tickfont: { size: 11 } } };
}

// ---- Plotly

function layout(more) {
  const axis = { gridcolor: css("line"), zerolinecolor: css("line"), linecolor: css("line"), automargin: true, separatethousands: true };
  const base = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", showlegend: false, dragmode: "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("soft") }, margin: { l: 56, r: 12, t: 30, b: 40 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("faint"), activecolor: css("ink") },
    hoverlabel: { bgcolor: css("card"), bordercolor: css("line"), align: "left", font: { color: css("ink"), size: 12 } } };
  const merged = { ...base, ...more };
  for (const name of Object.keys(merged)) if (/^[xy]axis/.test(name)) merged[name] = { ...axis, ...(merged[name].type === "log" ? { exponentformat: "power" } : { exponentformat: "e", minexponent: 6 }), ...merged[name] };
  return merged;
}

const CONFIG = { responsive: true, displaylogo: false, doubleClick: "reset", modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };

/** A chart is drawn when it is first scrolled to, and again when the data, the theme or a choice changes. */
function chart(id, draw) {
  const entry = { element: $(id), drawn: false, draw: () => { entry.drawn = true; draw(entry.element); } };
  G.charts.push(entry);
  if (G.begun) watch(entry);
  return entry;
}

// One chart a turn, so that the page stays responsive; a chart that is out of sight by now can wait.
const queue = [];
function later(entry) {
  if (queue.includes(entry)) return;
  if (queue.push(entry) === 1) setTimeout(function next() {
    const began = performance.now(), here = queue[0];
    if (!here.drawn && S && (here.near || !G.watcher)) here.draw();
    queue.shift();
    // the first time takes longer than the next ones, and does not count
    if (here.known) G.spent = (G.spent || 0) + performance.now() - began;
    here.known = true;
    if (queue.length) setTimeout(next); else if (G.drawn) G.drawn();
  });
}

/** From now on charts can be drawn. */
G.begin = () => { G.begun = true; G.charts.forEach(watch); };
const watch = (entry) => (G.watcher ? G.watcher.observe(entry.element) : later(entry));

G.watcher = "IntersectionObserver" in window ? new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    const entry = G.charts.find((c) => c.element === target);
    if (!entry) continue;
    entry.near = isIntersecting;
    if (isIntersecting && !entry.drawn) later(entry);
  }
}, { rootMargin: "200px" }) : null;

/** Redraw the charts in view now, and the others when they are scrolled to. */
G.redraw = () => G.begun && G.charts.forEach((c) => {
  c.drawn = false;
  if (!G.watcher || c.near) later(c);
});

/** Draw; a click on a point with a member as its customdata shows that member. */
function plot(element, traces, more, bar = true) {
  const first = !element.classList.contains("js-plotly-plot");
  if (first) element.replaceChildren();
  Object.assign(element.style, { height: more.height + "px", minHeight: "0" });
  Plotly.react(element, traces, layout({ uirevision: element.id, ...more }), bar ? CONFIG : { ...CONFIG, displayModeBar: false });
  if (first) element.on("plotly_click", (event) => {
    const member = event.points.map((p) => p.customdata).find((x) => Number.isInteger(x));
    if (member !== undefined) G.show(member);
  });
}

function nothing(element, text) {
  if (element.classList.contains("js-plotly-plot")) Plotly.purge(element);
  Object.assign(element.style, { height: "", minHeight: "0" });
  element.replaceChildren(make("p", { class: "nothing" }, text));
}

const WEBGL = (() => { try { return !!document.createElement("canvas").getContext("webgl"); } catch { return false; } })();
const many = () => (N > 3000 && WEBGL ? "scattergl" : "scatter");
