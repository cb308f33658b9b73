import { Button, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type JSX } from "react";
import { can } from "../api/access";
import { operationQuery } from "../api/queries";
import type { Operation } from "../api/types";
import { useMe, useServices } from "../shell/services";
import { AskModal } from "./AskModal";
import { bulkActions, shareOf } from "./bulk";
import { Failed } from "./Failed";
import { formatCount, plural } from "./format";
import { PageLink } from "./PageLink";
import classes from "./OperationProgress.module.css";

const everyMs = 700;

/** How far an operation is, until it has ended and somebody has read it. */
export function OperationProgress({ id, onClose }: { id: string; onClose: () => void }): JSX.Element | null {
  const { api } = useServices();
  const { data, error, refetch } = useQuery({
    ...operationQuery(api, id), staleTime: 0,
    refetchInterval: ({ state }) => state.data && state.data.status !== "running" ? false : everyMs,
  });
  if (!data) {
    return error && <Failed error={error} onRetry={() => { void refetch(); }} what="How far it is could not be found out" />;
  }
  return (
    <div className={classes["frame"]} role="group" aria-label="Operation">
      <div className={classes["line"]}>
        <Text size="sm" fw={600}>{`${bulkActions[data.action]} ${plural(data.total, "job")}`}</Text>
        <OperationNumbers operation={data} />
        <PageLink to="/operations">All operations</PageLink>
        {data.status === "running" ? <CancelOperation operation={data} /> : <Button size="compact-xs" variant="subtle" onClick={onClose}>Close</Button>}
      </div>
      <OperationBar operation={data} />
      {/* Said when it ends, and not at each step. */}
      <Text size="xs" c="dimmed" role="status">{data.status === "running" ? "" : endOf(data)}</Text>
    </div>
  );
}

export function OperationBar({ operation }: { operation: Operation }): JSX.Element {
  return <progress className={classes["bar"]} max={1} value={shareOf(operation)} aria-label={`${bulkActions[operation.action]}: progress`} />;
}

export function OperationNumbers({ operation: { total, done, skipped, failed } }: { operation: Operation }): JSX.Element {
  const rest = [skipped > 0 && `${formatCount(skipped)} had changed meanwhile`, failed > 0 && `${formatCount(failed)} failed`].filter(Boolean).join(", ");
  return <span className={classes["soft"]}>{`${formatCount(done)} of ${formatCount(total)} done${rest ? `, ${rest}` : ""}`}</span>;
}

const ends: Readonly<Record<Operation["status"], string>> = {
  running: "It runs.", completed: "It is done.", cancelled: "Somebody has cancelled it. What it did stays done.",
  stopped: "It has stopped: too many of its jobs failed again.", failed: "It could not be carried out.",
};

/** How it has ended, in a sentence. */
export function endOf({ status, errors }: Operation): string {
  const [first] = errors;
  return first ? `${ends[status]} The first error: ${first.detail}` : ends[status];
}

/** Stops a running operation, when somebody has said so twice. */
export function CancelOperation({ operation }: { operation: Operation }): JSX.Element | null {
  const { api } = useServices();
  const me = useMe();
  const queries = useQueryClient();
  const [isAsked, setAsked] = useState(false);
  const cancel = useMutation({
    mutationFn: (reason: string) => api.post("/admin/operations/{id}/cancel", { path: { id: operation.id }, body: reason === "" ? {} : { reason } }),
    onSuccess: () => {
      setAsked(false);
      void queries.invalidateQueries({ queryKey: ["operations"] });
    },
  });
  if (!can(me, "operate")) {
    return null;
  }
  return (
    <>
      <Button size="compact-xs" variant="default" onClick={() => { cancel.reset(); setAsked(true); }}>Cancel it</Button>
      {isAsked && (
        <AskModal title="Cancel this operation?" doIt="Cancel it" isDangerous isPending={cancel.isPending} error={cancel.error} failed="It was not cancelled"
          onDo={cancel.mutate} onClose={() => { setAsked(false); }}>
          <Text size="sm">{`What it has done stays done: ${formatCount(operation.done)} of ${plural(operation.total, "job")} until now.`}</Text>
        </AskModal>
      )}
    </>
  );
}
