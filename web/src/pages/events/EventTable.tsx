import { Link } from "@tanstack/react-router";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useImperativeHandle, useRef, type JSX, type Ref } from "react";
import { shortID } from "../../components/format";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import { isStatus } from "../../store/fold";
import type { StreamEvent } from "../../stream";
import { summaryOf } from "./events";
import classes from "./EventTable.module.css";

const rowHeight = 32;

export interface EventTableHandle {
  move: (by: number) => void;
  toTop: () => void;
}

interface EventTableProps {
  events: readonly StreamEvent[];
  /** The absolute time, where the order is what matters. */
  isAbsolute: boolean;
  onOpen: (event: StreamEvent) => void;
  /** Whether somebody reads in it: the pointer or the focus is there, or it is scrolled. */
  onHold?: (isHeld: boolean) => void;
  ref: Ref<EventTableHandle>;
}

/** Events, a row each, of which only those in sight are drawn. */
export function EventTable({ events, isAbsolute, onOpen, onHold, ref }: EventTableProps): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  // eslint-disable-next-line react-hooks/incompatible-library -- nothing of it is handed to what is memoised
  const virtual = useVirtualizer({ count: events.length, getScrollElement: () => scroller.current, estimateSize: () => rowHeight, overscan: 12, getItemKey: (index) => events[index]?.cursor ?? index });
  useImperativeHandle(ref, () => ({
    move: (by) => {
      const now = Number(document.activeElement?.closest<HTMLElement>("[data-index]")?.dataset["index"] ?? "-1");
      const index = Math.min(Math.max(now + by, 0), events.length - 1);
      virtual.scrollToIndex(index, { align: "auto" });
      requestAnimationFrame(() => { scroller.current?.querySelector<HTMLElement>(`[data-index="${index}"] button`)?.focus(); });
    },
    toTop: () => { virtual.scrollToOffset(0); },
  }));
  const handleLeave = (): void => {
    const { current } = scroller;
    onHold?.(current !== null && (current.scrollTop > 0 || current.contains(document.activeElement)));
  };
  return (
    <div className={classes["scroller"]} ref={scroller} tabIndex={0} role="region" aria-label="Events" onPointerEnter={() => { onHold?.(true); }} onPointerLeave={handleLeave}
      onFocus={(event) => {
        if (event.target !== event.currentTarget) {
          onHold?.(true);
        }
      }} onScroll={() => {
        if ((scroller.current?.scrollTop ?? 0) > 0) {
          onHold?.(true);
        }
      }}>
      <div role="table" aria-label="Events" aria-rowcount={events.length + 1} className={classes["table"]} data-absolute={isAbsolute}>
        <div role="row" aria-rowindex={1} className={classes["head"]}>
          {["Position", "Time", "Event", "Queue", "Kind", "Job is", "Attempt", "Says", "Job"].map((name) => <span role="columnheader" key={name}>{name}</span>)}
        </div>
        <div role="rowgroup" style={{ height: virtual.getTotalSize(), position: "relative" }}>
          {virtual.getVirtualItems().map(({ index, start, key }) => {
            const event = events[index];
            return event && (
              <div role="row" key={key} aria-rowindex={index + 2} data-index={index} className={classes["row"]} style={{ transform: `translateY(${start}px)` }}>
                <span role="cell"><button type="button" className={classes["open"]} onClick={() => { onOpen(event); }} aria-label={`Event ${event.seq}`} title={event.cursor}>{event.seq}</button></span>
                <span role="cell"><Time at={event.timestamp} isAbsolute={isAbsolute} /></span>
                <span role="cell" title={event.type}>{event.type}</span>
                <span role="cell" title={event.queue ?? ""}>{event.queue ?? "–"}</span>
                <span role="cell" title={event.kind ?? ""}>{event.kind ?? "–"}</span>
                <span role="cell">{isStatus(event.status) ? <StatusBadge status={event.status} /> : event.status ?? "–"}</span>
                <span role="cell">{event.attempt ?? "–"}</span>
                <span role="cell" className={classes["soft"]} title={summaryOf(event)}>{summaryOf(event)}</span>
                <span role="cell">{event.job_id === null ? "–" : <Link to={`/jobs/${event.job_id}`} className={classes["link"] ?? ""} aria-label={`Job ${shortID(event.job_id)}, ${event.job_id}`}>{shortID(event.job_id)}</Link>}</span>
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
