// What is fetched, and under which key the cache knows it. Keys begin with the resource: invalidating ["jobs"] reaches all of it.
import { infiniteQueryOptions, QueryClient, queryOptions } from "@tanstack/react-query";
import type { Api } from "./client";
import { ApiProblem, Unreachable } from "./problem";
import type { AuditQuery, DeliveryState, FailureQuery, JobQuery, Operation } from "./types";

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

function pageQuery(cursor: string | undefined): { limit: number; cursor?: string } {
  return { limit: pageSize, ...(cursor ? { cursor } : {}) };
}

function nextCursor(page: { next_cursor: string | null }): string | undefined {
  return page.next_cursor ?? undefined;
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

/** So many events of a job are looked at: its first ones, or its newest when it has more. */
const maxEvents = 1000;

/**
 * One job with its attempts and its events. The events are fetched first: what happens after their `as_of` the stream tells, so
 * the job, fetched later, misses nothing.
 */
export const jobQuery = (api: Api, id: string) => queryOptions({
  queryKey: ["jobs", "one", id], staleTime: Infinity,
  queryFn: async ({ signal }) => {
    const path = { id };
    const first = await api.get("/jobs/{id}/events", { path, query: { limit: maxEvents }, signal });
    const { answer: job, text } = await api.getWithText("/jobs/{id}", { path, query: { include: ["attempts"] }, signal });
    const isLong = first.next_cursor !== null;
    const last = isLong ? await api.get("/jobs/{id}/events", { path, query: { after: Math.max(0, job.version - maxEvents), limit: maxEvents }, signal }) : first;
    return { job, text, events: last.data, isCut: isLong || last.truncated, asOf: first.as_of };
  },
});

/** Dead and retrying jobs by their last error. It is counted in the database: ask when somebody asks. */
export const failuresQuery = (api: Api, query: FailureQuery) => queryOptions({
  queryKey: ["failures", query], staleTime: 10_000,
  queryFn: ({ signal }) => api.get("/failures", { query, signal }),
});

/** How many jobs match, up to 10000. */
export const jobCountQuery = (api: Api, query: JobQuery) => queryOptions({
  queryKey: ["jobs", "count", query],
  queryFn: ({ signal }) => api.get("/jobs/count", { query, signal }),
});

export const queuesQuery = (api: Api) => queryOptions({
  queryKey: ["queues"],
  queryFn: ({ signal }) => api.get("/queues", { signal }),
});

export const workersQuery = (api: Api) => queryOptions({
  queryKey: ["workers"],
  queryFn: ({ signal }) => api.get("/workers", { signal }),
});

/** The remote workers, page after page. */
export const workerPagesQuery = (api: Api) => infiniteQueryOptions({
  queryKey: ["workers", "pages"], initialPageParam: undefined as string | undefined, getNextPageParam: nextCursor,
  queryFn: ({ signal, pageParam }) => api.get("/workers", { query: pageQuery(pageParam), signal }),
});

/** The jobs that a worker of that name has in hand. */
export const workerJobsQuery = (api: Api, worker: string) => queryOptions({
  queryKey: ["jobs", "worker", worker],
  queryFn: ({ signal }) => api.get("/jobs", { query: { status: ["running"], worker: [worker], limit: 20 }, signal }),
});

export const keysQuery = (api: Api) => infiniteQueryOptions({
  queryKey: ["keys"], initialPageParam: undefined as string | undefined, getNextPageParam: nextCursor,
  queryFn: ({ signal, pageParam }) => api.get("/admin/keys", { query: pageQuery(pageParam), signal }),
});

export const consumersQuery = (api: Api) => queryOptions({
  queryKey: ["consumers"],
  queryFn: ({ signal }) => api.get("/consumers", { signal }),
});

export const webhooksQuery = (api: Api) => infiniteQueryOptions({
  queryKey: ["webhooks", "list"], initialPageParam: undefined as string | undefined, getNextPageParam: nextCursor,
  queryFn: ({ signal, pageParam }) => api.get("/admin/webhooks", { query: pageQuery(pageParam), signal }),
});

export const webhookQuery = (api: Api, id: string) => queryOptions({
  queryKey: ["webhooks", "one", id],
  queryFn: ({ signal }) => api.get("/admin/webhooks/{id}", { path: { id }, signal }),
});

export const deliveriesQuery = (api: Api, id: string, state: DeliveryState | undefined) => infiniteQueryOptions({
  queryKey: ["webhooks", "deliveries", id, state], initialPageParam: undefined as string | undefined, getNextPageParam: nextCursor,
  queryFn: ({ signal, pageParam }) => api.get("/admin/webhooks/{id}/deliveries", { path: { id }, query: { ...pageQuery(pageParam), ...(state ? { state } : {}) }, signal }),
});

export const auditQuery = (api: Api, query: AuditQuery) => infiniteQueryOptions({
  queryKey: ["audit", query], initialPageParam: undefined as string | undefined, getNextPageParam: nextCursor,
  queryFn: ({ signal, pageParam }) => api.get("/admin/audit", { query: { ...query, ...pageQuery(pageParam) }, signal }),
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

export const operationsQuery = (api: Api, status: Operation["status"] | undefined) => infiniteQueryOptions({
  queryKey: ["operations", "list", status ?? "all"],
  initialPageParam: undefined as string | undefined,
  queryFn: ({ signal, pageParam }) => api.get("/operations", { query: { limit: 50, ...(status ? { status } : {}), ...(pageParam ? { cursor: pageParam } : {}) }, signal }),
  getNextPageParam: (page) => page.next_cursor ?? undefined,
});
