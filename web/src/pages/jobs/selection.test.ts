import { expect, test } from "vitest";
import { newJob } from "../../testing/model";
import { allowedFor, isPage, nothing, toggle, togglePage } from "./selection";

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

test("the page is what is still there, and is taken back as a whole", () => {
  const rows = [{ job: newJob("a"), isGone: false, isStale: false }, { job: newJob("b"), isGone: true, isStale: false }];
  const page = togglePage(nothing, rows);
  expect([...page.ids]).toEqual(["a"]);
  expect(isPage(page, rows)).toBe(true);
  expect(togglePage(page, rows)).toEqual(nothing);
  expect(isPage(page, [...rows, { job: newJob("c"), isGone: false, isStale: false }])).toBe(false);
  expect(isPage(nothing, [])).toBe(false);
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
