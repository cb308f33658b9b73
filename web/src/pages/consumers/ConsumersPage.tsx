import { ActionIcon, Menu, NativeSelect, Table, TextInput } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useRef, useState, type JSX } from "react";
import { can } from "../../api/access";
import { consumersQuery } from "../../api/queries";
import type { Consumer } from "../../api/types";
import { Ask } from "../../components/Ask";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, formatSpan } from "../../components/format";
import { Icon } from "../../components/Icon";
import { Mark } from "../../components/Mark";
import { NameCell, NumberCells, PlainTable, type Column } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import { useMe, usePainted, useServices } from "../../shell/services";
import { filterText, lookOf, sortConsumers } from "./consumers";

const columns: readonly Column[] = [
  { title: "Consumer" }, { title: "State" }, { title: "Behind by events", isNumber: true }, { title: "For", isNumber: true }, { title: "Cursor" }, { title: "Reader" },
  { title: "Acknowledged" }, { title: "Gets" }, { title: "Changed" }, { title: "Actions", isUnseen: true },
];
const againMs = 5000;

/** The durable readers of the stream, and how far behind they are. */
export function ConsumersPage(): JSX.Element {
  const { api, live } = useServices();
  const me = useMe();
  const client = useQueryClient();
  const isPaused = usePainted(live.pauses).size > 0;
  const list = useQuery({ ...consumersQuery(api), refetchInterval: isPaused ? false : againMs });
  const [asked, setAsked] = useState<{ action: "reset" | "remove"; consumer: Consumer }>();
  const table = useRef<HTMLDivElement>(null);
  useRowKeys(table);
  const consumers = list.data && sortConsumers(list.data.data);
  const handleDone = (): void => { void client.invalidateQueries({ queryKey: ["consumers"] }); };
  const handleClose = (): void => { setAsked(undefined); };
  return (
    <>
      <PageTitle title="Consumers" />
      {list.error && !consumers && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The consumers could not be loaded" />}
      {!list.error && !consumers && <RowsSkeleton rows={4} />}
      {consumers?.length === 0 && (
        <Empty title="There are no consumers." command={`curl -s -X PUT ${location.origin}${api.address("/admin/consumers/{name}", { path: { name: "billing" } })} -H 'Content-Type: application/json' -d '{"after":"earliest","filter":{"types":["job.completed"]}}'`}>
          A consumer is a place in the stream that the server keeps for a program: nothing is missed while it is away. This makes one:
        </Empty>
      )}
      {consumers && consumers.length > 0 && (
        <PlainTable label="Consumers" columns={columns} minWidth={1080} ref={table}>
          {consumers.map((consumer) => {
            const { tone, icon, word } = lookOf(consumer);
            return (
              <Table.Tr key={consumer.name}>
                <NameCell name={consumer.name}>{consumer.name}</NameCell>
                <Table.Td><Mark tone={tone} icon={icon}>{word}</Mark></Table.Td>
                <NumberCells texts={[consumer.lag_events === null ? "–" : formatCount(consumer.lag_events), consumer.lag_seconds === null ? "–" : formatSpan(Math.floor(consumer.lag_seconds))]} />
                <Table.Td><PageLink to="/events" search={{ after: consumer.cursor }} ff="monospace" fz="xs" aria-label={`Events behind ${consumer.cursor}`}>{consumer.cursor}</PageLink></Table.Td>
                <NameCell name={consumer.reader ?? ""}>{consumer.reader ?? "–"}</NameCell>
                <Table.Td><Time at={consumer.acked_at} /></Table.Td>
                <NameCell name={filterText(consumer.filter)}>{filterText(consumer.filter)}</NameCell>
                <Table.Td><Time at={consumer.updated_at} /></Table.Td>
                <Table.Td>
                  {can(me, "operate") && (
                    <Menu position="bottom-end" withInitialFocusPlaceholder={false}>
                      <Menu.Target><ActionIcon variant="subtle" color="gray" size="sm" aria-label={`Actions for ${consumer.name}`}><Icon name="menu" size={14} /></ActionIcon></Menu.Target>
                      <Menu.Dropdown>
                        <Menu.Item onClick={() => { setAsked({ action: "reset", consumer }); }}>Reset</Menu.Item>
                        <Menu.Item onClick={() => { setAsked({ action: "remove", consumer }); }}>Remove</Menu.Item>
                      </Menu.Dropdown>
                    </Menu>
                  )}
                </Table.Td>
              </Table.Tr>
            );
          })}
        </PlainTable>
      )}
      {asked?.action === "reset" && <ResetQuestion name={asked.consumer.name} onClose={handleClose} onDone={handleDone} />}
      {asked?.action === "remove" && (
        <Ask title={`Remove ${asked.consumer.name}?`} action="Remove" isDangerous says="The server forgets its place. Its program is refused from then on." onClose={handleClose} onDone={handleDone}
          run={(body) => api.delete("/admin/consumers/{name}", { path: { name: asked.consumer.name }, body })} />
      )}
    </>
  );
}

const places = { latest: "the newest event: skip what it has not read", earliest: "the oldest that is kept: read it all again", at: "a cursor or a time" } as const;

function ResetQuestion({ name, onClose, onDone }: { name: string; onClose: () => void; onDone: () => void }): JSX.Element {
  const { api } = useServices();
  const [place, setPlace] = useState<string>("latest");
  const [at, setAt] = useState("");
  const to = place === "at" ? at.trim() : place;
  return (
    <Ask title={`Reset ${name}?`} action="Reset" isDangerous says="Its reader loses its claim and goes on from the new place: what lies between is skipped, or comes again." isDisabled={to === ""}
      onClose={onClose} onDone={onDone} run={(body) => api.post("/admin/consumers/{name}/reset", { path: { name }, body: { ...body, to } })}>
      <NativeSelect label="To" value={place} data-autofocus data={Object.entries(places).map(([value, label]) => ({ value, label }))} onChange={(event) => { setPlace(event.currentTarget.value); }} />
      {place === "at" && <TextInput label="Cursor or time" placeholder="1-4200 or 2026-03-01T12:00:00Z" required value={at} onChange={(event) => { setAt(event.currentTarget.value); }} />}
    </Ask>
  );
}
