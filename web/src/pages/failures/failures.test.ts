import { expect, test } from "vitest";
import type { FailureGroup, Queue } from "../../api/types";
import { failingQueues, jobsOf, toFailureQuery, windowOf } from "./failures";

test("the address says how far back and which; what makes no sense is not asked for", () => {
  expect(toFailureQuery({ window: "7d", status: "dead", queue: "mail" })).toEqual({ window: "7d", limit: 100, status: ["dead"], queue: ["mail"] });
  expect(toFailureQuery({ window: "constructor", status: "completed" })).toEqual({ window: "24h", limit: 100 });
  expect(windowOf({})).toBe("24h");
});

test("a group leads to its jobs and no others", () => {
  const group: FailureGroup = {
    fingerprint: "f1", kind: "send", queues: ["mail"], count: 1, counts: { "1h": 1, "24h": 1, "7d": null }, dead: 1, retrying: 0, first_at: "", last_at: "",
    sample: { job_id: "a", type: "E", message: "m" },
  };
  expect(jobsOf(group, {})).toEqual({ status: "dead,retrying", kind: "send", fingerprint: "f1" });
  expect(jobsOf({ ...group, fingerprint: null }, { status: "dead", queue: "mail" })).toEqual({ status: "dead", kind: "send", queue: "mail" });
});

test("queues come by their dead jobs, and those without failures not at all", () => {
  const queue = (name: string, dead: number, retrying: number): Queue => ({ name, counts: { dead, retrying } }) as Queue;
  expect(failingQueues([queue("a", 0, 0), queue("b", 0, 5), queue("c", 2, 0), queue("d", 2, 1)]).map(({ name }) => name)).toEqual(["d", "c", "b"]);
});
