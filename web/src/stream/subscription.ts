import { formatCursor, parseCursor, type Position } from "./cursor.js";
import {
  CursorExpiredError, EpochChangedError, HoleError, ProtocolError, RefusedError, type StreamError,
} from "./errors.js";
import { isEmpty, type ClientFrame, type Filter, type ServerFrame, type StreamEvent } from "./frames.js";

/** What a view was not sent, because it was too much: read again what is on the screen. */
export interface Skipped {
  readonly from: string;
  readonly cursor: string;
  /** Positions between the two. */
  readonly n: number;
}

interface CommonOptions {
  /** A cursor, "earliest" or "latest" (from now on). With a list on the screen: its `as_of`. */
  after?: string;
  filter?: Filter;
  /** The end of the log is reached. */
  onCaughtUp?: (cursor: string) => void;
  /** The subscription is over; it is not taken up again by itself. After a CursorExpiredError or an EpochChangedError take a
   * snapshot, and subscribe again after its `as_of`. An error that onEvents throws comes here as it is. */
  onEnd: (error: StreamError | Error) => void;
}

/** Class view, for screens: the newest event of each job, ten times a second at most. */
export interface ViewOptions extends CommonOptions {
  class: "view";
  /** Events in order. They are drawn from: nothing waits for a promise. */
  onEvents: (events: readonly StreamEvent[], cursor: string) => void;
  onSkip: (skipped: Skipped) => void;
}

/** Class consumer, for programs: every event, in order, none missing, none twice. */
export interface ConsumerOptions extends CommonOptions {
  class: "consumer";
  /** The server waits for the promise, as soon as the credit is used up. */
  onEvents: (events: readonly StreamEvent[], cursor: string) => void | Promise<void>;
  /** How many events may be on their way or wait for the handler: 1 to 10000 (1000). */
  credit?: number;
  /** Add the payloads of jobs. */
  payload?: boolean;
  /** The caller is held to some queues: the log has gaps for it, and events cannot be counted. */
  held?: boolean;
}

/** A subscription as its owner has it. */
export interface Subscription {
  /** Everything up to here was handed over, or held back by the filter; undefined: the server has not said yet. What a
   * handler failed at lies behind it. */
  readonly cursor: string | undefined;
  /** Goes on behind the same cursor with another filter. */
  refilter(filter: Filter): void;
  close(): void;
}

/** What a subscription needs of the stream. */
export interface Line {
  /** Sends, if the socket that this line stands for is open. */
  send(frame: ClientFrame): void;
  /** False once the socket has ended. */
  readonly open: boolean;
}

const defaultCredit = 1000;
/** The server takes 50 frames a second, of all subscriptions. */
const grantEveryMs = 100;
/** How often nodes that do not know a cursor are asked again: another node, which gave it out, may have read more. */
const maxBehind = 8;

/** One way through the log, over any number of sockets. */
export class Reading implements Subscription {
  private at: Position | undefined;
  private readonly after: string;
  private filter: Filter | undefined;
  private line: Line | undefined;
  private head: Position | undefined; // of the socket's hello
  private confirmed = false; // the server has taken the subscription up, on this socket
  private mixed = false; // the filter has changed on this socket: what comes may still be of the old one
  private behind = 0;
  private queue: ServerFrame[] = []; // of a consumer: not handled yet
  private working: Promise<void> | undefined; // ends when the queue is empty; it never fails
  private owed = 0;
  private grant: ReturnType<typeof setTimeout> | undefined;
  ended = false;

  /** @param retry asks the stream for another socket, after a pause. */
  constructor(
    readonly id: string,
    private readonly options: ViewOptions | ConsumerOptions,
    private readonly gone: (reading: Reading) => void,
    private readonly retry: () => void,
  ) {
    this.after = options.after ?? "latest";
    this.filter = options.filter;
    if (this.after !== "latest" && this.after !== "earliest") {
      this.at = parseCursor(this.after);
      if (!this.at) {
        throw new TypeError(`not a cursor: ${this.after}`);
      }
    }
  }

