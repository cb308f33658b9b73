import { Button, Table } from "@mantine/core";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useRef, useState, type JSX } from "react";
import { can } from "../../api/access";
import { webhooksQuery } from "../../api/queries";
import type { Webhook } from "../../api/types";
import { AdminsOnly } from "../../components/AdminsOnly";
import { Ask } from "../../components/Ask";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, shortID } from "../../components/format";
import { Icon } from "../../components/Icon";
import { Mark } from "../../components/Mark";
import { MoreButton } from "../../components/MoreButton";
import { NameCell, NumberCells, PlainTable, type Column } from "../../components/PlainTable";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { SecretOnce } from "../../components/SecretOnce";
import { Time } from "../../components/Time";
import { useRowKeys } from "../../components/useRowKeys";
import { useMe, usePainted, useServices } from "../../shell/services";
import { filterText } from "../consumers/consumers";
import { WebhookFields } from "./WebhookFields";
import { bodyOf, emptyForm, lookOf } from "./webhooks";

const columns: readonly Column[] = [
  { title: "Address" }, { title: "State" }, { title: "Behind", isNumber: true }, { title: "Parked", isNumber: true }, { title: "Given up", isNumber: true },
  { title: "Delivered", isNumber: true }, { title: "Failing since" }, { title: "Last success" }, { title: "Gets" },
];
const againMs = 10_000;

/** Where events are sent to. */
export function WebhooksPage(): JSX.Element {
  const me = useMe();
  return can(me, "admin") ? <WebhookList /> : <AdminsOnly title="Webhooks" says="Webhooks lead out of the server; admins make and see them." />;
}

function WebhookList(): JSX.Element {
  const { api, live } = useServices();
  const client = useQueryClient();
  const isPaused = usePainted(live.pauses).size > 0;
  const list = useInfiniteQuery({ ...webhooksQuery(api), refetchInterval: isPaused ? false : againMs });
  const [isMaking, setMaking] = useState(false);
  const [made, setMade] = useState<Webhook>();
  const table = useRef<HTMLDivElement>(null);
  useRowKeys(table);
  const webhooks = list.data?.pages.flatMap(({ data }) => data);
  const handleMade = (webhook: Webhook): void => {
    setMade(webhook);
    void client.invalidateQueries({ queryKey: ["webhooks"] });
  };
  return (
    <>
      <PageTitle title="Webhooks">
        <Button size="compact-sm" leftSection={<Icon name="plus" size={14} />} onClick={() => { setMaking(true); }}>Make a webhook</Button>
      </PageTitle>
      {list.error && !webhooks && <Failed error={list.error} onRetry={() => { void list.refetch(); }} what="The webhooks could not be loaded" />}
      {!list.error && !webhooks && <RowsSkeleton rows={4} />}
      {webhooks?.length === 0 && (
        <Empty title="There are no webhooks." command={`curl -s -u admin ${location.origin}${api.address("/admin/webhooks")} -H 'Content-Type: application/json' -d '{"url":"https://example.com/hook","filter":{"types":["job.dead"]}}'`}>
          A webhook sends events to an address, in order for each job, until they have arrived. This makes one:
        </Empty>
      )}
      {webhooks && webhooks.length > 0 && (
        <PlainTable label="Webhooks" columns={columns} minWidth={1020} ref={table}>
          {webhooks.map((webhook) => {
            const { tone, icon, word } = lookOf(webhook);
            return (
              <Table.Tr key={webhook.id}>
                <NameCell name={webhook.url ?? webhook.id}><PageLink to={`/webhooks/${webhook.id}`}>{webhook.url ?? shortID(webhook.id)}</PageLink></NameCell>
                <Table.Td><Mark tone={tone} icon={icon}>{word}</Mark></Table.Td>
                <NumberCells texts={[webhook.lag_events, webhook.parked, webhook.given_up, webhook.delivered_total].map(formatCount)} />
                <Table.Td><Time at={webhook.failing_since} /></Table.Td>
                <Table.Td><Time at={webhook.last_success_at} /></Table.Td>
                <NameCell name={filterText(webhook.filter)}>{filterText(webhook.filter)}</NameCell>
              </Table.Tr>
            );
          })}
        </PlainTable>
      )}
      <MoreButton list={list} />
      {isMaking && <MakeForm onClose={() => { setMaking(false); }} onMade={handleMade} />}
      {made?.secret !== undefined && (
        <SecretOnce title="The secret of the webhook" secret={made.secret} says="The receiver checks the signature of each delivery with it." onClose={() => { setMade(undefined); }} />
      )}
    </>
  );
}

function MakeForm({ onClose, onMade }: { onClose: () => void; onMade: (webhook: Webhook) => void }): JSX.Element {
  const { api } = useServices();
  const [form, setForm] = useState(emptyForm);
  return (
    <Ask title="Make a webhook" action="Make it" hasNoReason isDisabled={form.url.trim() === ""} onClose={onClose}
      run={async () => { onMade(await api.post("/admin/webhooks", { body: bodyOf(form) })); }}>
      <WebhookFields form={form} onChange={setForm} />
    </Ask>
  );
}
