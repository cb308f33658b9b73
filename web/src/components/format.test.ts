import { expect, test } from "vitest";
import { formatAbsolute, formatBytes, formatCount, formatRate, formatRelative, formatSpan, plural, shortID } from "./format";

test("spans have the unit that a person would say", () => {
  const rows: [number | null, string][] = [
    [null, "–"], [0, "0 ms"], [0.004, "4 ms"], [1.25, "1.3 s"], [12.9, "12 s"], [60, "1 min"], [3599, "59 min"], [7200, "2 h"], [400_000, "4 d"],
  ];
  for (const [seconds, text] of rows) {
    expect(formatSpan(seconds)).toBe(text);
  }
});

test("relative times say which way", () => {
  const now = Date.parse("2026-03-01T12:00:00Z");
  expect(formatRelative("2026-03-01T12:00:00.900000Z", now)).toBe("just now");
  expect(formatRelative("2026-03-01T11:59:48Z", now)).toBe("12 s ago");
  expect(formatRelative("2026-03-01T11:59:58Z", now)).toBe("2 s ago");
  expect(formatRelative("2026-03-01T12:03:00Z", now)).toBe("in 3 min");
});

test("absolute times name their zone", () => {
  expect(formatAbsolute("2026-03-01T12:00:00.123456Z", "utc")).toBe("2026-03-01 12:00:00.123 UTC");
  expect(formatAbsolute("2026-03-01T12:00:00.123456Z", "local")).toMatch(/^2026-03-0[12] \d\d:\d\d:00\.123 [+-]\d\d:\d\d$/);
  expect(formatAbsolute("nonsense", "utc")).toBe("nonsense");
});

test("numbers are written the same everywhere", () => {
  expect(formatCount(12_340)).toBe("12,340");
  expect([0, 0.01, 0.34, 9.96, 12.4, 1200, null].map(formatRate)).toEqual(["0", "<0.1", "0.3", "10.0", "12", "1,200", "–"]);
  expect([plural(1, "job"), plural(37, "job"), plural(2, "query", "queries")]).toEqual(["1 job", "37 jobs", "2 queries"]);
  expect(shortID("0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e")).toBe("…7b8c9d0e");
});

test("sizes have three digits at most, and the unit that fits", () => {
  expect([0, 312, 1024, 4300, 204_800, 1_400_000].map(formatBytes)).toEqual(["0 B", "312 B", "1 KiB", "4.2 KiB", "200 KiB", "1.3 MiB"]);
});
