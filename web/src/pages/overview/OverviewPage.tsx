import { Button, Paper, Table, Text } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useState, type JSX } from "react";
import { queuesQuery, statsQuery, workersQuery } from "../../api/queries";
import type { Queue } from "../../api/types";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, formatRate, formatSpan, plural } from "../../components/format";
import { Icon, type IconName } from "../../components/Icon";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import { useClock } from "../../shell/useClock";
import { useFollow } from "../../store/useFollow";
import { crewOf, isFailing, lateAfterSeconds, sortByTrouble, troublesOf, waitSeconds, type Answer, type Crew, type Tone } from "./answers";
import classes from "./OverviewPage.module.css";

// The numbers are there before the library that draws lines.
const Charts = lazy(async () => ({ default: (await import("./Charts")).Charts }));

const chartEveryMs = 5000;
/** Events that change what GET /queues and GET /workers say and the numbers do not. */
const watched = { types: ["queue.*", "worker.*"] };

/** Whether anything is late, failing, idle or stuck, in one look. */
export function OverviewPage(): JSX.Element {
  const { api, live } = useServices();
  const client = useQueryClient();
  const queues = useQuery(queuesQuery(api));
  const workers = useQuery(workersQuery(api));
  const isPaused = usePainted(live.pauses).size > 0;
  const stats = useQuery({ ...statsQuery(api, "15m"), refetchInterval: isPaused ? false : chartEveryMs });
  const numbers = usePainted(live.numbers);
  const line = usePainted(live.line);
  const nowMs = useClock();

  const handleChange = (): void => {
    void client.invalidateQueries(queuesQuery(api));
    void client.invalidateQueries(workersQuery(api));
  };
  useFollow(queues.data?.as_of, watched, { onEvents: handleChange, onGap: handleChange });

  if (queues.error && !queues.data) {
    return <><PageTitle title="Overview" /><Failed error={queues.error} onRetry={() => { void queues.refetch(); }} what="The queues could not be loaded" /></>;
  }
  if (!queues.data) {
    return <><PageTitle title="Overview" /><RowsSkeleton /></>;
  }
  const stored = new Map(queues.data.data.map((queue) => [queue.name, queue]));
  const now = numbers ? [...numbers.queues.values()].map((queue) => ({ ...queue, pause: stored.get(queue.name)?.pause ?? null })) : queues.data.data;
  const crew = workers.data && crewOf(workers.data.data);
  return (
    <>
      <PageTitle title="Overview" />
      <div className={classes["answers"]}>
        <Card question="Is anything late?" icon="clock" answer={lateness(now, nowMs)} />
        <Card question="Is anything failing?" icon="failures" answer={failures(now)} leadsTo={{ status: "dead" }} />
        <Card question="Who works?" icon="workers" answer={crewAnswer(crew, now)} />
        <Card question="Is the stream healthy?" icon="events" answer={line.state === "open"
          ? { tone: (numbers?.lagMs ?? 0) > 10_000 ? "bad" : "good", word: numbers ? `${formatSpan(numbers.lagMs / 1000)} behind` : "Open", detail: `node ${line.node ?? ""}` }
          : { tone: line.state === "connecting" || line.state === "off" ? "none" : "bad", word: "No line", detail: "what is shown may be old" }} />
      </div>
      {now.length === 0
        ? <Empty title="There are no jobs yet." command={`curl -s ${location.origin}${api.address("/jobs")} -H 'Content-Type: application/json' -d '{"queue":"mail","payload":{}}'`}>This enqueues the first one:</Empty>
        : <QueueTable queues={now} nowMs={nowMs} />}
      {stats.data && stats.data.points.length > 2 && <Suspense fallback={<RowsSkeleton rows={4} />}><Charts stats={stats.data} /></Suspense>}
    </>
  );
}

function lateness(queues: readonly Queue[], nowMs: number): Answer {
  const open = queues.filter(({ paused }) => !paused);
  const longest = Math.max(0, ...open.map((queue) => waitSeconds(queue, nowMs)));
  const late = open.filter((queue) => waitSeconds(queue, nowMs) > lateAfterSeconds);
  if (late.length > 0) {
    return { tone: "bad", word: plural(late.length, "queue"), detail: `the oldest job has waited ${formatSpan(longest)}` };
  }
  return { tone: "good", word: "No", detail: longest < 1.5 ? "nothing waits" : `the oldest job has waited ${formatSpan(longest)}` };
}