  get cursor(): string | undefined {
    return this.at && formatCursor(this.at);
  }

  refilter(filter: Filter): void {
    this.filter = filter;
    if (this.line) {
      this.mixed = true;
      this.line.send({ t: "filter", id: this.id, filter });
    }
  }

  close(): void {
    if (!this.ended) {
      this.line?.send({ t: "unsub", id: this.id });
      this.finish();
    }
  }

  /** Ends without a word to the server, and says why. */
  fail(error: StreamError | Error): void {
    if (!this.ended) {
      this.finish();
      this.options.onEnd(error);
    }
  }

  private finish(): void {
    this.ended = true;
    this.lost();
    this.gone(this);
  }

  /** The socket is gone. What it brought and nobody has handled comes again with the next one. */
  lost(): void {
    this.line = undefined;
    this.confirmed = this.mixed = false;
    this.queue = [];
    this.owed = 0;
    clearTimeout(this.grant);
    this.grant = undefined;
  }

  /** There is a socket: subscribe, once what the one before brought is handled. */
  async begin(line: Line, head: Position | undefined): Promise<void> {
    await this.working;
    if (this.ended || !line.open) {
      return;
    }
    this.line = line;
    this.head = head;
    line.send({
      t: "sub", id: this.id, class: this.options.class, after: this.cursor ?? this.after,
      ...(isEmpty(this.filter) ? {} : { filter: this.filter! }),
      ...(this.options.class === "consumer"
        ? { credit: this.options.credit ?? defaultCredit, ...(this.options.payload ? { include: ["payload"] as const } : {}) } : {}),
    });
  }

  /** A frame with this subscription's id. */
  hear(frame: ServerFrame): void {
    if (this.ended || !this.line) {
      return;
    }
    if (this.options.class === "view" || frame.t === "subbed" || frame.t === "err") {
      try {
        this.take(frame, this.options.onEvents);
      } catch (error) {
        this.unwind(error);
      }
      return;
    }
    // Marks that wait are merged: the rest is bounded by the credit.
    if (frame.t === "mark" && this.queue.at(-1)?.t === "mark") {
      this.queue.pop();
    }
    this.queue.push(frame);
    this.working ??= this.work();
  }

  /** Handles what is queued, one frame after the other. */
  private async work(): Promise<void> {
    for (let frame = this.queue.shift(); frame; frame = this.queue.shift()) {
      const { line, at: before } = this;
      try {
        let handled: void | Promise<void> = undefined;
        this.take(frame, (events, cursor) => { handled = this.options.onEvents(events, cursor); });
        await handled;
      } catch (error) {
        this.at = before;
        this.unwind(error);
      }
      if (frame.ev && line === this.line) {
        this.owe(frame.ev.length);
      }
    }
    this.working = undefined;
  }

  /** Ends after an error of the handler or of the protocol. */
  private unwind(error: unknown): void {
    this.line?.send({ t: "unsub", id: this.id });
    this.fail(error instanceof Error ? error : new Error(String(error)));
  }

  private take(frame: ServerFrame, deliver: (events: readonly StreamEvent[], cursor: string) => void): void {
    switch (frame.t) {
      case "subbed":
        this.subbed(frame);
        break;
      case "ev":
        this.events(frame, deliver);
        break;
      case "mark":
        this.advance(frame);
        break;
      case "caught_up":
        this.advance(frame);
        this.options.onCaughtUp?.(this.cursor!);
        break;
      case "skip":
        this.skip(frame);
        break;
      case "ended":
        this.over(frame);
        break;
      case "err":
        this.refused(frame.code ?? "", frame.detail ?? "");
        break;
    }
  }

  /** Every event of the log comes, so none may be missing. */
  private get counts(): boolean {
    return this.options.class === "consumer" && !this.options.held && !this.mixed && isEmpty(this.filter);
  }

