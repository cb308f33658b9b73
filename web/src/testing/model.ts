// A server in miniature, for the tests of the store: jobs that go through their lives, and a log that tells of it.
import type { Job, JobStatus } from "../api/types";
import type { StreamEvent } from "../stream";

type Step = readonly [event: string, to: JobStatus];

/** The steps that the model takes; jobs/state.go has all of them. */
const steps: Readonly<Partial<Record<JobStatus, readonly Step[]>>> = {
  pending: [["job.started", "running"], ["job.started", "running"], ["job.cancelled", "cancelled"], ["job.updated", "pending"]],
  running: [
    ["job.completed", "completed"], ["job.retrying", "retrying"], ["job.dead", "dead"], ["job.snoozed", "scheduled"],
    ["job.released", "pending"], ["job.progress", "running"], ["job.cancelled", "cancelled"],
  ],
  retrying: [["job.ready", "pending"], ["job.cancelled", "cancelled"]],
  scheduled: [["job.ready", "pending"], ["job.cancelled", "cancelled"], ["job.updated", "scheduled"]],
  dead: [["job.redriven", "pending"], ["job.deleted", "dead"]],
  completed: [["job.deleted", "completed"]],
};

const actions: Readonly<Record<JobStatus, Job["allowed_actions"]>> = {
  scheduled: ["run-now", "cancel", "patch", "clone"], retrying: ["retry", "run-now", "cancel", "patch", "clone"],
  pending: ["cancel", "patch", "clone"], blocked: ["cancel", "patch", "clone"], running: ["cancel", "clone"],
  completed: ["clone", "delete"], cancelled: ["clone", "delete"], dead: ["retry", "clone", "delete"],
};

export class ModelServer {
  readonly log: StreamEvent[] = [];
  private readonly jobs = new Map<string, Job>();

  constructor(names: readonly string[]) {
    for (const id of names) {
      this.jobs.set(id, newJob(id));
      this.tell(id, "job.enqueued", {});
    }
  }

  /** Takes a step with one of its jobs: which, and which step, follow from two numbers. */
  step(job: number, step: number): void {
    const ids = [...this.jobs.keys()];
    const id = ids[job % Math.max(ids.length, 1)];
    const now = id === undefined ? undefined : this.jobs.get(id);
    const choices = now ? steps[now.status] ?? [] : [];
    const choice = choices[step % Math.max(choices.length, 1)];
    if (now && choice) {
      this.take(now, choice);
    }
  }

  /** What GET /jobs?id= answers now. */
  list(ids: readonly string[]): Job[] {
    return ids.flatMap((id) => this.jobs.get(id) ?? []);
  }

  private take(before: Job, [type, to]: Step): void {
    const at = `2026-03-01T12:00:00.${String(this.log.length + 1).padStart(6, "0")}Z`;
    const job: Job = { ...before, version: before.version + 1, status: to, allowed_actions: actions[to], updated_at: at };
    const data: Record<string, unknown> = {};
    this.jobs.set(job.id, job);
    if (type === "job.deleted") {
      this.tell(job.id, type, {}, { status: null });
      this.jobs.delete(job.id);
      return;
    }
    if (before.status === "running" && to !== "running") {
      job.locked_by = job.locked_at = job.fence = null;
      job.progress = to === "completed" || to === "cancelled" || to === "dead" ? job.progress : null;
    }
    switch (type) {
      case "job.started":
        Object.assign(job, { attempt: job.attempt + 1, started_at: job.started_at ?? at, locked_by: "w1", locked_at: at, fence: this.log.length });
        data["fence"] = job.fence;
        break;
      case "job.progress":
        job.progress = { percent: this.log.length % 100, message: "on the way", at };
        Object.assign(data, { percent: job.progress.percent, message: job.progress.message });
        break;
      case "job.updated":
        job.max_retries += 1; // of which the event says nothing
        job.priority = "low";
        break;
      case "job.released":
        job.attempt -= 1;
        break;
      case "job.redriven":
        job.finished_at = job.reason = null;
        break;
      case "job.cancelled":
        job.reason = data["reason"] = "operator";
        if (before.status === "running") {
          job.error = { type: "Cancelled", message: "it was told to stop", fingerprint: "c", at }; // of which neither
        }
        break;
    }
    if (to === "retrying" || to === "dead" && type === "job.dead") {
      job.error = { type: "SMTPError", message: `number ${this.log.length}`, fingerprint: "f", at };
      data["error"] = { type: job.error.type, message: job.error.message, fingerprint: "f" };
      if (to === "dead") {
        job.reason = data["reason"] = "exhausted";
      }
    }
    if (to === "retrying" || to === "scheduled") {
      job.run_at = data["run_at"] = at;
    }
    if (to === "completed" || to === "dead" || to === "cancelled") {
      job.finished_at = at;
    }
    this.tell(job.id, type, data);
  }

  private tell(id: string, type: string, data: Record<string, unknown>, changed: Partial<StreamEvent> = {}): void {
    const job = this.jobs.get(id);
    if (!job) {
      return;
    }
    const seq = this.log.length + 1;
    this.log.push({
      cursor: `1-${seq}`, epoch: 1, seq, type, v: 1, timestamp: job.updated_at, queue: job.queue, kind: job.kind, job_id: id,
      job_version: job.version, status: job.status, priority: job.priority, attempt: job.attempt,
      worker: job.locked_by ?? (type === "job.started" ? null : "w1"), tags: job.tags, workflow_id: null, actor: null, data, ...changed,
    });
  }
}

export function newJob(id: string, changed: Partial<Job> = {}): Job {
  const at = "2026-03-01T12:00:00.000000Z";
  return {
    id, queue: "mail", kind: "email.send", priority: "normal", status: "pending", reason: null, max_retries: 3, attempt: 0,
    attempts_left: 4, snoozes: 0, redrives: 0, run_at: at, timeout: null, idempotency_key: null, tags: ["welcome"], metadata: {},
    fence: null, locked_by: null, locked_at: null, lease_expires_at: null, cancel_requested_at: null, progress: null, error: null,
    source: "api", traceparent: null, cloned_from: null, version: 1, allowed_actions: actions.pending, created_at: at,
    updated_at: at, started_at: null, finished_at: null, ...changed,
  };
}
