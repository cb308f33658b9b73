import { hostname } from "node:os";
import { Attempt, type Job } from "./attempt.js";
import { Backoff, pause } from "./backoff.js";
import type { Client } from "./client.js";
import { LeaseLostError, NotFoundError, ProblemError, UnavailableError, ValidationError } from "./errors.js";
import { invalidOutcome, outcomeOfError, reportOf, type Outcome } from "./outcome.js";
import type { JsonValue } from "./types.js";
import { readClaim, readHeartbeat, readRegistration, type Command, type Registration } from "./wire.js";

/** What it resolves to is the job's result: anything that JSON.stringify takes, up to 256 KiB; undefined is no result. */
export type Handler = (job: Job) => unknown;

export interface WorkerOptions {
  client: Client;
  /** Shown as the worker of a job; need not be unique. The host's name and the process id if not given. */
  name?: string;
  /** Queues, or queues with weights from 1 to 1000; `*` is every queue that is not named. All queues if not given. */
  queues?: readonly string[] | Readonly<Record<string, number>>;
  /** How many jobs run at once, 1 to 1000 (10). */
  slots?: number;
  /** How long running jobs may go on after a stop, in milliseconds (10 000). */
  graceMs?: number;
  /** Whether SIGTERM and SIGINT stop the worker (true). */
  signals?: boolean;
  /** Version of the program, for people. */
  version?: string;
  /** For people, such as `{ zone: "a" }`. */
  labels?: Readonly<Record<string, string>>;
  /** Told the worker's id when it has registered; again when it had to register anew. */
  onRegistered?: (id: string) => void;
  /** Told of what went wrong and is tried again, or was given up. Without it, a line on standard error. */
  onTrouble?: (error: unknown, doing: string) => void;
}

/** How long a claim is parked. */
const parkMs = 20_000;
/** Most jobs that a claim may ask for. */
const maxClaim = 100;
/** How long a heartbeat may take, if its interval is shorter than that. */
const shortestLimitMs = 1000;
/** Longest pause after a claim that was answered early and empty. */
const emptyPauseMs = 500;
/** How long handlers have after their signals were aborted, and how long the calls of a stop may take. */
const lastWordMs = 1000;
const goodbyeMs = 5000;

/**
 * Claims jobs and runs their handlers.
 *
 * What a handler resolves to completes the job. An error that it throws fails the attempt, and the job is retried by the
 * server's policy; Snooze, RetryAfter, NonRetryable and CancelJob say otherwise. A handler can run more than once for the
 * same job.
 */
export class Worker {
  private readonly options: WorkerOptions;
  private readonly slots: number;
  private readonly handlers = new Map<string, Handler>();
  private readonly attempts = new Map<number, Attempt>(); // by fence: those that the worker holds
  private readonly running = new Set<Promise<void>>(); // also those whose lease is lost and whose handler goes on
  private readonly quiet = new AbortController(); // claim no more
  private readonly leave = new AbortController(); // and end when the running jobs have ended
  private readonly stopped = new AbortController(); // and do not wait longer than the grace for them
  private readonly gone = new AbortController(); // no more heartbeats
  private registration: Registration | undefined;
  private registering: Promise<unknown> | undefined;
  private wake: (() => void) | undefined; // of the claiming loop, while all slots are busy
  private started = false;

  constructor(options: WorkerOptions) {
    this.options = options;
    this.slots = options.slots ?? 10;
    if (!Number.isInteger(this.slots) || this.slots < 1 || this.slots > 1000) {
      throw new RangeError(`slots are 1 to 1000, not ${this.slots}`);
    }
  }

  /** Names the handler of a kind. All are named before `run`. */
  handle(kind: string, handler: Handler): this {
    if (this.started) {
      throw new Error("the worker has started: it told the server which kinds it takes");
    }
    if (this.handlers.has(kind)) {
      throw new Error(`there is a handler of ${kind} already`);
    }
    this.handlers.set(kind, handler);
    return this;
  }

