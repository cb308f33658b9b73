import { Button, Group, Modal, NativeSelect, Text, TextInput } from "@mantine/core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState, type JSX } from "react";
import type { Job, NewOperation } from "../api/types";
import { useServices } from "../shell/services";
import { AskModal, typedAbove } from "./AskModal";
import { bulkActions, filterInWords, isDangerous, rateOf, type BulkAction } from "./bulk";
import { Failed } from "./Failed";
import { formatCount, plural, shortID } from "./format";
import { RowsSkeleton } from "./RowsSkeleton";
import { StatusBadge } from "./StatusBadge";
import classes from "./OperationProgress.module.css";

export interface BulkTarget {
  readonly action: BulkAction;
  readonly filter: NonNullable<NewOperation["filter"]>;
}

interface BulkModalProps extends BulkTarget {
  /** It runs; id is that of the operation. */
  onStarted: (id: string) => void;
  onClose: () => void;
}

/** So many of those that would be concerned are shown. */
const sampleSize = 5;

/**
 * Does one thing to all jobs that match. First the server counts them; then somebody sees how many they are and some of them, and
 * says yes. Only jobs that have not changed since the count are concerned, so that there can be fewer of them, but no others.
 */
export function BulkModal({ action, filter, onStarted, onClose }: BulkModalProps): JSX.Element {
  const { api } = useServices();
  const [rate, setRate] = useState("");
  const [limit, setLimit] = useState("");
  const look = useQuery({
    queryKey: ["operations", "look", action, filter], staleTime: 0, gcTime: 0,
    queryFn: ({ signal }) => api.post("/admin/operations", { body: { action, filter, dry_run: true }, signal }),
  });
  const found = look.data && "matched" in look.data ? look.data : undefined;
  const perSecond = rateOf(rate);
  const isRateWrong = Number.isNaN(perSecond);
  const start = useMutation({
    mutationFn: (reason: string) => api.post("/admin/operations", {
      body: {
        action, filter, before: found?.before ?? null, expected_count: found?.matched ?? null, ...(perSecond === undefined ? {} : { rate: perSecond }),
        ...(limit === "" ? {} : { stop_when: { failure_ratio: Number(limit) } }), ...(reason === "" ? {} : { reason }),
      },
    }),
    onSuccess: (answer) => {
      if ("id" in answer) {
        onStarted(answer.id);
      }
    },
  });
  const words = filterInWords(filter as Parameters<typeof filterInWords>[0]);
  if (!found || found.matched === 0 || look.isFetching) {
    return (
      <Modal opened onClose={onClose} title={`${bulkActions[action]} all that match`} closeButtonProps={{ "aria-label": "Close" }}>
        {look.error && <Failed error={look.error} onRetry={() => { void look.refetch(); }} what="They could not be counted" />}
        {look.isFetching && <><Text size="sm" mb="sm" c="dimmed">The server counts them …</Text><RowsSkeleton rows={3} /></>}
        {found?.matched === 0 && !look.isFetching && <Text size="sm">{`Nothing to do: no job of these allows it now (${words}).`}</Text>}
        <Group justify="flex-end" mt="md"><Button variant="default" onClick={onClose} data-autofocus>Leave it</Button></Group>
      </Modal>
    );
  }
  return (
    <AskModal title={`${bulkActions[action]} ${plural(found.matched, "job")}?`} doIt={`${bulkActions[action]} ${plural(found.matched, "job")}`} isDangerous={isDangerous(action)}
      isPending={start.isPending} error={start.error} failed="It was not begun" count={found.matched} onClose={onClose}
      onDo={(reason) => {
        if (!isRateWrong) {
          start.mutate(reason);
        }
      }}>
      <Text size="sm">{`They are those with ${words}. Whoever changes meanwhile is left alone.`}</Text>
      {action === "delete" && <Text size="sm" fw={600}>That cannot be undone.</Text>}
      <Sample jobs={found.sample} matched={found.matched} />
      {(action === "retry" || action === "run-now") && (
        <>
          <TextInput label="Jobs a second" description={found.matched > typedAbove ? "As fast as it goes, unless it is given: think of who has to serve them." : "As fast as it goes, unless it is given."}
            inputMode="numeric" value={rate} error={isRateWrong ? "A number from 1 to 100000, please." : undefined} onChange={(event) => { setRate(event.currentTarget.value); }} />
          <NativeSelect label="Stop when they fail again" value={limit} onChange={(event) => { setLimit(event.currentTarget.value); }}
            data={[{ value: "", label: "never" }, { value: "0.1", label: "one in ten" }, { value: "0.25", label: "one in four" }, { value: "0.5", label: "half of them" }, { value: "0.9", label: "nearly all" }]} />
        </>
      )}
    </AskModal>
  );
}

function Sample({ jobs, matched }: { jobs: readonly Job[]; matched: number }): JSX.Element {
  const shown = jobs.slice(0, sampleSize);
  return (
    <div>
      <Text size="xs" c="dimmed">{matched > shown.length ? `The oldest ${shown.length} of ${formatCount(matched)}:` : "All of them:"}</Text>
      <ul className={classes["sample"]}>
        {shown.map((job) => <li key={job.id}><StatusBadge status={job.status} />{` ${job.kind} in ${job.queue}, ${shortID(job.id)}${job.error ? `: ${job.error.type}` : ""}`}</li>)}
      </ul>
    </div>
  );
}
