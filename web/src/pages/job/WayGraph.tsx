import { Anchor } from "@mantine/core";
import { useEffect, useRef, type JSX } from "react";
import { jobStatuses } from "../../api/types";
import { formatSpan, plural } from "../../components/format";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import { useClock } from "../../shell/useClock";
import { folded, type Stop } from "./way";
import classes from "./WayGraph.module.css";

// In pixels: a stop, the room between two, and around all of them.
const stop = { width: 176, height: 62 };
const gap = { x: 28, y: 12 };
const edge = 14;

/** Of a way that is longer only so many stops are drawn, of its beginning and its end. */
const firstStops = 4;
const lastStops = 20;

type Shown = { readonly kind: "stop"; readonly stop: Stop } | { readonly kind: "left"; readonly n: number };

/** The way of a job as a graph: each status that it was in has a lane, each stay is a stop, from left to right. */
export function WayGraph({ way }: { way: readonly Stop[] }): JSX.Element {
  const scroller = useRef<HTMLDivElement>(null);
  const { head, left, tail } = folded(way, firstStops, lastStops);
  const shown: Shown[] = [
    ...head.map((one) => ({ kind: "stop" as const, stop: one })),
    ...(left > 0 ? [{ kind: "left" as const, n: left }] : []),
    ...tail.map((one) => ({ kind: "stop" as const, stop: one })),
  ];
  const used = new Set(shown.flatMap((one) => one.kind === "stop" ? one.stop.status : []));
  const lanes = jobStatuses.filter((status) => used.has(status));
  let lane = 0; // of the stop before, where what was left out is drawn
  const places = shown.map((one, i) => {
    lane = one.kind === "stop" ? lanes.indexOf(one.stop.status) : lane;
    return { one, x: edge + i * (stop.width + gap.x), y: edge + lane * (stop.height + gap.y) };
  });
  const width = 2 * edge + places.length * (stop.width + gap.x) - gap.x;
  const height = 2 * edge + lanes.length * (stop.height + gap.y) - gap.y;

  // Where the job is now is at the right end.
  useEffect(() => { scroller.current?.scrollTo({ left: width }); }, [width]);

  return (
    <div className={classes["scroller"]} ref={scroller} tabIndex={0} role="region" aria-label="The way of the job">
      <div className={classes["graph"]} style={{ width, height }}>
        <svg className={classes["edges"]} width={width} height={height} aria-hidden="true" focusable="false">
          {places.slice(1).map(({ x, y }, i) => {
            const from = places[i];
            return from && <path key={i} d={curve(from.x + stop.width, from.y + stop.height / 2, x, y + stop.height / 2)} />;
          })}
        </svg>
        <ol className={classes["stops"]}>
          {places.map(({ one, x, y }, i) => (
            <li key={i} className={`${classes["stop"] ?? ""} ${one.kind === "left" ? classes["left"] ?? "" : ""}`} data-now={i === places.length - 1}
              aria-current={i === places.length - 1 ? "step" : undefined} style={{ left: x, top: y, ...stop }}>
              {one.kind === "left" ? `${plural(one.n, "more stop")} between` : <StopText stop={one.stop} />}
            </li>
          ))}
        </ol>
      </div>
    </div>
  );
}

function StopText({ stop: { status, at, until, attempt, why } }: { stop: Stop }): JSX.Element {
  const nowMs = useClock();
  const stay = ((until === undefined ? nowMs : Date.parse(until)) - Date.parse(at)) / 1000;
  const isEnd = status === "completed" || status === "dead" || status === "cancelled";
  return (
    <>
      <span><StatusBadge status={status} />{attempt !== undefined && <>{" "}<Anchor href={`#attempt-${attempt}`} fz="inherit">{`attempt ${attempt}`}</Anchor></>}</span>
      <span className={classes["soft"]}><Time at={at} />{!(isEnd && until === undefined) && `, for ${formatSpan(Math.max(0, until === undefined ? Math.floor(stay) : stay))}`}</span>
      {why !== undefined && <span className={classes["soft"]} title={why}>{why}</span>}
    </>
  );
}

function curve(fromX: number, fromY: number, toX: number, toY: number): string {
  const middle = (fromX + toX) / 2;
  return `M${fromX} ${fromY}C${middle} ${fromY} ${middle} ${toY} ${toX} ${toY}`;
}
