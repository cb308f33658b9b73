import type { Job } from "../api/types";
import type { StreamEvent } from "../stream";
import { fold, type JobRow } from "./fold";
import { Painted, type NextFrame } from "./painted";

/**
 * The jobs that somebody looks at, by id, as new as what was fetched and what was told since, whichever is newer. A row lives
 * as long as somebody retains it.
 */
export class JobRows extends Painted<ReadonlyMap<string, JobRow>> {
  private readonly rows = new Map<string, JobRow>();
  private readonly holders = new Map<string, number>();

  constructor(frames?: NextFrame) {
    super(new Map(), frames);
  }

  /** Keeps the rows of a page until the function that it returns is called. */
  retain(jobs: readonly Job[]): () => void {
    for (const { id } of jobs) {
      this.holders.set(id, (this.holders.get(id) ?? 0) + 1);
    }
    this.load(jobs);
    return () => {
      for (const { id } of jobs) {
        const left = (this.holders.get(id) ?? 1) - 1;
        if (left > 0) {
          this.holders.set(id, left);
        } else {
          this.holders.delete(id);
          this.rows.delete(id);
        }
      }
      this.touch();
    };
  }

  /** Takes in what was fetched of rows that are kept. What is older than the row changes nothing. */
  load(jobs: readonly Job[]): void {
    for (const job of jobs) {
      const row = this.rows.get(job.id);
      if (this.holders.has(job.id) && (!row || job.version >= row.job.version)) {
        this.rows.set(job.id, { job, isGone: false, isStale: false });
        this.touch();
      }
    }
  }

  apply(events: readonly StreamEvent[]): void {
    for (const event of events) {
      const row = event.job_id === null ? undefined : this.rows.get(event.job_id);
      if (!row) {
        continue;
      }
      const next = fold(row, event);
      if (next !== row) {
        this.rows.set(row.job.id, next);
        this.touch();
      }
    }
  }

  /** Events were left out: any row may have changed. */
  doubt(): void {
    for (const [id, row] of this.rows) {
      if (!row.isGone && !row.isStale) {
        this.rows.set(id, { ...row, isStale: true });
      }
    }
    this.touch();
  }

  /** A call found that there is no such job any more. */
  drop(id: string): void {
    const row = this.rows.get(id);
    if (row && !row.isGone) {
      this.rows.set(id, { ...row, isGone: true, isStale: false });
      this.touch();
    }
  }

  /** Which of these have to be fetched again. */
  stale(ids: Iterable<string>): string[] {
    return [...ids].filter((id) => this.rows.get(id)?.isStale);
  }

  protected override draw(): ReadonlyMap<string, JobRow> {
    return new Map(this.rows);
  }
}
