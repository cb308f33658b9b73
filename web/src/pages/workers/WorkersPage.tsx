import { ActionIcon, Menu, Table, Text } from "@mantine/core";
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { Fragment, useRef, useState, type JSX } from "react";
import { can } from "../../api/access";
import { workerJobsQuery, workerPagesQuery } from "../../api/queries";
import type { Worker } from "../../api/types";
import { Ask } from "../../components/Ask";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { plural, shortID } from "../../components/format";
import { Icon } from "../../components/Icon";
import { Mark } from "../../components/Mark";
import { MoreButton } from "../../components/MoreButton";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { NameCell, PlainTable, type Column } from "../../components/PlainTable";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import { useMe, usePainted, useServices } from "../../shell/services";
import { useFollow } from "../../store/useFollow";
import { crewOf } from "../overview/answers";
import { lookOf, queuesText, sortWorkers } from "./workers";
import classes from "./WorkersPage.module.css";

const columns: readonly Column[] = [
  { title: "Worker" }, { title: "State" }, { title: "Busy slots", isNumber: true }, { title: "Last seen" }, { title: "Queues and weights" }, { title: "Kinds" },
  { title: "Version, labels" }, { title: "Registered" }, { title: "Actions", isUnseen: true },
];
/** Heartbeats are no events: who was seen when is asked for again. */
const againMs = 10_000;
const watched = { types: ["worker.*"] };
type Action = "quiet" | "drain" | "remove";

