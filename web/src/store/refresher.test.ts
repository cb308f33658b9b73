import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Job, JobList } from "../api/types";
import { newJob } from "../testing/model";
import { Refresher } from "./refresher";
import { JobRows } from "./rows";

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

function setup(jobs: Job[]) {
  const rows = new JobRows((draw) => { draw(); });
  rows.retain(jobs);
  const stored = new Map(jobs.map((job) => [job.id, { ...job, version: job.version + 1 }]));
  const fetch = vi.fn((ids: readonly string[]): Promise<JobList> =>
    Promise.resolve({ data: ids.flatMap((id) => stored.get(id) ?? []), next_cursor: null, as_of: "1-7" }));
  const onFresh = vi.fn();
  const refresher = new Refresher({ rows, fetch, onFresh });
  refresher.open();
  return { rows, stored, fetch, onFresh, refresher };
}

test("only stale rows in sight are fetched, at most every two seconds", async () => {
  const { rows, fetch, onFresh, refresher } = setup(["a", "b", "c"].map((id) => newJob(id)));
  refresher.look(["a", "b"]);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(fetch).not.toHaveBeenCalled();
  rows.doubt();
  await vi.advanceTimersByTimeAsync(0);
  expect(fetch.mock.calls.map(([ids]) => ids)).toEqual([["a", "b"]]);
  expect(onFresh).toHaveBeenCalledWith("1-7");
  rows.doubt();
  rows.doubt();
  await vi.advanceTimersByTimeAsync(1900);
  expect(fetch).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(200);
  expect(fetch).toHaveBeenCalledTimes(2);
  refresher.look(["c"]);
  await vi.advanceTimersByTimeAsync(2000);
  expect(fetch.mock.calls.at(-1)?.[0]).toEqual(["c"]);
  refresher.close();
});

test("a hundred at a time, what is no longer there is gone, and a failure is tried again", async () => {
  const { rows, stored, fetch, refresher } = setup(Array.from({ length: 150 }, (_, i) => newJob(`j${i}`)));
  stored.delete("j3");
  fetch.mockRejectedValueOnce(new Error("the server is away"));
  refresher.look(Array.from({ length: 150 }, (_, i) => `j${i}`));
  rows.doubt();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(fetch.mock.calls.map(([ids]) => ids.length)).toEqual([100, 100, 50]);
  expect(rows.get().get("j3")?.isGone).toBe(true);
  expect(rows.stale(rows.get().keys())).toEqual([]);
  refresher.close();
  rows.doubt();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(fetch).toHaveBeenCalledTimes(3);
});
