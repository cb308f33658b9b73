/** One place of a request that the server refused. */
export interface FieldProblem {
  /** JSON pointer into the request, such as `/payload/to`. */
  readonly pointer: string;
  readonly code: string;
  readonly detail: string;
}

export interface ProblemInit {
  /** HTTP status; 0 when no answer came. */
  status: number;
  /** Stable name of the problem, such as `lease_lost`. */
  code: string;
  detail: string;
  errors?: readonly FieldProblem[];
  /** Finds the request in the server's log; empty when no answer came. */
  requestId?: string;
  /** Milliseconds after which the server wants to be asked again. */
  retryAfterMs?: number | undefined;
  cause?: unknown;
}

/** The server refused a call, or could not be reached. */
export class ProblemError extends Error {
  override readonly name: string = "ProblemError";
  /** HTTP status; 0 when no answer came. */
  readonly status: number;
  /** Stable name of the problem, such as `validation_failed`; `no_answer` when none came. */
  readonly code: string;
  readonly detail: string;
  /** The places of the request that were refused; often empty. */
  readonly errors: readonly FieldProblem[];
  /** Finds the request in the server's log; empty when no answer came. */
  readonly requestId: string;
  /** Milliseconds after which the server wants to be asked again, if it said so. */
  readonly retryAfterMs: number | undefined;

  constructor(init: ProblemInit) {
    super(`${init.code}: ${init.detail}`, init.cause === undefined ? undefined : { cause: init.cause });
    this.status = init.status;
    this.code = init.code;
    this.detail = init.detail;
    this.errors = init.errors ?? [];
    this.requestId = init.requestId ?? "";
    this.retryAfterMs = init.retryAfterMs;
  }
}

/** 409 `lease_lost`: the attempt is over, and another worker may have the job. */
export class LeaseLostError extends ProblemError {
  override readonly name = "LeaseLostError";
}

/** 404: there is no such thing, or not for this caller. */
export class NotFoundError extends ProblemError {
  override readonly name = "NotFoundError";
}

/** 400, 413 or 422: the request itself is wrong. `errors` names the places. */
export class ValidationError extends ProblemError {
  override readonly name = "ValidationError";
}

/** 429, 502, 503, 504, or no answer at all (`status` 0): the same call may succeed later. */
export class UnavailableError extends ProblemError {
  override readonly name = "UnavailableError";
}

/** The answer is not what the interface describes. Something else than a Mini Asynq server may have answered. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** The job has not finished, so that what was asked for is not there yet. */
export class NotFinishedError extends Error {
  override readonly name = "NotFinishedError";
  constructor(
    readonly jobId: string,
    /** The job's status when it was last seen. */
    readonly status: string,
  ) {
    super(`job ${jobId} has not finished: it is ${status}`);
  }
}

/** Reason of `job.signal`: an operator does not want the job any more. Throw it and the job ends as cancelled. */
export class JobCancelled extends Error {
  override readonly name = "JobCancelled";
  constructor(
    /** What the server said about who wants it, such as `operator`. */
    readonly reason: string,
  ) {
    super(`the job is to be cancelled (${reason})`);
  }
}

/** Reason of `job.signal`: the lease is gone. Whatever the handler returns is dropped. */
export class LeaseExpired extends Error {
  override readonly name = "LeaseExpired";
}

/** Reason of `job.signal`: the worker stops and the grace is over. Throw it and the job is given back uncharged. */
export class WorkerStopping extends Error {
  override readonly name = "WorkerStopping";
  constructor() {
    super("the worker stops");
  }
}

/** Throw it to put the job off. The attempt is not charged. */
export class Snooze extends Error {
  override readonly name = "Snooze";
  readonly delayMs: number;
  /** @param delayMs milliseconds, up to 365 days. */
  constructor(delayMs: number) {
    super(`snooze for ${delayMs} ms`);
    this.delayMs = checkedDelay(delayMs);
  }
}

/** Throw it when another attempt would not help: the job is dead at once. With a `cause` that is an error, its name is reported. */
export class NonRetryable extends Error {
  override readonly name = "NonRetryable";
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
  }
}

/** Throw it to fail the attempt and have the next one not earlier than after a delay. With a `cause` that is an error, its name is reported. */
export class RetryAfter extends Error {
  override readonly name = "RetryAfter";
  readonly delayMs: number;
  /** @param delayMs milliseconds, up to 7 days. */
  constructor(delayMs: number, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.delayMs = checkedDelay(delayMs);
  }
}

/** Throw it when nobody wants the job any more: it ends as cancelled. */
export class CancelJob extends Error {
  override readonly name = "CancelJob";
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
  }
}

function checkedDelay(ms: number): number {
  if (!Number.isFinite(ms) || ms < 0) {
    throw new RangeError(`a delay is a number of milliseconds from 0, not ${ms}`);
  }
  return ms;
}
