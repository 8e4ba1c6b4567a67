"use strict";
// Receives the report's data from the server: whole at first, then as patches (live.py). A hidden page disconnects, as
// browsers allow few connections to one server, and the server then has nothing to do.

// the token is in the cookie by now, and not needed in the address
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

function patched(old, patch) {
  if ("=" in patch) return patch["="];
  const within = patch.k || patch.l;
  if (within) {
    for (const name of Object.keys(within)) old[name] = patched(old[name], within[name]);
    return old;
  }
  old.length = patch.n;
  patch.i.forEach((at, k) => { old[at] = patch.v[k]; });
  return old;
}

/** receive: called with the report's data whenever they are new, and whether more than "now" and "clock" has changed.
    trouble: called with a sentence, "" if all is well. */
function follow(receive, trouble) {
  let data = null, pending = [], whole = false, due = null, source = null;
  const soon = () => {
    due ??= setTimeout(() => {
      due = null;
      const more = whole || pending.some((patch) => !patch.k || Object.keys(patch.k).some((name) => name !== "now" && name !== "clock"));
      for (const patch of pending) data = patched(data, patch);
      pending = [];
      whole = false;
      receive(data, more);
    }, 50);
  };
  const leave = () => { source?.close(); source = null; };
  const begin = () => {
    if (source || document.hidden) return;
    source = new EventSource("events");
    source.addEventListener("open", () => trouble(""));
    source.addEventListener("report_data", (event) => { data = JSON.parse(event.data); pending = []; whole = true; soon(); });
    source.addEventListener("patch", (event) => { pending.push(JSON.parse(event.data)); soon(); });
    source.addEventListener("error", () => {
      if (source.readyState !== EventSource.CLOSED) return trouble("the server does not answer: trying again …");
      leave();
      trouble("the server has restarted: open the address that it printed last");
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : begin()));
  addEventListener("pagehide", leave);
  addEventListener("pageshow", begin);
  begin();
}
