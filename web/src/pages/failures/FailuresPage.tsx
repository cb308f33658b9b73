import { Button, Pill, SegmentedControl, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState, type JSX } from "react";
import { can } from "../../api/access";
import { failuresQuery, queuesQuery } from "../../api/queries";
import type { FailureGroup, Queue } from "../../api/types";
import { bulkActions, type BulkAction } from "../../components/bulk";
import { BulkModal, type BulkTarget } from "../../components/BulkModal";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount } from "../../components/format";
import { OperationProgress } from "../../components/OperationProgress";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import type { Search } from "../../shell/search";
import { useMe, usePainted, useServices } from "../../shell/services";
import { useFollow } from "../../store/useFollow";
import { toOperationFilter } from "../jobs/filters";
import { failingQueues, jobsOf, kinds, toFailureQuery, windowOf, windows } from "./failures";
import classes from "./FailuresPage.module.css";

/** What fails, by its error and by its queue; from a row it is one step to the jobs, and one to what is done with all of them. */
export function FailuresPage(): JSX.Element {
  const search: Search = useSearch({ strict: false });
  const { api, live } = useServices();
  const me = useMe();
  const navigate = useNavigate();
  const groups = useQuery(failuresQuery(api, toFailureQuery(search)));
  const queues = useQuery(queuesQuery(api));
  const numbers = usePainted(live.numbers);
  const [target, setTarget] = useState<BulkTarget>();
  const [operation, setOperation] = useState<string>();
  const [newsAfter, setNewsAfter] = useState<string>(); // the snapshot that something has happened after

  const asOf = groups.data?.as_of;
  const handleNews = (): void => { setNewsAfter(asOf); };
  useFollow(asOf, { types: ["job.dead", "job.retrying", "job.redriven"], ...(search["queue"] ? { queues: [search["queue"]] } : {}) }, { onEvents: handleNews, onGap: handleNews });

  const change = (part: Search): void => { void navigate({ to: ".", search: { ...search, ...part }, replace: true }); };
  const ask = can(me, "operate") ? (action: BulkAction, jobs: Search): void => { setTarget({ action, filter: toOperationFilter(jobs) }); } : undefined;
  const now = numbers ? numbers.queues.values() : queues.data?.data ?? [];
  return (
    <>
      <PageTitle title="Failures">
        {newsAfter !== undefined && newsAfter === asOf && (
          <Button size="compact-sm" variant="light" loading={groups.isFetching} onClick={() => { void groups.refetch(); }}>There are newer ones: load again</Button>
        )}
      </PageTitle>
      {operation !== undefined && <OperationProgress id={operation} onClose={() => { setOperation(undefined); void groups.refetch(); }} />}
      <div className={classes["filters"]}>
        <SegmentedControl size="xs" aria-label="How far back" value={windowOf(search)} onChange={(window) => { change({ window }); }}
          data={Object.entries(windows).map(([value, label]) => ({ value, label }))} />
        <SegmentedControl size="xs" aria-label="Which failures" value={search["status"] ?? ""} onChange={(status) => { change({ status }); }}
          data={Object.entries(kinds).map(([value, label]) => ({ value, label }))} />
        {(["queue", "kind"] as const).map((name) => search[name] && (
          <Pill key={name} withRemoveButton onRemove={() => { change({ [name]: "" }); }}
            removeButtonProps={{ "aria-label": `Remove ${name} ${search[name]}`, tabIndex: 0, "aria-hidden": false }}>{`${name}: ${search[name]}`}</Pill>
        ))}
      </div>
      <Title order={2} className={classes["heading"] ?? ""}>By error</Title>
      {groups.error && !groups.data && <Failed error={groups.error} onRetry={() => { void groups.refetch(); }} what="The failures could not be loaded" />}
      {!groups.error && !groups.data && <RowsSkeleton />}
      {groups.data?.data.length === 0 && (
        <Empty title="Nothing has failed." command={`curl -s '${location.origin}${api.address("/failures", { query: { window: windowOf(search) } })}'`}>
          {`No job that is dead or tried again has failed within ${windows[windowOf(search)]}. Whoever wants to be told can ask for it:`}
        </Empty>
      )}
      {groups.data && groups.data.data.length > 0 && <Groups groups={groups.data.data} search={search} onAsk={ask} />}
      {groups.data?.truncated && <Text size="sm" c="dimmed" mb="md">There are more kinds of errors: choose a queue, or look less far back.</Text>}
      <Queues queues={failingQueues(now)} onAsk={ask} />
      {target && <BulkModal {...target} onClose={() => { setTarget(undefined); }} onStarted={(id) => { setTarget(undefined); setOperation(id); }} />}
    </>
  );
}

type Ask = ((action: BulkAction, jobs: Search) => void) | undefined;

