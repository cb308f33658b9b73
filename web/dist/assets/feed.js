// The event feed: a ring of the newest events and a list that shows them, newest first, once per frame.

const KEPT = 500;
const SHOWN = 200;

/** Everything about an event that the filter looks at. */
function textOf(event) {
  return [
    event.type, event.queue, event.kind, event.status, event.job_id, event.worker, event.actor, event.data?.reason,
    event.data?.cause, event.data?.error?.type, event.data?.error?.message, ...(event.tags ?? []),
  ].filter(Boolean).join(" ").toLowerCase();
}

/** Every word must occur. */
export function matches(event, words) {
  if (words.length === 0) return true;
  const text = textOf(event);
  return words.every((word) => text.includes(word));
}

/** What a line says beside type and queue. */
export function describe(event) {
  const data = event.data ?? {};
  const parts = [];
  if (event.kind && event.kind !== event.queue) parts.push(event.kind);
  if (event.attempt > 1) parts.push(`attempt ${event.attempt}`);
  if (typeof data.wait_ms === "number") parts.push(`waited ${data.wait_ms} ms`);
  if (typeof data.run_ms === "number") parts.push(`ran ${data.run_ms} ms`);
  if (typeof data.percent === "number") parts.push(`${data.percent} %`);
  if (data.reason) parts.push(String(data.reason));
  if (data.error?.message) parts.push(`${data.error.type ?? "error"}: ${String(data.error.message).slice(0, 200)}`);
  if (event.worker) parts.push(`on ${event.worker}`);
  if (event.actor) parts.push(`by ${event.actor}`);
  return parts.join(" · ");
}

function span(className, text, title) {
  const el = document.createElement("span");
  el.className = className;
  el.textContent = text;
  if (title) el.title = title;
  return el;
}

function line(entry) {
  const li = document.createElement("li");
  if (entry.gap) {
    li.className = "gap";
    li.textContent = entry.gap;
    return li;
  }
  const { event } = entry;
  const when = new Date(event.timestamp);
  const status = event.status ? ` status-${event.status}` : "";
  li.append(
    span("when", when.toLocaleTimeString(undefined, { hour12: false, fractionalSecondDigits: 3 }), event.timestamp),
    // The word says it; the colour only helps.
    span(`status${status}`, event.type, event.status ?? ""),
    span("queue", event.queue ?? "", event.job_id ?? ""),
    span("more", describe(event)),
  );
  return li;
}

export class Feed {
  #list = document.getElementById("feed");
  #none = document.getElementById("feed-empty");
  #button = document.getElementById("pause");
  #pill = document.getElementById("fresh");
  #filter = document.getElementById("filter");
  #ring = []; // newest last
  #waiting = []; // not shown yet
  #waitingCount = 0;
  #words = [];
  #paused = false;
  #hovered = false;
  #frame = 0;

  constructor() {
    this.#button.addEventListener("click", () => this.#setPaused(!this.#paused));
    this.#pill.addEventListener("click", () => {
      this.#setPaused(false);
      this.#release();
    });
    this.#filter.addEventListener("input", () => {
      this.#words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.#redraw();
    });
    // Nothing moves under the pointer.
    this.#list.addEventListener("pointerenter", () => { this.#hovered = true; });
    this.#list.addEventListener("pointerleave", () => {
      this.#hovered = false;
      this.#paint();
    });
    document.addEventListener("keydown", (key) => {
      const inField = key.target instanceof HTMLElement && key.target.closest("input, textarea, select, button");
      if (inField || key.ctrlKey || key.metaKey || key.altKey) return;
      if (key.key === "p") this.#setPaused(!this.#paused);
      if (key.key === "/") {
        key.preventDefault();
        this.#filter.focus();
      }
    });
  }

  #setPaused(paused) {
    this.#paused = paused;
    this.#button.setAttribute("aria-pressed", String(paused));
    this.#button.textContent = paused ? "Go on" : "Pause";
    this.#paint();
  }

  add(event) { this.#push({ event }); }

  gap(why) { this.#push({ gap: why }); }

  #push(entry) {
    this.#ring.push(entry);
    if (this.#ring.length > KEPT) this.#ring.splice(0, this.#ring.length - KEPT);
    this.#waiting.push(entry);
    this.#waitingCount++;
    if (this.#waiting.length > SHOWN) this.#waiting.splice(0, this.#waiting.length - SHOWN);
    this.#paint();
  }

  #shows(entry) { return entry.gap || matches(entry.event, this.#words); }

  #paint() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      const hold = (this.#paused || this.#hovered) && this.#waitingCount > 0;
      this.#pill.hidden = !hold;
      if (hold) {
        this.#pill.textContent = `${this.#waitingCount.toLocaleString()} new`;
        return;
      }
      this.#release();
    });
  }

  /** Shows what has waited. */
  #release() {
    const lines = this.#waiting.filter((e) => this.#shows(e)).map((e) => line(e)).reverse();
    this.#waiting = [];
    this.#waitingCount = 0;
    this.#pill.hidden = true;
    lines.forEach((li) => li.classList.add("new"));
    this.#list.prepend(...lines);
    while (this.#list.childElementCount > SHOWN) this.#list.lastElementChild.remove();
    this.#none.hidden = this.#list.childElementCount > 0;
  }

  #redraw() {
    this.#waiting = [];
    this.#waitingCount = 0;
    this.#pill.hidden = true;
    const lines = this.#ring.filter((e) => this.#shows(e)).slice(-SHOWN).map((e) => line(e)).reverse();
    this.#list.replaceChildren(...lines);
    this.#none.hidden = lines.length > 0;
    this.#none.textContent = this.#words.length
      ? "No event that is kept here matches the filter."
      : "Nothing has happened since this page was opened.";
  }
}