  /** Ends `run`: no more claims, the grace for running jobs, then their signals. */
  stop(): void {
    this.quiet.abort();
    this.leave.abort();
    this.stopped.abort();
  }

  /**
   * Works until SIGTERM, SIGINT, `stop`, or an operator's drain. While the server is away it keeps trying. Throws a
   * ProblemError if the server refuses the first registration, such as 401 without a valid key, or 422 for a bad name.
   */
  async run(): Promise<void> {
    if (this.started) {
      throw new Error("a worker runs once");
    }
    if (this.handlers.size === 0) {
      throw new Error("a worker needs a handler");
    }
    this.started = true;
    const onSignal = (): void => this.stop();
    if (this.options.signals !== false) {
      process.on("SIGTERM", onSignal).on("SIGINT", onSignal);
    }
    try {
      if (await this.register(true)) {
        const beating = this.beat();
        await this.claim();
        await aborted(this.leave.signal);
        await this.finish();
        this.gone.abort();
        await beating;
        await this.unregister();
      }
    } finally {
      this.gone.abort();
      process.off("SIGTERM", onSignal).off("SIGINT", onSignal);
    }
  }

  /** Registers, however long the server is away; false if the worker stops before. */
  private async register(first: boolean): Promise<boolean> {
    const { name, queues, version, labels } = this.options;
    const body = JSON.stringify({
      name: name ?? `${hostname()}-${process.pid}`,
      queues: isList(queues) ? Object.fromEntries(queues.map((q) => [q, 1])) : queues,
      kinds: [...this.handlers.keys()],
      slots: this.slots,
      version,
      labels,
    });
    const backoff = new Backoff();
    // A drain in the meantime still has jobs to end, and heartbeats need an id.
    const until = first ? this.stopped.signal : this.gone.signal;
    while (!until.aborted) {
      try {
        const answer = await this.post("/workers", body, { signal: until });
        this.registration = readRegistration(answer);
        break;
      } catch (error) {
        if (until.aborted) {
          break;
        }
        if (first && error instanceof ProblemError && !(error instanceof UnavailableError) && error.status < 500) {
          throw error;
        }
        this.trouble(error, "register");
        await pause(backoff.after(error), until);
      }
    }
    if (until.aborted) {
      return false;
    }
    this.options.onRegistered?.(this.known().id);
    return true;
  }

  /** Registers again, once for all who found out that the server does not know the worker any more. */
  private async registerAgain(unknown: Registration): Promise<void> {
    if (this.registration === unknown) {
      this.registering ??= this.register(false).finally(() => {
        this.registering = undefined;
      });
      await this.registering;
    }
  }

  /** Claims jobs until the worker is to be quiet. */
  private async claim(): Promise<void> {
    const quiet = this.quiet.signal;
    const backoff = new Backoff();
    while (!quiet.aborted) {
      const idle = this.slots - this.running.size;
      if (idle === 0) {
        await this.slotFree();
        continue;
      }
      const worker = this.known();
      const asked = performance.now();
      try {
        const answer = readClaim(await this.post(`/workers/${worker.id}/claim`,
          JSON.stringify({ max: Math.min(idle, maxClaim), wait: `${parkMs}ms` }), { signal: quiet, parkedMs: parkMs }));
        const now = performance.now();
        for (const claimed of answer.jobs) {
          this.start(new Attempt(claimed, now + claimed.leaseRemaining, worker.lease));
        }
        this.obey(answer.commands);
        if (answer.jobs.length > 0 || now - asked > parkMs / 2) {
          backoff.reset();
        } else {
          // A node that shuts down answers before the time.
          await pause(Math.min(backoff.next(), emptyPauseMs), quiet);
        }
      } catch (error) {
        if (quiet.aborted) {
          return; // the call was given up; jobs of an answer that was under way go back to the queue
        }
        if (error instanceof NotFoundError) {
          await Promise.race([this.registerAgain(worker), aborted(quiet)]);
        } else {
          this.trouble(error, "claim jobs");
        }
        await pause(backoff.after(error), quiet);
      }
    }
  }

