import type { Job, JobAction, JobStatus, Priority } from "../api/types";
import type { StreamEvent } from "../stream";

/** A job on the screen. */
export interface JobRow {
  readonly job: Job;
  /** It was deleted; what is shown is how it was. */
  readonly isGone: boolean;
  /** Something has changed that the events did not tell: the row is fetched again when somebody looks at it. */
  readonly isStale: boolean;
}

/** What an operator may do, by status, as jobs/state.go has it; the server has the last word. */
const actionsOf: Readonly<Record<JobStatus, readonly JobAction[]>> = {
  scheduled: ["run-now", "cancel", "patch", "clone"],
  retrying: ["retry", "run-now", "cancel", "patch", "clone"],
  pending: ["cancel", "patch", "clone"],
  blocked: ["cancel", "patch", "clone"],
  running: ["cancel", "clone"],
  completed: ["clone", "delete"],
  cancelled: ["clone", "delete"],
  dead: ["retry", "clone", "delete"],
};

const endedIn: Partial<Record<JobStatus, true>> = { completed: true, dead: true, cancelled: true };

/**
 * The row after an event about its job. An event that is not newer than the row changes nothing, so doubles and any order do no
 * harm. A view gets the newest event of a job only: where versions are missing in between, or the event does not say all that
 * has changed, the row is stale.
 */
export function fold(row: JobRow, event: StreamEvent): JobRow {
  const { job } = row;
  if (event.job_id !== job.id || event.job_version === null || event.job_version <= job.version) {
    return row;
  }
  if (event.type === "job.deleted") {
    return { job: { ...job, version: event.job_version, allowed_actions: [] }, isGone: true, isStale: false };
  }
  const status = isStatus(event.status) ? event.status : undefined;
  const isNext = event.job_version === job.version + 1;
  const next: Job = {
    ...job,
    version: event.job_version,
    updated_at: event.timestamp,
    status: status ?? job.status,
    attempt: event.attempt ?? job.attempt,
    priority: isPriority(event.priority) ? event.priority : job.priority,
    tags: [...event.tags],
    allowed_actions: status ? [...actionsOf[status]] : job.allowed_actions,
  };
  const isTold = status !== undefined && tell(next, event, job.status);
  return { job: next, isGone: false, isStale: row.isStale || !isNext || !isTold };
}

/** Writes into a job what the type of an event means for it, and says whether that is all. */
function tell(job: Job, event: StreamEvent, before: JobStatus): boolean {
  const { data, timestamp } = event;
  switch (event.type) {
    case "job.progress":
      job.progress = { percent: numberOf(data["percent"]), message: textOf(data["message"]) ?? "", at: timestamp };
      return true;
    case "job.started":
      job.started_at ??= timestamp;
      job.locked_by = event.worker;
      job.locked_at = timestamp;
      job.fence = numberOf(data["fence"]) || null;
      return true;
    case "job.completed":
    case "job.cancelled":
    case "job.dead":
    case "job.retrying":
    case "job.snoozed":
    case "job.released":
    case "job.ready":
      break;
    default:
      return false; // what a redrive or an edit changed, or what a later server means, only the server knows
  }
  job.fence = job.locked_at = job.lease_expires_at = job.locked_by = null;
  job.run_at = textOf(data["run_at"]) ?? job.run_at;
  if (endedIn[job.status]) {
    job.finished_at = timestamp;
    job.reason = textOf(data["reason"]) ?? null;
  } else {
    job.progress = null;
  }
  const error = data["error"];
  if (typeof error === "object" && error !== null) {
    const { type, message, fingerprint } = error as Record<string, unknown>;
    job.error = { type: textOf(type) ?? "", message: textOf(message) ?? "", fingerprint: textOf(fingerprint) ?? "", at: timestamp };
  }
  return event.type !== "job.cancelled" || before !== "running"; // what the attempt ended with is not told
}

export function isStatus(text: string | null): text is JobStatus {
  return text !== null && Object.hasOwn(actionsOf, text);
}

function isPriority(text: string | null): text is Priority {
  return text === "high" || text === "normal" || text === "low";
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function numberOf(value: unknown): number {
  return typeof value === "number" ? value : 0;
}
