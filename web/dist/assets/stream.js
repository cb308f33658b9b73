// The line to the server: one socket in plain mode, resumed from the last cursor for as long as the page is open.

/** What a close code means for this client: docs and server hold the same table. */
const NO_RETRY = new Set([1002, 1003, 1007, 1009, 4400, 4403, 4409]);
const SNAPSHOT = new Set([4410, 4412]);
const FEWER = 4429;
const UNAUTHORIZED = 4401;

const FIRST_BACKOFF = 500;
const MAX_BACKOFF = 30_000;
/** Refused so often before it opened, with a server that answers otherwise: the cursor itself is the reason. */
const REFUSED_TOO_OFTEN = 3;
/** A socket that has not opened by then never will. */
const OPEN_WITHIN = 15_000;
/** Events that the server has for so long already, and the line does not bring: it is dead without knowing it. */
const BRING_WITHIN = 5_000;

/** Reads a cursor "<epoch>-<seq>"; null for anything else. */
export function parseCursor(text) {
  const match = /^(\d+)-(\d+)$/.exec(text ?? "");
  return match ? { epoch: Number(match[1]), seq: Number(match[2]) } : null;
}

/** Full jitter: anywhere up to the bound, so that a thousand pages do not come back at once. */
export function backoff(failures, random = Math.random) {
  return random() * Math.min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** failures) + 100;
}

/** The JSON in a close reason, {} if there is none. */
function readReason(text) {
  try {
    const reason = JSON.parse(text);
    return reason && typeof reason === "object" ? reason : {};
  } catch {
    return {};
  }
}

export class EventStream {
  #url;
  #handlers;
  #socket = null;
  #giveUp = () => {};
  #timer = 0;
  #failures = 0;
  #refused = 0;
  #stopped = false;
  cursor = null;

  /**
   * @param {string} url address of the socket
   * @param {{onEvent(event: object): void, onState(state: string, detail: string): void,
   *          onGap(why: string): void, snapshot(): Promise<string|null>}} handlers snapshot reads the lists anew and
   *          gives the cursor that they are good for
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
  }

  start(cursor) {
    this.cursor = cursor;
    this.#open();
    addEventListener("online", () => this.#soon());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.#soon(); });
  }

  /** Somebody looks again, or the network is back: there is no point in waiting out a long pause. */
  #soon() {
    if (this.#timer && !this.#stopped) {
      clearTimeout(this.#timer);
      this.#open();
    }
  }

  #open() {
    this.#timer = 0;
    const url = new URL(this.#url, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.cursor) url.searchParams.set("after", this.cursor);
    const socket = new WebSocket(url);
    this.#socket = socket;
    let opened = false;
    let openedAt = 0;
    const gone = (close) => {
      if (this.#socket !== socket) return;
      this.#socket = null;
      clearTimeout(patience);
      if (opened && Date.now() - openedAt > MAX_BACKOFF) this.#failures = 0; // a quiet line, and a good one
      this.#closed(opened, close);
    };
    const giveUp = () => {
      socket.close();
      gone({ code: 1006, reason: "" });
    };
    const patience = setTimeout(giveUp, OPEN_WITHIN);
    this.#giveUp = giveUp;
    socket.onopen = () => {
      opened = true;
      openedAt = Date.now();
      clearTimeout(patience);
      this.#refused = 0;
      this.#handlers.onState("live", "");
    };
    socket.onmessage = (message) => {
      this.#failures = 0;
      this.#take(message.data);
    };
    socket.onclose = gone;
    socket.onerror = () => { if (!opened) gone({ code: 1006, reason: "" }); };
  }

  /**
   * Holds the line against what the lists say: a socket whose other end has gone without a word stays open for many
   * minutes, and a browser shows a page no pings.
   * @param {string|null} asOf the cursor of a list that was just read
   */
  check(asOf) {
    const [now, last] = [parseCursor(asOf), parseCursor(this.cursor)];
    if (!now || !last || (now.epoch === last.epoch && now.seq <= last.seq)) return;
    const [socket, cursor] = [this.#socket, this.cursor];
    if (!socket) return;
    setTimeout(() => {
      if (this.#socket === socket && this.cursor === cursor) this.#giveUp();
    }, BRING_WITHIN);
  }

  #take(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    const at = parseCursor(event?.cursor);
    if (!at) return;
    const last = parseCursor(this.cursor);
    // Over a reconnect an event may come twice; without a filter each is the one before plus 1.
    if (last && last.epoch === at.epoch) {
      if (at.seq <= last.seq) return;
      if (at.seq !== last.seq + 1) this.#handlers.onGap("Events are missing here.");
    }
    this.cursor = event.cursor;
    this.#handlers.onEvent(event);
  }

  async #closed(opened, close) {
    const reason = readReason(close.reason);
    if (close.code === UNAUTHORIZED) return this.#stop("Log in to go on.");
    if (NO_RETRY.has(close.code)) return this.#stop(`The server ended the line (${close.code}).`);
    let pause = reason.retry_ms ?? backoff(this.#failures);
    this.#failures++;
    if (close.code === FEWER) pause = Math.max(pause, 30_000);
    this.#handlers.onState("lost", "");
    if (SNAPSHOT.has(close.code)) {
      await this.#begin("History was lost or is too old: events are missing here.");
    } else if (!opened) {
      // A browser does not tell why an upgrade was refused: asking for the lists does.
      this.#refused++;
      const asOf = await this.#handlers.snapshot();
      const [now, last] = [parseCursor(asOf), parseCursor(this.cursor)];
      const foreign = now && last && now.epoch !== last.epoch;
      if (foreign || (now && this.#refused >= REFUSED_TOO_OFTEN)) {
        this.cursor = asOf;
        this.#refused = 0;
        this.#handlers.onGap("The line could not be taken up where it was: events are missing here.");
      }
    }
    if (!this.#stopped) this.#timer = setTimeout(() => this.#open(), pause);
  }

  async #begin(why) {
    const asOf = await this.#handlers.snapshot();
    this.cursor = asOf; // null: from now on
    this.#handlers.onGap(why);
  }

  #stop(why) {
    this.#stopped = true;
    this.#handlers.onState("stopped", why);
  }
}
