import { Paper, SimpleGrid, Title } from "@mantine/core";
import { useMemo, type JSX } from "react";
import type { Stats } from "../../api/types";
import { Chart } from "../../components/Chart";
import { formatCount, formatRate, formatSpan } from "../../components/format";

const asCount = (value: number | null): string => value === null ? "–" : formatCount(value);

/** The last quarter of an hour: what was done, what waits, how long it waits. */
export function Charts({ stats }: { stats: Stats }): JSX.Element {
  const { times, done, backlog, waits } = useMemo(() => seriesOf(stats), [stats]);
  return (
    <SimpleGrid cols={{ base: 1, md: 3 }} spacing="md">
      <Paper withBorder p="sm"><Title order={2}>Jobs a second</Title><Chart label="Jobs completed, enqueued and failed a second, over the last 15 minutes" times={times} lines={done} format={formatRate} least={1} /></Paper>
      <Paper withBorder p="sm"><Title order={2}>Pending jobs</Title><Chart label="Pending jobs over the last 15 minutes" times={times} lines={backlog} format={asCount} least={10} /></Paper>
      <Paper withBorder p="sm"><Title order={2}>Wait</Title><Chart label="How long jobs waited, over the last 15 minutes" times={times} lines={waits} format={formatSpan} least={0.1} /></Paper>
    </SimpleGrid>
  );
}

function seriesOf({ points }: Stats) {
  const times = points.map(({ at }) => Date.parse(at) / 1000);
  const step = (times[1] ?? 1) - (times[0] ?? 0) || 1;
  const whole = points.slice(0, -1); // the last step is not over
  const rate = (of: "enqueued" | "completed" | "failed") => whole.map((point) => point[of] / step);
  return {
    times: times.slice(0, -1),
    done: [
      { label: "enqueued", color: "--scheduled", values: rate("enqueued") },
      { label: "completed", color: "--completed", values: rate("completed") },
      { label: "failed", color: "--dead", values: rate("failed") },
    ],
    backlog: [{ label: "pending", color: "--pending", values: whole.map(({ backlog }) => backlog) }],
    waits: [
      { label: "p50", color: "--soft", values: whole.map(({ wait_seconds: { p50 } }) => p50) },
      { label: "p95", color: "--running", values: whole.map(({ wait_seconds: { p95 } }) => p95) },
    ],
  };
}
