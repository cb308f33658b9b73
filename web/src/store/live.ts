import {
  ClosedError, CursorExpiredError, EpochChangedError, EventStream, type Filter, type SocketLike, type StreamEvent, type StreamState,
  type Subscription,
} from "../stream";
import { Feed } from "./feed";
import { Numbers } from "./numbers";
import { Cell, type NextFrame } from "./painted";
import { JobRows } from "./rows";

/** How the line does, as the strip under the header tells it. */
export interface Line {
  readonly state: "off" | "connecting" | "open" | "waiting" | "ended";
  /** Of the open line. */
  readonly node: string | undefined;
  /** Tries that failed, one after the other. */
  readonly failures: number;
  /** When the server was last heard of, by this machine's clock; undefined: never. */
  readonly heardAtMs: number | undefined;
  /** Why it has ended: the login, a right, or something that should not be. */
  readonly reason: "login" | "right" | "bug" | undefined;
}

/** Why the page stands still. */
export type PauseReason = "key" | "selection" | "hidden";

export interface LiveOptions {
  /** Address of the socket. */
  url: string;
  /** The line has failed more than once, or has ended: the login may be over, which a browser does not say of a socket. */
  onDoubt: () => void;
  open?: (url: string, protocol: string) => SocketLike;
  frames?: NextFrame;
  /** Of the stream; tests shorten it. */
  firstPauseMs?: number;
}

export interface FollowOptions {
  /** The `as_of` of what is on the screen; undefined: from now on. */
  after: string | undefined;
  filter?: Filter;
  onEvents?: (events: readonly StreamEvent[]) => void;
  /** Events were left out, or are no longer there: fetch again what is on the screen. */
  onGap: () => void;
}

/** What a page follows. */
export interface Following {
  /** What is on the screen was fetched again, as of a cursor: goes on after it if the log could not go on by itself. */
  resumeAfter(asOf: string): void;
  close(): void;
}

const doubtAfter = 2;
const statsEveryMs = 1000;

/**
 * Everything that lives: one socket, the jobs on the screen, the events that were last, the numbers. Components see what is
 * painted of it, and no socket. While the page is paused there are no subscriptions; going on resumes from their cursors.
 */
export class Live {
  readonly line: Cell<Line>;
  readonly pauses: Cell<ReadonlySet<PauseReason>>;
  readonly rows: JobRows;
  readonly feed: Feed;
  readonly numbers: Numbers;
  private stream: EventStream | undefined;
  private readonly followers = new Set<Follower>();

  constructor(private readonly options: LiveOptions) {
    const { frames } = options;
    this.line = new Cell<Line>({ state: "off", node: undefined, failures: 0, heardAtMs: undefined, reason: undefined }, frames);
    this.pauses = new Cell<ReadonlySet<PauseReason>>(new Set(), frames);
    this.rows = new JobRows(frames);
    this.feed = new Feed(frames);
    this.numbers = new Numbers(frames);
  }

  /** Opens the line, if there is none. */
  start(): void {
    if (this.stream) {
      return;
    }
    const { url, open, firstPauseMs } = this.options;
    const stream = new EventStream({
      url, ...(open ? { open } : {}), ...(firstPauseMs === undefined ? {} : { firstPauseMs }),
      onState: (state) => { this.turn(state); },
    });
    this.stream = stream;
    if (!this.isPaused) {
      this.watch();
    }
    for (const follower of this.followers) {
      follower.attach(stream);
    }
  }

  /** Closes the line: nobody is logged in any more. What is followed is followed again after start(). */
  stop(): void {
    const stream = this.stream;
    this.stream = undefined;
    stream?.close(); // first, or each follower would take its leave on a socket that may be gone
    for (const follower of this.followers) {
      follower.detach();
    }
    this.line.set({ state: "off", node: undefined, failures: 0, heardAtMs: undefined, reason: undefined });
  }

  /** Somebody looks again, or the network is back. */
  retryNow(): void {
    if (this.line.current.state === "ended") {
      this.stop();
      this.start();
    } else {
      this.stream?.retryNow();
    }
  }

