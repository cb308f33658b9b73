import { expect, test } from "vitest";
import type { Queue, Worker } from "../../api/types";
import { crewOf, isFailing, sortByTrouble, troublesOf } from "./answers";

const now = Date.parse("2026-03-01T12:00:00Z");

function queue(name: string, changed: Partial<Queue> = {}): Queue {
  return {
    name, paused: false, pause: null, counts: { scheduled: 0, pending: 0, running: 0, retrying: 0, blocked: 0, dead: 0 }, oldest_pending_at: null,
    rates_1m: { enqueued: 0, started: 0, completed: 0, failed: 0 }, wait_seconds: { p50: null, p95: null, p99: null },
    run_seconds: { p50: null, p95: null, p99: null }, slots: 4, busy: 0, limits: null, version: 1, ...changed,
  };
}

test("a queue is in trouble when it is late, failing, dead, paused or left alone", () => {
  expect(troublesOf(queue("well", { oldest_pending_at: "2026-03-01T11:59:30Z" }), now)).toEqual([]);
  const late = queue("late", { oldest_pending_at: "2026-03-01T11:58:00Z" });
  expect(troublesOf(late, now)).toEqual(["late"]);
  expect(troublesOf({ ...late, paused: true }, now)).toEqual(["paused"]);
  expect(troublesOf(queue("alone", { slots: 0, counts: { ...late.counts, pending: 1, dead: 2 } }), now)).toEqual(["dead jobs", "nobody works on it"]);
});

test("few failures are not a trouble, and neither are a few among many", () => {
  expect(isFailing({ enqueued: 0, started: 0, completed: 0, failed: 0.05 })).toBe(false);
  expect(isFailing({ enqueued: 0, started: 0, completed: 9, failed: 1 })).toBe(false);
  expect(isFailing({ enqueued: 0, started: 0, completed: 3, failed: 1 })).toBe(true);
  expect(isFailing({ enqueued: null, started: null, completed: null, failed: null })).toBe(false);
});

test("troubles come first, then who waits longest", () => {
  const queues = [queue("a"), queue("b", { oldest_pending_at: "2026-03-01T11:59:30Z" }), queue("c", { paused: true })];
  expect(sortByTrouble(queues, now).map(({ name }) => name)).toEqual(["c", "b", "a"]);
});

test("who is offline is not counted among those who work", () => {
  const worker = (state: Worker["state"]): Worker => ({
    id: state, name: "w", state, queues: {}, kinds: null, slots: 4, busy: 1, version: null, labels: {}, asked: null,
    registered_at: "2026-03-01T12:00:00.000000Z", last_seen_at: "2026-03-01T12:00:00.000000Z",
  });
  expect(crewOf([worker("online"), worker("draining"), worker("offline")])).toEqual({ online: 2, slots: 8, busy: 2 });
});
