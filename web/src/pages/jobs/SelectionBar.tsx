import { Button, Text } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState, type JSX } from "react";
import { jobCountQuery } from "../../api/queries";
import { AskModal } from "../../components/AskModal";
import { bulkActionNames, bulkActions, isDangerous, type BulkAction } from "../../components/bulk";
import { BulkModal } from "../../components/BulkModal";
import { formatCount, plural } from "../../components/format";
import { OperationProgress } from "../../components/OperationProgress";
import type { Search } from "../../shell/search";
import { useServices } from "../../shell/services";
import type { JobRow } from "../../store/fold";
import { toOperationFilter, toQuery } from "./filters";
import { allowedFor, isPage, type Selection } from "./selection";
import classes from "./JobsPage.module.css";

interface SelectionBarProps {
  rows: readonly JobRow[];
  selection: Selection;
  /** What the list is narrowed by: all that match are those of it. */
  search: Search;
  /** The list has more rows than were fetched. */
  hasMore: boolean;
  /** What is asked for at the moment: by a button here, or by a key. */
  asked: BulkAction | undefined;
  onAsk: (action: BulkAction | undefined) => void;
  onClear: () => void;
}

/** What can be done with the selected jobs. Each action says for how many of them it is allowed, and asks before it begins. */
export function SelectionBar({ rows, selection, search, hasMore, asked, onAsk, onClear }: SelectionBarProps): JSX.Element {
  const { api } = useServices();
  const [wishesAll, setWishesAll] = useState(false);
  const [operation, setOperation] = useState<string>();
  const hasPage = isPage(selection, rows);
  const isAll = wishesAll && hasPage;
  const count = useQuery({ ...jobCountQuery(api, toCountQuery(search)), enabled: hasPage && hasMore });
  const all = count.data ? `all ${formatCount(count.data.count)}${count.data.capped ? " and more" : ""}` : "all";

  const handleStarted = (id: string): void => {
    setOperation(id);
    setWishesAll(false);
    onAsk(undefined);
    onClear();
  };
  const start = useMutation({
    mutationFn: ({ action, ids, reason }: { action: BulkAction; ids: string[]; reason: string }) =>
      api.post("/admin/operations", { body: { action, ids, ...(reason === "" ? {} : { reason }) } }),
    onSuccess: (answer) => {
      if ("id" in answer) {
        handleStarted(answer.id);
      }
    },
  });
  const ids = asked ? allowedFor(asked, rows, selection) : [];
  const handleClose = (): void => {
    start.reset();
    onAsk(undefined);
  };
  return (
    <>
      {selection.ids.size > 0 && (
        <div className={classes["selected"]} role="group" aria-label="Selected jobs">
          <Text size="sm" fw={600}>{isAll ? `${all[0]?.toUpperCase() ?? ""}${all.slice(1)} that match` : `${plural(selection.ids.size, "job")} selected`}</Text>
          {bulkActionNames.map((action) => {
            const { length } = allowedFor(action, rows, selection);
            return (isAll || length > 0) && (
              <Button key={action} size="compact-sm" variant="default" onClick={() => { onAsk(action); }}>
                {isAll || length === selection.ids.size ? bulkActions[action] : `${bulkActions[action]} ${length}`}
              </Button>
            );
          })}
          {hasPage && hasMore && (
            <Button size="compact-sm" variant="light" onClick={() => { setWishesAll(!isAll); }}>{isAll ? `Only these ${formatCount(selection.ids.size)}` : `Select ${all} that match`}</Button>
          )}
          <Button size="compact-sm" variant="subtle" onClick={() => { setWishesAll(false); onClear(); }}>Select none</Button>
          <Text size="xs" c="dimmed">The list stands still meanwhile.</Text>
        </div>
      )}
      {operation !== undefined && <OperationProgress key={operation} id={operation} onClose={() => { setOperation(undefined); }} />}
      {asked && isAll && <BulkModal action={asked} filter={toOperationFilter(search)} onStarted={handleStarted} onClose={handleClose} />}
      {asked && !isAll && ids.length > 0 && (
        <AskModal title={`${bulkActions[asked]} ${plural(ids.length, "job")}?`} doIt={`${bulkActions[asked]} ${plural(ids.length, "job")}`} isDangerous={isDangerous(asked)}
          isPending={start.isPending} error={start.error} failed="It was not begun" count={ids.length} onClose={handleClose}
          onDo={(reason) => { start.mutate({ action: asked, ids, reason }); }}>
          {ids.length < selection.ids.size && <Text size="sm">{`The other ${selection.ids.size - ids.length} of the selected jobs do not allow it now.`}</Text>}
        </AskModal>
      )}
    </>
  );
}

/** A count has no order. */
function toCountQuery(search: Search): ReturnType<typeof toQuery> {
  return toQuery({ ...search, sort: "" });
}
