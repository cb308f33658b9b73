import type { JobAction, Operation } from "../api/types";

/** What is done to many at once; the words are those of buttons and questions. */
export const bulkActions = { retry: "Retry", "run-now": "Run now", cancel: "Cancel", delete: "Delete" } as const satisfies Partial<Record<JobAction, string>>;
export type BulkAction = keyof typeof bulkActions;

/** In the order of buttons. */
export const bulkActionNames = Object.keys(bulkActions) as BulkAction[];

export function isDangerous(action: BulkAction): boolean {
  return action === "cancel" || action === "delete";
}

/** How much of an operation is dealt with, from 0 to 1. */
export function shareOf({ total, done, skipped, failed }: Pick<Operation, "total" | "done" | "skipped" | "failed">): number {
  return total === 0 ? 1 : Math.min(1, (done + skipped + failed) / total);
}

/** Reads a number of jobs a second; undefined: none is given. NaN: it is not one. */
export function rateOf(text: string): number | undefined {
  const typed = text.trim();
  return typed === "" ? undefined : /^[1-9]\d{0,5}$/.test(typed) ? Number(typed) : NaN;
}

/** The filter of an operation in words: "status dead or retrying, queue mail". */
export function filterInWords(filter: Operation["filter"]): string {
  if (filter === null) {
    return "jobs that were chosen one by one";
  }
  const parts = Object.entries(filter).flatMap(([name, value]) => {
    if (value === null || value === undefined || (Array.isArray(value) && value.length === 0)) {
      return [];
    }
    const text = Array.isArray(value) ? value.map(String).join(" or ") : typeof value === "string" ? value : JSON.stringify(value);
    return `${name === "within" ? "only of the queue" : name.replaceAll("_", " ")} ${text}`;
  });
  return parts.join(", ") || "all jobs";
}
