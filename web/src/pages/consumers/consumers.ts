import type { MarkTone } from "../../components/Mark";
import type { IconName } from "../../components/Icon";
import type { Consumer } from "../../api/types";

/** What lies behind it for longer is a trouble, in seconds. */
export const behindAfterSeconds = 60;

export interface ConsumerLook {
  readonly tone: MarkTone;
  readonly icon: IconName;
  readonly word: string;
}

/** How a consumer does: what stops it, how far it is behind, or who reads. */
export function lookOf({ problem, lag_seconds: lag, reader }: Pick<Consumer, "problem" | "lag_seconds" | "reader">): ConsumerLook {
  if (problem !== null) {
    return { tone: "bad", icon: "cross", word: problem === "cursor_expired" ? "its events are gone" : "of another history" };
  }
  if ((lag ?? 0) > behindAfterSeconds) {
    return { tone: "warn", icon: "failures", word: reader === null ? "nobody reads" : "behind" };
  }
  return reader === null ? { tone: "none", icon: "minus", word: "nobody reads" } : { tone: "good", icon: "check", word: "reading" };
}

/** Those in trouble first, the longest lag first among them, then by name. */
export function sortConsumers(consumers: readonly Consumer[]): Consumer[] {
  const rank = (one: Consumer): number => one.problem === null ? 1 : 0;
  return consumers.toSorted((a, b) => rank(a) - rank(b) || (b.lag_seconds ?? 0) - (a.lag_seconds ?? 0) || (a.name < b.name ? -1 : 1));
}

/** "types job.dead, queue.*; queues mail"; nothing in it: everything. */
export function filterText(filter: Readonly<Record<string, unknown>> | null | undefined): string {
  const parts = Object.entries(filter ?? {}).flatMap(([name, values]) => {
    const list = listOf(values);
    return list.length > 0 ? `${name} ${list.join(", ")}` : [];
  });
  return parts.join("; ") || "everything";
}

/** The values of a field of a filter, which may be one or many. */
export function listOf(values: unknown): string[] {
  return typeof values === "string" ? [values] : Array.isArray(values) ? values.filter((value) => typeof value === "string") : [];
}