  /** Follows the log in class view. Events about jobs on the screen reach their rows, whoever follows them. */
  follow(options: FollowOptions): Following {
    const follower = new Follower({
      ...options,
      onEvents: (events) => {
        this.hear();
        this.rows.apply(events);
        options.onEvents?.(events);
      },
    }, (gone) => { this.followers.delete(gone); });
    this.followers.add(follower);
    if (this.stream && !this.isPaused) {
      follower.attach(this.stream);
    }
    return follower;
  }

  /** Makes the page stand still for a reason, or takes the reason away. */
  pause(reason: PauseReason, isOn: boolean): void {
    const reasons = new Set(this.pauses.current);
    if (reasons.has(reason) === isOn) {
      return;
    }
    const wasPaused = this.isPaused;
    if (isOn) {
      reasons.add(reason);
    } else {
      reasons.delete(reason);
    }
    this.pauses.set(reasons);
    if (this.isPaused === wasPaused || !this.stream) {
      return;
    }
    if (this.isPaused) {
      this.stream.unwatchStats();
      for (const follower of this.followers) {
        follower.detach();
      }
      return;
    }
    this.watch();
    for (const follower of this.followers) {
      follower.attach(this.stream);
    }
  }

  get isPaused(): boolean {
    return this.pauses.current.size > 0;
  }

  private watch(): void {
    this.stream?.watchStats(statsEveryMs, [], (stats) => {
      this.hear();
      this.numbers.take(stats);
    });
  }

  private hear(): void {
    this.line.set({ ...this.line.current, heardAtMs: Date.now() });
  }

  private turn(state: StreamState): void {
    const { heardAtMs } = this.line.current;
    switch (state.state) {
      case "connecting":
        this.line.set({ ...this.line.current, state: "connecting", node: undefined });
        return;
      case "open":
        this.line.set({ state: "open", node: state.node, failures: 0, heardAtMs: Date.now(), reason: undefined });
        return;
      case "waiting":
        this.line.set({ state: "waiting", node: undefined, failures: state.failures, heardAtMs, reason: undefined });
        if (state.failures >= doubtAfter) {
          this.options.onDoubt();
        }
        return;
      case "closed":
        if (this.stream) { // not by stop()
          this.line.set({ state: "ended", node: undefined, failures: 0, heardAtMs, reason: reasonOf(state.error) });
          this.options.onDoubt();
        }
    }
  }
}

function reasonOf(error: Error | undefined): Line["reason"] {
  if (error instanceof ClosedError && error.code === 4401) {
    return "login";
  }
  return error instanceof ClosedError && error.code === 4403 ? "right" : "bug";
}

/** One way through the log, over pauses and over the end of its history. */
class Follower implements Following {
  private after: string | undefined;
  private subscription: Subscription | undefined;
  private stream: EventStream | undefined;
  private isLost = false; // the log cannot go on from `after`: a new snapshot says from where

  constructor(
    private readonly options: FollowOptions & { onEvents: (events: readonly StreamEvent[]) => void },
    private readonly gone: (follower: Follower) => void,
  ) {
    this.after = options.after;
  }

  attach(stream: EventStream): void {
    this.stream = stream;
    if (this.subscription || this.isLost) {
      return;
    }
    const { filter, onEvents, onGap } = this.options;
    this.subscription = stream.subscribe({
      class: "view", ...(this.after === undefined ? {} : { after: this.after }), ...(filter ? { filter } : {}),
      onEvents,
      onSkip: onGap,
      onEnd: (error) => { this.end(error); },
    });
  }

  detach(): void {
    this.stream = undefined;
    this.after = this.subscription?.cursor ?? this.after;
    this.subscription?.close();
    this.subscription = undefined;
  }

  resumeAfter(asOf: string): void {
    if (!this.isLost) {
      return;
    }
    this.isLost = false;
    this.after = asOf;
    if (this.stream) {
      this.attach(this.stream);
    }
  }

  close(): void {
    this.detach();
    this.gone(this);
  }

  private end(error: Error): void {
    this.after = this.subscription?.cursor ?? this.after;
    this.subscription = undefined;
    if (error instanceof ClosedError) {
      return; // with the whole line, which tells of it
    }
    this.isLost = true;
    if (!(error instanceof CursorExpiredError || error instanceof EpochChangedError)) {
      console.error("the stream does not follow", error);
    }
    this.options.onGap();
  }
}
