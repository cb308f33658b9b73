// The names under which the rest of the dashboard knows what the API says. The shapes are api/openapi.yaml's.
import type { AnswerOf } from "./client";
import type { components, operations } from "./schema";

type Schemas = components["schemas"];

export type Job = Schemas["Job"];
export type JobStatus = Schemas["JobStatus"];
export type JobAction = Schemas["JobAction"];
export type JobList = Schemas["JobList"];
export type NewJob = Schemas["NewJob"];
export type Priority = Schemas["Priority"];
export type Queue = Schemas["Queue"];
export type Attempt = Schemas["Attempt"];
export type FailureGroup = Schemas["FailureGroup"];
export type NewOperation = Schemas["NewOperation"];
export type Operation = Schemas["Operation"];
export type JobEvent = Schemas["Event"];
export type Worker = Schemas["Worker"];
export type Key = Schemas["Key"];
export type NewKey = Schemas["NewKey"];
export type Webhook = Schemas["Webhook"];
export type Delivery = Schemas["Delivery"];
export type Consumer = Schemas["Consumer"];
export type DeliveryState = Schemas["DeliveryState"];
export type AuditLine = Schemas["AuditLine"];
export type Role = NonNullable<Schemas["OptionalRole"]>;
export type Scope = Schemas["Scope"];
export type Stats = Schemas["Stats"];
export type Me = AnswerOf<"get", "/me">;

/** The filters, the sort and the page of GET /jobs. */
export type JobQuery = Exclude<operations["listJobs"]["parameters"]["query"], undefined>;
/** The filters of GET /admin/audit. */
export type AuditQuery = Exclude<operations["listAudit"]["parameters"]["query"], undefined>;

/** The filters of GET /failures. */
export type FailureQuery = Exclude<operations["listFailures"]["parameters"]["query"], undefined>;

/** In the order of a job's life. */
export const jobStatuses = ["scheduled", "blocked", "pending", "running", "retrying", "completed", "dead", "cancelled"] as const satisfies readonly JobStatus[];
export const priorities = ["high", "normal", "low"] as const satisfies readonly Priority[];