  private subbed(frame: ServerFrame): void {
    const at = need(frame.cursor);
    if (this.at && !same(at, this.at)) {
      throw new HoleError(this.cursor!, formatCursor(at));
    }
    this.at = at;
    this.confirmed = true;
    this.behind = 0;
  }

  private events(frame: ServerFrame, deliver: (events: readonly StreamEvent[], cursor: string) => void): void {
    const upTo = need(frame.cursor);
    let at = this.at!;
    const fresh: StreamEvent[] = [];
    for (const event of frame.ev ?? []) {
      if (event.epoch !== at.epoch || event.seq > upTo.seq) {
        throw new ProtocolError(`event ${event.cursor} in a frame that ends at ${frame.cursor}`);
      }
      if (event.seq <= at.seq) {
        continue; // sent twice
      }
      if (this.counts && event.seq !== at.seq + 1) {
        throw new HoleError(formatCursor(at), event.cursor);
      }
      at = { epoch: event.epoch, seq: event.seq };
      fresh.push(event);
    }
    if (fresh.length > 0) {
      deliver(fresh, frame.cursor!);
      this.at = at;
    }
    this.advance(frame);
  }

  /** Moves over what the filter held back. Where nothing is held back, there is nothing to move over. */
  private advance(frame: ServerFrame): void {
    const to = need(frame.cursor);
    const at = this.at!;
    if (to.epoch !== at.epoch) {
      throw new ProtocolError(`from ${formatCursor(at)} to ${frame.cursor}`);
    }
    if (to.seq <= at.seq) {
      return; // said twice
    }
    if (this.counts) {
      throw new HoleError(formatCursor(at), formatCursor(to));
    }
    this.at = to;
  }

  private skip(frame: ServerFrame): void {
    if (this.options.class !== "view") {
      throw new HoleError(this.cursor!, frame.cursor ?? "");
    }
    const from = this.cursor!;
    this.at = need(frame.cursor);
    this.options.onSkip({ from, cursor: frame.cursor!, n: frame.n ?? 0 });
  }

  private over(frame: ServerFrame): void {
    const cursor = this.cursor ?? this.after;
    switch (frame.code) {
      case "cursor_expired":
        this.fail(new CursorExpiredError(cursor, frame.floor ?? ""));
        return;
      case "epoch_changed":
        if (!this.confirmed && this.at && this.head && this.head.epoch < this.at.epoch) {
          this.refused("cursor_invalid", "this node does not know the history of the cursor yet");
          return;
        }
        this.fail(new EpochChangedError(cursor, this.head && this.at && this.head.epoch > this.at.epoch ? formatCursor(this.head) : undefined));
        return;
    }
    this.refused(frame.code ?? "", "the subscription has ended");
  }

  private refused(code: string, detail: string): void {
    const isBehind = code === "cursor_invalid" && this.at !== undefined && this.behind++ < maxBehind;
    if (isBehind || code === "unavailable") {
      this.retry();
      return;
    }
    this.fail(new RefusedError(code, detail));
  }

  /** Pays the server for handled events: when half of the credit is used up, so that the other half is on its way meanwhile. */
  private owe(n: number): void {
    const { credit = defaultCredit } = this.options as ConsumerOptions;
    this.owed += n;
    if (this.owed * 2 < credit || this.grant) {
      return;
    }
    this.line?.send({ t: "credit", id: this.id, n: this.owed });
    this.owed = 0;
    this.grant = setTimeout(() => {
      this.grant = undefined;
      this.owe(0);
    }, grantEveryMs);
  }
}

function need(cursor: unknown): Position {
  const at = parseCursor(cursor);
  if (!at) {
    throw new ProtocolError("a frame without a cursor");
  }
  return at;
}

function same(a: Position, b: Position): boolean {
  return a.epoch === b.epoch && a.seq === b.seq;
}
