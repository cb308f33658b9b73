import { Button, Group, JsonInput, Modal, NativeSelect, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState, type JSX, type SubmitEvent } from "react";
import { priorities, type Job } from "../../api/types";
import { Failed } from "../../components/Failed";
import { useServices } from "../../shell/services";
import { changesOf, draftOf, faultsOf, type Draft, type EditedJob } from "./edit";

/** Changes a job that waits. It is based on the job as it was when the form was opened: the server refuses it if that has changed since. */
export function EditForm({ job, onClose, onChanged }: { job: Job; onClose: () => void; onChanged: (job: Job) => void }): JSX.Element {
  const { api } = useServices();
  const [opened] = useState(job);
  const [draft, setDraft] = useState(() => draftOf(job));
  const [reason, setReason] = useState("");
  const edit = useMutation({
    mutationFn: (body: EditedJob) => api.patch("/admin/jobs/{id}", { path: { id: opened.id }, version: opened.version, body }),
    onSuccess: onChanged,
  });
  const faults = faultsOf(draft);
  const changes = changesOf(opened, draft);
  const isReady = Object.keys(faults).length === 0 && Object.keys(changes).length > 0;
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (isReady) {
      edit.mutate({ ...changes, ...(reason.trim() === "" ? {} : { reason: reason.trim() }) });
    }
  };
  const field = (name: keyof Draft): { value: string; error: string | undefined; onChange: (event: { currentTarget: { value: string } }) => void } => ({
    value: draft[name], error: faults[name], onChange: (event) => {
      const { value } = event.currentTarget;
      setDraft((before) => ({ ...before, [name]: value }));
    },
  });
  return (
    <Modal opened onClose={onClose} title="Edit the job" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={handleSubmit}>
        <Stack gap="sm">
          {job.version !== opened.version && <Text size="sm" role="status">The job has changed since this form was opened. Close it and open it again to see how.</Text>}
          <NativeSelect label="Priority" data={[...priorities]} {...field("priority")} data-autofocus />
          <TextInput label="Retries" description="After the first attempt." inputMode="numeric" {...field("retries")} />
          <TextInput label="Delay" description="From now: 10m, 1h30m. Empty: its time stays." {...field("delay")} />
          <TextInput label="Timeout" description="Of an attempt: 30s, 10m. Empty: it stays." {...field("timeout")} />
          <TextInput label="Tags" description="With commas between them." {...field("tags")} />
          <JsonInput label="Metadata" description="Names and texts." value={draft.metadata} error={faults.metadata} autosize minRows={2} maxRows={10} spellCheck={false}
            onChange={(metadata) => { setDraft((before) => ({ ...before, metadata })); }} />
          <TextInput label="Reason" description="For the audit log; may be left empty." maxLength={256} value={reason} onChange={(event) => { setReason(event.currentTarget.value); }} />
          {edit.error && <Failed error={edit.error} what="The job was not changed" />}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={onClose}>Leave it</Button>
            <Button type="submit" loading={edit.isPending} disabled={!isReady}>Save</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
