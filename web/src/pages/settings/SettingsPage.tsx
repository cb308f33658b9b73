import { Paper, SegmentedControl, Stack, Text, Title, useMantineColorScheme } from "@mantine/core";
import type { JSX } from "react";
import { can, isAnonymous } from "../../api/access";
import { formatAbsolute } from "../../components/format";
import { PageTitle } from "../../components/PageTitle";
import { preferences, usePreferences } from "../../shell/preferences";
import { useMe } from "../../shell/services";
import { useClock } from "../../shell/useClock";
import { KeyList } from "./KeyList";

/** How somebody likes to see things, who they are, and the keys of the server. */
export function SettingsPage(): JSX.Element {
  const me = useMe();
  return (
    <>
      <PageTitle title="Settings" />
      <Stack gap="lg">
        <Looks />
        <section aria-label="You">
          <Title order={2} mb="xs">You</Title>
          <Text size="sm">{isAnonymous(me) ? "You are not logged in." : `You are ${me.name}${me.role ? `, ${me.role}` : ""}.`}</Text>
          <Text size="sm" c="dimmed">{`You may: ${me.scopes.join(", ") || "nothing"}${me.queues ? `; in the queues ${me.queues.join(", ")}` : ""}.`}</Text>
        </section>
        {can(me, "admin") ? <KeyList /> : <Text size="sm" c="dimmed">Keys are made by admins.</Text>}
      </Stack>
    </>
  );
}

/** Remembered by this browser. */
function Looks(): JSX.Element {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const { zone } = usePreferences();
  const nowMs = useClock();
  return (
    <section aria-label="Looks">
      <Title order={2} mb="xs">Looks</Title>
      <Paper withBorder p="sm" maw={560}>
        <Stack gap="sm">
          <div>
            <Text size="sm" fw={500} mb={4}>Theme (t)</Text>
            <SegmentedControl size="xs" aria-label="Theme" value={colorScheme} onChange={(value) => { setColorScheme(value); }}
              data={[{ value: "auto", label: "As the system" }, { value: "light", label: "Light" }, { value: "dark", label: "Dark" }]} />
          </div>
          <div>
            <Text size="sm" fw={500} mb={4}>Time zone</Text>
            <SegmentedControl size="xs" aria-label="Time zone" value={zone} onChange={(value) => { preferences.set({ zone: value }); }}
              data={[{ value: "utc", label: "UTC" }, { value: "local", label: "This machine" }]} />
            <Text size="xs" c="dimmed" mt={4}>{`Now it is ${formatAbsolute(new Date(nowMs).toISOString(), zone).replace(/\.\d+/, "")}.`}</Text>
          </div>
        </Stack>
      </Paper>
    </section>
  );
}
