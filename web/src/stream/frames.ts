/** One committed change. Types and members are only added: pass over what you do not know. */
export interface StreamEvent {
  readonly cursor: string;
  readonly epoch: number;
  readonly seq: number;
  readonly type: string;
  readonly v: number;
  readonly timestamp: string;
  readonly queue: string | null;
  readonly kind: string | null;
  /** null: it is about no job. */
  readonly job_id: string | null;
  /** Counts 1, 2, 3 .. of a job: what a page shows of it is as new as the highest that it has seen. */
  readonly job_version: number | null;
  /** After the event; null: the job is gone, or it is about no job. */
  readonly status: string | null;
  readonly priority: string | null;
  readonly attempt: number | null;
  readonly worker: string | null;
  readonly tags: readonly string[];
  readonly workflow_id: string | null;
  readonly actor: string | null;
  readonly data: Readonly<Record<string, unknown>>;
  /** With `payload`, as stored now. */
  readonly payload?: unknown;
}

/** Lets events through: fields are ANDed, the values of a field ORed; an empty field lets all through. */
export interface Filter {
  readonly types?: readonly string[];
  readonly queues?: readonly string[];
  readonly kinds?: readonly string[];
  readonly job_ids?: readonly string[];
  readonly tags?: readonly string[];
}

export function isEmpty(filter: Filter | undefined): boolean {
  return !filter || Object.values(filter).every((values: readonly string[] | undefined) => !values || values.length === 0);
}

/** The numbers of the server at a moment, from its memory. What they consist of is in api/asyncapi.yaml. */
export interface Stats {
  readonly t: "stats";
  readonly at: string;
  /** Everything up to here is in them. */
  readonly cursor: string;
  /** Remote workers; null for a caller who is held to some queues. */
  readonly workers: { readonly online: number; readonly draining: number } | null;
  readonly [member: string]: unknown;
}

/** A frame of the server, of any kind; what is missing is undefined. */
export interface ServerFrame {
  readonly t: string;
  readonly id?: string;
  readonly v?: number;
  readonly head?: string;
  readonly from?: string;
  readonly cursor?: string;
  readonly behind?: number;
  readonly n?: number;
  readonly ev?: readonly StreamEvent[];
  readonly code?: string;
  readonly detail?: string;
  readonly floor?: string;
  readonly retry_ms?: number;
}

/** Reads a frame; undefined: it is none. */
export function parseFrame(data: unknown): ServerFrame | undefined {
  if (typeof data !== "string") {
    return undefined;
  }
  try {
    const frame: unknown = JSON.parse(data);
    return typeof frame === "object" && frame !== null && typeof (frame as { t?: unknown }).t === "string"
      ? frame as ServerFrame : undefined;
  } catch {
    return undefined;
  }
}

/** A frame of ours. */
export type ClientFrame =
  | {
    t: "sub"; id: string; class: "view" | "consumer"; after: string; filter?: Filter; include?: readonly "payload"[];
    credit?: number;
  }
  | { t: "credit"; id: string; n: number }
  | { t: "filter"; id: string; filter: Filter }
  | { t: "unsub"; id: string }
  | { t: "ping"; n: number }
  | { t: "stats"; every: string; queues?: readonly string[] };
