import { expect, test, vi } from "vitest";
import { Keys, type KeyPress } from "./keys";

function press(key: string, changed: Partial<KeyPress> = {}): KeyPress {
  return { key, ctrlKey: false, metaKey: false, altKey: false, target: null, ...changed };
}

test("one key and two after each other", () => {
  const keys = new Keys();
  const run = vi.fn();
  keys.bind([{ keys: "j", does: "next", run: () => { run("j"); } }, { keys: "g o", does: "overview", run: () => { run("g o"); } }]);
  expect(keys.press(press("j"), 0)).toBe(true);
  expect(keys.press(press("g"), 0)).toBe(false);
  expect(keys.press(press("o"), 500)).toBe(true);
  expect(keys.press(press("o"), 600)).toBe(false);
  keys.press(press("g"), 1000);
  expect(keys.press(press("o"), 9000)).toBe(false);
  keys.press(press("g"), 9000);
  expect(keys.press(press("j"), 9001)).toBe(true);
  expect(run.mock.calls.flat()).toEqual(["j", "g o", "j"]);
});

test("silent inside fields and with other modifiers", () => {
  const keys = new Keys();
  const run = vi.fn();
  keys.bind([{ keys: "j", does: "next", run }]);
  for (const markup of ["input", "textarea", "select"]) {
    expect(keys.press(press("j", { target: document.createElement(markup) }), 0)).toBe(false);
  }
  const dialog = document.createElement("div");
  dialog.setAttribute("role", "dialog");
  const button = document.createElement("button");
  dialog.append(button);
  expect(keys.press(press("j", { target: button }), 0)).toBe(false);
  for (const modifier of ["ctrlKey", "metaKey", "altKey"] as const) {
    expect(keys.press(press("j", { [modifier]: true }), 0)).toBe(false);
  }
  const box = document.createElement("input");
  box.type = "checkbox";
  expect(keys.press(press("j", { target: box }), 0)).toBe(true);
  expect(run).toHaveBeenCalledTimes(1);
});

test("a page's keys win over the shell's, until it is gone", () => {
  const keys = new Keys();
  const run = vi.fn();
  keys.bind([{ keys: "p", does: "pause", run: () => { run("shell"); } }]);
  const unbind = keys.bind([{ keys: "p", does: "print", run: () => { run("page"); } }]);
  keys.press(press("p"), 0);
  expect(keys.list()).toHaveLength(1);
  unbind();
  keys.press(press("p"), 0);
  expect(run.mock.calls.flat()).toEqual(["page", "shell"]);
});
