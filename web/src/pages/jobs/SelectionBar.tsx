import { Alert, Button, Group, Modal, Text, TextInput } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState, type JSX, type SubmitEvent } from "react";
import { operationQuery } from "../../api/queries";
import type { JobAction } from "../../api/types";
import { Failed } from "../../components/Failed";
import { plural } from "../../components/format";
import { useServices } from "../../shell/services";
import type { JobRow } from "../../store/fold";
import { allowedFor, type Selection } from "./selection";
import classes from "./JobsPage.module.css";

/** What is done to many at once; the words are those of buttons and questions. */
const actions = { retry: "Retry", "run-now": "Run now", cancel: "Cancel", delete: "Delete" } as const satisfies Partial<Record<JobAction, string>>;
export type ManyAction = keyof typeof actions;

interface SelectionBarProps {
  rows: readonly JobRow[];
  selection: Selection;
  /** What is asked for at the moment: by a button here, or by a key. */
  asked: ManyAction | undefined;
  onAsk: (action: ManyAction | undefined) => void;
  onClear: () => void;
}

/** What can be done with the selected jobs. Each action says for how many of them it is allowed, and asks before it begins. */
export function SelectionBar({ rows, selection, asked, onAsk, onClear }: SelectionBarProps): JSX.Element {
  const { api } = useServices();
  const [reason, setReason] = useState("");
  const start = useMutation({
    mutationFn: ({ action, ids }: { action: ManyAction; ids: string[] }) =>
      api.post("/admin/operations", { body: { action, ids, ...(reason === "" ? {} : { reason }) } }),
    onSuccess: () => {
      setReason("");
      onAsk(undefined);
      onClear();
    },
  });
  const operation = start.data && "id" in start.data ? start.data.id : undefined;
  const ids = asked ? allowedFor(asked, rows, selection) : [];
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (asked && ids.length > 0) {
      start.mutate({ action: asked, ids });
    }
  };
  const handleClose = (): void => {
    start.reset();
    onAsk(undefined);
  };
  return (
    <>
      {selection.ids.size > 0 && (
        <div className={classes["selected"]} role="group" aria-label="Selected jobs">
          <Text size="sm" fw={600}>{`${plural(selection.ids.size, "job")} selected`}</Text>
          {(Object.keys(actions) as ManyAction[]).map((action) => {
            const { length } = allowedFor(action, rows, selection);
            return length > 0 && (
              <Button key={action} size="compact-sm" variant="default" onClick={() => { onAsk(action); }}>
                {length === selection.ids.size ? actions[action] : `${actions[action]} ${length}`}
              </Button>
            );
          })}
          <Button size="compact-sm" variant="subtle" onClick={onClear}>Select none</Button>
          <Text size="xs" c="dimmed">The list stands still meanwhile.</Text>
        </div>
      )}
      {operation && <Progress id={operation} onClose={start.reset} />}
      <Modal opened={asked !== undefined && ids.length > 0} onClose={handleClose} closeButtonProps={{ "aria-label": "Close" }}
        title={asked && `${actions[asked]} ${plural(ids.length, "job")}?`}>
        <form onSubmit={handleSubmit}>
          {ids.length < selection.ids.size && <Text size="sm" mb="sm">{`The other ${selection.ids.size - ids.length} of the selected jobs do not allow it now.`}</Text>}
          <TextInput label="Reason" description="For the audit log; may be left empty." maxLength={256} value={reason} data-autofocus
            onChange={(event) => { setReason(event.currentTarget.value); }} />
          {start.error && <div className={classes["gap"]}><Failed error={start.error} what="It was not begun" /></div>}
          <Group justify="flex-end" mt="md" gap="xs">
            <Button variant="default" onClick={handleClose}>Leave it</Button>
            <Button type="submit" {...(asked === "delete" || asked === "cancel" ? { color: "red.8" } : {})} loading={start.isPending}>
              {asked && `${actions[asked]} ${plural(ids.length, "job")}`}
            </Button>
          </Group>
        </form>
      </Modal>
    </>
  );
}

/** How far an operation is, until it has ended and somebody has read it. */
function Progress({ id, onClose }: { id: string; onClose: () => void }): JSX.Element | null {
  const { api } = useServices();
  const { data } = useQuery({
    ...operationQuery(api, id), staleTime: 0,
    refetchInterval: ({ state }) => state.data && state.data.status !== "running" ? false : 500,
  });
  if (!data) {
    return null;
  }
  const isRunning = data.status === "running";
  const rest = [data.skipped > 0 && `${data.skipped} had changed meanwhile`, data.failed > 0 && `${data.failed} failed`].filter(Boolean).join(", ");
  return (
    <Alert variant="light" color={data.failed > 0 ? "red" : "blue"} mb="sm" role="status" withCloseButton={!isRunning} closeButtonLabel="Close" onClose={onClose}>
      {`${actions[data.action]}: ${data.done} of ${plural(data.total, "job")} done${rest ? `, ${rest}` : ""}${isRunning ? " …" : "."}`}
    </Alert>
  );
}
