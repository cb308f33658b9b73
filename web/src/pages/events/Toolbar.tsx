import { Group, Pill, TextInput } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useState, type JSX, type Ref, type SubmitEvent } from "react";
import { Failed } from "../../components/Failed";
import { Icon } from "../../components/Icon";
import { usePreferences } from "../../shell/preferences";
import type { Search } from "../../shell/search";
import { useServices } from "../../shell/services";
import { clock } from "../../shell/clock";
import { behind, chipsOf, parseJump, parseTyped, seek, withChip, withoutChip, type Jump } from "./events";
import classes from "./EventsPage.module.css";

interface ToolbarProps {
  search: Search;
  field: Ref<HTMLInputElement>;
  onChange: (search: Search) => void;
}

/** What narrows the events, and where in the log somebody wants to be. Both stand in the address. */
export function Toolbar({ search, field, onChange }: ToolbarProps): JSX.Element {
  const { api } = useServices();
  const { zone } = usePreferences();
  const [typed, setTyped] = useState("");
  const [place, setPlace] = useState("");
  const [isWrong, setWrong] = useState(false);
  const jump = useMutation({
    mutationFn: async (to: Jump) => {
      if ("cursor" in to) {
        return to.cursor;
      }
      const range = await api.get("/events/position", {});
      return "seq" in to ? behind(to.seq, range) : await seek(to.atMs, range, async (after) => (await api.get("/events", { query: { after, limit: 1 } })).data[0]);
    },
    onSuccess: (after) => {
      setPlace("");
      onChange({ ...search, after });
    },
  });
  const handleFilter = (event: SubmitEvent): void => {
    event.preventDefault();
    const chip = parseTyped(typed);
    if (chip) {
      onChange(withChip(search, chip));
      setTyped("");
    }
  };
  const handleJump = (event: SubmitEvent): void => {
    event.preventDefault();
    const to = parseJump(place, zone, clock.get());
    setWrong(!to && place.trim() !== "");
    if (to) {
      jump.mutate(to);
    }
  };
  return (
    <>
      <Group gap="xs" mb="sm" align="flex-start">
        <form onSubmit={handleFilter} role="search" className={classes["search"]}>
          <TextInput ref={field} size="xs" value={typed} onChange={(event) => { setTyped(event.currentTarget.value); }} aria-label="Filter" spellCheck={false} autoComplete="off"
            placeholder="job.dead, queue, kind:email.*, tag:welcome, id" leftSection={<Icon name="search" size={14} />} />
        </form>
        <form onSubmit={handleJump} className={classes["jump"]}>
          <TextInput size="xs" value={place} onChange={(event) => { setPlace(event.currentTarget.value); setWrong(false); }} aria-label="Go to a position or a time" spellCheck={false}
            autoComplete="off" placeholder={"go to: 4200, 15m, 2026-03-01 12:00"} leftSection={<Icon name="clock" size={14} />} disabled={jump.isPending}
            error={isWrong ? `Neither a position nor a time${zone === "utc" ? " (UTC)" : ""}.` : undefined} />
        </form>
        {chipsOf(search).map((chip) => (
          <Pill key={`${chip.name} ${chip.value}`} withRemoveButton onRemove={() => { onChange(withoutChip(search, chip)); }}
            removeButtonProps={{ "aria-label": `Remove ${chip.name} ${chip.value}`, tabIndex: 0, "aria-hidden": false }}>
            {`${chip.name}: ${chip.value}`}
          </Pill>
        ))}
      </Group>
      {jump.error && <Failed error={jump.error} what="That place was not found" />}
    </>
  );
}
