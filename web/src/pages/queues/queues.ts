import type { Queue, Worker } from "../../api/types";
import type { NumbersNow } from "../../store/numbers";
import { waitSeconds } from "../overview/answers";

/** The numbers of now, with what only the database knows of a queue; before the first frame, what was fetched. */
export function mergeNumbers(fetched: readonly Queue[], numbers: NumbersNow | undefined): Queue[] {
  if (!numbers) {
    return [...fetched];
  }
  const stored = new Map(fetched.map((queue) => [queue.name, queue]));
  return [...numbers.queues.values()].map((queue) => ({
    ...queue, pause: stored.get(queue.name)?.pause ?? null, version: stored.get(queue.name)?.version ?? 0,
  }));
}

/**
 * The oldest wait first; a paused queue waits because somebody wants it to, and comes after. Held: the order that somebody
 * has under the pointer stays, and queues that are new come last.
 */
export function arrange(queues: readonly Queue[], held: readonly string[] | undefined, nowMs: number): Queue[] {
  const places = new Map(held?.map((name, i) => [name, i]));
  const place = ({ name }: Queue): number => places.get(name) ?? places.size;
  const open = (queue: Queue): number => queue.paused ? -1 : waitSeconds(queue, nowMs);
  return queues.toSorted((a, b) => place(a) - place(b) || open(b) - open(a) || (a.name < b.name ? -1 : 1));
}

/** The workers that take jobs of a queue, by name or because they take all. */
export function workersOf(queue: string, workers: readonly Worker[]): Worker[] {
  return workers.filter(({ queues, state }) => state !== "offline" && (queue in queues || "*" in queues));
}

/** How long a pause may be, as a choice; empty: until somebody resumes it. */
export const pauseSpans = { "": "until it is resumed", "15m": "15 minutes", "1h": "an hour", "4h": "4 hours", "24h": "a day", at: "until a time" } as const;

/** What a field of date and time says, in RFC 3339; undefined: nothing that is a time. */
export function timeOf(field: string): string | undefined {
  const at = new Date(field);
  return field === "" || Number.isNaN(at.getTime()) ? undefined : at.toISOString();
}
