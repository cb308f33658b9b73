import { Button, NativeSelect, Table, Text } from "@mantine/core";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useRef, useState, type JSX } from "react";
import { deliveriesQuery } from "../../api/queries";
import type { Delivery, DeliveryState } from "../../api/types";
import { Ask } from "../../components/Ask";
import { Failed } from "../../components/Failed";
import { formatCount, shortID } from "../../components/format";
import type { IconName } from "../../components/Icon";
import { Mark, type MarkTone } from "../../components/Mark";
import { MoreButton } from "../../components/MoreButton";
import { NameCell, PlainTable, type Column } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import { before } from "../events/events";

const columns: readonly Column[] = [
  { title: "Event" }, { title: "Type" }, { title: "State" }, { title: "Tries", isNumber: true }, { title: "Next try" }, { title: "Last answer" }, { title: "Job" }, { title: "Changed" },
  { title: "Action", isUnseen: true },
];
const states: Readonly<Record<DeliveryState, { tone: MarkTone; icon: IconName; word: string }>> = {
  parked: { tone: "warn", icon: "repeat", word: "tried again" }, waiting: { tone: "none", icon: "hourglass", word: "waits behind one" }, failed: { tone: "bad", icon: "cross", word: "given up" },
};
const againMs = 10_000;

/** Deliveries that are tried again or were given up. What has arrived leaves no row. */
export function Deliveries({ id }: { id: string }): JSX.Element {
  const { api, live } = useServices();
  const client = useQueryClient();
  const navigate = useNavigate();
  const search: Search = useSearch({ strict: false });
  const isPaused = usePainted(live.pauses).size > 0;
  const wanted = search["state"] ?? "";
  const state = Object.hasOwn(states, wanted) ? wanted as DeliveryState : undefined;
  const list = useInfiniteQuery({ ...deliveriesQuery(api, id, state), refetchInterval: isPaused ? false : againMs });
  const [again, setAgain] = useState<Delivery>();
  const table = useRef<HTMLDivElement>(null);
  useRowKeys(table);
  const deliveries = list.data?.pages.flatMap(({ data }) => data);
  return (
    <>
      <NativeSelect size="xs" mb="xs" w={180} aria-label="State" value={state ?? ""} data={[{ value: "", label: "all" }, ...Object.entries(states).map(([value, { word }]) => ({ value, label: word }))]}
        onChange={(event) => { void navigate({ to: ".", search: { ...search, state: event.currentTarget.value }, replace: true }); }} />
      {list.error && !deliveries && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The deliveries could not be loaded" />}
      {!list.error && !deliveries && <RowsSkeleton rows={4} />}
      {deliveries?.length === 0 && <Text size="sm" c="dimmed">{state ? "None in this state." : "Everything that was sent has arrived."}</Text>}
      {deliveries && deliveries.length > 0 && (
        <PlainTable label="Deliveries" columns={columns} minWidth={960} ref={table}>
          {deliveries.map((delivery) => {
            const { tone, icon, word } = states[delivery.state];
            const answer = [delivery.last_status, delivery.last_error].filter((part) => part !== null).join(": ");
            return (
              <Table.Tr key={delivery.event_id}>
                <Table.Td><PageLink to="/events" search={{ after: before(delivery.cursor, 1) }} ff="monospace" fz="xs" aria-label={`Event ${delivery.cursor}`}>{delivery.cursor}</PageLink></Table.Td>
                <Table.Td>{delivery.type}</Table.Td>
                <Table.Td><Mark tone={tone} icon={icon}>{word}</Mark></Table.Td>
                <Table.Td ta="right">{formatCount(delivery.attempts)}</Table.Td>
                <Table.Td><Time at={delivery.next_attempt_at} /></Table.Td>
                <NameCell name={answer}>{answer || "–"}</NameCell>
                <Table.Td>{delivery.job_id === null ? "–" : <PageLink to={`/jobs/${delivery.job_id}`} ff="monospace" fz="xs" aria-label={`Job ${delivery.job_id}`}>{shortID(delivery.job_id)}</PageLink>}</Table.Td>
                <Table.Td><Time at={delivery.updated_at} /></Table.Td>
                <Table.Td>{delivery.state === "failed" && <Button size="compact-xs" variant="default" onClick={() => { setAgain(delivery); }}>Send again</Button>}</Table.Td>
              </Table.Tr>
            );
          })}
        </PlainTable>
      )}
      <MoreButton list={list} />
      {again && (
        <Ask title={`Send ${again.type} again?`} action="Send again" says="The one event is replayed, with the id that it had." onClose={() => { setAgain(undefined); }}
          onDone={() => { void client.invalidateQueries({ queryKey: ["webhooks"] }); }}
          run={(body) => api.post("/admin/webhooks/{id}/replay", { path: { id }, body: { ...body, after: before(again.cursor, 1), until: again.cursor } })} />
      )}
    </>
  );
}
