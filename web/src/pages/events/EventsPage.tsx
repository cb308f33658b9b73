import { Anchor, Button, Code, Group, Modal } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useRef, useState, type JSX, type RefObject } from "react";
import { ApiProblem } from "../../api/problem";
import { CopyButton } from "../../components/CopyButton";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { PageLink } from "../../components/PageLink";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import { useKeys } from "../../shell/useKeys";
import type { StreamEvent } from "../../stream";
import { before, isAfter, toFilter } from "./events";
import { EventTable, type EventTableHandle } from "./EventTable";
import { Toolbar } from "./Toolbar";
import { stepOf, useFeed, useHistory } from "./useEvents";
import classes from "./EventsPage.module.css";

/** What has happened, as it happens; or, with a cursor in the address, as it has. */
export function EventsPage(): JSX.Element {
  const { live } = useServices();
  const search: Search = useSearch({ strict: false });
  const navigate = useNavigate();
  const isPaused = usePainted(live.pauses).has("key");
  const [opened, setOpened] = useState<StreamEvent>();
  const table = useRef<EventTableHandle>(null);
  const field = useRef<HTMLInputElement>(null);
  const after = search["after"];
  const handleChange = (changed: Search): void => { void navigate({ to: ".", search: changed, replace: changed["after"] === after }); };
  useKeys([
    { keys: "/", does: "Filter", run: () => { field.current?.focus(); } },
    { keys: "j", does: "Next row; Enter opens it", run: () => { table.current?.move(1); } },
    { keys: "k", does: "Row before", run: () => { table.current?.move(-1); } },
  ]);
  const shared = { search, table, onChange: handleChange, onOpen: setOpened };
  return (
    <>
      <PageTitle title="Events">
        {after === undefined
          ? <Button size="compact-sm" variant="default" leftSection={<Icon name={isPaused ? "play" : "pause"} size={14} />} onClick={() => { live.pause("key", !isPaused); }}>{isPaused ? "Go on" : "Pause"}</Button>
          : <Button size="compact-sm" variant="default" leftSection={<Icon name="play" size={14} />} onClick={() => { handleChange({ ...search, after: "" }); }}>Live</Button>}
      </PageTitle>
      <Toolbar search={search} field={field} onChange={handleChange} />
      {after === undefined ? <LiveFeed key={JSON.stringify(search)} {...shared} /> : <History after={after} {...shared} />}
      {opened && <EventDialog event={opened} onClose={() => { setOpened(undefined); }} onGo={(to) => { handleChange({ ...search, after: to }); }} />}
    </>
  );
}

interface ListProps {
  search: Search;
  table: RefObject<EventTableHandle | null>;
  onChange: (search: Search) => void;
  onOpen: (event: StreamEvent) => void;
}

/** Newest first. While somebody reads in it, what is new waits behind a pill. */
function LiveFeed({ search, table, onChange, onOpen }: ListProps): JSX.Element {
  const { api } = useServices();
  const filter = toFilter(search);
  const { events, error, range, hasGap, retry } = useFeed(filter);
  const [held, setHeld] = useState<readonly StreamEvent[]>();
  const shown = held ?? events ?? [];
  const newest = shown[0]?.cursor;
  const waiting = held && events ? events.filter(({ cursor }) => newest === undefined || isAfter(cursor, newest)).length : 0;
  const oldest = shown.at(-1)?.cursor ?? range?.cursor;
  const handleHold = (isHeld: boolean): void => { setHeld((now) => isHeld ? now ?? events : undefined); };
  const handleShow = (): void => {
    setHeld(undefined);
    table.current?.toTop();
  };
  if (error && !events) {
    return <Failed error={error} onRetry={retry} what="The events could not be loaded" />;
  }
  if (!events) {
    return <RowsSkeleton rows={12} />;
  }
  const curl = `curl -s ${location.origin}${api.address("/jobs")} -H 'Content-Type: application/json' -d '{"queue":"mail","payload":{}}'`;
  return (
    <>
      <div className={classes["list"]}>
        {waiting > 0 && <button type="button" className={classes["pill"]} onClick={handleShow}>{`${formatCount(waiting)} new`}</button>}
        {shown.length === 0 ? <Empty title="Nothing has happened lately." command={curl}>Each change of a job is an event. This makes the first ones:</Empty>
          : <EventTable ref={table} events={shown} isAbsolute={false} onOpen={onOpen} onHold={handleHold} />}
      </div>
      <div className={classes["foot"]}>
        {range && oldest && isAfter(oldest, range.floor) && (
          <Button size="compact-xs" variant="default" leftSection={<Icon name="left" size={12} />} onClick={() => { onChange({ ...search, after: before(oldest, stepOf(filter) + 1, range.floor) }); }}>Older</Button>
        )}
        <span>{plural(shown.length, "event")}. Of a job that changes many times within a tenth of a second the last change is shown; older pages have all.</span>
        {hasGap && <span role="status">Some were left out, because more came than a page can show.</span>}
      </div>
    </>
  );
}

