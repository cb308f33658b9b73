// Against a server, whose address is MINIASYNQ_SERVER; the Go test in clients/conformance starts one and runs this.
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { test, type TestContext } from "node:test";
import { WebSocket } from "ws";
import {
  EpochChangedError, EventStream, RefusedError, type ConsumerOptions, type Skipped, type Stats, type StreamEvent,
  type StreamOptions, type StreamState, type Subscription, type ViewOptions,
} from "../src/stream/index.js";

const server = process.env.MINIASYNQ_SERVER ?? "";
const skip = server ? false : "MINIASYNQ_SERVER names no server";

function open(t: TestContext, more: Partial<StreamOptions> = {}): EventStream {
  const stream = new EventStream({
    url: `${server.replace(/^http/, "ws")}/api/v1/ws`, open: (url, protocol) => new WebSocket(url, protocol),
    firstPauseMs: 5, maxPauseMs: 20, ...more,
  });
  t.after(() => { stream.close(); });
  return stream;
}

async function ask<T>(path: string, accept = "application/json", body?: object): Promise<T> {
  const answer = await fetch(`${server}/api/v1${path}`, {
    headers: { Accept: accept, ...(body ? { "Content-Type": "application/json" } : {}) },
    ...(body ? { method: "POST", body: JSON.stringify(body) } : {}),
  });
  assert.ok(answer.ok, `${path}: ${answer.status}`);
  return (accept.endsWith("ndjson") ? await answer.text() : await answer.json()) as T;
}

const position = async (): Promise<string> => (await ask<{ cursor: string }>("/events/position")).cursor;

/** Stores jobs that no node works on. */
const enqueue = (queue: string, n: number): Promise<unknown> =>
  ask("/jobs/batch", "application/json", { jobs: Array.from({ length: n }, () => ({ kind: "k", queue, delay: "1h" })) });

/** What a subscription tells, and promises for it. */
class Watch {
  readonly events: StreamEvent[] = [];
  readonly skipped: Skipped[] = [];
  private readonly waiting: { for: () => boolean; done: () => void }[] = [];
  private readonly failed: Promise<never>;
  private fail!: (error: Error) => void;

  constructor() {
    this.failed = new Promise((_, reject) => { this.fail = reject; });
    this.failed.catch(() => undefined); // it is raced against
  }

  take = (events: readonly StreamEvent[]): void => {
    this.events.push(...events);
    this.look();
  };

  skip = (skipped: Skipped): void => {
    this.skipped.push(skipped);
    this.look();
  };

  end = (error: Error): void => { this.fail(error); };

  /** Waits until it is so; an end of the subscription fails it. */
  async until(condition: () => boolean): Promise<void> {
    if (!condition()) {
      await Promise.race([this.failed, new Promise<void>((done) => this.waiting.push({ for: condition, done }))]);
    }
  }

  /** The error that ends the subscription. */
  async ends(): Promise<Error> {
    return this.failed.catch((error: unknown) => error as Error);
  }

  consumer(more: Partial<ConsumerOptions> = {}): ConsumerOptions {
    return { class: "consumer", onEvents: this.take, onEnd: this.end, ...more };
  }

  view(more: Partial<ViewOptions> = {}): ViewOptions {
    return { class: "view", onEvents: this.take, onSkip: this.skip, onEnd: this.end, ...more };
  }

  private look(): void {
    for (const one of this.waiting) {
      if (one.for()) {
        one.done();
      }
    }
  }
}

const options = { skip, timeout: 60_000 };

