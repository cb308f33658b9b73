import { Alert, Text, Title } from "@mantine/core";
import { useParams } from "@tanstack/react-router";
import { useMemo, type JSX, type ReactNode } from "react";
import { can } from "../../api/access";
import { ApiProblem } from "../../api/problem";
import type { Job } from "../../api/types";
import { Command } from "../../components/Command";
import { CopyButton } from "../../components/CopyButton";
import { Failed } from "../../components/Failed";
import { Icon } from "../../components/Icon";
import { shellWord, withSource } from "../../components/json";
import { JsonView } from "../../components/JsonView";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import { useMe, useServices } from "../../shell/services";
import { Attempts } from "./Attempts";
import { JobActions } from "./JobActions";
import { JobEvents } from "./JobEvents";
import { useJob } from "./useJob";
import { wayOf } from "./way";
import { WayGraph } from "./WayGraph";
import classes from "./JobPage.module.css";

/** Everything about one job, as it happens. */
export function JobPage(): JSX.Element {
  const { id = "" }: { id?: string } = useParams({ strict: false });
  return <OneJob key={id} id={id} />;
}

function OneJob({ id }: { id: string }): JSX.Element {
  const { live } = useServices();
  const me = useMe();
  const { job, events, isCut, isGone, error, source, refresh } = useJob(id);
  const payload = useMemo(() => source("payload"), [source]);
  const result = useMemo(() => source("result"), [source]);
  const way = useMemo(() => job && wayOf(job, events), [job, events]);

  if (!job || !way) {
    const isMissing = error instanceof ApiProblem && error.status === 404;
    return (
      <>
        <PageTitle title="Job" />
        {error ? <Failed error={error} what={isMissing ? "There is no such job" : "The job could not be loaded"} {...(isMissing ? {} : { onRetry: refresh })} /> : <RowsSkeleton rows={12} />}
        {isMissing && <Text mt="sm"><PageLink to="/jobs">All jobs</PageLink></Text>}
      </>
    );
  }
  const handleChanged = (changed: Job): void => {
    live.rows.load([changed]);
    refresh();
  };
  return (
    <>
      <PageTitle title={job.kind}>{!isGone && <JobActions job={job} payload={payload} onChanged={handleChanged} />}</PageTitle>
      <div className={classes["top"]}>
        {isGone ? <Text fw={600}>deleted</Text> : <StatusBadge status={job.status} />}
        <span className={classes["id"]}>{job.id}<CopyButton text={job.id} label="Copy the id" /></span>
      </div>
      {isGone && <Alert color="gray" variant="light" mb="md" role="status">This job was deleted. What you see is how it was.</Alert>}
      {!isGone && job.cancel_requested_at && job.status === "running" && <Alert color="yellow" variant="light" mb="md" role="status">Its worker was asked to stop.</Alert>}
      {job.error && job.status !== "completed" && <LastError job={job} error={job.error} />}
      <Facts job={job} />
      <Section title="Way"><WayGraph way={way} /></Section>
      <Section title="Attempts"><Attempts attempts={job.attempts ?? []} /></Section>
      <Section title="Data">
        <div className={classes["json"]}>
          {payload !== undefined && <JsonView title="Payload" source={payload} fileName={`${job.id}-payload.json`} />}
          {result !== undefined && <JsonView title="Result" source={result} fileName={`${job.id}-result.json`} />}
          {Object.keys(job.metadata).length > 0 && <JsonView title="Metadata" source={JSON.stringify(job.metadata)} fileName={`${job.id}-metadata.json`} />}
          {!can(me, "read:payload") && <Text size="sm" c="dimmed">Payload, result and stacks are for those who may read payloads.</Text>}
        </div>
      </Section>
      <Section title="Events"><JobEvents events={events} isCut={isCut} /></Section>
      <Section title="In a terminal"><Commands job={job} payload={payload} /></Section>
    </>
  );
}

function Section({ title, children }: { title: string; children: ReactNode }): JSX.Element {
  return <section className={classes["section"]}><Title order={2}>{title}</Title>{children}</section>;
}

