import { expect, test } from "vitest";
import type { Consumer } from "../../api/types";
import { filterText, lookOf, sortConsumers } from "./consumers";

const consumer = (name: string, changed: Partial<Consumer> = {}): Consumer => ({ name, problem: null, lag_seconds: 0, reader: "r1", ...changed }) as Consumer;

test("what stops a consumer is said before what only delays it", () => {
  expect(lookOf(consumer("a")).word).toBe("reading");
  expect(lookOf(consumer("a", { reader: null })).tone).toBe("none");
  expect(lookOf(consumer("a", { lag_seconds: 61 })).word).toBe("behind");
  expect(lookOf(consumer("a", { lag_seconds: 61, reader: null })).word).toBe("nobody reads");
  expect(lookOf(consumer("a", { problem: "cursor_expired", lag_seconds: null }))).toMatchObject({ tone: "bad", word: "its events are gone" });
});

test("stopped ones come first, then the longest lag", () => {
  const all = [consumer("b"), consumer("a"), consumer("late", { lag_seconds: 9 }), consumer("lost", { problem: "epoch_changed", lag_seconds: null })];
  expect(sortConsumers(all).map(({ name }) => name)).toEqual(["lost", "late", "a", "b"]);
});

test("a filter is one value or many, and an empty one lets everything through", () => {
  expect(filterText({ types: ["job.dead", "queue.*"], queues: "mail", kinds: [] })).toBe("types job.dead, queue.*; queues mail");
  expect(filterText({})).toBe("everything");
  expect(filterText(null)).toBe("everything");
});
