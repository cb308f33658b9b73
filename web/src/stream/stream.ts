import { adviceOf, Backoff, parseReason } from "./closing.js";
import { parseCursor } from "./cursor.js";
import { ClosedError, ProtocolError, RefusedError, type StreamError } from "./errors.js";
import { parseFrame, type ClientFrame, type ServerFrame, type Stats } from "./frames.js";
import { Reading, type ConsumerOptions, type Line, type Subscription, type ViewOptions } from "./subscription.js";

/** What is used of a WebSocket. */
export interface SocketLike {
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  addEventListener(type: "close", listener: (event: { code: number; reason: string }) => void): void;
  addEventListener(type: "error", listener: () => void): void;
  send(data: string): void;
  close(code?: number): void;
}

/** How the line does. A page shows the age of its data while it is not open. */
export type StreamState =
  | { readonly state: "connecting" }
  | { readonly state: "open"; readonly node: string }
  /** Comes back by itself; after some failures look whether the login has ended, which a browser does not say of a socket. */
  | { readonly state: "waiting"; readonly pauseMs: number; readonly failures: number }
  /** Does not come back: error says why, if it was not close(). */
  | { readonly state: "closed"; readonly error: StreamError | undefined };

export interface StreamOptions {
  /** Address of the socket, ws or wss. A function is asked for each connection, so that it may fetch a ticket. */
  url: string | (() => string | Promise<string>);
  /** Makes a socket. Else that of the browser. */
  open?: (url: string, protocol: string) => SocketLike;
  onState?: (state: StreamState) => void;
  /** Spans in milliseconds, which tests shorten. */
  silenceMs?: number;
  firstPauseMs?: number;
  maxPauseMs?: number;
}

const protocol = "miniasynq.v1";

/**
 * The event stream of a server over one socket, which is opened at once and opened again, with pauses that grow to 30 s,
 * whenever it breaks or nothing was heard for 15 s. Subscriptions outlive it. close() ends everything.
 */
export class EventStream {
  private readonly readings = new Map<string, Reading>();
  private readonly backoff: Backoff;
  private readonly silenceMs: number;
  private nextID = 1;
  private socket: Connection | undefined;
  private pause: ReturnType<typeof setTimeout> | undefined;
  private failures = 0;
  private closed = false;
  private stats: { frame: ClientFrame; onStats: (stats: Stats) => void; onRefused: (error: RefusedError) => void } | undefined;

  constructor(private readonly options: StreamOptions) {
    this.backoff = new Backoff(options.firstPauseMs, options.maxPauseMs);
    this.silenceMs = options.silenceMs ?? 15_000;
    void this.connect();
  }

  /** Subscribes, now or as soon as there is a line. On a stream that is closed the subscription ends at once. */
  subscribe(options: ViewOptions | ConsumerOptions): Subscription {
    const reading = new Reading(
      `s${this.nextID++}`, options, (gone) => { this.readings.delete(gone.id); }, () => { this.socket?.drop(); });
    this.readings.set(reading.id, reading);
    if (this.closed) {
      queueMicrotask(() => { reading.fail(new ClosedError(1000, "the stream is closed")); });
    } else if (this.socket?.greeted) {
      void reading.begin(this.socket, this.socket.head);
    }
    return reading;
  }

  /**
   * Asks for the numbers, in place of what was asked before. everyMs: 500 to 10000; queues: none is all. onRefused: the server
   * has none, or does not take what was asked for; on the next line it is asked again.
   */
  watchStats(
    everyMs: number, queues: readonly string[], onStats: (stats: Stats) => void,
    onRefused: (error: RefusedError) => void = () => undefined,
  ): void {
    this.stats = { frame: { t: "stats", every: `${everyMs}ms`, queues }, onStats, onRefused };
    this.askStats();
  }

  unwatchStats(): void {
    this.stats = undefined;
    if (this.socket?.greeted) {
      this.socket.send({ t: "stats", every: "0s" });
    }
  }

  /** Ends the pause before the next try: the page has been looked at again, or the network is back. */
  retryNow(): void {
    if (this.pause !== undefined) {
      clearTimeout(this.pause);
      this.pause = undefined;
      void this.connect();
    }
  }

  close(): void {
    this.end(undefined);
  }

  private end(error: StreamError | undefined): void {
    if (this.closed) {
      return;
    }
    this.closed = true;
    clearTimeout(this.pause);
    this.pause = undefined;
    this.socket?.leave();
    this.socket = undefined;
    for (const reading of [...this.readings.values()]) {
      if (error) {
        reading.fail(error);
      } else {
        reading.close();
      }
    }
    this.options.onState?.({ state: "closed", error });
  }

