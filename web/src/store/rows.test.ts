import fc from "fast-check";
import { expect, test, vi } from "vitest";
import type { Job } from "../api/types";
import type { StreamEvent } from "../stream";
import { ModelServer, newJob } from "../testing/model";
import { JobRows } from "./rows";

const names = ["a", "b", "c"];

/** What tables show of a job. */
function shown(job: Job): Partial<Job> {
  const { id, queue, kind, priority, status, reason, attempt, tags, run_at, started_at, finished_at, locked_by, fence, error, progress,
    version, allowed_actions } = job;
  return { id, queue, kind, priority, status, reason, attempt, tags, run_at, started_at, finished_at, locked_by, fence, error, progress,
    version, allowed_actions };
}

/** Frames that a test draws itself. */
function frames(): { next: (draw: () => void) => void; draw: () => void; asked: () => number } {
  const waiting: (() => void)[] = [];
  let asked = 0;
  return {
    next: (draw) => { waiting.push(draw); asked++; },
    draw: () => { waiting.splice(0).forEach((draw) => { draw(); }); },
    asked: () => asked,
  };
}

// Events come in any order, doubled, and all but the newest of a job may be left out: class view promises no more. Snapshots
// come late. What is on the screen afterwards, and after what is stale was fetched, is a fresh snapshot.
test("any order, doubles and gaps of events end in the state of a fresh snapshot", () => {
  const moves = fc.array(fc.tuple(fc.nat(20), fc.nat(20)), { maxLength: 40 });
  fc.assert(fc.property(
    moves, moves, fc.infiniteStream(fc.nat(1000)), fc.infiniteStream(fc.integer({ min: 0, max: 3 })), fc.boolean(),
    (before, after, shuffle, copies, isLate) => {
      const server = new ModelServer(names);
      const late = server.list(names);
      before.forEach(([job, step]) => { server.step(job, step); });
      const snapshot = server.list(names);
      const asOf = server.log.length;
      after.forEach(([job, step]) => { server.step(job, step); });

      const rows = new JobRows((draw) => { draw(); });
      rows.retain(snapshot);
      const events = deliver(server.log.slice(asOf), shuffle, copies);
      events.forEach((event, i) => {
        rows.apply([event]);
        if (isLate && i % 3 === 0) {
          rows.load(late);
        }
      });
      const fresh = server.list(names);
      rows.load(fresh.filter((job) => rows.stale(names).includes(job.id)));

      for (const { id } of snapshot) {
        const row = rows.get().get(id);
        const now = fresh.find((job) => job.id === id);
        expect(row?.isGone).toBe(now === undefined);
        if (now && row) {
          expect(row.isStale).toBe(false);
          expect(shown(row.job)).toEqual(shown(now));
        }
      }
    }), { numRuns: 500 });
});

/** The newest event of each job for sure, the others perhaps, each up to three times, in any order. */
function deliver(log: readonly StreamEvent[], shuffle: Iterator<number>, copies: Iterator<number>): StreamEvent[] {
  const newest = new Map(log.map((event) => [event.job_id, event]));
  return log
    .flatMap((event) => Array.from({ length: Math.max(copies.next().value as number, newest.get(event.job_id) === event ? 1 : 0) }, () => event))
    .map((event) => ({ event, at: shuffle.next().value as number }))
    .sort((a, b) => a.at - b.at)
    .map(({ event }) => event);
}

test("every event in order, none left out, needs no fetching but where the event does not say it all", () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(20), fc.nat(20)), { maxLength: 40 }), (moves) => {
    const server = new ModelServer(names);
    const rows = new JobRows((draw) => { draw(); });
    rows.retain(server.list(names));
    let seen = server.log.length;
    for (const [job, step] of moves) {
      server.step(job, step);
      rows.apply(server.log.slice(seen));
      seen = server.log.length;
      const last = server.log.at(-1);
      for (const id of rows.stale(names)) {
        expect(["job.updated", "job.redriven", "job.cancelled"]).toContain(last?.type);
        rows.load(server.list([id]));
      }
    }
    for (const job of server.list(names)) {
      expect(shown(rows.get().get(job.id)?.job ?? newJob("none"))).toEqual(shown(job));
    }
  }), { numRuns: 300 });
});

test("however many events come, listeners are called once a frame", () => {
  const frame = frames();
  const rows = new JobRows(frame.next);
  const listener = vi.fn();
  rows.subscribe(listener);
  const server = new ModelServer(["a"]);
  rows.retain(server.list(["a"]));
  for (let i = 0; i < 50; i++) {
    server.step(0, 0);
  }
  rows.apply(server.log);
  expect(rows.get().size).toBe(0);
  expect(frame.asked()).toBe(1);
  frame.draw();
  expect(listener).toHaveBeenCalledTimes(1);
  const painted = rows.get();
  expect(painted.get("a")?.job.status).toBe("completed");
  expect(rows.get()).toBe(painted);
});

test("rows live as long as somebody looks at them", () => {
  const rows = new JobRows((draw) => { draw(); });
  const first = rows.retain([newJob("a"), newJob("b")]);
  const second = rows.retain([newJob("b")]);
  rows.load([newJob("c")]);
  expect([...rows.get().keys()]).toEqual(["a", "b"]);
  first();
  expect([...rows.get().keys()]).toEqual(["b"]);
  second();
  expect(rows.get().size).toBe(0);
});

test("types of a later server make a row stale, and members that are missing do no harm", () => {
  const rows = new JobRows((draw) => { draw(); });
  rows.retain([newJob("a")]);
  rows.apply([{
    cursor: "1-9", epoch: 1, seq: 9, type: "job.teleported", v: 1, timestamp: "2026-03-01T12:00:01.000000Z", queue: "mail", kind: "k",
    job_id: "a", job_version: 2, status: "elsewhere", priority: null, attempt: null, worker: null, tags: [], workflow_id: null, actor: null, data: {},
  }]);
  expect(rows.stale(["a"])).toEqual(["a"]);
  expect(rows.get().get("a")?.job.status).toBe("pending");
  rows.drop("a");
  expect(rows.get().get("a")?.isGone).toBe(true);
});