function failures(queues: readonly Queue[]): Answer {
  const dead = queues.reduce((sum, { counts }) => sum + counts.dead, 0);
  const retrying = queues.reduce((sum, { counts }) => sum + counts.retrying, 0);
  const failing = queues.filter(({ rates_1m: rates }) => isFailing(rates));
  const detail = `${formatCount(retrying)} retrying`;
  if (failing.length > 0) {
    return { tone: "bad", word: plural(failing.length, "queue"), detail: `${plural(dead, "dead job")}, ${detail}` };
  }
  return dead > 0 ? { tone: "warn", word: plural(dead, "dead job"), detail } : { tone: "good", word: "No", detail };
}

/** Remote workers are listed; the server's own slots are in the numbers of each queue that they are for. */
function crewAnswer(crew: Crew | undefined, queues: readonly Queue[]): Answer {
  const slots = Math.max(crew?.slots ?? 0, ...queues.map((queue) => queue.slots));
  const busy = queues.reduce((sum, queue) => sum + queue.busy, 0);
  if (slots === 0) {
    return crew && queues.length > 0 ? { tone: "bad", word: "Nobody", detail: "no worker is online" } : { tone: "none", word: "–", detail: "there is nothing to do yet" };
  }
  return { tone: "good", word: `${formatCount(busy)} of ${plural(slots, "slot")} busy`, detail: crew && crew.online > 0 ? plural(crew.online, "remote worker") : "of the server itself" };
}

const toneIcons: Readonly<Record<Tone, IconName>> = { good: "check", warn: "failures", bad: "cross", none: "minus" };

interface CardProps {
  question: string;
  icon: IconName;
  answer: Answer;
  /** The jobs behind the answer. */
  leadsTo?: Search;
}

function Card({ question, icon, answer: { tone, word, detail }, leadsTo }: CardProps): JSX.Element {
  return (
    <Paper withBorder p="sm" component="section" aria-label={question}>
      <Text size="sm" c="dimmed" className={classes["question"]}><Icon name={icon} size={14} />{question}</Text>
      <div className={classes["word"]} data-tone={tone}><Icon name={toneIcons[tone]} size={18} />{leadsTo && tone !== "good" ? <PageLink to="/jobs" search={leadsTo} c="inherit" fw="inherit">{word}</PageLink> : word}</div>
      <Text size="sm" c="dimmed">{detail}</Text>
    </Paper>
  );
}

/** Those in trouble, always; the healthy ones when somebody asks, or when there are few. */
const fewQueues = 8;

function QueueTable({ queues, nowMs }: { queues: readonly Queue[]; nowMs: number }): JSX.Element {
  const [isOpen, setOpen] = useState(false);
  const sorted = sortByTrouble(queues, nowMs);
  const troubled = sorted.filter((queue) => troublesOf(queue, nowMs).length > 0);
  const shown = isOpen || sorted.length <= fewQueues ? sorted : troubled;
  const folded = sorted.length - shown.length;
  return (
    <Paper withBorder mb="md">
      <Table.ScrollContainer minWidth={760} type="native">
        <Table verticalSpacing={6} horizontalSpacing="sm" highlightOnHover className={classes["queues"] ?? ""}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Queue</Table.Th><Table.Th>State</Table.Th>
              {["Pending", "Oldest wait", "Running", "Scheduled", "Retrying", "Dead", "Done/s", "Failed/s", "Wait p95"].map((name) => <Table.Th key={name} ta="right">{name}</Table.Th>)}
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {shown.map((queue) => {
              const troubles = troublesOf(queue, nowMs);
              return (
                <Table.Tr key={queue.name}>
                  <Table.Td><PageLink to="/jobs" search={{ queue: queue.name }}>{queue.name}</PageLink></Table.Td>
                  <Table.Td><span className={classes["state"]} data-tone={troubles.length > 0 ? "warn" : "good"}><Icon name={troubles.length > 0 ? (queue.paused ? "pause" : "failures") : "check"} size={13} />{troubles.join(", ") || "well"}</span></Table.Td>
                  {[
                    formatCount(queue.counts.pending), queue.oldest_pending_at ? formatSpan(Math.floor(waitSeconds(queue, nowMs))) : "–", formatCount(queue.counts.running), formatCount(queue.counts.scheduled),
                    formatCount(queue.counts.retrying), formatCount(queue.counts.dead), formatRate(queue.rates_1m.completed), formatRate(queue.rates_1m.failed), formatSpan(queue.wait_seconds.p95),
                  ].map((text, i) => <Table.Td key={i} ta="right">{text}</Table.Td>)}
                </Table.Tr>
              );
            })}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {sorted.length > fewQueues && folded + (isOpen ? 1 : 0) > 0 && (
        <Button variant="subtle" size="compact-sm" m="xs" aria-expanded={isOpen} onClick={() => { setOpen(!isOpen); }}>
          {isOpen ? "Fold the healthy queues" : `${plural(folded, "healthy queue")} more`}
        </Button>
      )}
    </Paper>
  );
}
