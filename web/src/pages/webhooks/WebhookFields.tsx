import { Checkbox, TextInput } from "@mantine/core";
import type { JSX } from "react";
import { filterFields, type FilterField, type WebhookForm } from "./webhooks";

const hints: Readonly<Record<FilterField, string>> = { types: "job.dead, queue.*", queues: "mail, billing", kinds: "email.*", tags: "welcome" };

/** The fields of a webhook, to make it and to edit it. */
export function WebhookFields({ form, onChange }: { form: WebhookForm; onChange: (form: WebhookForm) => void }): JSX.Element {
  return (
    <>
      <TextInput label="Address" required type="url" placeholder="https://example.com/hook" value={form.url} data-autofocus spellCheck={false}
        onChange={(event) => { onChange({ ...form, url: event.currentTarget.value }); }} />
      {(Object.keys(filterFields) as FilterField[]).map((name) => (
        <TextInput key={name} label={filterFields[name]} placeholder={`${hints[name]}; all unless named`} value={form.filter[name]} spellCheck={false}
          onChange={(event) => { onChange({ ...form, filter: { ...form.filter, [name]: event.currentTarget.value } }); }} />
      ))}
      <Checkbox size="xs" label="Send the payload of the job, up to 20 KiB" checked={form.hasPayload} onChange={(event) => { onChange({ ...form, hasPayload: event.currentTarget.checked }); }} />
    </>
  );
}
