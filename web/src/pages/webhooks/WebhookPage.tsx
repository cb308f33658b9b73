import { Alert, Button, Paper, Text, Title } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useState, type JSX } from "react";
import { can } from "../../api/access";
import { webhookQuery } from "../../api/queries";
import type { Webhook } from "../../api/types";
import { AdminsOnly } from "../../components/AdminsOnly";
import { Failed } from "../../components/Failed";
import { formatCount } from "../../components/format";
import { Mark } from "../../components/Mark";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { SecretOnce } from "../../components/SecretOnce";
import { Time } from "../../components/Time";
import { useMe, usePainted, useServices } from "../../shell/services";
import { filterText } from "../consumers/consumers";
import { Deliveries } from "./Deliveries";
import { lookOf, testText } from "./webhooks";
import { WebhookQuestion, type WebhookAction } from "./WebhookQuestion";
import classes from "./WebhookPage.module.css";

const againMs = 5000;

/** One webhook: how it does, what can be done with it, and what has not arrived. */
export function WebhookPage(): JSX.Element {
  const me = useMe();
  const { id = "" }: { id?: string } = useParams({ strict: false });
  return can(me, "admin") ? <Details key={id} id={id} /> : <AdminsOnly title="Webhook" says="Webhooks lead out of the server; admins make and see them." />;
}

function Details({ id }: { id: string }): JSX.Element {
  const { api, live } = useServices();
  const client = useQueryClient();
  const navigate = useNavigate();
  const isPaused = usePainted(live.pauses).size > 0;
  const { data: webhook, error, refetch } = useQuery({ ...webhookQuery(api, id), refetchInterval: isPaused ? false : againMs });
  const [asked, setAsked] = useState<WebhookAction>();
  const [secret, setSecret] = useState<string>();
  const tried = useMutation({ mutationFn: () => api.post("/admin/webhooks/{id}/test", { path: { id }, body: {}, deadlineMs: 30_000 }) });
  const handleDone = (changed: Webhook | undefined): void => {
    setSecret(changed?.secret);
    if (asked === "remove") {
      void client.invalidateQueries({ queryKey: ["webhooks", "list"] });
      void navigate({ to: "/webhooks" });
    } else {
      void client.invalidateQueries({ queryKey: ["webhooks"] });
    }
  };
  if (!webhook) {
    return <><PageTitle title="Webhook" />{error ? <Failed error={error} onRetry={() => { void refetch(); }} what="The webhook could not be loaded" /> : <RowsSkeleton />}</>;
  }
  const button = (action: WebhookAction, text: string): JSX.Element => <Button size="compact-sm" variant="default" onClick={() => { setAsked(action); }}>{text}</Button>;
  return (
    <>
      <PageTitle title="Webhook">
        <Button size="compact-sm" variant="default" loading={tried.isPending} onClick={() => { tried.mutate(); }}>Test</Button>
        {webhook.enabled ? button("pause", "Pause") : button("resume", "Resume")}
        {button("replay", "Replay")}{button("edit", "Edit")}{button("rotate", "Rotate the secret")}{button("remove", "Remove")}
      </PageTitle>
      <div role="status">
        {tried.data && <Alert variant="light" color={tried.data.delivered ? "green" : "red"} mb="sm" withCloseButton closeButtonLabel="Close" onClose={tried.reset}><Text size="sm" c="inherit">{testText(tried.data)}</Text></Alert>}
      </div>
      {tried.error && <Failed error={tried.error} what="The test was not sent" />}
      <Facts webhook={webhook} />
      <Title order={2} mb="xs">What has not arrived</Title>
      <Deliveries id={id} />
      {asked && <WebhookQuestion action={asked} webhook={webhook} onClose={() => { setAsked(undefined); }} onDone={handleDone} />}
      {secret !== undefined && <SecretOnce title="The new secret of the webhook" secret={secret} says="The receiver checks the signature of each delivery with it. For a day deliveries are signed with the old one, too." onClose={() => { setSecret(undefined); }} />}
    </>
  );
}

function Facts({ webhook }: { webhook: Webhook }): JSX.Element {
  const { tone, icon, word } = lookOf(webhook);
  const facts: readonly (readonly [string, JSX.Element | string])[] = [
    ["State", <Mark key="state" tone={tone} icon={icon}>{word}</Mark>],
    ["Stopped", <Time key="stopped" at={webhook.disabled_at} />],
    ["Behind", `${formatCount(webhook.lag_events)} events, at ${webhook.cursor}`],
    ["Replay", webhook.replay ? `at ${webhook.replay.cursor}, until ${webhook.replay.until}` : "–"],
    ["Delivered, failed", `${formatCount(webhook.delivered_total)}, ${formatCount(webhook.failed_total)}`],
    ["Parked, given up", `${formatCount(webhook.parked)}, ${formatCount(webhook.given_up)}`],
    ["Last success", <Time key="success" at={webhook.last_success_at} />],
    ["Failing since", <Time key="failing" at={webhook.failing_since} />],
    ["Gets", filterText(webhook.filter)],
    ["Payloads", webhook.include_payload ? "sent" : "left out"],
    ["Made", <span key="made"><Time at={webhook.created_at} />{` by ${webhook.created_by}`}</span>],
  ];
  return (
    <Paper withBorder p="sm" mb="md">
      <Text fw={600} mb="xs">{webhook.url ?? "The address is for admins"}</Text>
      <dl className={classes["facts"]}>{facts.map(([title, value]) => <div key={title}><dt>{title}</dt><dd>{value}</dd></div>)}</dl>
    </Paper>
  );
}
