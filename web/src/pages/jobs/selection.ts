import type { JobAction } from "../../api/types";
import type { JobRow } from "../../store/fold";

/** What is selected: ids, and the row from which a range goes on. */
export interface Selection {
  readonly ids: ReadonlySet<string>;
  readonly anchor: string | undefined;
}

export const nothing: Selection = { ids: new Set(), anchor: undefined };

/** Selects a row, or takes it out; with isRange everything between it and the row before gets what the row gets. */
export function toggle(selection: Selection, id: string, isRange: boolean, order: readonly string[]): Selection {
  const ids = new Set(selection.ids);
  const isOn = !ids.has(id);
  const from = isRange && selection.anchor !== undefined ? order.indexOf(selection.anchor) : -1;
  const to = order.indexOf(id);
  const range = from < 0 ? [id] : order.slice(Math.min(from, to), Math.max(from, to) + 1);
  for (const one of range) {
    if (isOn) {
      ids.add(one);
    } else {
      ids.delete(one);
    }
  }
  return { ids, anchor: id };
}

/** Whether all rows that are still there are selected. */
export function isPage({ ids }: Selection, rows: readonly JobRow[]): boolean {
  return ids.size > 0 && rows.every(({ job, isGone }) => isGone || ids.has(job.id));
}

/** Selects all rows that are there; none, if that is how it is already. */
export function togglePage(selection: Selection, rows: readonly JobRow[]): Selection {
  return isPage(selection, rows) ? nothing : { ids: new Set(rows.filter(({ isGone }) => !isGone).map(({ job }) => job.id)), anchor: undefined };
}

/** Which of the selected jobs an action is allowed for. */
export function allowedFor(action: JobAction, rows: readonly JobRow[], selection: Selection): string[] {
  return rows.filter(({ job, isGone }) => !isGone && selection.ids.has(job.id) && job.allowed_actions.includes(action)).map(({ job }) => job.id);
}
