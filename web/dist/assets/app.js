// The page: it brings snapshot, stream, table and feed together, and says how fresh it all is.

import { EventStream } from "./stream.js";
import { Feed } from "./feed.js";
import { QueueTable } from "./queues.js";

const config = JSON.parse(document.getElementById("config").textContent);
const api = `${config.base_path}/api/v1`;
const line = document.getElementById("line");
const strip = document.getElementById("strip");

const REFRESH = 10_000; // rates and percentiles; the counts are live
const REFRESH_LOST = 5_000; // while there is no line
const REFRESH_STALE = 1_000; // after an event that does not say enough

const words = { connecting: "connecting", live: "live", lost: "line lost, trying again", stopped: "stopped" };

const table = new QueueTable(api);
const feed = new Feed();
let state = "connecting";
let problem = "";
let freshAt = 0;
let loadedAt = 0;
let stream = null; // until the first snapshot is under way

function show() {
  line.dataset.state = state === "stopped" ? "lost" : state;
  if (line.textContent !== words[state]) line.textContent = words[state]; // announced only when it changes
  const age = freshAt ? Math.round((Date.now() - freshAt) / 1000) : 0;
  const text = problem || (state === "live" || state === "connecting" || !freshAt ? "" : `What you see is ${age} s old.`);
  strip.hidden = text === "";
  strip.textContent = text;
}

/** Reads the lists; the cursor that they are good for, null if there is none. */
async function snapshot() {
  loadedAt = Date.now();
  const { asOf, status } = await table.load();
  if (status === 401 || status === 403) {
    problem = "This server shows nothing to anonymous readers. Open the page with a login that may read.";
  } else if (status === 0 || status >= 500) {
    problem = freshAt ? "" : "The server does not answer at the moment.";
  } else {
    problem = "";
  }
  if (asOf) freshAt = Date.now();
  stream?.check(asOf);
  show();
  return asOf;
}

stream = new EventStream(`${api}/ws`, {
  onEvent(event) {
    freshAt = Date.now();
    table.fold(event);
    feed.add(event);
  },
  onState(next, detail) {
    state = next;
    if (detail) problem = detail;
    if (next === "live") {
      problem = "";
      freshAt = Date.now();
    }
    show();
  },
  onGap(why) {
    table.stale = true;
    feed.gap(why);
  },
  snapshot,
});

// A hidden tab rests: its numbers are made right when somebody looks again.
setInterval(() => {
  show();
  if (document.hidden) return;
  const wait = table.stale ? REFRESH_STALE : state === "live" ? REFRESH : REFRESH_LOST;
  if (Date.now() - loadedAt >= wait) snapshot();
}, 1000);

document.getElementById("dev").hidden = !config.dev;

const curl = `curl -s ${location.origin}${api}/jobs -H 'Content-Type: application/json' -d '{"queue":"mail","payload":{"to":"ada@example.com"}}'`;
document.getElementById("curl").textContent = curl;
document.getElementById("copy").addEventListener("click", async (click) => {
  const button = click.currentTarget;
  try {
    await navigator.clipboard.writeText(curl);
    button.textContent = "Copied";
  } catch {
    // Plain http has no clipboard: the line is selected instead.
    getSelection().selectAllChildren(document.getElementById("curl"));
    button.textContent = "Selected";
  }
});

stream.start(await snapshot());
