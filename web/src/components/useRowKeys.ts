import type { RefObject } from "react";
import { useKeys } from "../shell/useKeys";

/** `j` and `k` move the focus between the rows of a table that is drawn whole: to the first link or button of each. */
export function useRowKeys(table: RefObject<HTMLElement | null>): void {
  const move = (by: number): void => {
    const rows = [...table.current?.querySelectorAll<HTMLElement>("tbody tr") ?? []].filter((row) => row.querySelector("a, button"));
    const now = rows.findIndex((row) => row.contains(document.activeElement));
    rows[Math.min(Math.max(now + by, 0), rows.length - 1)]?.querySelector<HTMLElement>("a, button")?.focus();
  };
  useKeys([
    { keys: "j", does: "Next row; Enter opens it", run: () => { move(1); } },
    { keys: "k", does: "Row before", run: () => { move(-1); } },
  ]);
}
