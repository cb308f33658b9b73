import type { JobList } from "../api/types";
import type { JobRows } from "./rows";

/** GET /jobs takes so many ids. */
const maxIDs = 100;

export interface RefresherOptions {
  rows: JobRows;
  /** Fetches jobs by their ids, at most 100. */
  fetch: (ids: readonly string[], signal: AbortSignal) => Promise<JobList>;
  /** The cursor as of which rows were fetched. */
  onFresh?: (asOf: string) => void;
  /** Between two calls, in milliseconds (2000): what changes all the time does not make a viewer ask all the time. */
  pauseMs?: number;
}

/** Fetches the stale ones of the rows that are in sight, in batches, one call at a time. */
export class Refresher {
  private inSight: readonly string[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private end: AbortController | undefined; // while it is open
  private isBusy = false;
  private lastMs = -Infinity;
  private readonly pauseMs: number;
  private unsubscribe: (() => void) | undefined;

  constructor(private readonly options: RefresherOptions) {
    this.pauseMs = options.pauseMs ?? 2000;
  }

  /** Begins. It may be closed and opened again. */
  open(): void {
    this.end ??= new AbortController();
    this.unsubscribe ??= this.options.rows.subscribe(() => { this.consider(); });
    this.consider();
  }

  /** These are in sight now. */
  look(ids: readonly string[]): void {
    this.inSight = ids;
    this.consider();
  }

  close(): void {
    this.unsubscribe?.();
    clearTimeout(this.timer);
    this.end?.abort();
    this.unsubscribe = this.timer = this.end = undefined;
  }

  private consider(): void {
    if (this.isBusy || this.timer !== undefined || !this.end || this.options.rows.stale(this.inSight).length === 0) {
      return;
    }
    const pause = Math.max(0, this.lastMs + this.pauseMs - Date.now());
    this.timer = setTimeout(() => {
      this.timer = undefined;
      void this.refresh();
    }, pause);
  }

  private async refresh(): Promise<void> {
    const { rows, fetch, onFresh } = this.options;
    const ids = rows.stale(this.inSight).slice(0, maxIDs);
    const { end } = this;
    if (ids.length === 0 || !end) {
      return;
    }
    this.isBusy = true;
    this.lastMs = Date.now();
    try {
      const { data, as_of: asOf } = await fetch(ids, end.signal);
      rows.load(data);
      const found = new Set(data.map(({ id }) => id));
      ids.filter((id) => !found.has(id)).forEach((id) => { rows.drop(id); });
      onFresh?.(asOf);
    } catch {
      // The strip says when the server is away; the rows stay stale, and the next try is a pause later.
    } finally {
      this.isBusy = false;
      this.consider();
    }
  }
}
