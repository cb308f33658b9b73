import { Button, Text } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { lazy, Suspense, useState, type JSX } from "react";
import { can } from "../../api/access";
import type { Api } from "../../api/client";
import type { Job, JobAction } from "../../api/types";
import { AskModal } from "../../components/AskModal";
import { useMe, useServices } from "../../shell/services";
import { useKeys } from "../../shell/useKeys";

const EditForm = lazy(async () => ({ default: (await import("./EditForm")).EditForm }));
const CloneForm = lazy(async () => ({ default: (await import("./CloneForm")).CloneForm }));

type AskedAction = Exclude<JobAction, "patch" | "clone">;

interface Words {
  readonly label: string;
  readonly question: string;
  readonly means: string;
  readonly failed: string;
}

const words: Readonly<Record<AskedAction, Words>> = {
  retry: { label: "Retry", question: "Retry this job?", means: "It becomes pending at once. A dead job gets its attempts again.", failed: "The job was not retried" },
  "run-now": { label: "Run now", question: "Run this job now?", means: "It does not wait for its time any longer.", failed: "The job still waits" },
  cancel: { label: "Cancel", question: "Cancel this job?", means: "A running job is asked to stop; it ends cancelled unless it succeeds first.", failed: "The job was not cancelled" },
  delete: { label: "Delete", question: "Delete this job?", means: "Its payload, result and attempts go with it. That cannot be undone.", failed: "The job was not deleted" },
};

const labels: Readonly<Record<JobAction, string>> = {
  retry: "Retry", "run-now": "Run now", cancel: "Cancel", patch: "Edit", clone: "Clone", delete: "Delete",
};
const order = Object.keys(labels) as JobAction[];

interface JobActionsProps {
  job: Job;
  /** Of the payload, for a copy; undefined: it is not for the caller. */
  payload: string | undefined;
  /** The job as the server answered, after a change. */
  onChanged: (job: Job) => void;
}

/** What somebody may do with the job now. */
export function JobActions({ job, payload, onChanged }: JobActionsProps): JSX.Element | null {
  const { api } = useServices();
  const me = useMe();
  const navigate = useNavigate();
  const [open, setOpen] = useState<JobAction>();
  const run = useMutation({
    mutationFn: ({ action, reason }: { action: AskedAction; reason: string }) => act(api, action, job.id, reason),
    onSuccess: (answer) => {
      setOpen(undefined);
      if (answer) {
        onChanged(answer);
      }
    },
  });
  const mayOperate = can(me, "operate");
  const isAllowed = (action: JobAction): boolean => mayOperate && job.allowed_actions.includes(action);
  const ask = (action: JobAction): void => {
    if (isAllowed(action)) {
      run.reset();
      setOpen(action);
    }
  };
  const handleClose = (): void => { setOpen(undefined); };
  useKeys(mayOperate ? [
    { keys: "r", does: "Retry the job", run: () => { ask("retry"); } },
    { keys: "c", does: "Cancel the job", run: () => { ask("cancel"); } },
  ] : []);
  if (!mayOperate) {
    return null;
  }
  return (
    <>
      {order.filter(isAllowed).map((action) => (
        <Button key={action} size="compact-sm" variant="default" onClick={() => { ask(action); }}>{labels[action]}</Button>
      ))}
      {open && open !== "patch" && open !== "clone" && (
        <AskModal title={words[open].question} doIt={words[open].label} isDangerous={open === "cancel" || open === "delete"} isPending={run.isPending} error={run.error}
          failed={words[open].failed} onClose={handleClose} onDo={(reason) => { run.mutate({ action: open, reason }); }}>
          <Text size="sm">{words[open].means}</Text>
        </AskModal>
      )}
      <Suspense fallback={null}>
        {open === "patch" && <EditForm job={job} onClose={handleClose} onChanged={(changed) => { handleClose(); onChanged(changed); }} />}
        {open === "clone" && <CloneForm job={job} payload={payload} onClose={handleClose}
          onCloned={(id) => { handleClose(); void navigate({ to: `/jobs/${id}` }); }} />}
      </Suspense>
    </>
  );
}

/** Does it; the job as it is then, or nothing when it is gone. */
async function act(api: Api, action: AskedAction, id: string, reason: string): Promise<Job | undefined> {
  const options = { path: { id }, body: reason === "" ? {} : { reason } };
  switch (action) {
    case "retry": return api.post("/admin/jobs/{id}/retry", options);
    case "run-now": return api.post("/admin/jobs/{id}/run-now", options);
    case "cancel": return api.post("/admin/jobs/{id}/cancel", options);
    case "delete": return api.delete("/admin/jobs/{id}", options);
  }
}
