import { Button, NativeSelect, TextInput } from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useState, type JSX } from "react";
import { can } from "../../api/access";
import type { Queue } from "../../api/types";
import { Ask } from "../../components/Ask";
import { Icon } from "../../components/Icon";
import { useMe, useServices } from "../../shell/services";
import { pauseSpans, timeOf } from "./queues";

/** Pauses a queue or resumes it, for those who may. */
export function QueueActions({ queue: { name, paused } }: { queue: Queue }): JSX.Element | null {
  const me = useMe();
  const { api } = useServices();
  const client = useQueryClient();
  const [isAsked, setAsked] = useState(false);
  if (!can(me, "operate")) {
    return null;
  }
  const handleClose = (): void => { setAsked(false); };
  const handleDone = (): void => { void client.invalidateQueries({ queryKey: ["queues"] }); };
  return (
    <>
      <Button size="compact-xs" variant="default" leftSection={<Icon name={paused ? "play" : "pause"} size={12} />} onClick={() => { setAsked(true); }}
        aria-label={`${paused ? "Resume" : "Pause"} ${name}`}>
        {paused ? "Resume" : "Pause"}
      </Button>
      {isAsked && (paused ? (
        <Ask title={`Resume ${name}?`} action="Resume" says="Its pending jobs are handed out again, at once." onClose={handleClose} onDone={handleDone}
          run={(body) => api.post("/admin/queues/{queue}/resume", { path: { queue: name }, body })} />
      ) : <PauseQuestion name={name} onClose={handleClose} onDone={handleDone} />)}
    </>
  );
}

function PauseQuestion({ name, onClose, onDone }: { name: string; onClose: () => void; onDone: () => void }): JSX.Element {
  const { api } = useServices();
  const [span, setSpan] = useState("");
  const [at, setAt] = useState("");
  const until = timeOf(at);
  return (
    <Ask title={`Pause ${name}?`} action="Pause" says="Running jobs go on. New ones are taken in and wait." isDisabled={span === "at" && !until} onClose={onClose} onDone={onDone}
      run={(body) => api.post("/admin/queues/{queue}/pause", {
        path: { queue: name }, body: { ...body, ...(span === "at" ? until ? { until } : {} : span === "" ? {} : { for: span }) },
      })}>
      <NativeSelect label="For how long" value={span} data-autofocus data={Object.entries(pauseSpans).map(([value, label]) => ({ value, label }))}
        onChange={(event) => { setSpan(event.currentTarget.value); }} />
      {span === "at" && (
        <TextInput type="datetime-local" label="Until" description="By the clock of this machine." required value={at} onChange={(event) => { setAt(event.currentTarget.value); }} />
      )}
    </Ask>
  );
}
