import type { FailureGroup, FailureQuery, Queue } from "../../api/types";
import type { Search } from "../../shell/search";

/** How far back the page looks; the words are those of the buttons. */
export const windows = { "1h": "1 hour", "24h": "1 day", "7d": "7 days" } as const;
export type Window = keyof typeof windows;

/** What a page shows at first. */
const usualWindow: Window = "24h";

/** Which failures: dead, those that are tried again, or both. */
export const kinds = { "": "All", dead: "Dead", retrying: "Retrying" } as const;

export function windowOf(search: Search): Window {
  const window = search["window"] ?? "";
  return Object.hasOwn(windows, window) ? window as Window : usualWindow;
}

/** What the server is asked for. */
export function toFailureQuery(search: Search): FailureQuery {
  const { status, queue, kind } = search;
  return {
    window: windowOf(search), limit: 100,
    ...(status === "dead" || status === "retrying" ? { status: [status] } : {}), ...(queue ? { queue: [queue] } : {}), ...(kind ? { kind: [kind] } : {}),
  };
}

/** The jobs of a group, as the page Jobs has them in its address. An error without a fingerprint is not told apart from others of its kind. */
export function jobsOf(group: FailureGroup, search: Search): Search {
  return {
    status: search["status"] || "dead,retrying", kind: group.kind, ...(search["queue"] ? { queue: search["queue"] } : {}),
    ...(group.fingerprint === null ? {} : { fingerprint: group.fingerprint }),
  };
}

/** The queues with failures, those with the most dead jobs first. */
export function failingQueues(queues: Iterable<Queue>): Queue[] {
  return [...queues].filter(({ counts }) => counts.dead + counts.retrying > 0)
    .sort((a, b) => b.counts.dead - a.counts.dead || b.counts.retrying - a.counts.retrying || a.name.localeCompare(b.name));
}