  private async slotFree(): Promise<void> {
    // Not a race of the running jobs: each would keep what waited for it until it ends.
    const wake = new Promise<void>((resolve) => {
      this.wake = resolve;
    });
    const quiet = this.quiet.signal;
    const end = (): void => this.wake?.();
    quiet.addEventListener("abort", end, { once: true });
    await wake;
    quiet.removeEventListener("abort", end);
  }

  private start(attempt: Attempt): void {
    this.attempts.set(attempt.fence, attempt);
    // From then on heartbeats leave it out.
    attempt.over.addEventListener("abort", () => this.attempts.delete(attempt.fence), { once: true });
    const run = this.execute(attempt).finally(() => {
      attempt.close();
      this.running.delete(run);
      this.wake?.();
    });
    this.running.add(run);
  }

  private async execute(attempt: Attempt): Promise<void> {
    const outcome = await this.outcomeOf(attempt.job);
    attempt.check();
    if (!attempt.over.aborted) {
      attempt.report();
      await this.report(attempt, outcome);
    }
  }

  private async outcomeOf(job: Job): Promise<Outcome> {
    const handler = this.handlers.get(job.kind);
    if (!handler) {
      return invalidOutcome(`this worker has no handler of ${job.kind}`);
    }
    try {
      return { kind: "complete", result: await handler(job) };
    } catch (error) {
      return outcomeOfError(error, job.signal);
    }
  }

  /** Tells the server how an attempt ended, again and again while the lease lasts and no answer comes. */
  private async report(attempt: Attempt, outcome: Outcome): Promise<void> {
    let report = reportOf(outcome, attempt.fence);
    let instead = false;
    const backoff = new Backoff();
    while (!attempt.over.aborted) {
      const doing = `report ${report.verb} of job ${attempt.job.id}`;
      try {
        await this.post(`/jobs/${attempt.job.id}/${report.verb}`, report.body, { signal: attempt.over });
        return;
      } catch (error) {
        if (attempt.over.aborted || error instanceof LeaseLostError || error instanceof NotFoundError) {
          return; // whoever has the job now says how it ends
        }
        this.trouble(error, doing);
        if (error instanceof ValidationError) {
          if (instead) {
            return; // nothing is left to say: the lease runs out
          }
          instead = true;
          report = reportOf(invalidOutcome(`the server refused to ${report.verb}: ${error.detail}`), attempt.fence);
          continue;
        }
        await pause(backoff.after(error), attempt.over);
      }
    }
  }

  /** Sends a heartbeat with all leases, at the interval that the server gave, until the worker is gone. */
  private async beat(): Promise<void> {
    const gone = this.gone.signal;
    const backoff = new Backoff();
    let next = performance.now() + this.known().heartbeatEvery;
    while (await pause(Math.max(0, next - performance.now()), gone)) {
      const worker = this.known();
      const held = [...this.attempts.values()];
      const told = held.map((a) => a.progress);
      const sent = performance.now();
      try {
        const answer = readHeartbeat(await this.post(`/workers/${worker.id}/heartbeat`, JSON.stringify({
          leases: held.map((a, i) => ({ job_id: a.job.id, fence: a.fence, progress: told[i] })),
          busy: this.running.size,
        }), { signal: gone, limitMs: Math.max(worker.heartbeatEvery, shortestLimitMs) }));
        for (const { fence, remaining } of answer.leases) {
          const attempt = this.attempts.get(fence);
          if (remaining === undefined) {
            attempt?.lost();
          } else {
            attempt?.extend(sent + remaining);
          }
        }
        this.forgetProgress(held, told);
        this.obey(answer.commands);
        backoff.reset();
        next = sent + worker.heartbeatEvery;
      } catch (error) {
        if (gone.aborted) {
          return;
        }
        if (error instanceof NotFoundError) {
          await this.registerAgain(worker);
          next = performance.now(); // what became of the leases?
          continue;
        }
        if (error instanceof ValidationError) {
          this.forgetProgress(held, told); // all that a heartbeat says of its own; the leases must not depend on it
        }
        this.trouble(error, "send a heartbeat");
        next = performance.now() + Math.min(backoff.after(error), worker.heartbeatEvery);
      }
    }
  }

