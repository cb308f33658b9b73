import fc from "fast-check";
import { expect, test } from "vitest";
import type { StreamEvent } from "../../stream";
import { before, behind, chipsOf, isAfter, parseJump, parseTyped, seek, summaryOf, toFilter, withChip, withoutChip } from "./events";

const id = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e";
const now = Date.parse("2026-03-01T12:00:00Z");

test("what is typed becomes a filter that the stream has", () => {
  expect(parseTyped("type:job.dead")).toEqual({ name: "types", value: "job.dead" });
  expect(parseTyped("job.*")).toEqual({ name: "types", value: "job.*" });
  expect(parseTyped(id.toUpperCase())).toEqual({ name: "job_ids", value: id });
  expect(parseTyped("job:abc")).toEqual({ name: "job_ids", value: "abc" });
  expect(parseTyped("mail")).toEqual({ name: "queues", value: "mail" });
  expect(parseTyped("constructor:x")).toEqual({ name: "queues", value: "constructor:x" });
  expect(parseTyped("  ")).toBeUndefined();
});

test("chips stand in the address, each once", () => {
  const search = withChip(withChip({ after: "1-5", queues: "mail" }, { name: "queues", value: "mail" }), { name: "types", value: "job.dead" });
  expect(search).toEqual({ after: "1-5", queues: "mail", types: "job.dead" });
  expect(toFilter(search)).toEqual({ types: ["job.dead"], queues: ["mail"] });
  expect(chipsOf(withoutChip(search, { name: "queues", value: "mail" }))).toEqual([{ name: "types", value: "job.dead" }]);
});

test("going back ends where the log begins, and stays in its history", () => {
  expect(before("3-500", 100, "3-10")).toBe("3-400");
  expect(before("3-50", 100, "3-10")).toBe("3-10");
  expect(before("3-50", 100, "2-900")).toBe("3-0");
  expect(before("3-50", 1)).toBe("3-49");
  expect(isAfter("3-1", "2-9")).toBe(true);
  expect(isAfter("3-1", "3-1")).toBe(false);
});

test("a jump is a cursor, a span ago, or a time in the zone that is shown", () => {
  expect(parseJump("3-42", "utc", now)).toEqual({ cursor: "3-42" });
  expect(parseJump(" 42", "utc", now)).toEqual({ seq: 42 });
  expect(behind(42, { floor: "3-0", cursor: "3-99" })).toBe("3-41");
  expect(parseJump("earliest", "utc", now)).toEqual({ cursor: "earliest" });
  expect(parseJump("15m ago", "utc", now)).toEqual({ atMs: now - 900_000 });
  expect(parseJump("2026-03-01 12:00", "utc", now)).toEqual({ atMs: now });
  expect(parseJump("2026-03-01 12:00:00.000 UTC", "local", now)).toEqual({ atMs: now });
  expect(parseJump("2026-03-01T13:00:00+01:00", "local", now)).toEqual({ atMs: now });
  expect(parseJump("2026-03-01", "utc", now)).toEqual({ atMs: now - 43_200_000 });
  expect(parseJump("2026-03-01 12:00", "local", now)).toEqual({ atMs: new Date(2026, 2, 1, 12).getTime() });
  expect(parseJump("yesterday", "utc", now)).toBeUndefined();
  expect(parseJump("2026-13-99 12:00", "utc", now)).toBeUndefined();
});

test("a moment is found in any log, holes included, in few looks", async () => {
  await fc.assert(fc.asyncProperty(
    fc.uniqueArray(fc.integer({ min: 1, max: 100_000 }), { maxLength: 60 }), fc.integer({ min: -5, max: 100_005 }),
    async (seqs, wanted) => {
      const log = seqs.toSorted((a, b) => a - b).map((seq) => ({ seq, timestamp: new Date(seq * 1000).toISOString() }) as StreamEvent);
      let looks = 0;
      const first = (after: string): Promise<StreamEvent | undefined> => {
        looks += 1;
        return Promise.resolve(log.find(({ seq }) => seq > Number(after.slice(2))));
      };
      const cursor = await seek(wanted * 1000, { floor: "1-0", cursor: `1-${log.at(-1)?.seq ?? 0}` }, first);
      const found = log.find(({ seq }) => seq > Number(cursor.slice(2)));
      expect(found).toEqual(log.find(({ seq }) => seq >= wanted));
      expect(looks).toBeLessThanOrEqual(18);
    },
  ));
});

test("the line of an event begins with its error and keeps strange text as it is", () => {
  const event = { data: { run_ms: 41, error: { type: "SMTPError", message: "<b>421" }, reason: "" }, actor: "basic:admin", worker: "w1" } as unknown as StreamEvent;
  expect(summaryOf(event)).toBe("SMTPError: <b>421 · run_ms 41 · worker w1 · by basic:admin");
});
