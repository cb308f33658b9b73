import { expect, test } from "vitest";
import { newJob } from "../../testing/model";
import { allowedFor, nothing, toggle } from "./selection";

const order = ["a", "b", "c", "d"];

test("a range gets what its last row gets, in both directions", () => {
  let selection = toggle(nothing, "b", false, order);
  selection = toggle(selection, "d", true, order);
  expect([...selection.ids]).toEqual(["b", "c", "d"]);
  selection = toggle(selection, "b", true, order);
  expect([...selection.ids]).toEqual([]);
  expect([...toggle({ ids: new Set(), anchor: "d" }, "c", true, order).ids]).toEqual(["c", "d"]);
  expect([...toggle({ ids: new Set(), anchor: "gone" }, "c", true, order).ids]).toEqual(["c"]);
});

test("an action is for those that allow it and are still there", () => {
  const rows = [
    { job: newJob("a"), isGone: false, isStale: false },
    { job: newJob("b", { status: "dead", allowed_actions: ["retry", "clone", "delete"] }), isGone: false, isStale: false },
    { job: newJob("c"), isGone: true, isStale: false },
  ];
  const all = { ids: new Set(["a", "b", "c"]), anchor: undefined };
  expect(allowedFor("cancel", rows, all)).toEqual(["a"]);
  expect(allowedFor("retry", rows, all)).toEqual(["b"]);
  expect(allowedFor("retry", rows, nothing)).toEqual([]);
});
