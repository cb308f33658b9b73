import { expect, test } from "vitest";
import type { Worker } from "../../api/types";
import { lookOf, queuesText, sortWorkers } from "./workers";

const worker = (name: string, changed: Partial<Worker>): Worker => ({ id: name, name, state: "online", busy: 0, ...changed }) as Worker;

test("a worker that is silent is offline, whatever it was asked for", () => {
  expect(lookOf({ state: "offline", asked: "drain" }).word).toBe("offline");
  expect(lookOf({ state: "online", asked: "drain" }).word).toBe("asked to drain");
  expect(lookOf({ state: "draining", asked: "drain" }).word).toBe("draining");
  expect(lookOf({ state: "online", asked: "quiet" }).word).toBe("quiet");
  expect(lookOf({ state: "online", asked: null })).toEqual({ tone: "good", icon: "check", word: "online" });
});

test("those with work in hand come first, the silent ones last", () => {
  const all = [worker("d", { state: "offline", busy: 3 }), worker("c", {}), worker("b", {}), worker("a2", { busy: 1 })];
  expect(sortWorkers(all).map(({ name }) => name)).toEqual(["a2", "b", "c", "d"]);
});

test("queues stand with their weights, the heaviest first", () => {
  expect(queuesText({ "*": 1, mail: 3 })).toBe("mail 3, all others 1");
});
