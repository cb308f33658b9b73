import type { TimeZoneChoice } from "../../components/format";
import type { Search } from "../../shell/search";
import type { Filter, StreamEvent } from "../../stream";
import { formatCursor, parseCursor } from "../../stream/cursor";

/** What the stream filters by, under the names that the address and GET /events have for it. */
export const filterNames = ["types", "queues", "kinds", "job_ids", "tags"] as const;
export type FilterName = typeof filterNames[number];

export interface Chip {
  readonly name: FilterName;
  readonly value: string;
}

export function valuesOf(search: Search, name: FilterName): string[] {
  return (search[name] ?? "").split(",").map((value) => value.trim()).filter((value) => value !== "");
}

export function chipsOf(search: Search): Chip[] {
  return filterNames.flatMap((name) => valuesOf(search, name).map((value) => ({ name, value })));
}

export function withChip(search: Search, { name, value }: Chip): Search {
  return { ...search, [name]: [...new Set([...valuesOf(search, name), value])].join(",") };
}

export function withoutChip(search: Search, { name, value }: Chip): Search {
  return { ...search, [name]: valuesOf(search, name).filter((other) => other !== value).join(",") };
}

/** The filter that an address has; fields without values are left out. */
export function toFilter(search: Search): { [N in FilterName]?: string[] } & Filter {
  return Object.fromEntries(filterNames.map((name) => [name, valuesOf(search, name)] as const).filter(([, values]) => values.length > 0));
}

const words: Readonly<Record<string, FilterName>> = {
  type: "types", types: "types", queue: "queues", queues: "queues", kind: "kinds", kinds: "kinds", job: "job_ids", id: "job_ids", tag: "tags", tags: "tags",
};
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Reads what somebody types: "type:job.dead", "queue:mail", the id of a job, "job.*" (a type), or a queue. */
export function parseTyped(text: string): Chip | undefined {
  const typed = text.trim();
  const [, word = "", value = ""] = /^(\w+)[:=](.+)$/.exec(typed) ?? [];
  const name = Object.hasOwn(words, word) ? words[word] : undefined;
  if (name) {
    return { name, value: value.trim() };
  }
  if (uuid.test(typed)) {
    return { name: "job_ids", value: typed.toLowerCase() };
  }
  if (/^(?:job|queue|worker|operation|webhook|consumer|stream)\.[\w.*]+$/.test(typed)) {
    return { name: "types", value: typed };
  }
  return typed === "" ? undefined : { name: "queues", value: typed };
}

/** The first position and the last of the log that is kept. */
export interface Range {
  readonly floor: string;
  readonly cursor: string;
}

/** The cursor that a position stands right behind. */
export function behind(seq: number, { cursor }: Range): string {
  const epoch = parseCursor(cursor)?.epoch ?? 0;
  return formatCursor({ epoch, seq: Math.max(seq - 1, 0) });
}

/** The cursor so many positions before another, and not before the log begins. */
export function before(cursor: string, n: number, floor?: string): string {
  const at = parseCursor(cursor);
  const least = parseCursor(floor);
  if (!at) {
    return floor ?? "earliest";
  }
  const lowest = least?.epoch === at.epoch ? least.seq : 0;
  return formatCursor({ epoch: at.epoch, seq: Math.max(at.seq - n, lowest) });
}

/** Whether a cursor is further than another in the same history. */
export function isAfter(a: string, b: string): boolean {
  const one = parseCursor(a);
  const other = parseCursor(b);
  return one !== undefined && other !== undefined && (one.epoch - other.epoch || one.seq - other.seq) > 0;
}

/** Where somebody wants to go: behind a cursor, to a position of this history, or to a moment (in milliseconds since 1970). */
export type Jump = { readonly cursor: string } | { readonly seq: number } | { readonly atMs: number };

/**
 * Reads "4200", "1-4200", "earliest", "15m" (ago), "2026-03-01 12:00" or a time of RFC 3339. A time without a zone is of the zone that
 * times are shown in. Undefined: it is none of them.
 */
export function parseJump(text: string, zone: TimeZoneChoice, nowMs: number): Jump | undefined {
  const typed = text.trim();
  if (typed === "earliest" || parseCursor(typed)) {
    return { cursor: typed };
  }
  if (/^[1-9]\d{0,14}$/.test(typed)) {
    return { seq: Number(typed) };
  }
  const [, n = "", unit = ""] = /^(\d+)\s*([smhd])(?: ago)?$/.exec(typed) ?? [];
  if (unit !== "") {
    return { atMs: nowMs - Number(n) * ({ s: 1, m: 60, h: 3600, d: 86_400 }[unit] ?? 0) * 1000 };
  }
  if (!/^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?\s*(?:Z|UTC|[+-]\d\d:\d\d)?$/.test(typed)) {
    return undefined;
  }
  const written = typed.replace(" UTC", "Z").replace(" ", "T").replace(/\s/g, "");
  const isDay = !written.includes("T");
  const hasZone = /(?:Z|[+-]\d\d:\d\d)$/.test(written.slice(10));
  const atMs = Date.parse((isDay ? `${written}T00:00` : written) + (hasZone || zone === "local" ? "" : "Z"));
  return Number.isNaN(atMs) ? undefined : { atMs };
}

/**
 * The cursor behind which the first event at or after a moment lies, by halving the log: some twenty looks at one event each.
 * first answers the first event after a cursor. Where events stand a little out of the order of their times, it is as near as that.
 */
export async function seek(atMs: number, range: Range, first: (after: string) => Promise<StreamEvent | undefined>): Promise<string> {
  const head = parseCursor(range.cursor);
  const least = parseCursor(range.floor);
  if (!head) {
    return range.floor;
  }
  let low = least?.epoch === head.epoch ? least.seq : 0;
  let high = head.seq;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const event = await first(formatCursor({ epoch: head.epoch, seq: middle }));
    if (!event || Date.parse(event.timestamp) >= atMs) {
      high = middle;
    } else {
      low = event.seq;
    }
  }
  return formatCursor({ epoch: head.epoch, seq: high });
}

/** What an event says besides its type, in a line: the error first, since it is what people look for. */
export function summaryOf({ data, actor, worker }: StreamEvent): string {
  const error = data["error"] as { type?: unknown; message?: unknown } | null | undefined;
  const parts = [
    ...(error && typeof error === "object" ? [`${String(error.type)}: ${String(error.message)}`] : []),
    ...Object.entries(data).filter(([name, value]) => name !== "error" && value !== null && value !== "" && typeof value !== "object")
      .map(([name, value]) => `${name} ${String(value)}`),
    ...(worker ? [`worker ${worker}`] : []),
    ...(actor ? [`by ${actor}`] : []),
  ];
  return parts.join(" · ");
}
