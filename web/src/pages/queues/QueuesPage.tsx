import { Button, Table, TextInput } from "@mantine/core";
import { useInViewport } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { useRef, useState, type JSX } from "react";
import { queueStatsQuery } from "../../api/queries";
import type { Queue } from "../../api/types";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, formatRate, formatSpan, plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { Mark } from "../../components/Mark";
import { NameCell, NumberCells, PlainTable, type Column } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Sparkline } from "../../components/Sparkline";
import { useRowKeys } from "../../components/useRowKeys";
import { usePainted, useServices } from "../../shell/services";
import { useClock } from "../../shell/useClock";
import { useKeys } from "../../shell/useKeys";
import { lateAfterSeconds, troublesOf, waitSeconds } from "../overview/answers";
import { QueueActions } from "./QueueActions";
import { arrange } from "./queues";
import { useQueues } from "./useQueues";

/** Beyond that somebody has to say what they look for. */
const maxShown = 100;

const columns: readonly Column[] = [
  { title: "Queue" }, { title: "State" },
  ...["Oldest wait", "Pending", "Running", "Retrying", "Scheduled", "Dead", "In · done · failed/s"].map((title) => ({ title, isNumber: true })),
  { title: "Last 15 min" }, { title: "Busy", isNumber: true }, { title: "Action", isUnseen: true },
];

/** All queues, the one that waits longest first. */
export function QueuesPage(): JSX.Element {
  const { api } = useServices();
  const nowMs = useClock();
  const { queues, query } = useQueues();
  const [wanted, setWanted] = useState("");
  const [held, setHeld] = useState<readonly string[]>();
  const table = useRef<HTMLDivElement>(null);
  const field = useRef<HTMLInputElement>(null);
  useRowKeys(table);
  useKeys([{ keys: "/", does: "Filter", run: () => { field.current?.focus(); } }]);

  const sorted = queues && arrange(queues, held, nowMs);
  const found = sorted?.filter(({ name }) => name.toLowerCase().includes(wanted.trim().toLowerCase()));
  return (
    <>
      <PageTitle title="Queues">
        <TextInput ref={field} size="xs" aria-label="Filter" placeholder="name" leftSection={<Icon name="search" size={14} />} value={wanted} spellCheck={false}
          onChange={(event) => { setWanted(event.currentTarget.value); }} />
      </PageTitle>
      {query.error && !queues && <Failed error={query.error} onRetry={() => { void query.refetch(); }} what="The queues could not be loaded" />}
      {!query.error && !queues && <RowsSkeleton rows={10} />}
      {queues?.length === 0 && (
        <Empty title="There are no queues yet." command={`curl -s ${location.origin}${api.address("/jobs")} -H 'Content-Type: application/json' -d '{"queue":"mail","payload":{}}'`}>
          A queue is there as soon as a job names it:
        </Empty>
      )}
      {found?.length === 0 && queues && queues.length > 0 && <Empty title="No queue has a name like that."><Button size="compact-sm" variant="default" onClick={() => { setWanted(""); }}>Show all</Button></Empty>}
      {found && found.length > 0 && (
        <PlainTable label="Queues" columns={columns} minWidth={1100} ref={table} onHold={(isHeld) => { setHeld(isHeld ? sorted?.map(({ name }) => name) : undefined); }}>
          {found.slice(0, maxShown).map((queue) => <QueueRow key={queue.name} queue={queue} nowMs={nowMs} />)}
        </PlainTable>
      )}
      {found && found.length > maxShown && `${plural(found.length - maxShown, "queue")} more: filter by name.`}
    </>
  );
}

function QueueRow({ queue, nowMs }: { queue: Queue; nowMs: number }): JSX.Element {
  const { counts, rates_1m: rates } = queue;
  return (
    <Table.Tr>
      <NameCell name={queue.name}><PageLink to={`/queues/${queue.name}`}>{queue.name}</PageLink></NameCell>
      <Table.Td><QueueState queue={queue} nowMs={nowMs} isShort /></Table.Td>
      <NumberCells texts={[
        queue.oldest_pending_at ? formatSpan(Math.floor(waitSeconds(queue, nowMs))) : "–", formatCount(counts.pending), formatCount(counts.running), formatCount(counts.retrying),
        formatCount(counts.scheduled), formatCount(counts.dead), [rates.enqueued, rates.completed, rates.failed].map(formatRate).join(" · "),
      ]} />
      <Table.Td><Course queue={queue.name} /></Table.Td>
      <Table.Td ta="right">{`${formatCount(queue.busy)} of ${formatCount(queue.slots)}`}</Table.Td>
      <Table.Td><QueueActions queue={queue} /></Table.Td>
    </Table.Tr>
  );
}

/** Its troubles; short: the worst, and how many more there are. */
export function QueueState({ queue, nowMs, isShort = false }: { queue: Queue; nowMs: number; isShort?: boolean }): JSX.Element {
  const troubles = troublesOf(queue, nowMs);
  const isLate = !queue.paused && waitSeconds(queue, nowMs) > lateAfterSeconds;
  const worst = queue.paused ? "paused" : troubles[0] ?? "";
  const text = isShort && troubles.length > 1 ? `${worst}, ${troubles.length - 1} more` : troubles.join(", ");
  return troubles.length === 0 ? <Mark tone="good" icon="check">well</Mark>
    : <Mark tone={isLate ? "bad" : "warn"} icon={queue.paused ? "pause" : "failures"}>{text}</Mark>;
}

/** Asked for while the row is in sight, out of the memory of the node. */
function Course({ queue }: { queue: string }): JSX.Element {
  const { api, live } = useServices();
  const { ref, inViewport } = useInViewport();
  const isPaused = usePainted(live.pauses).size > 0;
  const { data } = useQuery({ ...queueStatsQuery(api, queue, "15m", "30s"), enabled: inViewport, refetchInterval: isPaused ? false : 15_000 });
  const done = data?.points.slice(0, -1).map(({ completed }) => completed) ?? []; // the last step is not over
  return (
    <div ref={ref} style={{ height: 20, width: 96 }}>
      {done.length > 1 && <Sparkline values={done} color="--completed" label={`${plural(done.reduce((sum, n) => sum + n, 0), "job")} of ${queue} completed in the last 15 minutes`} />}
    </div>
  );
}
