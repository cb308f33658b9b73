import { parseDuration } from "./duration.js";
import { ProtocolError } from "./errors.js";
import type { JobInfo, JsonValue, StoredJob } from "./types.js";

/** Reads the members of one JSON object of an answer. A member of another type than the interface says is a ProtocolError. */
export class Fields {
  constructor(
    private readonly members: Readonly<Record<string, JsonValue>>,
    private readonly at: string,
  ) {}

  static of(value: JsonValue | undefined, at: string): Fields {
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new ProtocolError(`${at} is not an object`);
    }
    return new Fields(value, at);
  }

  raw(key: string): JsonValue | undefined {
    return Object.hasOwn(this.members, key) ? this.members[key] : undefined;
  }

  text(key: string): string {
    const v = this.raw(key);
    return typeof v === "string" ? v : this.wrong(key, "a string");
  }

  textOrNull(key: string): string | null {
    return this.raw(key) == null ? null : this.text(key);
  }

  integer(key: string): number {
    const v = this.raw(key);
    return typeof v === "number" && Number.isSafeInteger(v) ? v : this.wrong(key, "a whole number");
  }

  number(key: string): number {
    const v = this.raw(key);
    return typeof v === "number" ? v : this.wrong(key, "a number");
  }

  /** A span, in milliseconds. */
  duration(key: string): number {
    return parseDuration(this.text(key)) ?? this.wrong(key, "a duration");
  }

  object(key: string): Fields {
    return Fields.of(this.raw(key), `${this.at}.${key}`);
  }

  objectOrNull(key: string): Fields | null {
    return this.raw(key) == null ? null : this.object(key);
  }

  array(key: string): JsonValue[] {
    const v = this.raw(key);
    return Array.isArray(v) ? v : this.wrong(key, "an array");
  }

  objects(key: string): Fields[] {
    return this.array(key).map((v, i) => Fields.of(v, `${this.at}.${key}[${i}]`));
  }

  texts(key: string): string[] {
    return this.array(key).map((v) => (typeof v === "string" ? v : this.wrong(key, "an array of strings")));
  }

  textMap(key: string): Record<string, string> {
    const out: [string, string][] = [];
    for (const [name, v] of Object.entries(this.object(key).members)) {
      out.push([name, typeof v === "string" ? v : this.wrong(key, "an object of strings")]);
    }
    return Object.fromEntries(out);
  }

  private wrong(key: string, wanted: string): never {
    throw new ProtocolError(`${this.at}.${key} is not ${wanted}`);
  }
}

/** What the answer to a registration says. Spans are milliseconds. */
export interface Registration {
  id: string;
  lease: number;
  heartbeatEvery: number;
}

export interface ClaimedJob {
  id: string;
  queue: string;
  kind: string;
  payload: JsonValue;
  attempt: number;
  attemptsLeft: number;
  snoozes: number;
  fence: number;
  tags: string[];
  metadata: Record<string, string>;
  /** Milliseconds. */
  leaseRemaining: number;
}

export interface Command {
  type: string;
  /** Of a cancel; else 0. */
  fence: number;
  reason: string;
}

export interface LeaseState {
  fence: number;
  /** Milliseconds from when the heartbeat was sent; undefined: lost. */
  remaining: number | undefined;
}

export function readRegistration(value: JsonValue | undefined): Registration {
  const f = Fields.of(value, "worker");
  return { id: f.text("id"), lease: f.duration("lease"), heartbeatEvery: f.duration("heartbeat_every") };
}

export function readClaim(value: JsonValue | undefined): { jobs: ClaimedJob[]; commands: Command[] } {
  const f = Fields.of(value, "claim");
  return { jobs: f.objects("jobs").map(readClaimedJob), commands: readCommands(f) };
}

function readClaimedJob(f: Fields): ClaimedJob {
  return {
    id: f.text("id"),
    queue: f.text("queue"),
    kind: f.text("kind"),
    payload: f.raw("payload") ?? null,
    attempt: f.integer("attempt"),
    attemptsLeft: f.integer("attempts_left"),
    snoozes: f.integer("snoozes"),
    fence: f.integer("fence"),
    tags: f.texts("tags"),
    metadata: f.textMap("metadata"),
    leaseRemaining: f.duration("lease_remaining"),
  };
}

export function readHeartbeat(value: JsonValue | undefined): { leases: LeaseState[]; commands: Command[] } {
  const f = Fields.of(value, "heartbeat");
  const leases = f.objects("leases").map((l) => ({
    fence: l.integer("fence"),
    remaining: l.raw("lost") === true ? undefined : l.duration("remaining"),
  }));
  return { leases, commands: readCommands(f) };
}

function readCommands(f: Fields): Command[] {
  return f.objects("commands").map((c) => {
    const type = c.text("type");
    // Commands of other types may have members of any shape: they are not looked at.
    return type === "cancel"
      ? { type, fence: c.integer("fence"), reason: c.textOrNull("reason") ?? "" }
      : { type, fence: 0, reason: "" };
  });
}

export function readStored(value: JsonValue | undefined): StoredJob[] {
  return Fields.of(value, "batch").objects("data").map((f) => ({
    id: f.text("id"),
    queue: f.text("queue"),
    status: f.textOrNull("status"),
    runAt: f.textOrNull("run_at"),
  }));
}

export function readJob(value: JsonValue | undefined): JobInfo {
  const f = Fields.of(value, "job");
  const payload = f.raw("payload");
  const result = f.raw("result");
  const progress = f.objectOrNull("progress");
  const error = f.objectOrNull("error");
  return {
    id: f.text("id"),
    queue: f.text("queue"),
    kind: f.text("kind"),
    ...(payload === undefined ? {} : { payload }),
    priority: f.text("priority"),
    status: f.text("status"),
    reason: f.textOrNull("reason"),
    maxRetries: f.integer("max_retries"),
    attempt: f.integer("attempt"),
    attemptsLeft: f.integer("attempts_left"),
    snoozes: f.integer("snoozes"),
    tags: f.texts("tags"),
    metadata: f.textMap("metadata"),
    lockedBy: f.textOrNull("locked_by"),
    progress: progress && { percent: progress.number("percent"), message: progress.textOrNull("message") ?? "" },
    ...(result === undefined ? {} : { result }),
    error: error && {
      type: error.text("type"), message: error.text("message"), stack: error.textOrNull("stack") ?? "",
    },
    version: f.integer("version"),
    runAt: f.textOrNull("run_at"),
    createdAt: f.textOrNull("created_at"),
    startedAt: f.textOrNull("started_at"),
    finishedAt: f.textOrNull("finished_at"),
  };
}
