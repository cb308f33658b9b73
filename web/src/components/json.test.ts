import fc from "fast-check";
import { expect, test } from "vitest";
import { cut, quote, readJson, shellWord, sourceOf, withSource, type JsonNode } from "./json";

/** What the tree means, to compare it with what JSON.parse makes of the same text. */
function meaning(node: JsonNode): unknown {
  switch (node.kind) {
    case "object": return Object.fromEntries(node.entries.map(({ name, value }) => [name, meaning(value)]));
    case "array": return node.entries.map(({ value }) => meaning(value));
    default: return JSON.parse(node.source);
  }
}

test("a tree says what its text says, however it is spaced", () => {
  // Without __proto__: to name it is to set it, in the test as in the sample.
  const values = fc.jsonValue().filter((value) => !JSON.stringify(value).includes("__proto__"));
  fc.assert(fc.property(values, fc.constantFrom(0, 2), (value, space) => {
    const text = JSON.stringify(value, undefined, space);
    expect(JSON.stringify(meaning(readJson(text)))).toBe(JSON.stringify(JSON.parse(text)));
    expect(readJson(text).source).toBe(text);
  }));
});

test("numbers keep all of their digits", () => {
  const job = '{"id":"x","payload":{"id": 900719925474099312345, "pi":3.14159265358979323846264338327950288},"version":3}';
  expect(sourceOf(job, "payload")).toBe('{"id": 900719925474099312345, "pi":3.14159265358979323846264338327950288}');
  expect(readJson(sourceOf(job, "payload") ?? "").entries.map(({ value }) => value.source)).toEqual(["900719925474099312345", "3.14159265358979323846264338327950288"]);
  expect(sourceOf(job, "result")).toBeUndefined();
  expect(withSource({ queue: "mail" }, "payload", "900719925474099312345")).toBe('{"queue":"mail","payload":900719925474099312345}');
  expect(withSource({}, "payload", "1")).toBe('{"payload":1}');
});

test("a member is found by its place, not by what a string says", () => {
  expect(sourceOf('{"note":"\\"payload\\":1,}","inner":{"payload":2},"payload":3}', "payload")).toBe("3");
});

test("depth breaks nothing", () => {
  const deep = "[".repeat(100_000) + "]".repeat(100_000);
  expect(readJson(deep).source).toHaveLength(200_000);
});

test("what would hide or turn a text is written out", () => {
  expect(quote("<b>\u202etxt.exe\n")).toBe('"<b>\\u202etxt.exe\\n"');
});

test("a text is cut between signs", () => {
  expect(cut("aäb", 10)).toBe("aäb");
  expect(cut("aäb", 2)).toBe("a");
  expect(cut("aäb", 3)).toBe("aä");
});

test("a word for a shell stays one word", () => {
  expect(shellWord("it's; rm -rf /")).toBe("'it'\\''s; rm -rf /'");
});