function Groups({ groups, search, onAsk }: { groups: readonly FailureGroup[]; search: Search; onAsk: Ask }): JSX.Element {
  return (
    <div className={classes["panel"]}>
      <Table.ScrollContainer minWidth={980} type="native" tabIndex={0} role="region" aria-label="Failures by error">
        <Table verticalSpacing={6} horizontalSpacing="sm" highlightOnHover className={classes["table"] ?? ""}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Last error</Table.Th><Table.Th>Kind</Table.Th><Table.Th>Queues</Table.Th>
              {["1 hour", "1 day", "7 days", "Dead", "Retrying"].map((name) => <Table.Th key={name} ta="right">{name}</Table.Th>)}
              <Table.Th>First</Table.Th><Table.Th>Last</Table.Th><Table.Th>{onAsk ? "What to do" : ""}</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {groups.map((group) => {
              const jobs = jobsOf(group, search);
              return (
                <Table.Tr key={`${group.kind} ${group.fingerprint ?? ""}`}>
                  <Table.Td className={classes["error"] ?? ""}>
                    <PageLink to="/jobs" search={jobs} className={classes["type"] ?? ""}>{group.sample.type ?? "Unknown error"}</PageLink>
                    <span className={classes["message"]} title={group.sample.message ?? ""}>{group.sample.message ?? ""}</span>
                    <PageLink to={`/jobs/${group.sample.job_id}`} fz="xs">newest job</PageLink>
                  </Table.Td>
                  <Table.Td>{group.kind}</Table.Td>
                  <Table.Td>{group.queues.map((queue, i) => <span key={queue}>{i > 0 && ", "}<PageLink to="/failures" search={{ ...search, queue }}>{queue}</PageLink></span>)}</Table.Td>
                  {[group.counts["1h"], group.counts["24h"], group.counts["7d"], group.dead, group.retrying].map((n, i) => <Table.Td key={i} ta="right">{n === null ? "–" : formatCount(n)}</Table.Td>)}
                  <Table.Td><Time at={group.first_at} /></Table.Td>
                  <Table.Td><Time at={group.last_at} /></Table.Td>
                  <Table.Td><Actions group={group} jobs={jobs} onAsk={onAsk} /></Table.Td>
                </Table.Tr>
              );
            })}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </div>
  );
}

function Actions({ group, jobs, onAsk }: { group: FailureGroup; jobs: Search; onAsk: Ask }): JSX.Element {
  const offered: [BulkAction, boolean][] = [["retry", true], ["cancel", group.retrying > 0], ["delete", group.dead > 0]];
  return (
    <div className={classes["actions"]}>
      {onAsk && offered.map(([action, isThere]) => isThere && (
        <Button key={action} size="compact-xs" variant="default" aria-label={`${bulkActions[action]} all ${group.kind} with ${group.sample.type ?? "this error"}`}
          onClick={() => { onAsk(action, jobs); }}>{bulkActions[action]}</Button>
      ))}
    </div>
  );
}

/** The dead letters of each queue, and those that are tried again. The numbers are of now, whatever window is chosen above. */
function Queues({ queues, onAsk }: { queues: readonly Queue[]; onAsk: Ask }): JSX.Element | null {
  if (queues.length === 0) {
    return null;
  }
  return (
    <>
      <Title order={2} className={classes["heading"] ?? ""}>Dead letters by queue</Title>
      <div className={classes["panel"]}>
        <Table.ScrollContainer minWidth={420} type="native" tabIndex={0} role="region" aria-label="Dead letters by queue">
          <Table verticalSpacing={6} horizontalSpacing="sm" highlightOnHover className={classes["table"] ?? ""}>
            <Table.Thead>
              <Table.Tr><Table.Th>Queue</Table.Th><Table.Th ta="right">Dead</Table.Th><Table.Th ta="right">Retrying</Table.Th><Table.Th>{onAsk ? "What to do" : ""}</Table.Th></Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {queues.map(({ name, counts }) => (
                <Table.Tr key={name}>
                  <Table.Td>{name}</Table.Td>
                  <Table.Td ta="right"><PageLink to="/jobs" search={{ status: "dead", queue: name }}>{formatCount(counts.dead)}</PageLink></Table.Td>
                  <Table.Td ta="right"><PageLink to="/jobs" search={{ status: "retrying", queue: name }}>{formatCount(counts.retrying)}</PageLink></Table.Td>
                  <Table.Td>
                    <div className={classes["actions"]}>
                      {onAsk && counts.dead > 0 && (
                        <>
                          <Button size="compact-xs" variant="default" aria-label={`Redrive the dead jobs of ${name}`} onClick={() => { onAsk("retry", { status: "dead", queue: name }); }}>Redrive</Button>
                          <Button size="compact-xs" variant="default" aria-label={`Delete the dead jobs of ${name}`} onClick={() => { onAsk("delete", { status: "dead", queue: name }); }}>Delete</Button>
                        </>
                      )}
                    </div>
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      </div>
    </>
  );
}
