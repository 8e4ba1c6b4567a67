"use strict";
// A page that follows a run. Texts are updated at once; drawing charts takes at most a quarter of the time. A member's log
// and scores are fetched when its panel is open, and commands to the run are posted.

{
  G.live = true;
  G.ahead = 0;
  const steer = document.querySelector('meta[name="gpbt-steer"]').content;

  // ---- the run's data

  let trouble = "";
  function link() {
    const running = S !== null && S.run.state === "running";
    $("link").textContent = trouble || (S === null && !G.problem ? "reading the journal …" : running && !G.problem ? "● live" : "");
    $("link").classList.toggle("failed", trouble !== "");
  }

  function receive(data, more) {
    G.problem = data.problem;
    if (data.clock) G.ahead = data.clock - Date.now() / 1000;
    if (data.run) G.update(data, more);
    else fill($("notice"), make("p", { class: "notice", role: "status" }, G.problem));
    link();
    document.documentElement.dataset.ready = "true";
  }

  // ---- charts, at their pace

  const redraw = G.redraw;
  let drawing = false, again = false, rested = 0;
  G.redraw = () => {
    if (drawing) { again = true; return; }
    drawing = true;
    setTimeout(() => { G.spent = 0; redraw(); if (!queue.length) G.drawn(); }, Math.max(0, rested - performance.now()));
  };
  G.drawn = () => {
    if (!drawing) return;
    drawing = false;
    rested = performance.now() + 3 * G.spent;
    if (again) { again = false; G.redraw(); }
  };
  document.addEventListener("DOMContentLoaded", () => G.begin());

  // ---- logs and scores of members

  const outputs = new Map();
  async function load(id, entry) {
    entry.loading = true;
    try {
      const answer = await fetch(`members/${id}?metric=${encodeURIComponent(S.run.metric)}`);
      if (answer.ok) Object.assign(entry, await answer.json());
    } catch { /* the server is away, which the page shows elsewhere */ }
    entry.loading = false;
    G.panel();
  }
  G.outputs = (id) => {
    const stage = `${M.state[id]}:${M.attempts[id]}`;
    let entry = outputs.get(id);
    if (!entry) { if (outputs.size > 200) outputs.clear(); outputs.set(id, entry = {}); }
    if (entry.stage !== stage && !entry.loading) { entry.stage = stage; load(id, entry); }
    return { log: entry.log, curve: entry.curve };
  };
  setInterval(() => {
    const entry = outputs.get(G.selected);
    if (entry && !entry.loading && !document.hidden && M.state[G.selected] === "training") load(G.selected, entry);
  }, 2000);

  // ---- commands to the run

  const refused = $("refused");
  let fading = null;
  G.steer = async (word, gpu = "") => {
    refused.hidden = true;
    let problem = "";
    try {
      const answer = await fetch(`${word}?gpu=${encodeURIComponent(gpu)}`, { method: "POST", headers: { "X-GPBT-Steer": steer } });
      if (!answer.ok) problem = await answer.text().then((text) => { try { return JSON.parse(text).error; } catch { return text; } });
    } catch { problem = "the server does not answer"; }
    refused.textContent = problem;
    refused.hidden = !problem;
    clearTimeout(fading);
    fading = setTimeout(() => { refused.hidden = true; }, 15000);
  };
  $("pause").addEventListener("click", () => G.steer(S.now.paused_by_hand ? "go-on" : "pause"));
  $("stop").addEventListener("click", () => { $("really-resume").textContent = "gpbt-async resume " + S.now.typed; $("really").returnValue = ""; $("really").showModal(); });
  $("really").addEventListener("close", () => { if ($("really").returnValue === "stop") G.steer("stop"); });

  follow(receive, (text) => { trouble = text; link(); });
}
