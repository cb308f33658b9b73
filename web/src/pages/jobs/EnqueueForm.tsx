import { Button, Group, JsonInput, Modal, NativeSelect, Stack, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState, type JSX, type SubmitEvent } from "react";
import { priorities, type NewJob, type Priority } from "../../api/types";
import { Failed } from "../../components/Failed";
import { useServices } from "../../shell/services";

/** Enqueues a job by hand. What is wrong with it the server says. */
export function EnqueueForm({ onClose }: { onClose: () => void }): JSX.Element {
  const { api } = useServices();
  const [queue, setQueue] = useState("default");
  const [kind, setKind] = useState("");
  const [priority, setPriority] = useState<Priority>("normal");
  const [delay, setDelay] = useState("");
  const [payload, setPayload] = useState("{}");
  // One key for all tries with this form: an answer that got lost does not make a second job.
  const [key, setKey] = useState(newKey);
  const enqueue = useMutation({
    mutationFn: (job: NewJob) => api.post("/jobs", { body: job, headers: { "Idempotency-Key": key } }),
    onSuccess: onClose,
  });
  const parsed = parse(payload);
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    if (parsed.ok) {
      enqueue.mutate({ queue, priority, payload: parsed.value, ...(kind ? { kind } : {}), ...(delay ? { delay } : {}) });
    }
  };
  const changed = <T,>(set: (value: T) => void) => (value: T): void => {
    set(value);
    setKey(newKey()); // it is another job now
  };
  return (
    <Modal opened onClose={onClose} title="Enqueue a job" closeButtonProps={{ "aria-label": "Close" }}>
      <form onSubmit={handleSubmit}>
        <Stack gap="sm">
          <TextInput label="Queue" required value={queue} data-autofocus onChange={(event) => { changed(setQueue)(event.currentTarget.value); }} />
          <TextInput label="Kind" description="Names the handler; the queue's name unless it is given." value={kind} onChange={(event) => { changed(setKind)(event.currentTarget.value); }} />
          <NativeSelect label="Priority" value={priority} data={[...priorities]}
            onChange={(event) => { changed(setPriority)(priorities.find((one) => one === event.currentTarget.value) ?? "normal"); }} />
          <TextInput label="Delay" description="10m, 1h30m; at once unless it is given." value={delay} onChange={(event) => { changed(setDelay)(event.currentTarget.value); }} />
          <JsonInput label="Payload" value={payload} autosize minRows={4} maxRows={14} spellCheck={false} onChange={changed(setPayload)}
            error={parsed.ok ? undefined : "This is not JSON."} />
          {enqueue.error && <Failed error={enqueue.error} what="The job was not enqueued" />}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={onClose}>Leave it</Button>
            <Button type="submit" loading={enqueue.isPending} disabled={!parsed.ok}>Enqueue</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

// Browsers have randomUUID in a secure context only, and this page is also served on plain http.
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (octet) => octet.toString(16).padStart(2, "0")).join("");
}

function parse(text: string): { ok: true; value: unknown } | { ok: false } {
  try {
    return { ok: true, value: JSON.parse(text) };
  } catch {
    return { ok: false };
  }
}
