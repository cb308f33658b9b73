import { expect, test } from "vitest";
import { changesOf, pageOf, timeText, toQuery } from "./audit";

const id = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e";

test("the address says what is asked for, and nothing else", () => {
  expect(toQuery({ actor: " basic:admin ", action: "", target: "mail", limit: "7" })).toEqual({ actor: "basic:admin", target: "mail" });
});

test("a time is taken as people type it; what is none is the server's to refuse", () => {
  const now = Date.parse("2026-03-01T12:00:00Z");
  expect(timeText("1h", "utc", now)).toBe("2026-03-01T11:00:00.000Z");
  expect(timeText("2026-03-01 10:00", "utc", now)).toBe("2026-03-01T10:00:00.000Z");
  expect(timeText("soon ", "utc", now)).toBe("soon");
});

test("only what has changed is told", () => {
  expect(changesOf({ before: { paused: false, version: 1 }, after: { paused: true, version: 1, reason: "<b>" } })).toEqual(["paused: false → true", 'reason: "<b>"']);
  expect(changesOf({ before: { a: 1 }, after: null })).toEqual(["a: 1 → gone"]);
  expect(changesOf({ before: null, after: null })).toEqual([]);
});

test("what was acted on has a page unless it is gone", () => {
  expect(pageOf({ action: "job.retry", target: id })).toBe(`/jobs/${id}`);
  expect(pageOf({ action: "job.delete", target: id })).toBeUndefined();
  expect(pageOf({ action: "queue.pause", target: "mail" })).toBe("/queues/mail");
  expect(pageOf({ action: "key.create", target: id })).toBeUndefined();
  expect(pageOf({ action: "queue.pause", target: null })).toBeUndefined();
});
