import { expect, test } from "vitest";
import { filterInWords, rateOf, shareOf } from "./bulk";

test("what was skipped or failed is dealt with, too", () => {
  expect(shareOf({ total: 40, done: 10, skipped: 5, failed: 5 })).toBe(0.5);
  expect(shareOf({ total: 0, done: 0, skipped: 0, failed: 0 })).toBe(1);
});

test("a rate is a number of jobs, or none, or wrong", () => {
  expect([" ", "50", "100000"].map(rateOf)).toEqual([undefined, 50, 100_000]);
  expect(["0", "-1", "1.5", "fast"].map(rateOf).every((rate) => Number.isNaN(rate))).toBe(true);
});

test("a filter is said in words, and no filter as what it means", () => {
  expect(filterInWords({ status: ["dead", "retrying"], queue: ["mail"], attempt_min: 2, metadata: { customer: "42" } })).toBe(
    'status dead or retrying, queue mail, attempt min 2, metadata {"customer":"42"}');
  expect(filterInWords({ within: ["mail"] })).toBe("only of the queue mail");
  expect(filterInWords({})).toBe("all jobs");
  expect(filterInWords(null)).toBe("jobs that were chosen one by one");
});