/** The programs that work from outside of the server. */
export function WorkersPage(): JSX.Element {
  const { api, live } = useServices();
  const client = useQueryClient();
  const isPaused = usePainted(live.pauses).size > 0;
  const list = useInfiniteQuery({ ...workerPagesQuery(api), refetchInterval: isPaused ? false : againMs });
  const [open, setOpen] = useState<string>();
  const [asked, setAsked] = useState<{ action: Action; worker: Worker }>();
  const table = useRef<HTMLDivElement>(null);
  useRowKeys(table);
  const handleChange = (): void => { void client.invalidateQueries({ queryKey: ["workers"] }); };
  useFollow(list.data?.pages[0]?.as_of, watched, { onEvents: handleChange, onGap: handleChange });
  const workers = list.data && sortWorkers(list.data.pages.flatMap(({ data }) => data));
  const crew = workers && crewOf(workers);
  const curl = `curl -s ${location.origin}${api.address("/workers")} -H 'Content-Type: application/json' -d '{"name":"w1","queues":{"*":1},"slots":4}'`;
  return (
    <>
      <PageTitle title="Workers">
        {crew && workers.length > 0 && <Text size="sm" c="dimmed">{`${plural(crew.online, "worker")} online, ${crew.busy} of ${plural(crew.slots, "slot")} busy`}</Text>}
      </PageTitle>
      {list.error && !workers && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The workers could not be loaded" />}
      {!list.error && !workers && <RowsSkeleton />}
      {workers?.length === 0 && <Empty title="There are no remote workers." command={curl}>The server may have slots of its own, which the overview counts. A program in any language registers like this, then claims jobs:</Empty>}
      {workers && workers.length > 0 && (
        <PlainTable label="Workers" columns={columns} minWidth={980} ref={table}>
          {workers.map((worker) => (
            <Fragment key={worker.id}>
              <WorkerRow worker={worker} isOpen={open === worker.id} onOpen={() => { setOpen(open === worker.id ? undefined : worker.id); }} onAsk={(action) => { setAsked({ action, worker }); }} />
              {open === worker.id && <Table.Tr><Table.Td colSpan={columns.length}><CurrentJobs worker={worker} /></Table.Td></Table.Tr>}
            </Fragment>
          ))}
        </PlainTable>
      )}
      <MoreButton list={list} />
      {asked && <Question {...asked} onClose={() => { setAsked(undefined); }} onDone={handleChange} />}
    </>
  );
}

interface WorkerRowProps {
  worker: Worker;
  isOpen: boolean;
  onOpen: () => void;
  onAsk: (action: Action) => void;
}

function WorkerRow({ worker, isOpen, onOpen, onAsk }: WorkerRowProps): JSX.Element {
  const me = useMe();
  const { tone, icon, word } = lookOf(worker);
  const labels = Object.entries(worker.labels).map(([name, value]) => `${name}=${value}`).join(" ");
  const extra = [worker.version, labels].filter(Boolean).join(", ");
  const mayRemove = can(me, "work");
  return (
    <Table.Tr>
      <NameCell name={worker.name}>
        <button type="button" className={classes["open"]} aria-expanded={isOpen} onClick={onOpen}>{worker.name}</button>
      </NameCell>
      <Table.Td><Mark tone={tone} icon={icon}>{word}</Mark></Table.Td>
      <Table.Td ta="right">{`${worker.busy} of ${worker.slots}`}</Table.Td>
      <Table.Td><Time at={worker.last_seen_at} /></Table.Td>
      <NameCell name={queuesText(worker.queues)}>{queuesText(worker.queues)}</NameCell>
      <NameCell name={worker.kinds?.join(", ") ?? "all"}>{worker.kinds?.join(", ") ?? "all"}</NameCell>
      <NameCell name={extra}>{extra || "–"}</NameCell>
      <Table.Td><Time at={worker.registered_at} /></Table.Td>
      <Table.Td>
        {(can(me, "operate") || mayRemove) && (
          <Menu position="bottom-end" withInitialFocusPlaceholder={false}>
            <Menu.Target><ActionIcon variant="subtle" color="gray" size="sm" aria-label={`Actions for ${worker.name}`}><Icon name="menu" size={14} /></ActionIcon></Menu.Target>
            <Menu.Dropdown>
              {can(me, "operate") && worker.state !== "offline" && worker.asked === null && <Menu.Item onClick={() => { onAsk("quiet"); }}>Quiet</Menu.Item>}
              {can(me, "operate") && worker.state !== "offline" && worker.asked !== "drain" && <Menu.Item onClick={() => { onAsk("drain"); }}>Drain</Menu.Item>}
              {mayRemove && <Menu.Item onClick={() => { onAsk("remove"); }}>Remove</Menu.Item>}
            </Menu.Dropdown>
          </Menu>
        )}
      </Table.Td>
    </Table.Tr>
  );
}

/** What it has in hand. Names need not be unique: jobs know the name only. */
function CurrentJobs({ worker }: { worker: Worker }): JSX.Element {
  const { api, live } = useServices();
  const isPaused = usePainted(live.pauses).size > 0;
  const { data, error, refetch } = useQuery({ ...workerJobsQuery(api, worker.name), refetchInterval: isPaused ? false : againMs / 2 });
  if (error && !data) {
    return <Failed error={error} onRetry={() => { void refetch(); }} what="Its jobs could not be loaded" />;
  }
  if (!data) {
    return <RowsSkeleton rows={2} />;
  }
  return (
    <div className={classes["jobs"]}>
      {data.data.length === 0 ? <Text size="sm" c="dimmed">It has no job in hand.</Text> : (
        <ul>
          {data.data.map((job) => (
            <li key={job.id}>
              <PageLink to={`/jobs/${job.id}`} ff="monospace" fz="xs" aria-label={`Job ${job.id}`}>{shortID(job.id)}</PageLink>
              <span>{`${job.kind} of ${job.queue}`}</span>
              <span>started <Time at={job.locked_at} /></span>
              {job.progress && <span>{`${Math.round(job.progress.percent)} % ${job.progress.message}`}</span>}
            </li>
          ))}
        </ul>
      )}
      {data.next_cursor && <PageLink to="/jobs" search={{ status: "running", worker: worker.name }} fz="sm">All of them</PageLink>}
    </div>
  );
}

const questions: Readonly<Record<Action, { word: string; says: string; isDangerous?: boolean }>> = {
  quiet: { word: "Quiet", says: "It goes on with what it has in hand and claims no more. It hears of it with its next call." },
  drain: { word: "Drain", says: "It ends what it has in hand, claims no more, and leaves. It hears of it with its next call." },
  remove: { word: "Remove", says: "Its jobs go back to their queues at once and are done by others; a program that is still running registers again.", isDangerous: true },
};

function Question({ action, worker: { id, name }, onClose, onDone }: { action: Action; worker: Worker; onClose: () => void; onDone: () => void }): JSX.Element {
  const { api } = useServices();
  const { word, says, isDangerous = false } = questions[action];
  return (
    <Ask title={`${word} ${name}?`} action={word} says={says} isDangerous={isDangerous} hasNoReason={action === "remove"} onClose={onClose} onDone={onDone}
      run={(body) => action === "remove" ? api.delete("/workers/{id}", { path: { id } })
        : action === "quiet" ? api.post("/admin/workers/{id}/quiet", { path: { id }, body }) : api.post("/admin/workers/{id}/drain", { path: { id }, body })} />
  );
}
