"use strict";
// A page that follows a run. What is told in words is told at once; charts are drawn at most a quarter of the time. What
// members have left is asked for when somebody looks, and what a person wants of the run is posted.

{
  G.live = true;
  G.ahead = 0;
  const steer = document.querySelector('meta[name="gpbt-steer"]').content;

  // ---- what comes

  let trouble = "";
  function link() {
    const running = S !== null && S.run.state === "running";
    $("link").textContent = trouble || (S === null && !G.problem ? "reading the journal …" : running && !G.problem ? "● live" : "");
    $("link").classList.toggle("failed", trouble !== "");
  }

  function told(story, more) {
    G.problem = story.problem;
    if (story.clock) G.ahead = story.clock - Date.now() / 1000;
    if (story.run) G.tell(story, more);
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

  // ---- what members have left

  const left = new Map();
  async function ask(id, entry) {
    entry.asked = true;
    try {
      const answer = await fetch(`members/${id}?metric=${encodeURIComponent(S.run.metric)}`);
      if (answer.ok) Object.assign(entry, await answer.json());
    } catch { /* the server is away, which is told elsewhere */ }
    entry.asked = false;
    G.panel();
  }
  G.left = (id) => {
    const stage = `${M.state[id]}:${M.attempts[id]}`;
    let entry = left.get(id);
    if (!entry) { if (left.size > 200) left.clear(); left.set(id, entry = {}); }
    if (entry.stage !== stage && !entry.asked) { entry.stage = stage; ask(id, entry); }
    return { log: entry.log, curve: entry.curve };
  };
  setInterval(() => {
    const entry = left.get(G.selected);
    if (entry && !entry.asked && !document.hidden && M.state[G.selected] === "training") ask(G.selected, entry);
  }, 2000);

  // ---- steering

  const refused = $("refused");
  let fading = null;
  G.steer = async (word, gpu = "") => {
    refused.hidden = true;
    let told = "";
    try {
      const answer = await fetch(`${word}?gpu=${encodeURIComponent(gpu)}`, { method: "POST", headers: { "X-GPBT-Steer": steer } });
      if (!answer.ok) told = await answer.text().then((text) => { try { return JSON.parse(text).error; } catch { return text; } });
    } catch { told = "the server does not answer"; }
    refused.textContent = told;
    refused.hidden = !told;
    clearTimeout(fading);
    fading = setTimeout(() => { refused.hidden = true; }, 15000);
  };
  $("pause").addEventListener("click", () => G.steer(S.now.paused_by_hand ? "go-on" : "pause"));
  $("stop").addEventListener("click", () => { $("really-resume").textContent = "gpbt-async resume " + S.now.typed; $("really").returnValue = ""; $("really").showModal(); });
  $("really").addEventListener("close", () => { if ($("really").returnValue === "stop") G.steer("stop"); });

  follow(told, (text) => { trouble = text; link(); });
}
