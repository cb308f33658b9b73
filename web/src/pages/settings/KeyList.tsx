import { ActionIcon, Button, Group, Menu, NativeSelect, Table, Title } from "@mantine/core";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useRef, useState, type JSX } from "react";
import { keysQuery } from "../../api/queries";
import type { Key } from "../../api/types";
import { Ask } from "../../components/Ask";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { Icon } from "../../components/Icon";
import { Mark } from "../../components/Mark";
import { MoreButton } from "../../components/MoreButton";
import { NameCell, PlainTable, type Column } from "../../components/PlainTable";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { SecretOnce } from "../../components/SecretOnce";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import { useServices } from "../../shell/services";
import { useClock } from "../../shell/useClock";
import { isExpired, rightsOf } from "./keys";
import { KeyForm } from "./KeyForm";

const columns: readonly Column[] = [
  { title: "Key" }, { title: "May" }, { title: "Queues" }, { title: "Last used" }, { title: "Expires" }, { title: "Made by" }, { title: "Made" }, { title: "Actions", isUnseen: true },
];
/** For how long the old secret still works after a rotation. */
const overlaps = { "0s": "at once", "1h": "in an hour", "24h": "in a day", "168h": "in a week" } as const;

/** The keys of the server: made, rotated and revoked by admins. Secrets are shown once. */
export function KeyList(): JSX.Element {
  const { api } = useServices();
  const client = useQueryClient();
  const nowMs = useClock();
  const list = useInfiniteQuery(keysQuery(api));
  const [isMaking, setMaking] = useState(false);
  const [asked, setAsked] = useState<{ action: "rotate" | "revoke"; key: Key }>();
  const [made, setMade] = useState<Key>();
  const table = useRef<HTMLDivElement>(null);
  useRowKeys(table);
  const keys = list.data?.pages.flatMap(({ data }) => data);
  const handleDone = (): void => { void client.invalidateQueries({ queryKey: ["keys"] }); };
  const handleMade = (key: Key): void => {
    setMade(key);
    handleDone();
  };
  return (
    <section aria-label="API keys">
      <Group justify="space-between" mb="xs">
        <Title order={2}>API keys</Title>
        <Button size="compact-sm" leftSection={<Icon name="plus" size={14} />} onClick={() => { setMaking(true); }}>Make a key</Button>
      </Group>
      {list.error && !keys && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The keys could not be loaded" />}
      {!list.error && !keys && <RowsSkeleton rows={4} />}
      {keys?.length === 0 && (
        <Empty title="There are no keys yet." command={`curl -s -u admin ${location.origin}${api.address("/admin/keys")} -H 'Content-Type: application/json' -d '{"name":"deploy","scopes":["enqueue"]}'`}>
          Programs that are not on the server&apos;s machine need one. From a terminal it is made like this:
        </Empty>
      )}
      {keys && keys.length > 0 && (
        <PlainTable label="API keys" columns={columns} minWidth={860} ref={table}>
          {keys.map((key) => (
            <Table.Tr key={key.id}>
              <NameCell name={`${key.name}, ${key.id}`}>{key.name}</NameCell>
              <NameCell name={rightsOf(key)}>{rightsOf(key)}</NameCell>
              <NameCell name={key.queues?.join(", ") ?? "all"}>{key.queues?.join(", ") ?? "all"}</NameCell>
              <Table.Td>{key.last_used_at ? <Time at={key.last_used_at} /> : "never"}</Table.Td>
              <Table.Td>{isExpired(key, nowMs) ? <Mark tone="bad" icon="cross">expired</Mark> : key.expires_at ? <Time at={key.expires_at} /> : "never"}</Table.Td>
              <NameCell name={key.created_by}>{key.created_by}</NameCell>
              <Table.Td><Time at={key.created_at} /></Table.Td>
              <Table.Td>
                <Menu position="bottom-end" withInitialFocusPlaceholder={false}>
                  <Menu.Target><ActionIcon variant="subtle" color="gray" size="sm" aria-label={`Actions for ${key.name}`}><Icon name="menu" size={14} /></ActionIcon></Menu.Target>
                  <Menu.Dropdown>
                    <Menu.Item onClick={() => { setAsked({ action: "rotate", key }); }}>Rotate</Menu.Item>
                    <Menu.Item onClick={() => { setAsked({ action: "revoke", key }); }}>Revoke</Menu.Item>
                  </Menu.Dropdown>
                </Menu>
              </Table.Td>
            </Table.Tr>
          ))}
        </PlainTable>
      )}
      <MoreButton list={list} />
      {isMaking && <KeyForm onClose={() => { setMaking(false); }} onMade={handleMade} />}
      {asked?.action === "rotate" && <RotateQuestion apiKey={asked.key} onClose={() => { setAsked(undefined); }} onMade={handleMade} />}
      {asked?.action === "revoke" && (
        <Ask title={`Revoke ${asked.key.name}?`} action="Revoke" isDangerous says="Whoever uses it is refused at once, and its sessions and streams end. This cannot be undone."
          run={(body) => api.delete("/admin/keys/{id}", { path: { id: asked.key.id }, body })} onDone={handleDone} onClose={() => { setAsked(undefined); }} />
      )}
      {made?.secret !== undefined && (
        <SecretOnce title={`The secret of ${made.name}`} secret={made.secret} says="Programs send it as Authorization: Bearer, people log in with it." onClose={() => { setMade(undefined); }} />
      )}
    </section>
  );
}

function RotateQuestion({ apiKey: { id, name }, onClose, onMade }: { apiKey: Key; onClose: () => void; onMade: (key: Key) => void }): JSX.Element {
  const { api } = useServices();
  const [overlap, setOverlap] = useState<string>("24h");
  return (
    <Ask title={`Rotate ${name}?`} action="Rotate" says="A key with the same rights and a new secret is made; the old one ends." onClose={onClose}
      run={async (body) => { onMade(await api.post("/admin/keys/{id}/rotate", { path: { id }, body: { ...body, overlap } })); }}>
      <NativeSelect label="The old secret ends" value={overlap} data-autofocus data={Object.entries(overlaps).map(([value, label]) => ({ value, label }))}
        onChange={(event) => { setOverlap(event.currentTarget.value); }} />
    </Ask>
  );
}
