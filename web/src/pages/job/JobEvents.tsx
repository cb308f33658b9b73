import { Button, Table, Text } from "@mantine/core";
import { useState, type JSX } from "react";
import type { JobEvent } from "../../api/types";
import { formatSpan, plural } from "../../components/format";
import { StatusBadge } from "../../components/StatusBadge";
import { Time } from "../../components/Time";
import { isStatus } from "../../store/fold";
import classes from "./JobPage.module.css";

const eventsAtOnce = 25;

/** What happened to the job, the newest first. */
export function JobEvents({ events, isCut }: { events: readonly JobEvent[]; isCut: boolean }): JSX.Element {
  const [shown, setShown] = useState(eventsAtOnce);
  if (events.length === 0) {
    return <Text size="sm" c="dimmed">{isCut ? "Its events are no longer kept." : "No event has been told yet."}</Text>;
  }
  const left = events.length - shown;
  return (
    <div className={classes["panel"]}>
      <Table.ScrollContainer minWidth={980} type="native" tabIndex={0} role="region" aria-label="Events">
        <Table verticalSpacing={4} horizontalSpacing="sm" className={classes["table"] ?? ""}>
          <Table.Thead>
            <Table.Tr><Table.Th>Event</Table.Th><Table.Th>When</Table.Th><Table.Th>Status after it</Table.Th><Table.Th>By</Table.Th><Table.Th>What it says</Table.Th><Table.Th>Cursor</Table.Th></Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {events.toReversed().slice(0, shown).map((event) => (
              <Table.Tr key={event.cursor}>
                <Table.Td>{event.type}</Table.Td>
                <Table.Td><Time at={event.timestamp} isAbsolute /></Table.Td>
                <Table.Td>{isStatus(event.status) ? <StatusBadge status={event.status} /> : "–"}</Table.Td>
                <Table.Td>{event.actor ?? event.worker ?? "–"}</Table.Td>
                <Table.Td>{saying(event)}</Table.Td>
                <Table.Td className={classes["mono"] ?? ""}>{event.cursor}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      {(left > 0 || isCut) && (
        <div className={classes["foot"]}>
          {left > 0 && <Button size="compact-xs" variant="subtle" onClick={() => { setShown(shown + 4 * eventsAtOnce); }}>{plural(left, "older event")}</Button>}
          {isCut && <span>There were others, which are too old or too many to be shown.</span>}
        </div>
      )}
    </div>
  );
}

/** The members of its data in words. */
function saying({ data }: JobEvent): string {
  const error = data.error as { type?: unknown; message?: unknown } | undefined;
  const { percent, message } = data as { percent?: unknown; message?: unknown };
  const parts = [
    typeof percent === "number" && `${Math.round(percent)} %`, typeof message === "string" && message,
    error && `${String(error.type)}: ${String(error.message)}`, data.reason, data.comment, data.source && `from ${data.source}`,
    data.wait_ms !== undefined && `waited ${formatSpan(data.wait_ms / 1000)}`, data.run_ms !== undefined && `ran ${formatSpan(data.run_ms / 1000)}`,
  ];
  return parts.filter(Boolean).join(" · ") || "–";
}
