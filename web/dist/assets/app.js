// The page at /: numbers of the queues, and the events as they come. Everything from the server is text: it goes into
// textContent and nowhere else.

const base = document.documentElement.dataset.base ?? "";
const api = `${base}/api/v1`;
const keep = 200; // events on the page
const byId = (id) => document.getElementById(id);

// --- the stream: resumes after the last cursor, comes back with jitter ------------------------------------------------

/** Follows the stream until the page is closed. */
function follow({ onEvent, onState }) {
  let cursor = "latest";
  let expected = null; // seq of the next event, to notice a hole
  let failures = 0;

  const open = () => {
    const url = new URL(`${api}/ws`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("after", cursor);
    const socket = new WebSocket(url);
    socket.onopen = () => { failures = 0; onState("live"); };
    socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (expected !== null && event.seq !== expected) {
        console.error(`a hole in the stream: ${expected} expected, ${event.seq} came`);
      }
      expected = event.seq + 1;
      cursor = event.cursor;
      onEvent(event);
    };
    socket.onclose = ({ code }) => {
      onState("lost");
      if (code === 4410 || code === 4412) { cursor = "latest"; expected = null; }
      // A refused upgrade has no code of its own: a cursor that is too old must not be asked for again and again.
      if (code === 1006 && ++failures > 3) { cursor = "latest"; expected = null; }
      setTimeout(open, Math.random() * Math.min(30000, 500 * 2 ** failures));
    };
  };
  open();
}

// --- the feed --------------------------------------------------------------------------------------------------------

const feed = byId("feed");
let events = [];
let paused = false;
let waiting = 0;
let painting = false;

function matches(event, words) {
  if (words === "") return true;
  return [event.type, event.queue, event.kind, event.job_id].some((value) => (value ?? "").includes(words));
}

function row(event) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = event.timestamp;
  time.title = event.timestamp;
  time.textContent = new Date(event.timestamp).toLocaleTimeString(undefined, { hour12: false });
  const type = document.createElement("span");
  type.textContent = event.type;
  if (event.status) type.dataset.status = event.status;
  const what = document.createElement("span");
  what.className = "what";
  const parts = [event.queue, event.kind, event.job_id];
  if (event.attempt) parts.push(`attempt ${event.attempt}`);
  if (event.data?.error?.message) parts.push(event.data.error.message);
  if (event.data?.reason) parts.push(event.data.reason);
  what.textContent = parts.filter(Boolean).join("  ");
  item.append(time, type, what);
  return item;
}

// Painted once a frame, however many events have come.
function paint() {
  if (painting) return;
  painting = true;
  requestAnimationFrame(() => {
    painting = false;
    if (paused) {
      byId("pause").textContent = waiting > 0 ? `Go on (${waiting} new)` : "Go on";
      return;
    }
    waiting = 0;
    byId("pause").textContent = "Pause";
    const words = byId("filter").value.trim();
    feed.replaceChildren(...events.filter((event) => matches(event, words)).slice(0, 100).map(row));
  });
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  paint();
});
byId("filter").addEventListener("input", paint);

// --- the queues ------------------------------------------------------------------------------------------------------

function cell(text, status) {
  const td = document.createElement("td");
  td.textContent = text;
  if (status) td.dataset.status = status;
  return td;
}

const seconds = (value) => (value == null ? "" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

async function loadQueues() {
  const answer = await fetch(`${api}/queues`, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`queues: ${answer.status}`);
  const { data } = await answer.json();
  byId("empty").hidden = data.length > 0;
  byId("queues").replaceChildren(...data.map((queue) => {
    const tr = document.createElement("tr");
    const counts = queue.counts ?? {};
    const later = (counts.scheduled ?? 0) + (counts.retrying ?? 0) + (counts.blocked ?? 0);
    tr.append(
      cell(queue.name), cell(counts.pending ?? 0), cell(counts.running ?? 0), cell(later),
      cell(counts.dead ?? 0, counts.dead ? "dead" : undefined),
      cell((queue.rates_1m?.started ?? 0).toFixed(1)), cell(seconds(queue.wait_seconds?.p95)),
      cell(queue.paused ? "paused" : "working", queue.paused ? "scheduled" : "completed"),
    );
    return tr;
  }));
}

let stale = true; // an event has come since the numbers were read
async function refresh() {
  if (stale && !document.hidden) {
    stale = false;
    try { await loadQueues(); } catch { stale = true; }
  }
  setTimeout(refresh, 1000);
}

// --- start -----------------------------------------------------------------------------------------------------------

byId("banner").hidden = document.documentElement.dataset.mode !== "development";
byId("curl").textContent = `curl -s ${new URL(`${api}/jobs`, location.href)} -H 'Content-Type: application/json' \\
     -d '{"queue":"mail","kind":"email.send","payload":{"to":"a@example.com"}}'`;
refresh();
follow({
  onEvent(event) {
    stale = true;
    events.unshift(event);
    if (events.length > keep) events.length = keep;
    if (paused) waiting++;
    paint();
  },
  onState(state) {
    byId("line").dataset.state = state;
    byId("line").textContent = state === "live" ? "live" : "the line is lost, coming back";
    if (state === "live") stale = true;
  },
});
