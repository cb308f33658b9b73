import { Checkbox } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useEffectEvent, useImperativeHandle, useRef, type JSX, type MouseEvent, type Ref } from "react";
import type { Job } from "../../api/types";
import { shortID } from "../../components/format";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import type { JobRow } from "../../store/fold";
import { isPage, type Selection } from "./selection";
import classes from "./JobTable.module.css";

const rowHeight = 32;
/** So many rows before the end the next page is fetched. */
const ahead = 20;

/** What keys do with the table. */
export interface JobTableHandle {
  /** Moves the focus by so many rows. */
  move: (by: number) => void;
  /** The id of the row that has the focus. */
  focused: () => string | undefined;
  toTop: () => void;
}

interface JobTableProps {
  rows: readonly JobRow[];
  /** Undefined: nothing can be selected. */
  selection: Selection | undefined;
  onToggle: (id: string, isRange: boolean) => void;
  /** All rows that are there, or none of them. */
  onTogglePage: () => void;
  onSight: (ids: readonly string[]) => void;
  onNearEnd: () => void;
  ref: Ref<JobTableHandle>;
}

/** The jobs, a row each, of which only those in sight are drawn. Rows change in place. */
export function JobTable({ rows, selection, onToggle, onTogglePage, onSight, onNearEnd, ref }: JobTableProps): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  // eslint-disable-next-line react-hooks/incompatible-library -- nothing of it is handed to what is memoised
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => rowHeight, overscan: 12 });
  const items = virtual.getVirtualItems();
  const inSight = items.flatMap(({ index }) => rows[index]?.job.id ?? []).join(" ");
  const last = items.at(-1)?.index ?? 0;

  const handleSight = useEffectEvent(onSight);
  const handleNearEnd = useEffectEvent(onNearEnd);
  useEffect(() => { handleSight(inSight === "" ? [] : inSight.split(" ")); }, [inSight]);
  useEffect(() => {
    if (last + ahead >= rows.length) {
      handleNearEnd();
    }
  }, [last, rows.length]);

  const focusedIndex = (): number => Number(document.activeElement?.closest<HTMLElement>("[data-index]")?.dataset["index"] ?? "-1");
  useImperativeHandle(ref, () => ({
    move: (by) => {
      const index = Math.min(Math.max(focusedIndex() + by, 0), rows.length - 1);
      virtual.scrollToIndex(index, { align: "auto" });
      requestAnimationFrame(() => {
        scroller.current?.querySelector<HTMLElement>(`[data-index="${index}"] a`)?.focus();
      });
    },
    focused: () => rows[focusedIndex()]?.job.id,
    toTop: () => { virtual.scrollToOffset(0); },
  }));

  return (
    <div className={classes["scroller"]} ref={scroller} tabIndex={0} role="region" aria-label="Jobs">
      <div role="table" aria-label="Jobs" aria-rowcount={rows.length + 1} className={classes["table"]} data-selectable={selection !== undefined}>
        <div role="row" aria-rowindex={1} className={classes["head"]}>
          {selection && (
            <span role="columnheader">
              <Checkbox size="xs" readOnly checked={isPage(selection, rows)} indeterminate={selection.ids.size > 0 && !isPage(selection, rows)} onClick={onTogglePage}
                aria-label="Select all rows that are loaded" />
            </span>
          )}
          {["Status", "Kind", "Queue", "Attempt", "Created", "Due or ended", "Worker", "What is known", "Job"].map((name) => (
            <span role="columnheader" key={name}>{name}</span>
          ))}
        </div>
        <div role="rowgroup" style={{ height: virtual.getTotalSize(), position: "relative" }}>
          {items.map(({ index, start }) => {
            const row = rows[index];
            return row && (
              <div role="row" key={row.job.id} aria-rowindex={index + 2} data-index={index} className={classes["row"]}
                data-gone={row.isGone} data-selected={selection?.ids.has(row.job.id)} style={{ transform: `translateY(${start}px)` }}>
                <Cells row={row} isSelected={selection?.ids.has(row.job.id)} onToggle={onToggle} />
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

interface CellsProps {
  row: JobRow;
  isSelected: boolean | undefined;
  onToggle: (id: string, isRange: boolean) => void;
}

function Cells({ row: { job, isGone }, isSelected, onToggle }: CellsProps): JSX.Element {
  const handleSelect = (event: MouseEvent): void => { onToggle(job.id, event.shiftKey); };
  return (
    <>
      {isSelected !== undefined && (
        <span role="cell">
          <Checkbox size="xs" checked={isSelected} readOnly onClick={handleSelect} aria-label={`Select job ${shortID(job.id)}`} />
        </span>
      )}
      <span role="cell">{isGone ? "deleted" : <StatusBadge status={job.status} />}</span>
      <span role="cell" title={job.kind}>{job.kind}</span>
      <span role="cell" title={job.queue}>{job.priority === "normal" ? job.queue : `${job.queue} · ${job.priority}`}</span>
      <span role="cell" className={classes["number"]}>{`${job.attempt} of ${job.attempt + job.attempts_left}`}</span>
      <span role="cell"><Time at={job.created_at} /></span>
      <span role="cell"><Time at={momentOf(job)} /></span>
      <span role="cell" title={job.locked_by ?? ""}>{job.locked_by ?? "–"}</span>
      <span role="cell" title={known(job)} className={classes["soft"]}>{known(job)}</span>
      <span role="cell"><Link to={`/jobs/${job.id}`} className={classes["link"] ?? ""} title={job.id} aria-label={`Job ${shortID(job.id)}, ${job.id}`}>{shortID(job.id)}</Link></span>
    </>
  );
}

/** When it ended, started or is due. */
function momentOf(job: Job): string | null {
  return job.finished_at ?? (job.status === "running" ? job.locked_at : job.run_at);
}

/** The one thing that says most about a job: how far it is, or what went wrong. */
function known(job: Job): string {
  if (job.status === "running" && job.progress) {
    return `${Math.round(job.progress.percent)} % ${job.progress.message}`.trim();
  }
  if (job.error && job.status !== "completed") {
    return `${job.error.type}: ${job.error.message}`;
  }
  return job.reason ?? "";
}
