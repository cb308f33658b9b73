import { NativeSelect, TextInput } from "@mantine/core";
import { useState, type JSX } from "react";
import type { Webhook } from "../../api/types";
import { Ask } from "../../components/Ask";
import { useServices } from "../../shell/services";
import { WebhookFields } from "./WebhookFields";
import { bodyOf, formOf } from "./webhooks";

export type WebhookAction = "edit" | "pause" | "resume" | "replay" | "rotate" | "remove";

interface QuestionProps {
  webhook: Webhook;
  onClose: () => void;
  /** With the webhook as it is then; a new secret is in it. */
  onDone: (webhook: Webhook | undefined) => void;
}

/** Asks before something is done with a webhook. */
export function WebhookQuestion({ action, ...rest }: QuestionProps & { action: WebhookAction }): JSX.Element {
  const { api } = useServices();
  const { webhook: { id }, onClose, onDone } = rest;
  switch (action) {
    case "edit":
      return <EditForm {...rest} />;
    case "resume":
      return <ResumeForm {...rest} />;
    case "replay":
      return <ReplayForm {...rest} />;
    case "pause":
      return (
        <Ask title="Pause the webhook?" action="Pause" says="Nothing is sent until it is resumed; then it goes on where it stood." onClose={onClose}
          run={async (body) => { onDone(await api.post("/admin/webhooks/{id}/pause", { path: { id }, body })); }} />
      );
    case "rotate":
      return (
        <Ask title="Rotate the secret?" action="Rotate" says="A new secret is made and shown once. The receiver has to learn it." onClose={onClose}
          run={async (body) => { onDone(await api.post("/admin/webhooks/{id}/rotate-secret", { path: { id }, body })); }} />
      );
    case "remove":
      return (
        <Ask title="Remove the webhook?" action="Remove" isDangerous says="Nothing is sent to it any more, and what has not arrived is forgotten. This cannot be undone." onClose={onClose}
          run={(body) => api.delete("/admin/webhooks/{id}", { path: { id }, body })} onDone={() => { onDone(undefined); }} />
      );
  }
}

function EditForm({ webhook: { id, version, filter, ...webhook }, onClose, onDone }: QuestionProps): JSX.Element {
  const { api } = useServices();
  const [form, setForm] = useState(() => formOf({ filter, ...webhook }));
  const [base] = useState(version); // what the form was filled from: an edit of somebody else meanwhile is a conflict, not lost
  return (
    <Ask title="Edit the webhook" action="Save" isDisabled={form.url.trim() === ""} onClose={onClose}
      run={async (body) => { onDone(await api.patch("/admin/webhooks/{id}", { path: { id }, version: base, body: { ...body, ...bodyOf(form, filter) } })); }}>
      <WebhookFields form={form} onChange={setForm} />
    </Ask>
  );
}

const resumePlaces = { "": "where it stood", latest: "the newest event: skip what lies between", earliest: "the oldest that is kept", at: "behind a cursor" } as const;

function ResumeForm({ webhook: { id, disabled_reason: why }, onClose, onDone }: QuestionProps): JSX.Element {
  const { api } = useServices();
  const [place, setPlace] = useState<string>(why === "cursor_expired" || why === "epoch_changed" ? "earliest" : "");
  const [cursor, setCursor] = useState("");
  const after = place === "at" ? cursor.trim() : place;
  return (
    <Ask title="Resume the webhook?" action="Resume" isDisabled={place === "at" && after === ""} onClose={onClose}
      run={async (body) => { onDone(await api.post("/admin/webhooks/{id}/resume", { path: { id }, body: { ...body, ...(after === "" ? {} : { after }) } })); }}>
      <NativeSelect label="It goes on from" value={place} data-autofocus data={Object.entries(resumePlaces).map(([value, label]) => ({ value, label }))}
        onChange={(event) => { setPlace(event.currentTarget.value); }} />
      {place === "at" && <TextInput label="Cursor" placeholder="1-4200" required value={cursor} onChange={(event) => { setCursor(event.currentTarget.value); }} />}
    </Ask>
  );
}

function ReplayForm({ webhook: { id, cursor }, onClose, onDone }: QuestionProps): JSX.Element {
  const { api } = useServices();
  const [after, setAfter] = useState("earliest");
  const [until, setUntil] = useState(cursor);
  return (
    <Ask title="Replay events?" action="Replay" says="They are sent once more, with the ids that they had: the receiver sees doubles." isDisabled={after.trim() === "" || until.trim() === ""} onClose={onClose}
      run={async (body) => { onDone(await api.post("/admin/webhooks/{id}/replay", { path: { id }, body: { ...body, after: after.trim(), until: until.trim() } })); }}>
      <TextInput label="After" description="A cursor, or earliest." required value={after} data-autofocus onChange={(event) => { setAfter(event.currentTarget.value); }} />
      <TextInput label="Until" description="The last event: a cursor, as far as the webhook has come, or latest." required value={until} onChange={(event) => { setUntil(event.currentTarget.value); }} />
    </Ask>
  );
}
