import { expect, test } from "vitest";
import { newJob } from "../../testing/model";
import { changesOf, draftOf, faultsOf } from "./edit";

const job = newJob("a", { priority: "normal", max_retries: 3, timeout: "30s", tags: ["a", "b"], metadata: { customer: "42" } });

test("a form that nobody touched changes nothing", () => {
  expect(changesOf(job, draftOf(job))).toEqual({});
  expect(faultsOf(draftOf(job))).toEqual({});
});

test("only what was changed is sent", () => {
  expect(changesOf(job, { ...draftOf(job), priority: "high" })).toEqual({ priority: "high" });
  expect(changesOf(job, { ...draftOf(job), retries: "5", delay: "10m" })).toEqual({ max_retries: 5, delay: "10m" });
  expect(changesOf(job, { ...draftOf(job), tags: "b, , c" })).toEqual({ tags: ["b", "c"] });
  expect(changesOf(job, { ...draftOf(job), metadata: '{"customer":"43"}' })).toEqual({ metadata: { customer: "43" } });
  expect(changesOf(job, { ...draftOf(job), metadata: '{ "customer" : "42" }' })).toEqual({});
});

test("what cannot be sent is said beside its field, and not sent", () => {
  expect(Object.keys(faultsOf({ ...draftOf(job), retries: "many", metadata: '{"customer":42}' }))).toEqual(["retries", "metadata"]);
  expect(changesOf(job, { ...draftOf(job), retries: "many", metadata: "[]" })).toEqual({});
});