test("a consumer whose line is cut again and again sees every event once", options, async (t) => {
  const after = await position();
  const sockets = new Set<WebSocket>();
  let lines = 0;
  const stream = open(t, {
    open: (url, protocol) => {
      const socket = new WebSocket(url, protocol);
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
      return socket;
    },
    onState: (state: StreamState) => { lines += state.state === "open" ? 1 : 0; },
  });
  const [all, some] = [new Watch(), new Watch()];
  stream.subscribe(all.consumer({ after, credit: 20 }));
  stream.subscribe(some.consumer({ after, filter: { queues: ["live-a", "live-end"] } }));
  for (let n = 0; n < 60; n++) {
    await enqueue(n % 2 ? "live-a" : "live-b", 1 + randomInt(20));
    for (const socket of sockets) {
      if (randomInt(2)) {
        socket.terminate();
      }
    }
  }
  await enqueue("live-end", 1);
  const ended = (watch: Watch) => (): boolean => watch.events.some((e) => e.type === "job.scheduled" && e.queue === "live-end");
  await all.until(ended(all));
  await some.until(ended(some));
  assert.ok(lines > 10, `${lines} lines`);
  const until = all.events.at(-1)!.cursor;
  const log = (await ask<string>(`/events?after=${after}&until=${until}`, "application/x-ndjson")).trimEnd().split("\n")
    .map((line) => JSON.parse(line) as StreamEvent);
  assert.deepEqual(all.events, log);
  const matching = log.filter((e) => e.queue === "live-a" || e.queue === "live-end");
  assert.deepEqual(some.events.slice(0, matching.length), matching);
});

test("a view is sent the newest event of each job, or told what it has missed", options, async (t) => {
  const after = await position();
  for (let i = 0; i < 3; i++) {
    await enqueue("live-view", 1000); // further behind than a view may lie
  }
  const stream = open(t);
  const watch = new Watch();
  let sub!: Subscription;
  await new Promise<string>((onCaughtUp) => {
    sub = stream.subscribe(watch.view({ after, filter: { queues: ["live-view"] }, onCaughtUp }));
  });
  assert.ok(watch.skipped.length > 0);
  const [{ id }] = (await ask<{ data: { id: string }[] }>(
    "/jobs/batch", "application/json", { jobs: [{ kind: "k", queue: "live-view", delay: "1h" }] })).data as [{ id: string }];
  await watch.until(() => watch.events.some((e) => e.job_id === id));
  for (let i = 1; i < watch.events.length; i++) {
    assert.ok(watch.events[i]!.seq > watch.events[i - 1]!.seq, "in order");
  }
  // Each job has one event: it was sent, or it lies where the view was told that it has missed something.
  const seqOf = (cursor: string): number => Number(cursor.split("-")[1]);
  const sent = new Set(watch.events.map((e) => e.cursor));
  const log = (await ask<string>(`/events?after=${after}&until=${sub.cursor}&queues=live-view&types=job.*`, "application/x-ndjson"))
    .trimEnd().split("\n").map((line) => JSON.parse(line) as StreamEvent);
  assert.equal(log.length, 3001);
  for (const event of log) {
    const missed = watch.skipped.some((s) => seqOf(s.from) < event.seq && event.seq <= seqOf(s.cursor));
    assert.equal(missed, !sent.has(event.cursor), event.cursor);
  }
});

test("another filter is taken up where the view stands", options, async (t) => {
  const stream = open(t);
  const watch = new Watch();
  const sub = stream.subscribe(watch.consumer({ after: await position(), filter: { queues: ["live-one"] } }));
  await enqueue("live-one", 1);
  await watch.until(() => watch.events.some((e) => e.queue === "live-one"));
  sub.refilter({ queues: ["live-two"] });
  await enqueue("live-one", 1);
  await enqueue("live-two", 1);
  await watch.until(() => watch.events.some((e) => e.queue === "live-two"));
});

test("another history and a filter that cannot be read are errors", options, async (t) => {
  const stream = open(t);
  const [epoch, refused] = [new Watch(), new Watch()];
  const now = await position();
  stream.subscribe(epoch.view({ after: `${Number(now.split("-")[0]) - 1}-5` }));
  stream.subscribe(refused.consumer({ filter: { types: ["Not A Type"] } }));
  const error = await epoch.ends();
  assert.ok(error instanceof EpochChangedError);
  assert.equal(error.head?.split("-")[0], now.split("-")[0]);
  const other = await refused.ends();
  assert.ok(other instanceof RefusedError);
  assert.equal(other.code, "invalid_parameter");
});

test("the numbers come in the time that was asked for", options, async (t) => {
  const stream = open(t);
  const got: Stats[] = [];
  await new Promise<void>((done) => {
    stream.watchStats(500, [], (stats) => {
      if (got.push(stats) === 2) {
        done();
      }
    });
  });
  assert.equal(typeof got[0]!.at, "string");
  assert.notEqual(got[0]!.at, got[1]!.at);
});
