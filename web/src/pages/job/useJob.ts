import { useQuery } from "@tanstack/react-query";
import { useCallback, useEffect, useRef } from "react";
import { jobQuery } from "../../api/queries";
import type { Job, JobEvent } from "../../api/types";
import { sourceOf } from "../../components/json";
import { usePainted, useServices } from "../../shell/services";
import { useFollow } from "../../store/useFollow";

/** A job that changes all the time is not fetched all the time; its status and its progress come with the events. */
const pauseMs = 1000;

export interface JobView {
  /** As new as what was fetched and what was told since; undefined: nothing was fetched yet. */
  readonly job: Job | undefined;
  readonly events: readonly JobEvent[];
  /** Some of the events are missing: too old, or too many. */
  readonly isCut: boolean;
  /** It was deleted; what is shown is how it was. */
  readonly isGone: boolean;
  readonly error: Error | null;
  /** The text of the payload or the result, as the server wrote it; undefined: there is none, or not for the caller. */
  readonly source: (member: "payload" | "result") => string | undefined;
  /** Fetches it again, soon. */
  refresh: () => void;
}

/** One job, followed. */
export function useJob(id: string): JobView {
  const { api, live } = useServices();
  const { data, error, refetch } = useQuery(jobQuery(api, id));
  const row = usePainted(live.rows).get(id);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);

  const fetched = data?.job;
  useEffect(() => fetched && live.rows.retain([fetched]), [live, fetched]);

  const refresh = useCallback((): void => {
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      void refetch();
    }, pauseMs);
  }, [refetch]);
  useEffect(() => () => {
    clearTimeout(timer.current);
    timer.current = undefined;
  }, [id]);

  useFollow(data?.asOf, { types: ["job.*"], job_ids: [id] }, {
    onEvents: (events) => {
      if (events.every(({ type }) => type !== "job.deleted")) { // nothing is left to fetch
        refresh();
      }
    },
    onGap: refresh,
  });

  const job = row && fetched && row.job.version > fetched.version ? { ...fetched, ...row.job, attempts: fetched.attempts ?? [] } : fetched;
  const text = data?.text;
  return {
    job, events: data?.events ?? [], isCut: data?.isCut ?? false, isGone: row?.isGone ?? false, error,
    source: useCallback((member) => text === undefined ? undefined : sourceOf(text, member), [text]),
    refresh,
  };
}
