import { keepPreviousData, useQuery, useQueryClient, type QueryClient, type UseQueryResult } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import type { Api } from "../../api/client";
import { usePainted, useServices } from "../../shell/services";
import type { Filter, StreamEvent } from "../../stream";
import { useFollow } from "../../store/useFollow";
import { before, isAfter, type FilterName, type Range } from "./events";

/** So many events are a page. */
export const pageSize = 100;
/** So many positions are a step back when a filter leaves out most of what lies there. */
const filteredStep = 2000;

export type EventFilter = { [N in FilterName]?: string[] } & Filter;

export interface EventPage {
  readonly events: readonly StreamEvent[];
  /** The cursor that it begins behind. */
  readonly from: string;
  /** The cursor that it ends with: the next page begins behind it. */
  readonly cursor: string;
  readonly isLast: boolean;
  readonly range: Range;
}

export function stepOf(filter: EventFilter): number {
  return Object.keys(filter).length === 0 ? pageSize : filteredStep;
}

async function readPage(api: Api, after: string | undefined, filter: EventFilter, signal: AbortSignal): Promise<EventPage> {
  const range = await api.get("/events/position", { signal });
  const from = after === undefined ? before(range.cursor, stepOf(filter), range.floor) : after === "earliest" ? range.floor : after;
  let page = await api.get("/events", { query: { ...filter, after: from, limit: after === undefined ? filteredStep / 2 : pageSize }, signal });
  let events: readonly StreamEvent[] = page.data;
  while (after === undefined && !page.caught_up && isAfter(range.cursor, page.cursor)) { // up to the head, which the feed follows
    page = await api.get("/events", { query: { ...filter, after: page.cursor, limit: filteredStep / 2 }, signal });
    events = [...events, ...page.data];
  }
  return { events, from, cursor: page.cursor, isLast: page.caught_up, range };
}

/** A page of the log behind a cursor. */
export function useHistory(after: string, filter: EventFilter): UseQueryResult<EventPage> {
  const { api } = useServices();
  return useQuery({
    queryKey: ["events", "page", after, filter], staleTime: Infinity, placeholderData: keepPreviousData,
    queryFn: ({ signal }) => readPage(api, after, filter, signal),
  });
}

export interface FeedView {
  /** Newest first; undefined: nothing was fetched yet. */
  readonly events: readonly StreamEvent[] | undefined;
  readonly error: Error | null;
  readonly range: Range | undefined;
  /** The stream has left events out, because there were more than a page can take. */
  readonly hasGap: boolean;
  retry: () => void;
}

/** The newest events and those that come. */
export function useFeed(filter: EventFilter): FeedView {
  const { api, live } = useServices();
  const client: QueryClient = useQueryClient();
  const queryKey = ["events", "tail", filter];
  const tail = useQuery({ queryKey, staleTime: Infinity, gcTime: 0, queryFn: ({ signal }) => readPage(api, undefined, filter, signal) });
  const events = usePainted(live.feed);
  const [hasGap, setGap] = useState(false);
  const page = tail.data;

  useEffect(() => {
    live.feed.clear();
    return () => { live.feed.clear(); };
  }, [live]);
  useEffect(() => {
    if (page) {
      live.feed.push(page.events);
    }
  }, [live, page]);
  useFollow(page?.cursor, filter, {
    onEvents: (added) => { live.feed.push(added); },
    onGap: () => {
      setGap(true);
      void client.invalidateQueries({ queryKey, exact: true });
    },
  });
  return { events: page && (events.length > 0 ? events : page.events.toReversed()), error: tail.error, range: page?.range, hasGap, retry: () => { void tail.refetch(); } };
}
