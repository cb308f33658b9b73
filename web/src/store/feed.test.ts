import fc from "fast-check";
import { expect, test } from "vitest";
import type { StreamEvent } from "../stream";
import { Feed } from "./feed";

function event(seq: number): StreamEvent {
  return {
    cursor: `1-${seq}`, epoch: 1, seq, type: "job.enqueued", v: 1, timestamp: "2026-03-01T12:00:00.000000Z", queue: "q", kind: "k",
    job_id: "a", job_version: seq, status: "pending", priority: "normal", attempt: 0, worker: null, tags: [], workflow_id: null, actor: null, data: {},
  };
}

test("whatever order events come in, the feed has the newest, each once, newest first", () => {
  fc.assert(fc.property(fc.array(fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 12 }), { maxLength: 12 }), (frames) => {
    const feed = new Feed((draw) => { draw(); }, 500);
    frames.forEach((seqs) => { feed.push(seqs.map(event)); });
    const expected = [...new Set(frames.flat())].sort((a, b) => b - a);
    expect(feed.get().map(({ seq }) => seq)).toEqual(expected);
  }));
});

test("the feed holds five hundred events, however many come", () => {
  const feed = new Feed((draw) => { draw(); });
  for (let seq = 1; seq <= 5000; seq += 50) {
    feed.push(Array.from({ length: 50 }, (_, i) => event(seq + i)));
  }
  expect(feed.get()).toHaveLength(500);
  expect(feed.get()[0]?.seq).toBe(5000);
  expect(feed.get().at(-1)?.seq).toBe(4501);
});