function LastError({ job, error }: { job: Job; error: NonNullable<Job["error"]> }): JSX.Element {
  return (
    <Alert color="red" variant="light" mb="md" icon={<Icon name="failures" />} title={error.type}>
      <Text size="sm">{error.message}</Text>
      {error.fingerprint !== "" && (
        <Text size="sm" mt={4}><PageLink c="inherit" td="underline" to="/jobs" search={{ status: "dead,retrying", kind: job.kind, fingerprint: error.fingerprint }}>All jobs with this error</PageLink></Text>
      )}
    </Alert>
  );
}

/** What is known of it, in short; what says nothing is left out. */
function Facts({ job }: { job: Job }): JSX.Element {
  const facts: [string, ReactNode][] = [
    ["Queue", <PageLink key="queue" to="/jobs" search={{ queue: job.queue }}>{job.queue}</PageLink>],
    ["Priority", job.priority],
    ["Attempts", `${job.attempt} of ${job.attempt + job.attempts_left}`],
    ["Created", <Time key="created" at={job.created_at} />],
    ["Due", <Time key="due" at={job.run_at} />],
  ];
  const add = (name: string, isThere: boolean, value: ReactNode): void => {
    if (isThere) {
      facts.push([name, value]);
    }
  };
  add("Started", job.started_at !== null, <Time at={job.started_at} />);
  add("Ended", job.finished_at !== null, <Time at={job.finished_at} />);
  add("Reason", job.reason !== null, job.reason);
  add("Worker", job.locked_by !== null, job.locked_by);
  add("Lease until", job.lease_expires_at !== null, <Time at={job.lease_expires_at} />);
  add("Fence", job.fence !== null, job.fence);
  add("Timeout", job.timeout !== null, job.timeout);
  add("Snoozes", job.snoozes > 0, job.snoozes);
  add("Redrives", job.redrives > 0, job.redrives);
  add("Source", true, job.source);
  add("Copy of", job.cloned_from !== null, <PageLink to={`/jobs/${job.cloned_from ?? ""}`}>{job.cloned_from}</PageLink>);
  add("Idempotency key", job.idempotency_key !== null, job.idempotency_key);
  add("Trace", job.traceparent !== null, <span className={classes["mono"]}>{job.traceparent}</span>);
  add("Tags", job.tags.length > 0, job.tags.map((tag, i) => <span key={tag}>{i > 0 && ", "}<PageLink to="/jobs" search={{ tag }}>{tag}</PageLink></span>));
  add("Version", true, job.version);
  add("Progress", job.status === "running" && job.progress !== null, job.progress && (
    <>
      <progress className={classes["progress"]} max={100} value={job.progress.percent} aria-label="Progress" />
      <Text size="xs">{`${Math.round(job.progress.percent)} % ${job.progress.message}`.trim()}</Text>
    </>
  ));
  return <dl className={classes["facts"]}>{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

/** Above this a command is no longer one that somebody would paste. */
const maxCommand = 8 * 1024;

function Commands({ job, payload }: { job: Job; payload: string | undefined }): JSX.Element {
  const { api } = useServices();
  const address = (path: string): string => location.origin + api.address(path);
  const fields = { queue: job.queue, kind: job.kind, ...(job.priority === "normal" ? {} : { priority: job.priority }), ...(job.tags.length > 0 ? { tags: job.tags } : {}) };
  const body = payload === undefined ? undefined : withSource(fields, "payload", payload);
  return (
    <div className={classes["curl"]}>
      <Text size="sm">Look at it:</Text>
      <Command text={`curl -s ${shellWord(`${address(`/jobs/${job.id}`)}?include=attempts`)}`} />
      {body !== undefined && body.length <= maxCommand && (
        <>
          <Text size="sm">Enqueue another one like it:</Text>
          <Command text={`curl -s ${address("/jobs")} -H 'Content-Type: application/json' -d ${shellWord(body)}`} />
        </>
      )}
    </div>
  );
}
