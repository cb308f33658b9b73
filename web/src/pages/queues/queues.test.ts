import { expect, test } from "vitest";
import type { Queue, Worker } from "../../api/types";
import type { NumbersNow } from "../../store/numbers";
import { arrange, mergeNumbers, timeOf, workersOf } from "./queues";

const now = Date.parse("2026-03-01T12:00:00Z");

function queue(name: string, changed: Partial<Queue> = {}): Queue {
  return {
    name, paused: false, pause: null, counts: { scheduled: 0, pending: 0, running: 0, retrying: 0, blocked: 0, dead: 0 }, oldest_pending_at: null,
    rates_1m: { enqueued: 0, started: 0, completed: 0, failed: 0 }, wait_seconds: { p50: null, p95: null, p99: null },
    run_seconds: { p50: null, p95: null, p99: null }, slots: 4, busy: 0, limits: null, version: 1, ...changed,
  };
}

const late = queue("late", { oldest_pending_at: "2026-03-01T11:50:00Z" });
const later = queue("later", { oldest_pending_at: "2026-03-01T11:00:00Z" });
const asleep = queue("asleep", { oldest_pending_at: "2026-03-01T10:00:00Z", paused: true });

test("the oldest wait comes first, and what was paused on purpose last", () => {
  expect(arrange([asleep, queue("well"), late, later], undefined, now).map(({ name }) => name)).toEqual(["later", "late", "well", "asleep"]);
});

test("what somebody has under the pointer does not move; a new queue comes last", () => {
  const held = ["late", "well"];
  expect(arrange([later, queue("well"), late], held, now).map(({ name }) => name)).toEqual(["late", "well", "later"]);
});

test("numbers are of now, pauses of the database", () => {
  const pause = { reason: "deploy", at: null, until: null, actor: "basic:admin" };
  const numbers = { queues: new Map([["mail", queue("mail", { busy: 3, version: 0 })], ["new", queue("new")]]) } as unknown as NumbersNow;
  const merged = mergeNumbers([queue("mail", { pause, version: 7 })], numbers);
  expect(merged).toMatchObject([{ name: "mail", busy: 3, pause, version: 7 }, { name: "new", pause: null }]);
  expect(mergeNumbers([late], undefined)).toEqual([late]);
});

test("a worker works on a queue that it names, or when it takes all", () => {
  const worker = (name: string, queues: Worker["queues"], state: Worker["state"] = "online"): Worker => ({ name, queues, state }) as Worker;
  const workers = [worker("a", { mail: 1 }), worker("b", { "*": 1 }), worker("c", { other: 1 }), worker("d", { mail: 1 }, "offline")];
  expect(workersOf("mail", workers).map(({ name }) => name)).toEqual(["a", "b"]);
});

test("what is no time is none", () => {
  expect(timeOf("")).toBeUndefined();
  expect(timeOf("soon")).toBeUndefined();
  expect(timeOf("2026-03-01T12:00")).toMatch(/^2026-0[23]-\d\dT\d\d:00:00.000Z$/);
});
