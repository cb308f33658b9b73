import type { StreamEvent } from "../stream";
import { Painted, type NextFrame } from "./painted";

const maxEntries = 500;

/** The newest events, newest first, each once: at most 500, however many come. */
export class Feed extends Painted<readonly StreamEvent[]> {
  /** By position, oldest first. */
  private entries: StreamEvent[] = [];

  constructor(frames?: NextFrame, private readonly limit = maxEntries) {
    super([], frames);
  }

  push(events: readonly StreamEvent[]): void {
    const before = this.entries.at(-1);
    const isInOrder = events.every((event, i) => compare(i === 0 ? before : events[i - 1], event) < 0);
    if (isInOrder) { // as a subscription hands them over
      this.entries.push(...events);
    } else {
      const byCursor = new Map([...this.entries, ...events].map((event) => [event.cursor, event]));
      this.entries = [...byCursor.values()].sort(compare);
    }
    if (this.entries.length > this.limit) {
      this.entries = this.entries.slice(-this.limit);
    }
    this.touch();
  }

  clear(): void {
    this.entries = [];
    this.touch();
  }

  protected override draw(): readonly StreamEvent[] {
    return this.entries.toReversed();
  }
}

function compare(a: StreamEvent | undefined, b: StreamEvent): number {
  return a === undefined ? -1 : a.epoch - b.epoch || a.seq - b.seq;
}
