import { expect, test } from "vitest";
import { ModelServer } from "../../testing/model";
import { chipsOf, isArrival, parseTyped, toOperationFilter, toQuery, toStreamFilter, withChip, withoutChip, withStatus } from "./filters";

test("the address says what the server is asked for", () => {
  expect(toQuery({ status: "dead,retrying", queue: "mail", attempt_min: "2", "metadata.customer": "42", sort: "-finished_at", tab: "x" })).toEqual({
    status: ["dead", "retrying"], queue: ["mail"], attempt_min: "2", metadata: { "metadata.customer": "42" }, sort: "-finished_at",
  });
  expect(toQuery({})).toEqual({});
});

test("an operation on all that match is for what the list shows, in any order", () => {
  expect(toOperationFilter({ status: "dead,retrying", queue: "mail", attempt_min: "2", "metadata.customer": "42", sort: "-finished_at", tab: "x" })).toEqual({
    status: ["dead", "retrying"], queue: ["mail"], attempt_min: 2, "metadata.customer": "42",
  });
  expect(toOperationFilter({})).toEqual({});
});

test("chips come and go, and the status is none of them", () => {
  let search = withChip(withStatus({}, "dead"), { name: "queue", value: "mail" });
  search = withChip(search, { name: "queue", value: "sms" });
  search = withChip(search, { name: "queue", value: "sms" });
  expect(chipsOf(search)).toEqual([{ name: "queue", value: "mail" }, { name: "queue", value: "sms" }]);
  expect(withoutChip(search, { name: "queue", value: "mail" })).toEqual({ status: "dead", queue: "sms" });
});

test("what is typed becomes the filter that somebody means", () => {
  const id = "0195b3c0-8f1e-7c3a-9d2b-5f6a7b8c9d0e";
  expect(parseTyped(` ${id.toUpperCase()} `)).toEqual({ name: "id", value: id });
  expect(parseTyped("kind:email.*")).toEqual({ name: "kind", value: "email.*" });
  expect(parseTyped("dead")).toEqual({ name: "status", value: "dead" });
  expect(parseTyped("high")).toEqual({ name: "priority", value: "high" });
  expect(parseTyped("mail")).toEqual({ name: "queue", value: "mail" });
  expect(parseTyped("constructor:x")).toEqual({ name: "queue", value: "constructor:x" });
  expect(parseTyped(" ")).toBeUndefined();
});

test("the stream sieves as far as it can", () => {
  expect(toStreamFilter({ queue: "mail,sms*", tag: "welcome", status: "dead" })).toEqual({ types: ["job.*"], queues: ["mail", "sms*"], tags: ["welcome"] });
});

test("new is what the list would show and did not", () => {
  const [event] = new ModelServer(["b"]).log;
  if (!event) {
    throw new Error("the model told nothing");
  }
  expect(isArrival(event, {}, "a")).toBe(true);
  expect(isArrival(event, {}, "c")).toBe(false);
  expect(isArrival(event, { status: "pending" }, "c")).toBe(true);
  expect(isArrival(event, { status: "dead" }, "a")).toBe(false);
  expect(isArrival(event, { priority: "high" }, "a")).toBe(false);
  expect(isArrival(event, { attempt_min: "2" }, "a")).toBe(false);
  expect(isArrival({ ...event, type: "job.progress" }, { status: "pending" }, "a")).toBe(false);
});
