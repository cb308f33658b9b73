import fc from "fast-check";
import { expect, test } from "vitest";
import type { Attempt, JobEvent } from "../../api/types";
import { ModelServer, newJob } from "../../testing/model";
import { folded, wayOf } from "./way";

const at = (second: number): string => `2026-03-01T12:00:${String(second).padStart(2, "0")}.000000Z`;

function attempt(number: number, from: number, to: number | null): Attempt {
  return {
    attempt_number: number, started_at: at(from), completed_at: to === null ? null : at(to), status: to === null ? "running" : "failed",
    error_type: to === null ? null : "SMTPError", error_message: to === null ? null : "421", worker: "w1", fence: number, wait_seconds: 0, run_seconds: null,
  };
}

function event(version: number, type: string, status: JobEvent["status"], second: number, data: JobEvent["data"] = {}): JobEvent {
  return {
    cursor: `3-${version}`, epoch: 3, seq: version, type, v: 1, timestamp: at(second), queue: "mail", kind: "send", job_id: "a", job_version: version, status,
    priority: "normal", attempt: 1, worker: null, tags: [], workflow_id: null, actor: null, data,
  };
}

test("whatever happened, the way ends where the job is, and nothing on it is out of order", () => {
  fc.assert(fc.property(fc.array(fc.nat(20), { maxLength: 30 }), (steps) => {
    const server = new ModelServer(["a"]);
    steps.forEach((step) => { server.step(0, step); });
    const [job] = server.list(["a"]);
    if (!job) {
      return; // deleted
    }
    const way = wayOf(job, server.log as unknown as JobEvent[]);
    expect(way.at(-1)?.status).toBe(job.status);
    expect(way.at(-1)?.until).toBeUndefined();
    expect(way.map((stop) => stop.at)).toEqual(way.map((stop) => stop.at).toSorted());
    expect(way.every((stop, i) => i === 0 || stop.at === way[i - 1]?.until)).toBe(true);
  }));
});

test("progress and edits are no stops, and a failure says why", () => {
  const events = [
    event(1, "job.enqueued", "pending", 0), event(2, "job.updated", "pending", 1), event(3, "job.started", "running", 2), event(4, "job.progress", "running", 3),
    event(5, "job.retrying", "retrying", 4, { cause: "error", error: { type: "SMTPError", message: "421" } }),
  ];
  const way = wayOf(newJob("a", { status: "retrying", version: 5 }), events);
  expect(way.map(({ status, attempt: number, until, why }) => [status, number, until, why])).toEqual([
    ["pending", undefined, at(2), undefined], ["running", 1, at(4), undefined], ["retrying", undefined, undefined, "SMTPError: 421"],
  ]);
});

test("without events the attempts and the job tell the way", () => {
  const job = newJob("a", {
    status: "dead", created_at: at(0), started_at: at(1), finished_at: at(9), attempts: [attempt(1, 1, 2), attempt(2, 8, 9)],
    error: { type: "SMTPError", message: "421", fingerprint: "f", at: at(9) },
  });
  expect(wayOf(job, []).map(({ status, at: time }) => [status, time])).toEqual([
    ["pending", at(0)], ["running", at(1)], ["retrying", at(2)], ["running", at(8)], ["dead", at(9)],
  ]);
  expect(wayOf(job, []).at(-1)?.why).toBe("SMTPError: 421");
});

test("what the kept events do not reach comes from the attempts", () => {
  const job = newJob("a", { status: "running", version: 6, created_at: at(0), started_at: at(1), attempt: 2, attempts: [attempt(1, 1, 2), attempt(2, 8, null)] });
  const way = wayOf(job, [event(6, "job.started", "running", 8)]);
  expect(way.map(({ status, at: time }) => [status, time])).toEqual([["pending", at(0)], ["running", at(1)], ["retrying", at(2)], ["running", at(8)]]);
});

test("a job that is newer than its events is where it is", () => {
  const way = wayOf(newJob("a", { status: "completed", finished_at: at(5), version: 3 }), [event(1, "job.enqueued", "pending", 0), event(2, "job.started", "running", 1)]);
  expect(way.map(({ status }) => status)).toEqual(["pending", "running", "completed"]);
});

test("a long way loses its middle, and says how much", () => {
  const way = Array.from({ length: 50 }, (_, i) => i);
  expect(folded(way, 2, 3)).toEqual({ head: [0, 1], left: 45, tail: [47, 48, 49] });
  expect(folded([1, 2, 3, 4, 5, 6], 2, 3)).toEqual({ head: [1, 2, 3, 4, 5, 6], left: 0, tail: [] });
});
