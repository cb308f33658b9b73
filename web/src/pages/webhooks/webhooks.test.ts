import { expect, test } from "vitest";
import { bodyOf, emptyForm, formOf, lookOf, testText } from "./webhooks";

const well = { enabled: true, disabled_reason: null, failing_since: null, parked: 0, replay: null };

test("an edit that changes nothing tells the server what it has", () => {
  const webhook = { url: "https://a.example/hook", filter: { types: ["job.dead", "queue.*"], queues: "mail", job_ids: ["x"] }, include_payload: true };
  expect(bodyOf(formOf(webhook), webhook.filter)).toEqual({
    url: "https://a.example/hook", filter: { types: ["job.dead", "queue.*"], queues: ["mail"], job_ids: ["x"] }, include_payload: true,
  });
});

test("an empty form lets everything through", () => {
  expect(bodyOf({ ...emptyForm, url: " https://a.example " })).toEqual({ url: "https://a.example", filter: {}, include_payload: false });
});

test("a webhook that was stopped on purpose is not an error, one that stopped itself is", () => {
  expect(lookOf(well).word).toBe("well");
  expect(lookOf({ ...well, parked: 3 }).word).toBe("failing");
  expect(lookOf({ ...well, replay: { cursor: "1-1", until: "1-9" } }).word).toBe("replaying");
  expect(lookOf({ ...well, enabled: false, disabled_reason: "paused" })).toMatchObject({ tone: "warn", word: "paused" });
  expect(lookOf({ ...well, enabled: false, disabled_reason: "failing" })).toMatchObject({ tone: "bad", word: "failed for days" });
});

test("a test says how it ended", () => {
  expect(testText({ delivered: true, status: 204, took_ms: 12, detail: null })).toBe("Delivered: answered 204 in 12 ms.");
  expect(testText({ delivered: false, status: null, took_ms: 3, detail: "connection refused" })).toBe("Not delivered: no answer in 3 ms, connection refused.");
});
