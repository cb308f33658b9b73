import { Group, NativeSelect, Pill, TextInput } from "@mantine/core";
import { useState, type JSX, type Ref, type SubmitEvent } from "react";
import { isStatus } from "../../store/fold";
import type { JobStatus, Queue } from "../../api/types";
import { formatCount } from "../../components/format";
import { Icon } from "../../components/Icon";
import type { Search } from "../../shell/search";
import { chipsOf, countOf, parseTyped, sorts, statusTabs, valuesOf, withChip, withoutChip, withStatus } from "./filters";
import classes from "./Filters.module.css";

interface FiltersProps {
  search: Search;
  /** By status, of what the other filters leave; undefined: nobody knows. */
  counts: Queue["counts"] | undefined;
  field: Ref<HTMLInputElement>;
  onChange: (search: Search) => void;
}

/** What narrows the list. All of it stands in the address. */
export function Filters({ search, counts, field, onChange }: FiltersProps): JSX.Element {
  const [typed, setTyped] = useState("");
  const chosen = valuesOf(search, "status");
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    const chip = parseTyped(typed);
    if (chip) {
      onChange(chip.name === "status" && isStatus(chip.value) ? withStatus(search, chip.value) : withChip(search, chip));
      setTyped("");
    }
  };
  return (
    <>
      <nav aria-label="Status" className={classes["tabs"]}>
        <StatusButton isChosen={chosen.length === 0} onChoose={() => { onChange(withStatus(search, undefined)); }}>All</StatusButton>
        {statusTabs.map((status) => (
          <StatusButton key={status} isChosen={chosen.includes(status)} count={countOf(status, counts)} status={status}
            onChoose={() => { onChange(withStatus(search, status)); }}>{status}</StatusButton>
        ))}
      </nav>
      <Group gap="xs" mb="sm" align="center">
        <form onSubmit={handleSubmit} role="search" className={classes["search"]}>
          <TextInput ref={field} size="xs" value={typed} onChange={(event) => { setTyped(event.currentTarget.value); }} aria-label="Filter"
            placeholder="queue, kind:email.*, tag:welcome, worker:w1, id" leftSection={<Icon name="search" size={14} />} spellCheck={false} autoComplete="off" />
        </form>
        <NativeSelect size="xs" aria-label="Order" value={search["sort"] ?? "-created_at"}
          onChange={(event) => { onChange({ ...search, sort: event.currentTarget.value === "-created_at" ? "" : event.currentTarget.value }); }}
          data={Object.entries(sorts).map(([value, label]) => ({ value, label }))} />
        {chipsOf(search).map((chip) => (
          <Pill key={`${chip.name} ${chip.value}`} withRemoveButton onRemove={() => { onChange(withoutChip(search, chip)); }}
            removeButtonProps={{ "aria-label": `Remove ${chip.name} ${chip.value}`, tabIndex: 0, "aria-hidden": false }}>
            {`${chip.name}: ${chip.value}`}
          </Pill>
        ))}
      </Group>
    </>
  );
}

interface StatusButtonProps {
  isChosen: boolean;
  count?: number | undefined;
  status?: JobStatus;
  onChoose: () => void;
  children: string;
}

function StatusButton({ isChosen, count, status, onChoose, children }: StatusButtonProps): JSX.Element {
  return (
    <button type="button" className={classes["tab"]} aria-pressed={isChosen} data-status={status} onClick={onChoose}>
      {children}
      {count !== undefined && <span className={classes["count"]}>{formatCount(count)}</span>}
    </button>
  );
}
