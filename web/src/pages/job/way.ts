import type { Attempt, Job, JobEvent, JobStatus } from "../../api/types";
import { isStatus } from "../../store/fold";

/** A stay in one status. */
export interface Stop {
  readonly status: JobStatus;
  /** When it began; until is missing where the job still is. */
  readonly at: string;
  readonly until: string | undefined;
  /** The attempt that a stay in running is. */
  readonly attempt: number | undefined;
  /** What brought the job there, as far as that is known: an error, a reason, somebody's words. */
  readonly why: string | undefined;
}

type Arrival = Omit<Stop, "until">;

/**
 * The way that a job has taken through its statuses, oldest first. The events tell it; where they are no longer kept, or not yet
 * told, the attempts and the job itself fill in what they know. So the last stop is always where the job is.
 */
export function wayOf(job: Job, events: readonly JobEvent[]): Stop[] {
  const told = arrivalsOf(events);
  const [first] = events;
  const isWhole = first?.job_version === 1;
  const before = isWhole ? [] : fromAttempts(job, first?.timestamp);
  const arrivals = [...before, ...told];
  if (arrivals.at(-1)?.status !== job.status) {
    arrivals.push({ status: job.status, at: lastChangeOf(job), attempt: attemptIn(job.status, job.attempt), why: whyOf(job) });
  }
  return arrivals.map((arrival, i) => ({ ...arrival, until: arrivals[i + 1]?.at }));
}

/** Events that change no status are no stop: progress, an edit, a wish to cancel. */
function arrivalsOf(events: readonly JobEvent[]): Arrival[] {
  const arrivals: Arrival[] = [];
  for (const { type, status, attempt, timestamp, data } of events) {
    if (!isStatus(status) || (arrivals.at(-1)?.status === status && type !== "job.started")) {
      continue;
    }
    const error = data.error as { type?: unknown; message?: unknown } | undefined;
    const why = error ? `${String(error.type)}: ${String(error.message)}` : data.comment ?? data.reason ?? data.cause;
    arrivals.push({ status, at: timestamp, attempt: attemptIn(status, attempt), why });
  }
  return arrivals;
}

/** What is known of the time before the oldest event. */
function fromAttempts(job: Job, end: string | undefined): Arrival[] {
  const arrivals: Arrival[] = [{ status: firstStatusOf(job), at: job.created_at, attempt: undefined, why: undefined }];
  for (const attempt of job.attempts ?? []) {
    if (end !== undefined && attempt.started_at >= end) {
      break;
    }
    arrivals.push({ status: "running", at: attempt.started_at, attempt: attempt.attempt_number, why: undefined });
    const isLast = attempt.attempt_number === job.attempts?.at(-1)?.attempt_number;
    if (attempt.completed_at !== null && (end === undefined || attempt.completed_at < end) && !isLast) {
      arrivals.push({ status: "retrying", at: attempt.completed_at, attempt: undefined, why: failureOf(attempt) });
    }
  }
  return arrivals;
}

/** A job that was due later than it was made was scheduled, unless it has been tried: then run_at is of a later time. */
function firstStatusOf(job: Job): JobStatus {
  return job.started_at === null && job.run_at > job.created_at ? "scheduled" : "pending";
}

function lastChangeOf(job: Job): string {
  return job.finished_at ?? (job.status === "running" ? job.locked_at : null) ?? job.updated_at;
}

function attemptIn(status: JobStatus, attempt: number | null): number | undefined {
  return status === "running" && attempt !== null ? attempt : undefined;
}

function whyOf(job: Job): string | undefined {
  return job.error && job.status !== "completed" ? `${job.error.type}: ${job.error.message}` : job.reason ?? undefined;
}

/** What an attempt ended with, in a line. */
export function failureOf(attempt: Attempt): string | undefined {
  return attempt.error_type === null && attempt.error_message === null ? undefined
    : [attempt.error_type, attempt.error_message].filter((part) => part !== null).join(": ");
}

/** A long way without its middle: the beginning, how many stops are left out, and the end. */
export function folded<T>(way: readonly T[], first: number, last: number): { head: readonly T[]; left: number; tail: readonly T[] } {
  return way.length <= first + last + 1 ? { head: way, left: 0, tail: [] }
    : { head: way.slice(0, first), left: way.length - first - last, tail: way.slice(-last) };
}
