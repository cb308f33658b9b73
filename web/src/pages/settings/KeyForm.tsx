import { Checkbox, NativeSelect, Stack, TextInput } from "@mantine/core";
import { useState, type JSX } from "react";
import type { Key } from "../../api/types";
import { Ask } from "../../components/Ask";
import { clock } from "../../shell/clock";
import { useServices } from "../../shell/services";
import { ends, lackOf, roles, scopes, scopeWords, toNewKey, type KeyForm as Form } from "./keys";

/** Makes a key. */
export function KeyForm({ onClose, onMade }: { onClose: () => void; onMade: (key: Key) => void }): JSX.Element {
  const { api } = useServices();
  const [form, setForm] = useState<Form>({ name: "", role: "", scopes: ["enqueue"], queues: "", end: "90" });
  const change = (changed: Partial<Form>): void => { setForm((before) => ({ ...before, ...changed })); };
  return (
    <Ask title="Make a key" action="Make it" hasNoReason isDisabled={lackOf(form) !== undefined} onClose={onClose}
      run={async () => { onMade(await api.post("/admin/keys", { body: toNewKey(form, clock.get()) })); }}>
      <TextInput label="Name" description="For people: who or what uses it." required value={form.name} data-autofocus onChange={(event) => { change({ name: event.currentTarget.value }); }} />
      <NativeSelect label="Role" value={form.role} data={[{ value: "", label: "none: the scopes below" }, ...roles]}
        onChange={(event) => { change({ role: roles.find((role) => role === event.currentTarget.value) ?? "" }); }} />
      {form.role === "" && (
        <Stack gap={10} role="group" aria-label="Scopes">
          {scopes.map((scope) => (
            <Checkbox key={scope} size="xs" label={`${scope}: ${scopeWords[scope]}`} checked={form.scopes.includes(scope)}
              onChange={(event) => { change({ scopes: event.currentTarget.checked ? [...form.scopes, scope] : form.scopes.filter((one) => one !== scope) }); }} />
          ))}
        </Stack>
      )}
      <TextInput label="Queues" description="The only ones that exist for it; all unless they are named. Not with admin." placeholder="mail, billing" value={form.queues}
        onChange={(event) => { change({ queues: event.currentTarget.value }); }} />
      <NativeSelect label="Expires" value={form.end} data={Object.entries(ends).map(([value, label]) => ({ value, label })).sort((a, b) => Number(a.value || 9999) - Number(b.value || 9999))}
        onChange={(event) => { change({ end: event.currentTarget.value }); }} />
    </Ask>
  );
}
