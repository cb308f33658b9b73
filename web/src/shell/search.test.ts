import fc from "fast-check";
import { expect, test } from "vitest";
import { formatSearch, parseSearch, wayBack } from "./search";

test("what is written is read again", () => {
  const names = fc.string({ minLength: 1 }).filter((name) => name !== "__proto__");
  fc.assert(fc.property(fc.dictionary(names, fc.string({ minLength: 1 })), (search) => {
    expect(parseSearch(formatSearch(search))).toEqual({ ...search });
  }));
});

test("addresses stay readable", () => {
  expect(formatSearch({ status: "dead,retrying", queue: "mail:eu*", kind: "" })).toBe("?status=dead,retrying&queue=mail:eu*");
  expect(formatSearch({})).toBe("");
});

test("the login leads back into the dashboard and nowhere else", () => {
  expect(wayBack("/jobs?status=dead")).toBe("/jobs?status=dead");
  for (const elsewhere of [undefined, "", "jobs", "//example.com", "/\\example.com", "https://example.com", "javascript:alert(1)", "/login?from=/login"]) {
    expect(wayBack(elsewhere)).toBe("/");
  }
});