/** A page of the log, oldest first, with the way on and back. */
function History({ search, after, table, onChange, onOpen }: ListProps & { after: string }): JSX.Element {
  const filter = toFilter(search);
  const { data, error, refetch, isPlaceholderData } = useHistory(after, filter);
  const go = (to: string): void => {
    onChange({ ...search, after: to });
    table.current?.toTop();
  };
  if (error && !isPlaceholderData) {
    const floor = error instanceof ApiProblem ? error.details.floor : undefined;
    return (
      <>
        <Failed error={error} onRetry={() => { void refetch(); }} what="There are no events to show from here" />
        <Group mt="sm"><Button variant="default" size="compact-sm" onClick={() => { go(floor ?? "earliest"); }}>Go to the first that is kept</Button></Group>
      </>
    );
  }
  if (!data) {
    return <RowsSkeleton rows={12} />;
  }
  const { events, from, cursor, isLast, range } = data;
  return (
    <>
      {events.length === 0
        ? <Empty title="No event here.">{isLast ? "Nothing has happened after this place that the filter lets through." : "The filter lets none of these through. Go on, or take a filter away."}</Empty>
        : <EventTable ref={table} events={events} isAbsolute onOpen={onOpen} />}
      <div className={classes["foot"]}>
        <Button size="compact-xs" variant="default" leftSection={<Icon name="left" size={12} />} disabled={isPlaceholderData || !isAfter(from, range.floor)} onClick={() => { go(before(from, stepOf(filter), range.floor)); }}>Older</Button>
        <Button size="compact-xs" variant="default" rightSection={<Icon name="right" size={12} />} disabled={isPlaceholderData || isLast} onClick={() => { go(cursor); }}>Newer</Button>
        <span>{`${plural(events.length, "event")} behind ${from}. The log reaches from ${range.floor} to ${range.cursor}.`}</span>
      </div>
    </>
  );
}

/** All that an event says. */
function EventDialog({ event, onClose, onGo }: { event: StreamEvent; onClose: () => void; onGo: (after: string) => void }): JSX.Element {
  const text = JSON.stringify(event, null, 2);
  return (
    <Modal opened onClose={onClose} title={`${event.type} at ${event.seq}`} size="lg" closeButtonProps={{ "aria-label": "Close" }}>
      <Group gap="sm" mb="xs">
        {event.job_id !== null && <PageLink to={`/jobs/${event.job_id}`}>Open the job</PageLink>}
        <Anchor component="button" type="button" fz="inherit" onClick={() => {
          onClose();
          onGo(before(event.cursor, 1));
        }}>The log from here</Anchor>
        <CopyButton text={text} label="Copy the event" />
      </Group>
      <Code block tabIndex={0} style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>{text}</Code>
    </Modal>
  );
}
