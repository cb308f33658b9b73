import { jobStatuses, priorities, type JobQuery, type JobStatus, type NewOperation, type Queue } from "../../api/types";
import type { Search } from "../../shell/search";
import { isStatus } from "../../store/fold";
import type { Filter, StreamEvent } from "../../stream";

/** The filters of GET /jobs that take any of several values, as they stand in the address: status=dead,retrying. */
export const listFilters = ["status", "queue", "kind", "priority", "tag", "worker", "id", "fingerprint"] as const;
/** Those that take one. */
export const plainFilters = [
  "attempt_min", "created_after", "created_before", "run_after", "run_before", "finished_after", "finished_before",
] as const;
export const sorts = {
  "-created_at": "newest first", created_at: "oldest first", "-run_at": "due last", run_at: "due first", "-finished_at": "finished last",
  finished_at: "finished first",
} as const;

export type FilterName = typeof listFilters[number] | typeof plainFilters[number];

/** One value of one filter, as a chip shows it. */
export interface Chip {
  readonly name: FilterName;
  readonly value: string;
}

/** The values of a filter in the address. */
export function valuesOf(search: Search, name: FilterName): string[] {
  const text = search[name] ?? "";
  const isList = (listFilters as readonly string[]).includes(name);
  return (isList ? text.split(",") : [text]).map((value) => value.trim()).filter((value) => value !== "");
}

/** What the server is asked for. Values that it would refuse are left to it to refuse: an address that is wrong says so. */
export function toQuery(search: Search): JobQuery {
  const query: Record<string, unknown> = {};
  for (const name of listFilters) {
    const values = valuesOf(search, name);
    if (values.length > 0) {
      query[name] = values;
    }
  }
  for (const name of plainFilters) {
    const [value] = valuesOf(search, name);
    if (value !== undefined) {
      query[name] = value;
    }
  }
  const metadata = Object.entries(search).filter(([name]) => name.startsWith("metadata."));
  if (metadata.length > 0) {
    query["metadata"] = Object.fromEntries(metadata);
  }
  if (search["sort"]) {
    query["sort"] = search["sort"];
  }
  return query;
}

/** The same as the filter of an operation on all that match. */
export function toOperationFilter(search: Search): NonNullable<NewOperation["filter"]> {
  const { metadata, ...filter } = toQuery({ ...search, sort: "" }) as Record<string, unknown>;
  const attempts = filter["attempt_min"];
  return { ...filter, ...(attempts === undefined ? {} : { attempt_min: Number(attempts) }), ...(metadata as Record<string, string> | undefined) } as NonNullable<NewOperation["filter"]>;
}

/** All that narrows the list but the status, which has its own row of buttons. */
export function chipsOf(search: Search): Chip[] {
  return [...listFilters, ...plainFilters].filter((name) => name !== "status")
    .flatMap((name) => valuesOf(search, name).map((value) => ({ name, value })));
}

export function withChip(search: Search, { name, value }: Chip): Search {
  const isList = (listFilters as readonly string[]).includes(name);
  return { ...search, [name]: isList ? [...new Set([...valuesOf(search, name), value])].join(",") : value };
}

export function withoutChip(search: Search, { name, value }: Chip): Search {
  return { ...search, [name]: valuesOf(search, name).filter((other) => other !== value).join(",") };
}

export function withStatus(search: Search, status: JobStatus | undefined): Search {
  return { ...search, status: status ?? "" };
}

const words: Readonly<Partial<Record<string, FilterName>>> = { queue: "queue", kind: "kind", tag: "tag", worker: "worker", priority: "priority", id: "id" };
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Reads what somebody types into the search field: an id, "queue:mail", "kind:email.*", "dead", or a queue. */
export function parseTyped(text: string): Chip | undefined {
  const typed = text.trim();
  const [, word = "", value = ""] = /^(\w+)[:=](.+)$/.exec(typed) ?? [];
  const name = words[word];
  if (name && Object.hasOwn(words, word)) {
    return { name, value };
  }
  if (uuid.test(typed)) {
    return { name: "id", value: typed.toLowerCase() };
  }
  if (isStatus(typed)) {
    return { name: "status", value: typed };
  }
  if ((priorities as readonly string[]).includes(typed)) {
    return { name: "priority", value: typed };
  }
  return typed === "" ? undefined : { name: "queue", value: typed };
}

/** What of the stream concerns the list: as much of the filter as the stream knows. */
export function toStreamFilter(search: Search): Filter {
  return {
    types: ["job.*"],
    ...optional("queues", valuesOf(search, "queue")), ...optional("kinds", valuesOf(search, "kind")),
    ...optional("tags", valuesOf(search, "tag")), ...optional("job_ids", valuesOf(search, "id")),
  };
}

function optional<N extends string>(name: N, values: string[]): { [K in N]?: string[] } {
  return values.length > 0 ? { [name]: values } as { [K in N]?: string[] } : {};
}

/** What an event cannot tell of a job; with such a filter nobody knows what is new. */
const untold: readonly FilterName[] = ["fingerprint", ...plainFilters];
/** These leave a job where it was, or take it away. */
const noArrival: ReadonlySet<string> = new Set(["job.progress", "job.updated", "job.cancel_requested", "job.deleted"]);

/**
 * Whether an event is about a job that a list would show now and did not show when it was fetched. newestID is that of the newest
 * job in it: ids grow with the time of their making. The stream has sieved by queue, kind and tag.
 */
export function isArrival(event: StreamEvent, search: Search, newestID: string): boolean {
  if (event.job_id === null || noArrival.has(event.type) || untold.some((name) => valuesOf(search, name).length > 0) ||
    Object.keys(search).some((name) => name.startsWith("metadata."))) {
    return false;
  }
  const fits = (name: FilterName, value: string | null): boolean => {
    const values = valuesOf(search, name);
    return values.length === 0 || (value !== null && values.includes(value));
  };
  const statuses = valuesOf(search, "status");
  return fits("status", event.status) && fits("priority", event.priority) && fits("worker", event.worker) &&
    (statuses.length > 0 || event.job_id > newestID);
}

/** How many jobs a status has; undefined: the numbers do not say, because there is another filter, or do not count that status. */
export function countOf(status: JobStatus, counts: Queue["counts"] | undefined): number | undefined {
  return counts && status in counts ? counts[status as keyof Queue["counts"]] : undefined;
}

export const statusTabs = jobStatuses;
