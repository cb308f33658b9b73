import { Code, Table, Text } from "@mantine/core";
import type { JSX } from "react";
import type { Attempt } from "../../api/types";
import { formatSpan } from "../../components/format";
import { Icon, type IconName } from "../../components/Icon";
import { Time } from "../../components/Time";
import { failureOf } from "./way";
import classes from "./JobPage.module.css";

const icons: Readonly<Record<Attempt["status"], IconName>> = {
  running: "play", completed: "check", failed: "cross", timed_out: "clock", lease_expired: "hourglass", cancelled: "minus",
};

/** Each attempt in a row, the newest first; its error and its stack below it. */
export function Attempts({ attempts }: { attempts: readonly Attempt[] }): JSX.Element {
  if (attempts.length === 0) {
    return <Text size="sm" c="dimmed">Nobody has tried it yet.</Text>;
  }
  return (
    <div className={classes["panel"]}>
      <Table.ScrollContainer minWidth={860} type="native" tabIndex={0} role="region" aria-label="Attempts">
        <Table verticalSpacing={6} horizontalSpacing="sm" className={classes["table"] ?? ""}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Attempt</Table.Th><Table.Th>Ended as</Table.Th><Table.Th>Worker</Table.Th><Table.Th>Started</Table.Th>
              <Table.Th ta="right">Wait</Table.Th><Table.Th ta="right">Run</Table.Th><Table.Th>Error</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {attempts.toReversed().map((attempt) => <Row key={attempt.fence} attempt={attempt} />)}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </div>
  );
}

function Row({ attempt }: { attempt: Attempt }): JSX.Element {
  const failure = failureOf(attempt);
  return (
    <Table.Tr id={`attempt-${attempt.attempt_number}`} className={classes["attempt"] ?? ""}>
      <Table.Td>{attempt.attempt_number}</Table.Td>
      <Table.Td>
        <span className={classes["ended"]} data-status={attempt.status}><Icon name={icons[attempt.status]} size={13} />{attempt.status.replace("_", " ")}</span>
      </Table.Td>
      <Table.Td>{attempt.worker ?? "–"}</Table.Td>
      <Table.Td><Time at={attempt.started_at} /></Table.Td>
      <Table.Td ta="right">{formatSpan(attempt.wait_seconds)}</Table.Td>
      <Table.Td ta="right">{formatSpan(attempt.run_seconds)}</Table.Td>
      <Table.Td>
        {failure ?? "–"}
        {attempt.error_stack && (
          <details className={classes["stack"]}>
            <summary>Stack</summary>
            <Code block tabIndex={0}>{attempt.error_stack}</Code>
          </details>
        )}
      </Table.Td>
    </Table.Tr>
  );
}
