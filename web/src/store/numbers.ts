import type { Queue } from "../api/types";
import type { Stats } from "../stream";
import { Painted, type NextFrame } from "./painted";

export interface Totals {
  readonly counts: Queue["counts"];
  readonly rates: Queue["rates_1m"];
}

/** What the server said last of how things stand. */
export interface NumbersNow {
  /** When, by the database's clock: RFC 3339. */
  readonly at: string;
  readonly totals: Totals;
  /** By name. Their `pause` and `version` are null: only the database knows them. */
  readonly queues: ReadonlyMap<string, Queue>;
  /** How long the newest event took to the node. */
  readonly lagMs: number;
  /** What the database's clock is ahead of this machine's, in milliseconds. */
  readonly clockAheadMs: number;
}

/** The numbers, once a second, out of the memory of the node: however many look, the database is not asked. */
export class Numbers extends Painted<NumbersNow | undefined> {
  private now: NumbersNow | undefined;

  constructor(frames?: NextFrame) {
    super(undefined, frames);
  }

  /** Takes a stats frame in; one that is not as it should be changes nothing. */
  take(stats: Stats, receivedAtMs: number = Date.now()): void {
    const next = read(stats, receivedAtMs);
    if (next) {
      this.now = next;
      this.touch();
    }
  }

  protected override draw(): NumbersNow | undefined {
    return this.now;
  }
}

function read(stats: Stats, receivedAtMs: number): NumbersNow | undefined {
  const totals = stats["totals"] as { counts?: Queue["counts"]; rates_1m?: Queue["rates_1m"] } | undefined;
  const at = Date.parse(stats.at);
  if (!totals?.counts || !totals.rates_1m || Number.isNaN(at)) {
    return undefined;
  }
  return {
    at: stats.at,
    totals: { counts: totals.counts, rates: totals.rates_1m },
    queues: new Map(Object.entries((stats["queues"] ?? {}) as Record<string, Queue>)),
    lagMs: (stats["stream"] as { lag_ms?: number } | undefined)?.lag_ms ?? 0,
    clockAheadMs: at - receivedAtMs,
  };
}
