/** What JSON can hold. */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

export type JobStatus =
  | "scheduled" | "pending" | "running" | "completed" | "retrying" | "dead" | "blocked" | "cancelled"
  // A newer server may know more of them.
  | (string & {});

export type Priority = "high" | "normal" | "low";

export interface EnqueueOptions {
  /** `default` if not given. */
  queue?: string;
  /** `normal` if not given. */
  priority?: Priority;
  /** How many attempts may follow the first one. */
  maxRetries?: number;
  /** Earliest moment; a string is RFC 3339 with a time zone. Not together with `delayMs`. */
  runAt?: Date | string;
  /** Milliseconds from now until the job is due. */
  delayMs?: number;
  /** How long one attempt may take, in milliseconds. */
  timeoutMs?: number;
  /** The same key stores one job only; the same request under it gets the first answer again. */
  idempotencyKey?: string;
  tags?: readonly string[];
  metadata?: Readonly<Record<string, string>>;
}

export interface NewJob extends EnqueueOptions {
  kind: string;
  /** Anything that JSON.stringify takes. */
  payload?: unknown;
}

/** A job of a batch, as it was stored. */
export interface StoredJob {
  readonly id: string;
  readonly queue: string;
  /** null: its own idempotency key says that it was stored before. */
  readonly status: JobStatus | null;
  /** RFC 3339, UTC, with microseconds. */
  readonly runAt: string | null;
}

/** A job as the server describes it. Times are RFC 3339 in UTC with microseconds, which a Date would lose. */
export interface JobInfo {
  readonly id: string;
  readonly queue: string;
  readonly kind: string;
  /** Not in the answer to an enqueue, nor for callers that may not read payloads. */
  readonly payload?: JsonValue;
  readonly priority: string;
  readonly status: JobStatus;
  /** Why it is dead or cancelled. */
  readonly reason: string | null;
  readonly maxRetries: number;
  readonly attempt: number;
  readonly attemptsLeft: number;
  readonly snoozes: number;
  readonly tags: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** The worker that runs it. */
  readonly lockedBy: string | null;
  readonly progress: { readonly percent: number; readonly message: string } | null;
  /** Only there when the job completed with one. */
  readonly result?: JsonValue;
  /** How the latest failed attempt ended. */
  readonly error: { readonly type: string; readonly message: string; readonly stack: string } | null;
  readonly version: number;
  readonly runAt: string | null;
  readonly createdAt: string | null;
  readonly startedAt: string | null;
  readonly finishedAt: string | null;
}
