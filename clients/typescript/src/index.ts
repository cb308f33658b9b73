export type { Job } from "./attempt.js";
export { Client, type ClientOptions } from "./client.js";
export {
  CancelJob, JobCancelled, LeaseExpired, LeaseLostError, NonRetryable, NotFinishedError, NotFoundError, ProblemError,
  ProtocolError, RetryAfter, Snooze, UnavailableError, ValidationError, WorkerStopping, type FieldProblem,
} from "./errors.js";
export type { EnqueueOptions, JobInfo, JobStatus, JsonValue, NewJob, Priority, StoredJob } from "./types.js";
export { Worker, type Handler, type WorkerOptions } from "./worker.js";
