import { Button, Group, Table, TextInput } from "@mantine/core";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useRef, useState, type JSX, type Ref, type SubmitEvent } from "react";
import { can } from "../../api/access";
import { auditQuery } from "../../api/queries";
import type { AuditLine } from "../../api/types";
import { AdminsOnly } from "../../components/AdminsOnly";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { MoreButton } from "../../components/MoreButton";
import { NameCell, PlainTable, type Column } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import { clock } from "../../shell/clock";
import { usePreferences } from "../../shell/preferences";
import type { Search } from "../../shell/search";
import { useMe, useServices } from "../../shell/services";
import { useKeys } from "../../shell/useKeys";
import { changesOf, fields, pageOf, timeText, toQuery, type Field } from "./audit";

const columns: readonly Column[] = [{ title: "Time" }, { title: "Who" }, { title: "From" }, { title: "Action" }, { title: "On what" }, { title: "Reason" }, { title: "Changed" }, { title: "Request" }];
const hints: Readonly<Record<Field, string>> = { actor: "basic:admin", action: "queue.*", target: "mail, or an id", after: "1h, 2026-03-01", before: "2026-03-02 12:00" };

/** Who did what, when, from where and why. */
export function AuditPage(): JSX.Element {
  const me = useMe();
  const search: Search = useSearch({ strict: false });
  return can(me, "admin") ? <AuditList key={JSON.stringify(search)} search={search} /> : <AdminsOnly title="Audit" says="The audit log says who did what, and from where." />;
}

function AuditList({ search }: { search: Search }): JSX.Element {
  const { api } = useServices();
  const query = toQuery(search);
  const list = useInfiniteQuery(auditQuery(api, query));
  const table = useRef<HTMLDivElement>(null);
  const field = useRef<HTMLInputElement>(null);
  useRowKeys(table);
  useKeys([{ keys: "/", does: "Filter", run: () => { field.current?.focus(); } }]);
  const lines = list.data?.pages.flatMap(({ data }) => data);
  return (
    <>
      <PageTitle title="Audit"><Button size="compact-sm" variant="default" loading={list.isRefetching && !list.isFetchingNextPage} onClick={() => { void list.refetch(); }}>Load again</Button></PageTitle>
      <AuditFilter search={search} field={field} />
      {list.error && !lines && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The audit log could not be loaded" />}
      {!list.error && !lines && <RowsSkeleton rows={10} />}
      {lines?.length === 0 && (Object.keys(query).length > 0 ? <Empty title="Nothing like that was done.">Take a filter away, or look at another time.</Empty>
        : <Empty title="Nobody has done anything yet." command={`curl -s -u admin -X POST ${location.origin}${api.address("/admin/queues/{queue}/pause", { path: { queue: "mail" } })} -H 'Content-Type: application/json' -d '{"reason":"to see it in the audit log","for":"1m"}'`}>Each action of an operator leaves a line. This makes one:</Empty>)}
      {lines && lines.length > 0 && (
        <PlainTable label="Audit log" columns={columns} minWidth={1120} ref={table}>
          {lines.map((line, i) => <AuditRow key={`${line.time} ${line.request_id ?? ""} ${i}`} line={line} />)}
        </PlainTable>
      )}
      <MoreButton list={list} />
    </>
  );
}

function AuditRow({ line }: { line: AuditLine }): JSX.Element {
  const page = pageOf(line);
  const changes = changesOf(line).join("; ");
  return (
    <Table.Tr>
      <Table.Td><Time at={line.time} /></Table.Td>
      <NameCell name={line.key_id ? `${line.actor}, key ${line.key_id}` : line.actor}>{line.actor}</NameCell>
      <Table.Td>{line.address ?? "–"}</Table.Td>
      <Table.Td>{line.action}</Table.Td>
      <NameCell name={line.target ?? ""}>{page && line.target ? <PageLink to={page}>{line.target}</PageLink> : line.target ?? "–"}</NameCell>
      <NameCell name={line.reason ?? ""}>{line.reason ?? "–"}</NameCell>
      <NameCell name={changes}>{changes || "–"}</NameCell>
      <NameCell name={line.request_id ?? ""}>{line.request_id ?? "–"}</NameCell>
    </Table.Tr>
  );
}

/** All of it stands in the address. */
function AuditFilter({ search, field }: { search: Search; field: Ref<HTMLInputElement> }): JSX.Element {
  const navigate = useNavigate();
  const { zone } = usePreferences();
  const [typed, setTyped] = useState<Partial<Record<Field, string>>>({});
  const valueOf = (name: Field): string => typed[name] ?? search[name] ?? "";
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    const isTime = (name: Field): boolean => name === "after" || name === "before";
    const next = Object.fromEntries((Object.keys(fields) as Field[]).map((name) => [name, isTime(name) ? timeText(valueOf(name), zone, clock.get()) : valueOf(name).trim()]));
    void navigate({ to: ".", search: next });
  };
  return (
    <form onSubmit={handleSubmit} role="search" aria-label="Filter">
      <Group gap="xs" mb="sm" align="flex-end">
        {(Object.keys(fields) as Field[]).map((name, i) => (
          <TextInput key={name} {...(i === 0 ? { ref: field } : {})} size="xs" label={fields[name]} placeholder={hints[name]} value={valueOf(name)} spellCheck={false} autoComplete="off"
            onChange={(event) => {
              const { value } = event.currentTarget;
              setTyped((before) => ({ ...before, [name]: value }));
            }} />
        ))}
        <Button type="submit" size="xs" variant="default">Filter</Button>
        {Object.keys(toQuery(search)).length > 0 && <Button size="xs" variant="subtle" onClick={() => { void navigate({ to: ".", search: {} }); }}>Show all</Button>}
      </Group>
    </form>
  );
}
