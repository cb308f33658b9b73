import { inspect } from "node:util";
import { formatDuration } from "./duration.js";
import { CancelJob, NonRetryable, RetryAfter, Snooze, WorkerStopping } from "./errors.js";

/** How an attempt ends, before it is put into words for the server. */
export type Outcome =
  | { readonly kind: "complete"; readonly result: unknown }
  | {
      readonly kind: "fail";
      readonly error: { readonly type: string; readonly message: string; readonly stack: string };
      readonly retry: "default" | "never" | "cancel" | { readonly afterMs: number };
    }
  | { readonly kind: "snooze"; readonly delayMs: number }
  | { readonly kind: "release" };

export interface Report {
  /** Last part of the address: `complete`, `fail`, `snooze` or `release`. */
  readonly verb: string;
  /** JSON text. */
  readonly body: string;
}

/** The protocol's bound of a result, in bytes of JSON. It is looked at here too: a server that hangs up in the middle of
 * a body that is far too large looks like one that is away. */
const maxResult = 256 * 1024;
/** Characters of an error that are sent. The server keeps less, and takes no body of more than a MiB. */
const maxText = 64 * 1024;

/** The outcome of a handler that threw. */
export function outcomeOfError(thrown: unknown, signal: AbortSignal): Outcome {
  if (thrown instanceof Snooze) {
    return { kind: "snooze", delayMs: thrown.delayMs };
  }
  if (thrown instanceof NonRetryable) {
    return failure(thrown, "never");
  }
  if (thrown instanceof RetryAfter) {
    return failure(thrown, { afterMs: thrown.delayMs });
  }
  if (thrown instanceof CancelJob) {
    return failure(thrown, "cancel");
  }
  if (signal.reason instanceof WorkerStopping) {
    // Whatever broke, the worker's end broke it: the attempt is given back and not charged.
    return { kind: "release" };
  }
  return failure(thrown, "default");
}

function failure(thrown: unknown, retry: "default" | "never" | "cancel" | { afterMs: number }): Outcome {
  if (!(thrown instanceof Error)) {
    return { kind: "fail", error: { type: "Error", message: typeof thrown === "string" ? thrown : inspect(thrown), stack: "" }, retry };
  }
  const { cause } = thrown;
  // What people look for is the error that happened, not the wrapper that says how to go on.
  const type = retry !== "default" && cause instanceof Error ? cause.name : thrown.name;
  const stack = (thrown.stack ?? "") + (cause instanceof Error ? `\nCaused by: ${cause.stack ?? String(cause)}` : "");
  return { kind: "fail", error: { type: String(type), message: String(thrown.message), stack }, retry };
}

/** The failure that is reported instead of an outcome that cannot be stored. */
export function invalidOutcome(message: string): Outcome {
  return { kind: "fail", error: { type: "InvalidOutcome", message, stack: "" }, retry: "default" };
}

/** Puts an outcome into words. A result that cannot be sent becomes a failure that says why. */
export function reportOf(outcome: Outcome, fence: number): Report {
  switch (outcome.kind) {
    case "complete": {
      const result = resultText(outcome.result);
      if (typeof result === "object") {
        return reportOf(invalidOutcome(result.fault), fence);
      }
      return { verb: "complete", body: result === undefined ? `{"fence":${fence}}` : `{"fence":${fence},"result":${result}}` };
    }
    case "fail": {
      const { error, retry } = outcome;
      return {
        verb: "fail",
        body: JSON.stringify({
          fence,
          error: { type: cut(error.type), message: cut(error.message), stack: cut(error.stack) },
          ...(typeof retry === "string" ? { retry } : { retry: "after", retry_after: formatDuration(retry.afterMs) }),
        }),
      };
    }
    case "snooze":
      return { verb: "snooze", body: JSON.stringify({ fence, delay: formatDuration(outcome.delayMs) }) };
    case "release":
      return { verb: "release", body: JSON.stringify({ fence }) };
  }
}

/** A result as JSON; undefined for none. */
function resultText(result: unknown): string | undefined | { fault: string } {
  if (result === undefined) {
    return undefined;
  }
  let text: string | undefined;
  try {
    text = JSON.stringify(result);
  } catch (error) {
    return { fault: `the result is not JSON: ${error instanceof Error ? error.message : inspect(error)}` };
  }
  if (text === undefined) {
    return { fault: `the result is not JSON: a ${typeof result}` };
  }
  const size = Buffer.byteLength(text);
  return size > maxResult ? { fault: `the result has ${size} bytes as JSON, more than ${maxResult}` } : text;
}

function cut(text: string): string {
  return text.slice(0, maxText);
}
