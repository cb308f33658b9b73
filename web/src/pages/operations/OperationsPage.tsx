import { Button, SegmentedControl, Table, Text, VisuallyHidden } from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import type { JSX } from "react";
import { operationsQuery } from "../../api/queries";
import type { Operation } from "../../api/types";
import { bulkActions, filterInWords } from "../../components/bulk";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { plural, shortID } from "../../components/format";
import { Icon, type IconName } from "../../components/Icon";
import { CancelOperation, endOf, OperationBar, OperationNumbers } from "../../components/OperationProgress";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import { useFollow } from "../../store/useFollow";
import classes from "./OperationsPage.module.css";

/** While one runs, its numbers are fetched so often: not every reader is told of operations by the stream. */
const everyMs = 1000;

const statuses = { "": "All", running: "Running", completed: "Completed", stopped: "Stopped", cancelled: "Cancelled", failed: "Failed" } as const;
const icons: Readonly<Record<Operation["status"], IconName>> = { running: "play", completed: "check", stopped: "pause", cancelled: "minus", failed: "cross" };

/** What was done to many jobs at once, the newest first, and how far it is. */
export function OperationsPage(): JSX.Element {
  const search: Search = useSearch({ strict: false });
  const navigate = useNavigate();
  const { api, live } = useServices();
  const isPaused = usePainted(live.pauses).size > 0;
  const chosen = search["status"] ?? "";
  const status = chosen !== "" && Object.hasOwn(statuses, chosen) ? chosen as Operation["status"] : undefined;
  const list = useInfiniteQuery({
    ...operationsQuery(api, status),
    refetchInterval: ({ state }) => !isPaused && state.data?.pages.some((page) => page.data.some((one) => one.status === "running")) ? everyMs : false,
  });
  const refetch = (): void => { void list.refetch(); };
  useFollow(list.data?.pages[0]?.as_of, { types: ["operation.*"] }, { onEvents: refetch, onGap: refetch });
  const operations = list.data?.pages.flatMap((page) => page.data);
  return (
    <>
      <PageTitle title="Operations" />
      <div className={classes["choice"]}>
        <SegmentedControl size="xs" mb="sm" aria-label="Status" value={status ?? ""} data={Object.entries(statuses).map(([value, label]) => ({ value, label }))}
          onChange={(value) => { void navigate({ to: ".", search: { ...search, status: value }, replace: true }); }} />
      </div>
      {list.error && !operations && <Failed error={list.error} onRetry={refetch} what="The operations could not be loaded" />}
      {!list.error && !operations && <RowsSkeleton />}
      {operations?.length === 0 && (
        <Empty title={status ? "No operation has this status." : "Nothing was done to many jobs yet."}
          command={`curl -s -u admin ${location.origin}${api.address("/admin/operations")} -H 'Content-Type: application/json' -d '{"action":"retry","filter":{"status":"dead"},"dry_run":true}'`}>
          {"Choose jobs on the page Jobs, or a row on the page Failures. This only counts how many it would be:"}
        </Empty>
      )}
      {operations && operations.length > 0 && (
        <div className={classes["panel"]}>
          <Table.ScrollContainer minWidth={980} type="native" tabIndex={0} role="region" aria-label="Operations">
            <Table verticalSpacing={6} horizontalSpacing="sm" highlightOnHover className={classes["table"] ?? ""}>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>Action</Table.Th><Table.Th>Status</Table.Th><Table.Th>Progress</Table.Th><Table.Th>On</Table.Th><Table.Th>By</Table.Th><Table.Th>Begun</Table.Th><Table.Th>Ended</Table.Th><Table.Th><VisuallyHidden>What to do</VisuallyHidden></Table.Th>
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>{operations.map((operation) => <Row key={operation.id} operation={operation} />)}</Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </div>
      )}
      {list.hasNextPage && <Button size="compact-sm" variant="subtle" mt="xs" loading={list.isFetchingNextPage} onClick={() => { void list.fetchNextPage(); }}>Older ones</Button>}
    </>
  );
}

function Row({ operation }: { operation: Operation }): JSX.Element {
  const { action, status, filter, rate, stop_when: stopWhen, actor, reason, errors } = operation;
  const limits = [rate !== null && `${rate} a second`, stopWhen && `until ${Math.round(stopWhen.failure_ratio * 100)} % fail again`].filter(Boolean).join(", ");
  return (
    <Table.Tr>
      <Table.Td>{`${bulkActions[action]} ${plural(operation.total, "job")}`}</Table.Td>
      <Table.Td><span className={classes["status"]} data-status={status} title={endOf(operation)}><Icon name={icons[status]} size={13} />{status}</span></Table.Td>
      <Table.Td>
        <OperationBar operation={operation} />
        <div><OperationNumbers operation={operation} /></div>
        {errors.length > 0 && (
          <details className={classes["errors"]}>
            <summary>{plural(errors.length, "error")}</summary>
            <ul>{errors.map((error) => <li key={error.job_id}><PageLink to={`/jobs/${error.job_id}`}>{shortID(error.job_id)}</PageLink>{` ${error.code}: ${error.detail}`}</li>)}</ul>
          </details>
        )}
      </Table.Td>
      <Table.Td>{filterInWords(filter)}{limits && <Text size="xs" c="dimmed">{limits}</Text>}</Table.Td>
      <Table.Td>{actor}{reason !== null && <Text size="xs" c="dimmed">{reason}</Text>}</Table.Td>
      <Table.Td><Time at={operation.created_at} /></Table.Td>
      <Table.Td><Time at={operation.finished_at} /></Table.Td>
      <Table.Td>{status === "running" && <CancelOperation operation={operation} />}</Table.Td>
    </Table.Tr>
  );
}
