// The queue table: a snapshot from REST, kept up by events, repaired by the next snapshot.

import { parseCursor } from "./stream.js";

const STATUSES = ["pending", "running", "scheduled", "retrying", "blocked", "dead"];
const MAX_PENDING_STEPS = 5000;

/** From where to where an event takes its job; null: the event does not say, a snapshot has to. */
export function stepOf(event) {
  const from = event.data?.from ?? null;
  switch (event.type) {
    case "job.enqueued": return [null, "pending"];
    case "job.scheduled": return [null, "scheduled"];
    case "job.started": return ["pending", "running"];
    case "job.ready": return from ? [from, "pending"] : null;
    case "job.completed": return ["running", null];
    case "job.retrying": return ["running", "retrying"];
    case "job.dead": return ["running", "dead"];
    case "job.snoozed": return ["running", "scheduled"];
    case "job.released": return ["running", event.status];
    case "job.redriven": return from ? [from, event.status] : null;
    case "job.progress":
    case "job.updated":
    case "job.cancel_requested": return [null, null];
    default: return null;
  }
}

function cell(row, label, text, isZero) {
  const td = row.insertCell();
  td.dataset.label = label;
  td.textContent = text;
  td.classList.toggle("zero", isZero);
  return td;
}

const seconds = (s) => (s === null || s === undefined ? "–" : s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`);

export class QueueTable {
  #table;
  #body;
  #empty;
  #api;
  #queues = new Map();
  #steps = []; // since the last snapshot
  #overflow = false;
  #known = false;
  #asking = null;
  #frame = 0;
  stale = false; // an event did not say enough

  constructor(api) {
    this.#api = api;
    this.#table = document.getElementById("queues");
    this.#body = document.getElementById("queue-rows");
    this.#empty = document.getElementById("empty");
  }

  /** Reads the lists anew. @returns {Promise<{asOf: string|null, status: number}>} status 0: no answer */
  load() {
    this.#asking ??= this.#ask().finally(() => { this.#asking = null; });
    return this.#asking;
  }

  async #ask() {
    let answer;
    try {
      answer = await fetch(`${this.#api}/queues`, {
        headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10_000),
      });
    } catch {
      return { asOf: null, status: 0 };
    }
    if (!answer.ok) return { asOf: null, status: answer.status };
    let list;
    try {
      list = await answer.json();
    } catch {
      return { asOf: null, status: 0 };
    }
    this.#install(list);
    return { asOf: list.as_of ?? null, status: answer.status };
  }

  #install(list) {
    this.stale = false;
    this.#known = true;
    this.#queues = new Map((list.data ?? []).map((q) => [q.name, q]));
    const asOf = parseCursor(list.as_of);
    const later = this.#steps.filter((s) => asOf && s.at.epoch === asOf.epoch && s.at.seq > asOf.seq);
    this.#steps = later;
    if (!this.#overflow) later.forEach((s) => this.#apply(s));
    this.#overflow = false;
    this.#paint();
  }

  /** Takes an event in. */
  fold(event) {
    if (!event.queue) return;
    if (!event.job_id) {
      this.stale = true; // paused, resumed, created
      return;
    }
    const step = stepOf(event);
    if (!step) {
      this.stale = true;
      return;
    }
    if (step[0] === step[1]) return;
    const entry = { at: parseCursor(event.cursor), queue: event.queue, from: step[0], to: step[1] };
    if (this.#steps.length < MAX_PENDING_STEPS) {
      this.#steps.push(entry);
    } else {
      this.#overflow = true;
    }
    this.#apply(entry);
    this.#paint();
  }

  #apply({ queue, from, to }) {
    let q = this.#queues.get(queue);
    if (!q) {
      q = { name: queue, counts: {} };
      this.#queues.set(queue, q);
      this.stale = true;
    }
    if (from) q.counts[from] = Math.max(0, (q.counts[from] ?? 0) - 1);
    if (to) q.counts[to] = (q.counts[to] ?? 0) + 1;
  }

  /** Once per frame, whatever the number of events. */
  #paint() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const names = [...this.#queues.keys()].sort();
    this.#table.hidden = names.length === 0;
    this.#empty.hidden = !this.#known || names.length > 0;
    // Rows change in place and never move under the pointer: a row belongs to its name.
    const rows = new Map([...this.#body.rows].map((row) => [row.dataset.name, row]));
    names.forEach((name, i) => {
      let row = rows.get(name);
      if (!row) {
        row = document.createElement("tr");
        row.dataset.name = name;
        this.#body.insertBefore(row, this.#body.rows[i] ?? null);
      }
      rows.delete(name);
      this.#fill(row, this.#queues.get(name));
    });
    rows.forEach((row) => row.remove());
  }

  #fill(row, q) {
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = q.name;
    if (q.paused) {
      const badge = document.createElement("span");
      badge.className = "badge";
      badge.textContent = "paused";
      head.append(badge);
    }
    row.replaceChildren(head);
    for (const status of STATUSES) {
      const n = q.counts?.[status] ?? 0;
      const td = cell(row, status, n.toLocaleString(), n === 0);
      if (status === "dead" && n > 0) td.classList.add("status-dead");
    }
    const rate = q.rates_1m?.completed ?? 0;
    cell(row, "done/s", rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString(), rate === 0);
    cell(row, "wait p95", seconds(q.wait_seconds?.p95), !q.wait_seconds?.p95);
  }
}
