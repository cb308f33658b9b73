import { Button, Group, JsonInput, Modal, NativeSelect, Stack, Text, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState, type JSX, type SubmitEvent } from "react";
import { priorities, type Job, type Priority } from "../../api/types";
import { Failed } from "../../components/Failed";
import { withSource } from "../../components/json";
import { useServices } from "../../shell/services";

interface CloneFormProps {
  job: Job;
  /** The text of the payload; undefined: it is not for the caller, and is copied as it is. */
  payload: string | undefined;
  onClose: () => void;
  onCloned: (id: string) => void;
}

/** Makes a new job out of this one, with what somebody changes. */
export function CloneForm({ job, payload, onClose, onCloned }: CloneFormProps): JSX.Element {
  const { api } = useServices();
  const [queue, setQueue] = useState(job.queue);
  const [kind, setKind] = useState(job.kind);
  const [priority, setPriority] = useState<Priority>(job.priority);
  const [delay, setDelay] = useState("");
  const [text, setText] = useState(payload ?? "");
  const [reason, setReason] = useState("");
  const isEdited = payload !== undefined && text !== payload;
  const isJson = !isEdited || canParse(text);
  const clone = useMutation({
    mutationFn: () => {
      const changes = {
        ...(queue === job.queue ? {} : { queue }), ...(kind === job.kind ? {} : { kind }), ...(priority === job.priority ? {} : { priority }),
        ...(delay.trim() === "" ? {} : { delay: delay.trim() }), ...(reason.trim() === "" ? {} : { reason: reason.trim() }),
      };
      // The text as it was typed: to parse it and write it again would round its long numbers.
      return api.post("/admin/jobs/{id}/clone", { path: { id: job.id }, ...(isEdited ? { bodyText: withSource(changes, "payload", text) } : { body: changes }) });
    },
    onSuccess: ({ id }) => { onCloned(id); },
  });
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (isJson) {
      clone.mutate();
    }
  };
  return (
    <Modal opened onClose={onClose} title="Make a copy of the job" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={handleSubmit}>
        <Stack gap="sm">
          <Text size="sm">The copy is a job of its own; this one stays as it is.</Text>
          <TextInput label="Queue" required value={queue} data-autofocus onChange={(event) => { setQueue(event.currentTarget.value); }} />
          <TextInput label="Kind" required value={kind} onChange={(event) => { setKind(event.currentTarget.value); }} />
          <NativeSelect label="Priority" value={priority} data={[...priorities]}
            onChange={(event) => { setPriority(priorities.find((one) => one === event.currentTarget.value) ?? "normal"); }} />
          <TextInput label="Delay" description="10m, 1h30m; at once unless it is given." value={delay} onChange={(event) => { setDelay(event.currentTarget.value); }} />
          {payload === undefined
            ? <Text size="sm" c="dimmed">You may not see the payload. It is copied as it is.</Text>
            : <JsonInput label="Payload" value={text} autosize minRows={4} maxRows={14} spellCheck={false} onChange={setText} error={isJson ? undefined : "This is not JSON."} />}
          <TextInput label="Reason" description="For the audit log; may be left empty." maxLength={256} value={reason} onChange={(event) => { setReason(event.currentTarget.value); }} />
          {clone.error && <Failed error={clone.error} what="No copy was made" />}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={onClose}>Leave it</Button>
            <Button type="submit" loading={clone.isPending} disabled={!isJson}>Make the copy</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

function canParse(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
