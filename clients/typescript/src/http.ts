import {
  LeaseLostError, NotFoundError, ProblemError, ProtocolError, UnavailableError, ValidationError,
  type FieldProblem, type ProblemInit,
} from "./errors.js";
import type { JsonValue } from "./types.js";

export interface Call {
  method: "GET" | "POST" | "DELETE";
  /** Below /api/v1. */
  path: string;
  /** JSON text. */
  body?: string;
  headers?: Readonly<Record<string, string>>;
  signal?: AbortSignal | undefined;
  /** How long the answer may take, in milliseconds; the wait of a parked call included. */
  timeoutMs: number;
}

export interface Answer {
  status: number;
  /** undefined: the answer has no body. */
  body: JsonValue | undefined;
}

/** One call, one answer: no retries here. */
export class Http {
  private readonly base: string;
  private readonly headers: Readonly<Record<string, string>>;

  constructor(server: string, apiKey: string | undefined) {
    const url = new URL(server);
    if (url.protocol !== "http:" && url.protocol !== "https:") {
      throw new TypeError(`not the address of a server: ${server}`);
    }
    this.base = `${url.origin}${url.pathname.replace(/\/+$/, "")}/api/v1`;
    this.headers = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  }

  /** Throws a ProblemError when the call is refused, an UnavailableError when no answer comes, and the signal's reason
   * when that ends the call. */
  async send(call: Call): Promise<Answer> {
    call.signal?.throwIfAborted();
    // Not AbortSignal.any: its links to a signal that lives as long as the worker would pile up.
    const limit = new AbortController();
    const abort = (): void => limit.abort();
    const timer = setTimeout(abort, call.timeoutMs);
    call.signal?.addEventListener("abort", abort, { once: true });
    try {
      const response = await fetch(this.base + call.path, {
        method: call.method,
        headers: {
          ...this.headers,
          ...(call.body === undefined ? {} : { "Content-Type": "application/json" }),
          ...call.headers,
        },
        body: call.body ?? null,
        signal: limit.signal,
      });
      const text = await response.text();
      if (!response.ok) {
        throw problemOf(response.status, response.headers.get("Retry-After"), text);
      }
      return { status: response.status, body: text === "" ? undefined : parse(text) };
    } catch (error) {
      call.signal?.throwIfAborted();
      if (error instanceof ProblemError || error instanceof ProtocolError) {
        throw error;
      }
      const detail = limit.signal.aborted ? `no answer within ${call.timeoutMs} ms` : `no answer: ${reasonOf(error)}`;
      throw new UnavailableError({ status: 0, code: "no_answer", detail, cause: error });
    } finally {
      clearTimeout(timer);
      call.signal?.removeEventListener("abort", abort);
    }
  }
}

function parse(text: string): JsonValue {
  try {
    const value: JsonValue = JSON.parse(text);
    return value;
  } catch (cause) {
    throw new ProtocolError("the answer is not JSON", { cause });
  }
}

/** fetch says no more than "fetch failed"; what happened is in its cause. */
function reasonOf(error: unknown): string {
  const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(inner instanceof Error)) {
    return String(inner);
  }
  return inner.message || ("code" in inner && typeof inner.code === "string" ? inner.code : inner.name);
}

/** The error for an answer that is not 2xx. A proxy in between may send no problem, so nothing of its body is relied on. */
export function problemOf(status: number, retryAfter: string | null, text: string): ProblemError {
  let members: JsonValue = null;
  try {
    members = JSON.parse(text);
  } catch {
    // not JSON: the status has to do
  }
  const problem = isObject(members) ? members : {};
  const init: ProblemInit = {
    status,
    code: textOr(problem.code, `http_${status}`),
    detail: textOr(problem.detail, textOr(problem.title, `the server answered ${status}`)),
    errors: fieldProblems(problem.errors),
    requestId: textOr(problem.request_id, ""),
    retryAfterMs: retryAfterMs(retryAfter),
  };
  switch (status) {
    case 404:
      return new NotFoundError(init);
    case 400: case 413: case 422:
      return new ValidationError(init);
    case 429: case 502: case 503: case 504:
      return new UnavailableError(init);
    case 409:
      return init.code === "lease_lost" ? new LeaseLostError(init) : new ProblemError(init);
    default:
      return new ProblemError(init);
  }
}

function isObject(v: JsonValue | undefined): v is { [key: string]: JsonValue } {
  return v !== null && typeof v === "object" && !Array.isArray(v);
}

function textOr(v: JsonValue | undefined, otherwise: string): string {
  return typeof v === "string" ? v : otherwise;
}

function fieldProblems(v: JsonValue | undefined): FieldProblem[] {
  return (Array.isArray(v) ? v : []).filter(isObject).map((e) => ({
    pointer: textOr(e.pointer, ""), code: textOr(e.code, ""), detail: textOr(e.detail, ""),
  }));
}

/** Seconds or a date, as HTTP has it. */
function retryAfterMs(header: string | null): number | undefined {
  if (header === null) {
    return undefined;
  }
  const ms = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(ms, 0) : undefined;
}
