import { Button } from "@mantine/core";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useRef, useState, type JSX } from "react";
import { can } from "../../api/access";
import type { BulkAction } from "../../components/bulk";
import { Empty } from "../../components/Empty";
import { Failed } from "../../components/Failed";
import { formatCount, plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { PageTitle } from "../../components/PageTitle";
import { RowsSkeleton } from "../../components/RowsSkeleton";
import type { Search } from "../../shell/search";
import { useMe, usePainted, useServices } from "../../shell/services";
import { useKeys } from "../../shell/useKeys";
import type { NumbersNow } from "../../store/numbers";
import { chipsOf, valuesOf } from "./filters";
import { Filters } from "./Filters";
import { JobTable, type JobTableHandle } from "./JobTable";
import { nothing, toggle, togglePage, type Selection } from "./selection";
import { SelectionBar } from "./SelectionBar";
import { useJobList } from "./useJobList";
import classes from "./JobsPage.module.css";

const EnqueueForm = lazy(async () => ({ default: (await import("./EnqueueForm")).EnqueueForm }));

/** All jobs, narrowed by what stands in the address. Another address is another list, with a selection of its own. */
export function JobsPage(): JSX.Element {
  const search: Search = useSearch({ strict: false });
  const navigate = useNavigate();
  const handleChange = (changed: Search): void => { void navigate({ to: ".", search: changed, replace: true }); };
  return <JobList key={JSON.stringify(search)} search={search} onChange={handleChange} />;
}

function JobList({ search, onChange }: { search: Search; onChange: (search: Search) => void }): JSX.Element {
  const { live, api } = useServices();
  const me = useMe();
  const numbers = usePainted(live.numbers);
  const list = useJobList(search);
  const [selection, setSelection] = useState<Selection>(nothing);
  const [asked, setAsked] = useState<BulkAction>();
  const [isEnqueuing, setEnqueuing] = useState(false);
  const table = useRef<JobTableHandle>(null);
  const field = useRef<HTMLInputElement>(null);
  const mayOperate = can(me, "operate");
  const rows = list.rows ?? [];

  const hasSelection = selection.ids.size > 0;
  useEffect(() => {
    live.pause("selection", hasSelection);
    return () => { live.pause("selection", false); };
  }, [live, hasSelection]);

  const handleToggle = (id: string, isRange: boolean): void => {
    setSelection((before) => toggle(before, id, isRange, rows.map(({ job }) => job.id)));
  };
  const handleTogglePage = (): void => { setSelection((before) => togglePage(before, rows)); };
  const handleRefresh = (): void => {
    setSelection(nothing);
    list.refresh();
    table.current?.toTop();
  };
  const ask = (action: BulkAction): void => {
    if (hasSelection) {
      setAsked(action);
    }
  };

  useKeys([
    { keys: "/", does: "Filter", run: () => { field.current?.focus(); } },
    { keys: "j", does: "Next row; Enter opens it", run: () => { table.current?.move(1); } },
    { keys: "k", does: "Row before", run: () => { table.current?.move(-1); } },
    ...(mayOperate ? [
      { keys: "x", does: "Select the row", run: () => {
        const id = table.current?.focused();
        if (id !== undefined) {
          handleToggle(id, false);
        }
      } },
      { keys: "X", does: "Select all rows that are loaded, or none", run: handleTogglePage },
      { keys: "r", does: "Retry the selected jobs", run: () => { ask("retry"); } },
      { keys: "c", does: "Cancel the selected jobs", run: () => { ask("cancel"); } },
    ] : []),
  ]);

  const curl = `curl -s ${location.origin}${api.address("/jobs")} -H 'Content-Type: application/json' -d '{"queue":"${valuesOf(search, "queue")[0] ?? "mail"}","payload":{}}'`;
  const isNarrowed = chipsOf(search).length > 0 || valuesOf(search, "status").length > 0;
  return (
    <>
      <PageTitle title="Jobs">
        {can(me, "enqueue") && <Button size="compact-sm" leftSection={<Icon name="plus" size={14} />} onClick={() => { setEnqueuing(true); }}>Enqueue</Button>}
      </PageTitle>
      <Filters search={search} counts={countsFor(search, numbers)} field={field} onChange={onChange} />
      <SelectionBar rows={rows} selection={selection} search={search} hasMore={list.hasMore || list.isFull} asked={asked} onAsk={setAsked} onClear={() => { setSelection(nothing); }} />
      {list.error && !list.rows && <Failed error={list.error} onRetry={handleRefresh} what="The jobs could not be loaded" />}
      {!list.error && !list.rows && <RowsSkeleton rows={12} />}
      <div className={classes["list"]}>
        <div role="status">
          {list.arrivals.n > 0 && !hasSelection && (
            <button type="button" className={classes["pill"]} onClick={handleRefresh}>
              {`${formatCount(list.arrivals.n)}${list.arrivals.isMore ? "+" : ""} new`}
            </button>
          )}
        </div>
        {list.rows && rows.length === 0 && list.arrivals.n === 0 && (isNarrowed
          ? <Empty title="No job matches.">Take a filter away, or look at another status.</Empty>
          : <Empty title="There are no jobs yet." command={curl}>This enqueues the first one:</Empty>)}
        {rows.length > 0 && (
          <JobTable ref={table} rows={rows} selection={mayOperate ? selection : undefined} onToggle={handleToggle} onTogglePage={handleTogglePage} onSight={list.look} onNearEnd={list.loadMore} />
        )}
      </div>
      {list.rows && (
        <div className={classes["foot"]}>
          {rows.length > 0 && <span>{plural(rows.length, "job")}{list.hasMore || list.isFull ? " so far" : ""}</span>}
          {list.isLoadingMore && <span>Loading more …</span>}
          {list.isFull && <span>The list ends here, though there are more: narrow it.</span>}
          {list.arrivals.n === 0 && list.arrivals.isMore && <span>There may be new ones.</span>}
          <Button size="compact-xs" variant="subtle" onClick={handleRefresh}>Load again</Button>
        </div>
      )}
      {isEnqueuing && <Suspense fallback={null}><EnqueueForm onClose={() => { setEnqueuing(false); }} /></Suspense>}
    </>
  );
}

/** The numbers know queues and statuses, and nothing else. */
function countsFor(search: Search, numbers: NumbersNow | undefined): NumbersNow["totals"]["counts"] | undefined {
  const chips = chipsOf(search);
  const [queue] = chips;
  if (chips.length === 0) {
    return numbers?.totals.counts;
  }
  return chips.length === 1 && queue?.name === "queue" ? numbers?.queues.get(queue.value)?.counts : undefined;
}
