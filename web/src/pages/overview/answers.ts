import type { Queue, Worker } from "../../api/types";

/** MINIASYNQ_LATENCY_TARGET unless it was changed: what has waited longer is late. */
export const lateAfterSeconds = 60;
/** As the alert FailureRatioHigh has it. */
const failingRatio = 0.2;

export type Tone = "good" | "warn" | "bad" | "none";

export interface Answer {
  readonly tone: Tone;
  readonly word: string;
  readonly detail: string;
}

/** Why a queue is worth a look, the worst first; none: it is well. */
export function troublesOf(queue: Queue, nowMs: number): string[] {
  const waits = waitSeconds(queue, nowMs);
  return [
    waits > lateAfterSeconds && !queue.paused && "late",
    queue.counts.dead > 0 && "dead jobs",
    isFailing(queue.rates_1m) && "failing",
    queue.paused && "paused",
    queue.counts.pending > 0 && queue.slots === 0 && !queue.paused && "nobody works on it",
  ].filter((trouble) => trouble !== false);
}

/** How long its oldest pending job has waited. */
export function waitSeconds(queue: Queue, nowMs: number): number {
  return queue.oldest_pending_at ? Math.max(0, (nowMs - Date.parse(queue.oldest_pending_at)) / 1000) : 0;
}

export function isFailing({ completed, failed }: Queue["rates_1m"]): boolean {
  const ended = (completed ?? 0) + (failed ?? 0);
  return (failed ?? 0) > 0.1 && (failed ?? 0) / ended > failingRatio;
}

/** Queues in trouble first, the longest wait first among them. */
export function sortByTrouble(queues: readonly Queue[], nowMs: number): Queue[] {
  return queues.toSorted((a, b) => troublesOf(b, nowMs).length - troublesOf(a, nowMs).length || waitSeconds(b, nowMs) - waitSeconds(a, nowMs) || (a.name < b.name ? -1 : 1));
}

export interface Crew {
  readonly online: number;
  readonly slots: number;
  readonly busy: number;
}

export function crewOf(workers: readonly Worker[]): Crew {
  const there = workers.filter(({ state }) => state !== "offline");
  return {
    online: there.length,
    slots: there.reduce((sum, { slots }) => sum + slots, 0),
    busy: there.reduce((sum, { busy }) => sum + busy, 0),
  };
}
