// What is fetched, and under which key the cache knows it. Keys begin with the resource: invalidating ["jobs"] reaches all of it.
import { infiniteQueryOptions, QueryClient, queryOptions } from "@tanstack/react-query";
import type { Api } from "./client";
import { ApiProblem, Unreachable } from "./problem";
import type { JobQuery } from "./types";

const pageSize = 100;

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        // The stream says what has changed; looking at a tab again is no news.
        refetchOnWindowFocus: false, refetchOnReconnect: false, staleTime: 2000, gcTime: 60_000,
        retry: (failures, error) => failures < 2 && (error instanceof Unreachable || (error instanceof ApiProblem && error.isPassing)),
      },
      mutations: { retry: false },
    },
  });
}

export const meQuery = (api: Api) => queryOptions({
  queryKey: ["me"], staleTime: Infinity,
  queryFn: ({ signal }) => api.get("/me", { signal }),
});

/** Page after page of the jobs that match. Content that changes lives in the store: the pages say which jobs, and in which order. */
export const jobsQuery = (api: Api, query: JobQuery) => infiniteQueryOptions({
  queryKey: ["jobs", "list", query], staleTime: Infinity,
  initialPageParam: undefined as string | undefined,
  queryFn: ({ signal, pageParam }) => api.get("/jobs", { query: { ...query, limit: pageSize, ...(pageParam ? { cursor: pageParam } : {}) }, signal }),
  getNextPageParam: (page) => page.next_cursor ?? undefined,
});

export const queuesQuery = (api: Api) => queryOptions({
  queryKey: ["queues"],
  queryFn: ({ signal }) => api.get("/queues", { signal }),
});

export const workersQuery = (api: Api) => queryOptions({
  queryKey: ["workers"],
  queryFn: ({ signal }) => api.get("/workers", { signal }),
});

/** The course of things over a window, out of the memory of the node. */
export const statsQuery = (api: Api, window: string) => queryOptions({
  queryKey: ["stats", window],
  queryFn: ({ signal }) => api.get("/stats", { query: { window }, signal }),
});

/** The same of one queue; the server chooses the step unless it is given. */
export const queueStatsQuery = (api: Api, queue: string, window: string, step?: string) => queryOptions({
  queryKey: ["stats", window, queue, step],
  queryFn: ({ signal }) => api.get("/stats", { query: { queue, window, ...(step ? { step } : {}) }, signal }),
});

export const operationQuery = (api: Api, id: string) => queryOptions({
  queryKey: ["operations", id],
  queryFn: ({ signal }) => api.get("/operations/{id}", { path: { id }, signal }),
});
