import { Spotlight, type SpotlightActionData } from "@mantine/spotlight";
import { useRouter } from "@tanstack/react-router";
import { useState, type JSX } from "react";
import { Icon } from "../components/Icon";
import { pages } from "../pages/pages";
import type { Command } from "./useCommands";

const jobID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** Ctrl or Cmd and K: pages, commands, and a job by its id. */
export function Palette({ commands }: { commands: readonly Command[] }): JSX.Element {
  const router = useRouter();
  const [query, setQuery] = useState("");
  const typed = query.trim();
  const open = (to: string): void => { void router.navigate({ to }); };
  const actions: SpotlightActionData[] = [
    ...(jobID.test(typed) ? [{ id: "job", label: `Open job ${typed}`, leftSection: <Icon name="jobs" />, onClick: () => { open(`/jobs/${typed.toLowerCase()}`); } }] : []),
    ...pages.filter(({ keys }) => keys).map(({ path, title, icon }) => ({
      id: path, label: title, leftSection: <Icon name={icon} />, onClick: () => { open(path); },
    })),
    ...commands.map(({ id, label, icon, run }) => ({ id, label, leftSection: <Icon name={icon} />, onClick: run })),
  ];
  return (
    <Spotlight actions={actions} query={query} onQueryChange={setQuery} shortcut="mod + K" nothingFound="There is nothing like that."
      searchProps={{ placeholder: "Page, command, or the id of a job", leftSection: <Icon name="search" />, "aria-label": "Search and commands" }} />
  );
}
