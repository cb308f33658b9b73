import { expect, test } from "vitest";
import { isExpired, lackOf, rightsOf, toNewKey, type KeyForm } from "./keys";

const now = Date.parse("2026-03-01T12:00:00Z");
const form: KeyForm = { name: " deploy ", role: "", scopes: ["enqueue"], queues: "mail, billing\nmail2", end: "7" };

test("a form becomes a key with scopes or with a role, not with both", () => {
  expect(toNewKey(form, now)).toEqual({ name: "deploy", scopes: ["enqueue"], queues: ["mail", "billing", "mail2"], expires_at: "2026-03-08T12:00:00.000Z" });
  expect(toNewKey({ ...form, role: "viewer", queues: " ", end: "" }, now)).toEqual({ name: "deploy", role: "viewer" });
});

test("a key without a name or without a right is not sent", () => {
  expect(lackOf(form)).toBeUndefined();
  expect(lackOf({ ...form, name: "  " })).toMatch(/name/);
  expect(lackOf({ ...form, scopes: [] })).toMatch(/scope/);
  expect(lackOf({ ...form, scopes: [], role: "viewer" })).toBeUndefined();
});

test("a key says its role, or its scopes, and when it is over", () => {
  expect(rightsOf({ role: "operator", scopes: ["read", "operate"] })).toBe("operator");
  expect(rightsOf({ role: null, scopes: ["enqueue", "work"] })).toBe("enqueue, work");
  expect(isExpired({ expires_at: null }, now)).toBe(false);
  expect(isExpired({ expires_at: "2026-03-01T12:00:00Z" }, now)).toBe(true);
});
