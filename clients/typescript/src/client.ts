import { randomUUID } from "node:crypto";
import { pause, retrying } from "./backoff.js";
import { formatDuration } from "./duration.js";
import { NotFinishedError, ProblemError, ProtocolError, UnavailableError } from "./errors.js";
import { Http, type Answer, type Call } from "./http.js";
import type { EnqueueOptions, JobInfo, JsonValue, NewJob, StoredJob } from "./types.js";
import { Fields, readJob, readStored } from "./wire.js";

export interface ClientOptions {
  /** Address of the server, with its base path if it has one. Else MINIASYNQ_SERVER, else http://localhost:8080. */
  server?: string;
  /** Sent as a bearer token. Else MINIASYNQ_API_KEY; without one, calls carry no credentials. */
  apiKey?: string;
  /** How long a call is tried again while the server is away, in milliseconds (30 000). 0: try once. */
  retryForMs?: number;
  /** How long one answer may take, in milliseconds (15 000); the time a call is parked comes on top. */
  requestTimeoutMs?: number;
}

/** Most jobs that the server takes in one batch. */
const maxBatch = 1000;
/** How long one GET is parked by `wait`, at most. */
const parkMs = 30_000;

const finished: ReadonlySet<string> = new Set(["completed", "dead", "cancelled"]);

/**
 * Enqueues jobs and looks at them. It has no connection of its own to close.
 *
 * Calls are tried again, with growing pauses, while the server is away (no answer, 429, 502, 503, 504). After that, and
 * when a call is refused, they throw a ProblemError; an answer that is not understood is a ProtocolError.
 */
export class Client {
  /** @internal For the worker, which has rules of its own for what to do when a call fails. */
  readonly http: Http;
  /** @internal */
  readonly requestTimeoutMs: number;
  private readonly retryForMs: number;

  constructor(options: ClientOptions = {}) {
    this.http = new Http(
      options.server ?? (process.env.MINIASYNQ_SERVER || "http://localhost:8080"),
      options.apiKey ?? process.env.MINIASYNQ_API_KEY,
    );
    this.requestTimeoutMs = options.requestTimeoutMs ?? 15_000;
    this.retryForMs = options.retryForMs ?? 30_000;
  }

  /**
   * Stores a job. Without an `idempotencyKey` one is made up for this call, so that trying again stores it once.
   * @param payload anything that JSON.stringify takes; what it refuses (a BigInt, a cycle) is a TypeError.
   * @returns the job as stored, without its payload.
   */
  async enqueue(kind: string, payload?: unknown, options: EnqueueOptions = {}): Promise<JobInfo> {
    const { idempotencyKey, ...rest } = options;
    const body = JSON.stringify(jobMembers({ ...rest, kind, payload }));
    return readJob((await this.post("/jobs", body, idempotencyKey ?? randomUUID())).body);
  }

  /**
   * Stores jobs, up to 1000 per call to the server, and each such call all or none. When a later call fails, the jobs of
   * the earlier ones are stored: give the items keys of their own to send everything again safely.
   * @returns the jobs as stored, in the order of the items.
   */
  async enqueueMany(items: readonly NewJob[]): Promise<StoredJob[]> {
    const stored: StoredJob[] = [];
    for (let from = 0; from < items.length; from += maxBatch) {
      const chunk = items.slice(from, from + maxBatch);
      const body = JSON.stringify({ jobs: chunk.map(jobMembers) });
      const lines = readStored((await this.post("/jobs/batch", body, randomUUID())).body);
      if (lines.length !== chunk.length) {
        throw new ProtocolError(`${chunk.length} jobs were sent, and ${lines.length} are in the answer`);
      }
      stored.push(...lines);
    }
    return stored;
  }

  /** Reads a job. A job that is not there is a NotFoundError. */
  async get(id: string): Promise<JobInfo> {
    return readJob((await this.call({ method: "GET", path: jobPath(id), timeoutMs: this.requestTimeoutMs })).body);
  }

  /**
   * Waits until a job has finished: completed, dead or cancelled.
   * @param options.timeoutMs milliseconds; without it, it waits for ever. What has not finished by then is a
   *   NotFinishedError.
   * @param options.signal ends the wait: its reason is thrown.
   */
  async wait(id: string, options: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<JobInfo> {
    const end = performance.now() + (options.timeoutMs ?? Infinity);
    for (;;) {
      const asked = performance.now();
      const wait = Math.max(0, Math.min(parkMs, end - asked));
      const job = readJob((await this.call({
        method: "GET",
        path: `${jobPath(id)}?wait=${formatDuration(wait)}&until=finished`,
        signal: options.signal,
        timeoutMs: wait + this.requestTimeoutMs,
      }, end - asked)).body);
      if (finished.has(job.status)) {
        return job;
      }
      const now = performance.now();
      if (now >= end) {
        throw new NotFinishedError(job.id, job.status);
      }
      // A node that shuts down answers before the time: do not ask it in a tight loop.
      if (now - asked < wait / 2 && !(await pause(Math.min(500, end - now), options.signal))) {
        throw options.signal?.reason;
      }
    }
  }

  /**
   * Reads the result of a completed job; undefined if its handler returned nothing. A job that has not finished is a
   * NotFinishedError; one that ended otherwise a ProblemError with the code `result_unavailable`.
   */
  async result(id: string): Promise<JsonValue | undefined> {
    const { status, body } = await this.call({
      method: "GET", path: `${jobPath(id)}/result`, timeoutMs: this.requestTimeoutMs,
    });
    if (status === 202) {
      throw new NotFinishedError(id, Fields.of(body, "answer").text("status"));
    }
    return body;
  }

  private post(path: string, body: string, key: string): Promise<Answer> {
    return this.call({
      method: "POST", path, body, headers: { "Idempotency-Key": key }, timeoutMs: this.requestTimeoutMs,
    });
  }

  private call(call: Call, leftMs = Infinity): Promise<Answer> {
    return retrying(() => this.http.send(call), {
      forMs: Math.min(this.retryForMs, leftMs), transient: isTransient, signal: call.signal,
    });
  }
}

function isTransient(error: unknown): boolean {
  return error instanceof UnavailableError ||
    // The first try of a call whose answer got lost is still at work.
    (error instanceof ProblemError && error.code === "idempotency_in_flight");
}

function jobPath(id: string): string {
  return `/jobs/${encodeURIComponent(id)}`;
}

function jobMembers(job: NewJob): Record<string, unknown> {
  return {
    kind: job.kind,
    payload: job.payload,
    queue: job.queue,
    priority: job.priority,
    max_retries: job.maxRetries,
    run_at: job.runAt instanceof Date ? job.runAt.toISOString() : job.runAt,
    delay: job.delayMs === undefined ? undefined : formatDuration(job.delayMs),
    timeout: job.timeoutMs === undefined ? undefined : formatDuration(job.timeoutMs),
    idempotency_key: job.idempotencyKey,
    tags: job.tags,
    metadata: job.metadata,
  };
}