  private forgetProgress(held: readonly Attempt[], told: readonly (Attempt["progress"])[]): void {
    held.forEach((attempt, i) => {
      if (attempt.progress === told[i]) {
        attempt.progress = undefined;
      }
    });
  }

  private obey(commands: readonly Command[]): void {
    for (const command of commands) {
      switch (command.type) {
        case "cancel":
          this.attempts.get(command.fence)?.cancel(command.reason);
          break;
        case "quiet":
          this.quiet.abort();
          break;
        case "drain":
          this.quiet.abort();
          this.leave.abort();
          break;
      }
    }
  }

  /** Ends what runs: after a drain when it is done, after a stop within the grace; what is left is given back. */
  private async finish(): Promise<void> {
    if (!this.stopped.signal.aborted) {
      await Promise.race([this.allEnded(), aborted(this.stopped.signal)]);
    }
    if (await this.endedWithin(this.options.graceMs ?? 10_000)) {
      return;
    }
    for (const attempt of this.attempts.values()) {
      attempt.stop();
    }
    if (await this.endedWithin(lastWordMs)) {
      return;
    }
    await Promise.all([...this.attempts.values()].map(async (attempt) => {
      // Nothing that its handler does from here on counts. An outcome that is still on the way is given up likewise.
      attempt.close();
      const { verb, body } = reportOf({ kind: "release" }, attempt.fence);
      await this.farewell(`/jobs/${attempt.job.id}/${verb}`, body);
    }));
  }

  private async allEnded(): Promise<void> {
    await Promise.allSettled(this.running);
  }

  private async endedWithin(ms: number): Promise<boolean> {
    const timer = new AbortController();
    try {
      return await Promise.race([this.allEnded().then(() => true), pause(ms, timer.signal).then(() => false)]);
    } finally {
      timer.abort();
    }
  }

  private async unregister(): Promise<void> {
    await this.farewell(`/workers/${this.known().id}`);
  }

  /** A call of a worker that goes: it is tried for a short time only, for what it says comes about by itself later. */
  private async farewell(path: string, body?: string): Promise<void> {
    const limit = AbortSignal.timeout(goodbyeMs);
    const backoff = new Backoff();
    while (!limit.aborted) {
      try {
        await this.options.client.http.send({
          method: body === undefined ? "DELETE" : "POST", path, ...(body === undefined ? {} : { body }), signal: limit,
          timeoutMs: goodbyeMs,
        });
        return;
      } catch (error) {
        if (error instanceof NotFoundError || error instanceof LeaseLostError) {
          return;
        }
        if (limit.aborted || !(error instanceof UnavailableError)) {
          this.trouble(error, "give back what is left");
          return;
        }
        await pause(backoff.after(error), limit);
      }
    }
  }

  private async post(
    path: string, body: string, call: { signal: AbortSignal; parkedMs?: number; limitMs?: number },
  ): Promise<JsonValue | undefined> {
    const { http, requestTimeoutMs } = this.options.client;
    const timeoutMs = Math.min(call.limitMs ?? Infinity, requestTimeoutMs + (call.parkedMs ?? 0));
    return (await http.send({ method: "POST", path, body, signal: call.signal, timeoutMs })).body;
  }

  private known(): Registration {
    if (!this.registration) {
      throw new Error("the worker has not registered");
    }
    return this.registration;
  }

  private trouble(error: unknown, doing: string): void {
    if (this.options.onTrouble) {
      this.options.onTrouble(error, doing);
    } else {
      console.error(`mini-asynq worker: could not ${doing}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

function isList(v: WorkerOptions["queues"]): v is readonly string[] {
  return Array.isArray(v);
}

/** Resolves when a signal is aborted. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
    } else {
      signal.addEventListener("abort", () => resolve(), { once: true });
    }
  });
}
