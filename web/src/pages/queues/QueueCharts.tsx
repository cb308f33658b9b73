import { Paper, SimpleGrid, Title } from "@mantine/core";
import { useMemo, type JSX } from "react";
import type { Stats } from "../../api/types";
import { Chart, type Line } from "../../components/Chart";
import { formatRate, formatSpan } from "../../components/format";

/** Throughput, wait and run of a queue. */
export function QueueCharts({ stats, span }: { stats: Stats; span: string }): JSX.Element {
  const { times, done, waits, runs } = useMemo(() => seriesOf(stats), [stats]);
  return (
    <SimpleGrid cols={{ base: 1, md: 3 }} spacing="md">
      <Paper withBorder p="sm"><Title order={3}>Jobs a second</Title><Chart label={`Jobs enqueued, completed and failed a second, over ${span}`} times={times} lines={done} format={formatRate} least={1} /></Paper>
      <Paper withBorder p="sm"><Title order={3}>Wait</Title><Chart label={`How long jobs waited, over ${span}`} times={times} lines={waits} format={formatSpan} least={0.1} /></Paper>
      <Paper withBorder p="sm"><Title order={3}>Run</Title><Chart label={`How long attempts ran, over ${span}`} times={times} lines={runs} format={formatSpan} least={0.1} /></Paper>
    </SimpleGrid>
  );
}

type Spans = "wait_seconds" | "run_seconds";

function seriesOf({ points }: Stats): { times: number[]; done: Line[]; waits: Line[]; runs: Line[] } {
  const times = points.map(({ at }) => Date.parse(at) / 1000);
  const step = (times[1] ?? 1) - (times[0] ?? 0) || 1;
  const whole = points.slice(0, -1); // the last step is not over
  const rate = (of: "enqueued" | "completed" | "failed"): number[] => whole.map((point) => point[of] / step);
  const spans = (of: Spans): Line[] => [
    { label: "p50", color: "--soft", values: whole.map((point) => point[of].p50) },
    { label: "p95", color: "--running", values: whole.map((point) => point[of].p95) },
    { label: "p99", color: "--scheduled", values: whole.map((point) => point[of].p99) },
  ];
  return {
    times: times.slice(0, -1),
    done: [
      { label: "enqueued", color: "--scheduled", values: rate("enqueued") },
      { label: "completed", color: "--completed", values: rate("completed") },
      { label: "failed", color: "--dead", values: rate("failed") },
    ],
    waits: spans("wait_seconds"),
    runs: spans("run_seconds"),
  };
}
