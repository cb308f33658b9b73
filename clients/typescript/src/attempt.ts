import { JobCancelled, LeaseExpired, WorkerStopping } from "./errors.js";
import type { JsonValue } from "./types.js";
import type { ClaimedJob } from "./wire.js";

/** A job as its handler gets it. */
export interface Job {
  readonly id: string;
  readonly queue: string;
  readonly kind: string;
  /** Numbers are doubles: whole ones beyond 2^53 lose digits. */
  readonly payload: JsonValue;
  /** Counts from 1. */
  readonly attempt: number;
  /** Attempts that may follow this one. */
  readonly attemptsLeft: number;
  /** How often the job was put off by a Snooze. */
  readonly snoozes: number;
  /** Names this claim and no other, and only grows: a store that remembers the largest can refuse an older attempt. */
  readonly fence: number;
  readonly tags: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /**
   * Aborted when the handler is to stop. Its reason is a JobCancelled, a LeaseExpired or a WorkerStopping; to throw it is
   * the right end in each case.
   */
  readonly signal: AbortSignal;
  /**
   * Says how far the job is; the latest is sent with the worker's next heartbeat.
   * @param percent 0 to 100; anything else is a RangeError.
   * @param message a line for people; what exceeds 256 bytes is cut.
   */
  progress(percent: number, message?: string): void;
}

export interface Progress {
  readonly percent: number;
  readonly message: string;
}

const maxMessage = 256;
/** The attempt ends this much before its lease, by a tenth of the lease at most: stopping takes time as well. */
const marginMs = 1000;

/** One claim of a job: its lease, and what ends it early. Times are milliseconds of performance.now(). */
export class Attempt {
  readonly job: Job;
  readonly fence: number;
  /** What the server has not been told yet. */
  progress: Progress | undefined;
  private readonly handler = new AbortController();
  private readonly lease = new AbortController();
  private readonly margin: number;
  private leaseEnd = 0;
  private timer: NodeJS.Timeout | undefined;
  private reporting = false;

  constructor(claimed: ClaimedJob, leaseEnd: number, leaseLength: number) {
    this.fence = claimed.fence;
    this.margin = Math.min(marginMs, leaseLength / 10);
    const { leaseRemaining: _, ...rest } = claimed;
    this.job = Object.freeze({
      ...rest,
      signal: this.handler.signal,
      progress: (percent: number, message = ""): void => {
        if (!(percent >= 0 && percent <= 100)) {
          throw new RangeError(`progress is 0 to 100, not ${percent}`);
        }
        this.progress = { percent, message: storable(message) };
      },
    });
    this.extend(leaseEnd);
  }

  /** Aborted when nothing may be said about the attempt any more. */
  get over(): AbortSignal {
    return this.lease.signal;
  }

  /** Takes in a later end of the lease. A lease never gets shorter: an earlier end is an older answer, or one of a server
   * that could not look. */
  extend(leaseEnd: number): void {
    if (leaseEnd > this.leaseEnd && !this.over.aborted) {
      this.leaseEnd = leaseEnd;
      this.watch();
    }
  }

  private watch(): void {
    clearTimeout(this.timer);
    const left = this.leaseEnd - this.margin - performance.now();
    this.timer = setTimeout(() => this.check(), Math.min(Math.max(left, 0), 2 ** 31 - 1));
  }

  /** Ends the attempt if its lease has ended. Timers are late when a handler blocks the event loop, so this is asked before
   * anything is said as well. */
  check(): void {
    if (this.leaseEnd - this.margin <= performance.now()) {
      this.lose("the lease could not be confirmed before its end");
    } else if (!this.over.aborted) {
      this.watch();
    }
  }

  /** The server says that the attempt is over. While its outcome is on the way that may be because it has arrived, and the
   * answer to that tells. */
  lost(): void {
    if (!this.reporting) {
      this.lose("the server says that the attempt is over");
    }
  }

  cancel(reason: string): void {
    this.handler.abort(new JobCancelled(reason));
  }

  stop(): void {
    this.handler.abort(new WorkerStopping());
  }

  /** The handler has ended, and the outcome is about to be sent. */
  report(): void {
    this.reporting = true;
  }

  /** Nothing more is to be said or heard. */
  close(): void {
    clearTimeout(this.timer);
    this.lease.abort();
  }

  private lose(why: string): void {
    this.close();
    this.handler.abort(new LeaseExpired(why));
  }
}

/** What the server takes as a progress text: one that it refused would cost the heartbeat, and so every lease. */
function storable(message: string): string {
  const bytes = Buffer.from(message.replaceAll("\0", "\uFFFD")); // lone surrogates become U+FFFD here
  let end = Math.min(bytes.length, maxMessage);
  while (end < bytes.length && ((bytes[end] ?? 0) & 0xc0) === 0x80) {
    end--; // not in the middle of a character
  }
  return bytes.toString("utf8", 0, end);
}