  private async connect(): Promise<void> {
    this.options.onState?.({ state: "connecting" });
    let socket: SocketLike;
    try {
      const { url } = this.options;
      const address = typeof url === "string" ? url : await url();
      if (this.closed) {
        return;
      }
      socket = (this.options.open ?? ((at, name) => new WebSocket(at, name)))(address, protocol);
    } catch {
      this.wait(undefined); // no ticket, no network
      return;
    }
    this.socket = new Connection(socket, this.silenceMs, (frame) => { this.hear(frame); }, (code, text) => { this.lost(code, text); });
  }

  private hear(frame: ServerFrame): void {
    const socket = this.socket;
    if (!socket) {
      return;
    }
    switch (frame.t) {
      case "hello":
        this.greet(socket, frame);
        return;
      case "stats":
        this.stats?.onStats(frame as unknown as Stats);
        return;
      case "err":
        if (frame.id === undefined) { // what is about no subscription
          this.stats?.onRefused(new RefusedError(frame.code ?? "", frame.detail ?? ""));
          return;
        }
    }
    const reading = frame.id === undefined ? undefined : this.readings.get(frame.id);
    if (frame.t === "ev" || frame.t === "mark" || frame.t === "caught_up") {
      this.failures = 0;
      this.backoff.reset();
    }
    reading?.hear(frame);
  }

  private greet(socket: Connection, frame: ServerFrame): void {
    if (frame.v !== 1) {
      this.end(new ProtocolError(`version ${frame.v}`));
      return;
    }
    socket.head = parseCursor(frame.head);
    socket.greeted = true;
    this.options.onState?.({ state: "open", node: (frame as { node?: string }).node ?? "" });
    socket.send({ t: "ping", n: 0 }); // the server waits ten seconds for a first word
    for (const reading of this.readings.values()) {
      void reading.begin(socket, socket.head);
    }
    this.askStats();
  }

  private askStats(): void {
    if (this.stats && this.socket?.greeted) {
      this.socket.send(this.stats.frame);
    }
  }

  /** The socket has ended, or was given up (code 1006). */
  private lost(code: number, text: string): void {
    const bye = this.socket?.byeMs;
    this.socket = undefined;
    for (const reading of this.readings.values()) {
      reading.lost();
    }
    const reason = parseReason(text);
    const advice = adviceOf(code, bye ?? reason.retryMs);
    if (!advice.comesBack) {
      this.end(new ClosedError(code, reason.code));
      return;
    }
    this.wait(advice.pauseMs);
  }

  private wait(saidMs: number | undefined): void {
    if (this.closed) {
      return;
    }
    const pauseMs = saidMs ?? this.backoff.next();
    this.failures++;
    this.options.onState?.({ state: "waiting", pauseMs, failures: this.failures });
    this.pause = setTimeout(() => {
      this.pause = undefined;
      void this.connect();
    }, pauseMs);
  }
}

/** One socket, until it ends or is given up. */
class Connection implements Line {
  head: ReturnType<typeof parseCursor>;
  greeted = false;
  byeMs: number | undefined;
  open = true;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private asked = false; // a sign of life

  constructor(
    private readonly socket: SocketLike,
    private readonly silenceMs: number,
    private readonly onFrame: (frame: ServerFrame) => void,
    private readonly onEnd: (code: number, reason: string) => void,
  ) {
    this.listen();
    socket.addEventListener("message", (event) => { this.message(event.data); });
    socket.addEventListener("close", (event) => { this.finish(event.code, event.reason); });
    socket.addEventListener("error", () => undefined); // a close follows
  }

  send(frame: ClientFrame): void {
    if (this.open) {
      this.socket.send(JSON.stringify(frame));
    }
  }

  /** Gives the line up, as if it had broken. */
  drop(): void {
    this.finish(1006, "");
    this.socket.close();
  }

  /** Says goodbye; nobody is told. */
  leave(): void {
    this.open = false;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }

  private message(data: unknown): void {
    if (!this.open) {
      return;
    }
    const frame = parseFrame(data);
    if (!frame) {
      this.finish(1002, '{"code":"no_frame"}');
      this.socket.close();
      return;
    }
    if (frame.t === "bye") {
      this.byeMs = frame.retry_ms;
    } else {
      this.onFrame(frame);
    }
    if (this.open) {
      this.listen();
    }
  }

  /** Something was heard. A third of the time later a sign of life is asked for, since a browser does not show pings, and at
   * its end the line is broken. */
  private listen(): void {
    this.asked = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.silent(); }, this.greeted ? this.silenceMs / 3 : this.silenceMs);
  }

  private silent(): void {
    if (this.asked || !this.greeted) {
      this.drop();
      return;
    }
    this.asked = true;
    this.send({ t: "ping", n: 1 });
    this.timer = setTimeout(() => { this.silent(); }, this.silenceMs * 2 / 3);
  }

  private finish(code: number, reason: string): void {
    if (!this.open) {
      return;
    }
    this.open = false;
    clearTimeout(this.timer);
    this.onEnd(code, reason);
  }
}
