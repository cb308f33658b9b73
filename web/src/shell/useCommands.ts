import { useMantineColorScheme } from "@mantine/core";
import { useRouter } from "@tanstack/react-router";
import type { IconName } from "../components/Icon";
import { isAnonymous } from "../api/access";
import { preferences, usePreferences } from "./preferences";
import { useMe, usePainted, useServices } from "./services";

/** Something that can be done from everywhere: by key, from the palette, from the menu. */
export interface Command {
  readonly id: "theme" | "zone" | "pause" | "session";
  readonly label: string;
  readonly icon: IconName;
  readonly keys?: string;
  readonly run: () => void;
}

const themes = { auto: "light", light: "dark", dark: "auto" } as const;
const themeNames = { auto: "as the system has it", light: "light", dark: "dark" } as const;
const themeIcons = { auto: "screen", light: "sun", dark: "moon" } as const;

export function useCommands(): readonly Command[] {
  const { live, api, queries } = useServices();
  const me = useMe();
  const router = useRouter();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const { zone } = usePreferences();
  const isPaused = usePainted(live.pauses).has("key");
  const next = themes[colorScheme];
  return [
    { id: "theme", label: `Theme: ${themeNames[colorScheme]}. Next: ${themeNames[next]}`, icon: themeIcons[colorScheme], keys: "t", run: () => { setColorScheme(next); } },
    {
      id: "zone", label: zone === "utc" ? "Show times in the zone of this machine" : "Show times in UTC", icon: "clock",
      run: () => { preferences.set({ zone: zone === "utc" ? "local" : "utc" }); },
    },
    { id: "pause", label: isPaused ? "Go on" : "Pause", icon: isPaused ? "play" : "pause", keys: "p", run: () => { live.pause("key", !isPaused); } },
    isAnonymous(me)
      ? { id: "session", label: "Log in", icon: "person", run: () => {
        void router.navigate({ to: "/login", search: { from: router.state.location.pathname + router.state.location.searchStr } });
      } }
      : { id: "session", label: "Log out", icon: "person", run: () => {
        live.stop();
        void api.post("/logout", {}).finally(() => {
          queries.clear();
          void router.navigate({ to: "/login" });
        });
      } },
  ];
}
