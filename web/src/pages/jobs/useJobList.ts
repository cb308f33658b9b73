import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { jobsQuery } from "../../api/queries";
import type { Job } from "../../api/types";
import type { Search } from "../../shell/search";
import { usePainted, useServices } from "../../shell/services";
import type { JobRow } from "../../store/fold";
import { Refresher } from "../../store/refresher";
import { useFollow } from "../../store/useFollow";
import { isArrival, toQuery, toStreamFilter } from "./filters";

/** Beyond this a list is not scrolled but narrowed. */
const maxPages = 20;
const maxArrivals = 1000;

export interface JobListView {
  /** In the order of the list; undefined: nothing was fetched yet. */
  readonly rows: readonly JobRow[] | undefined;
  readonly error: Error | null;
  readonly hasMore: boolean;
  readonly isLoadingMore: boolean;
  /** The list is cut off, though there is more. */
  readonly isFull: boolean;
  /** Jobs that the list would show, had it been fetched now; isMore: and others. */
  readonly arrivals: { readonly n: number; readonly isMore: boolean };
  loadMore: () => void;
  /** Fetches the first page again, in place of all that is there. */
  refresh: () => void;
  /** Tells which rows are in sight: those are kept fresh. */
  look: (ids: readonly string[]) => void;
}

const none = { n: 0, isMore: false };

/** The jobs that match a search: fetched page by page, followed by the stream, and never moving by themselves. */
export function useJobList(search: Search): JobListView {
  const { api, live } = useServices();
  const queries = useQueryClient();
  const query = useMemo(() => toQuery(search), [search]);
  const options = jobsQuery(api, query);
  const list = useInfiniteQuery(options);
  const painted = usePainted(live.rows);
  const pages = list.data?.pages;
  const jobs = useMemo(() => distinct(pages?.flatMap((page) => page.data) ?? []), [pages]);
  const [fresh, setFresh] = useState<string>();
  const asOf = pages?.[0]?.as_of;
  const newestID = useMemo(() => jobs.reduce((newest, { id }) => id > newest ? id : newest, ""), [jobs]);
  const known = useMemo(() => new Set(jobs.map(({ id }) => id)), [jobs]);
  // Counted for the snapshot that they are new to: another one begins at nothing.
  const [arrived, setArrived] = useState<{ asOf: string | undefined; ids: ReadonlySet<string>; isMore: boolean }>();

  useEffect(() => live.rows.retain(jobs), [live, jobs]);

  const refresher = useMemo(() => new Refresher({
    rows: live.rows, onFresh: setFresh,
    fetch: (ids, signal) => api.get("/jobs", { query: { id: [...ids], limit: ids.length }, signal }),
  }), [api, live]);
  useEffect(() => {
    refresher.open();
    return () => { refresher.close(); };
  }, [refresher]);

  useFollow(fresh ?? asOf, toStreamFilter(search), {
    onEvents: (events) => {
      const ids = events.flatMap((event) => event.job_id !== null && !known.has(event.job_id) && isArrival(event, search, newestID) ? event.job_id : []);
      if (ids.length > 0) {
        setArrived((before) => {
          const all = new Set([...(before?.asOf === asOf ? before?.ids ?? [] : []), ...ids].slice(0, maxArrivals));
          return { asOf, ids: all, isMore: (before?.asOf === asOf && before?.isMore) || all.size === maxArrivals };
        });
      }
    },
    onGap: () => {
      live.rows.doubt();
      setArrived((before) => ({ asOf, ids: before?.asOf === asOf ? before?.ids ?? new Set() : new Set(), isMore: true }));
    },
  });

  const isFull = (pages?.length ?? 0) >= maxPages && list.hasNextPage;
  return {
    rows: pages && jobs.map((job) => painted.get(job.id) ?? { job, isGone: false, isStale: false }),
    error: list.error,
    hasMore: list.hasNextPage && !isFull, isLoadingMore: list.isFetchingNextPage, isFull,
    arrivals: arrived?.asOf === asOf && arrived ? { n: arrived.ids.size, isMore: arrived.isMore } : none,
    loadMore: () => {
      if (list.hasNextPage && !list.isFetchingNextPage && !isFull) {
        void list.fetchNextPage();
      }
    },
    refresh: () => {
      setArrived(undefined);
      void queries.resetQueries({ queryKey: options.queryKey, exact: true });
    },
    look: (ids) => { refresher.look(ids); },
  };
}

/** A job that moved between two pages while they were fetched is in both. */
function distinct(jobs: readonly Job[]): Job[] {
  return [...new Map(jobs.map((job) => [job.id, job])).values()];
}
