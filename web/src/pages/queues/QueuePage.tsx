import { Paper, SegmentedControl, SimpleGrid, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, type JSX } from "react";
import { queueStatsQuery, workersQuery } from "../../api/queries";
import type { Queue } from "../../api/types";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, formatRate, formatSpan } from "../../components/format";
import { NameCell, NumberCells, PlainTable } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import { useClock } from "../../shell/useClock";
import { waitSeconds } from "../overview/answers";
import { QueueActions } from "./QueueActions";
import { workersOf } from "./queues";
import { QueueState } from "./QueuesPage";
import { useQueues } from "./useQueues";
import classes from "./QueuePage.module.css";

const QueueCharts = lazy(async () => ({ default: (await import("./QueueCharts")).QueueCharts }));

const windows = ["15m", "1h", "6h", "24h"] as const;
const statuses = ["pending", "running", "retrying", "scheduled", "blocked", "dead"] as const;

/** One queue: how it stands, how it went, who works on it. */
export function QueuePage(): JSX.Element {
  const { name = "" }: { name?: string } = useParams({ strict: false });
  const { api } = useServices();
  const { queues, query } = useQueues();
  const nowMs = useClock();
  const queue = queues?.find((one) => one.name === name);
  if (!queue) {
    return (
      <>
        <PageTitle title={`Queue ${name}`} />
        {query.error && <Failed error={query.error} onRetry={() => { void query.refetch(); }} what="The queue could not be loaded" />}
        {!query.error && !queues && <RowsSkeleton />}
        {queues && (
          <Empty title="There is no such queue, or not yet." command={`curl -s ${location.origin}${api.address("/jobs")} -H 'Content-Type: application/json' -d '{"queue":"${name.replace(/[^\w.-]/g, "")}","payload":{}}'`}>
            A queue is there as soon as a job names it:
          </Empty>
        )}
      </>
    );
  }
  return (
    <>
      <PageTitle title={`Queue ${name}`}><QueueActions queue={queue} /></PageTitle>
      <Standing queue={queue} nowMs={nowMs} />
      <Course name={name} />
      <Crew name={name} slots={queue.slots} />
    </>
  );
}

function Standing({ queue, nowMs }: { queue: Queue; nowMs: number }): JSX.Element {
  const { pause, rates_1m: rates } = queue;
  const facts: readonly (readonly [string, string])[] = [
    ["Oldest wait", queue.oldest_pending_at ? formatSpan(Math.floor(waitSeconds(queue, nowMs))) : "–"],
    ["In, done, failed a second", `${formatRate(rates.enqueued)}, ${formatRate(rates.completed)}, ${formatRate(rates.failed)}`],
    ["Wait p50, p95, p99", [queue.wait_seconds.p50, queue.wait_seconds.p95, queue.wait_seconds.p99].map(formatSpan).join(", ")],
    ["Run p50, p95, p99", [queue.run_seconds.p50, queue.run_seconds.p95, queue.run_seconds.p99].map(formatSpan).join(", ")],
    ["Busy slots", `${formatCount(queue.busy)} of ${formatCount(queue.slots)}`],
  ];
  return (
    <>
      <div className={classes["state"]}>
        <QueueState queue={queue} nowMs={nowMs} />
        {pause && (
          <Text size="sm" component="span">
            {"Paused "}<Time at={pause.at} />{pause.actor && ` by ${pause.actor}`}{pause.reason && `: ${pause.reason}`}{pause.until ? <>{". It ends "}<Time at={pause.until} />.</> : ". It lasts until somebody resumes it."}
          </Text>
        )}
      </div>
      <Paper withBorder p="sm" mb="md">
        <div className={classes["counts"]}>
          {statuses.map((status) => (
            <PageLink key={status} to="/jobs" search={{ queue: queue.name, status }} c="inherit" aria-label={`${formatCount(queue.counts[status])} ${status} jobs`}>
              <StatusBadge status={status} /><span className={classes["count"]}>{formatCount(queue.counts[status])}</span>
            </PageLink>
          ))}
        </div>
        <dl className={classes["facts"]}>
          {facts.map(([title, text]) => <div key={title}><dt>{title}</dt><dd>{text}</dd></div>)}
        </dl>
      </Paper>
    </>
  );
}

/** Throughput, wait and run over a window that stands in the address. */
function Course({ name }: { name: string }): JSX.Element {
  const { api, live } = useServices();
  const search: Search = useSearch({ strict: false });
  const navigate = useNavigate();
  const isPaused = usePainted(live.pauses).size > 0;
  const span = windows.find((one) => one === search["window"]) ?? "15m";
  const stats = useQuery({ ...queueStatsQuery(api, name, span), refetchInterval: isPaused ? false : span === "15m" ? 5000 : 30_000 });
  return (
    <>
      <div className={classes["heading"]}>
        <Title order={2}>How it went</Title>
        <SegmentedControl size="xs" aria-label="Window" value={span} data={[...windows]}
          onChange={(value) => { void navigate({ to: ".", search: { ...search, window: value === "15m" ? "" : value }, replace: true }); }} />
      </div>
      {stats.error && !stats.data && <Failed error={stats.error} onRetry={() => { void stats.refetch(); }} />}
      {stats.data && stats.data.points.length > 2 && <Suspense fallback={<RowsSkeleton rows={5} />}><QueueCharts stats={stats.data} span={span} /></Suspense>}
      {stats.data && stats.data.points.length <= 2 && <Text size="sm" c="dimmed">This node has only begun to watch. The charts come within a minute.</Text>}
      {!stats.data && !stats.error && <SimpleGrid cols={{ base: 1, md: 3 }}><RowsSkeleton rows={5} /><RowsSkeleton rows={5} /><RowsSkeleton rows={5} /></SimpleGrid>}
    </>
  );
}

function Crew({ name, slots }: { name: string; slots: number }): JSX.Element {
  const { api } = useServices();
  const workers = useQuery(workersQuery(api));
  const crew = workersOf(name, workers.data?.data ?? []);
  return (
    <section className={classes["section"]} aria-label="Workers">
      <Title order={2} mb="xs">Who works on it</Title>
      {workers.error && !workers.data && <Failed error={workers.error} onRetry={() => { void workers.refetch(); }} what="The workers could not be loaded" />}
      {workers.data && crew.length === 0 && <Text size="sm" c="dimmed">{slots > 0 ? "No remote worker; the server has slots of its own for it." : "Nobody. Its jobs wait until a worker takes this queue."}</Text>}
      {crew.length > 0 && (
        <PlainTable label="Workers" minWidth={480} columns={[{ title: "Worker" }, { title: "Weight", isNumber: true }, { title: "Busy", isNumber: true }, { title: "Last seen" }]}>
          {crew.map((worker) => (
            <Table.Tr key={worker.id}>
              <NameCell name={worker.name}><PageLink to="/workers">{worker.name}</PageLink></NameCell>
              <NumberCells texts={[String(worker.queues[name] ?? worker.queues["*"] ?? 0), `${worker.busy} of ${worker.slots}`]} />
              <Table.Td><Time at={worker.last_seen_at} /></Table.Td>
            </Table.Tr>
          ))}
        </PlainTable>
      )}
    </section>
  );
}
