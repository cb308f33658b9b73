import assert from "node:assert/strict";
import { mock, test, type TestContext } from "node:test";
import {
  ClosedError, CursorExpiredError, EpochChangedError, EventStream, HoleError, ProtocolError, RefusedError,
  type ConsumerOptions, type StreamState, type ViewOptions,
} from "../src/stream/index.js";
import { adviceOf, Backoff, parseReason } from "../src/stream/closing.js";
import { formatCursor, parseCursor } from "../src/stream/cursor.js";
import { ev, FakeSocket, settle } from "./fake.js";

// One clock for the tests of this file, which run one after the other.
mock.timers.enable({ apis: ["setTimeout"] });

interface Bench {
  stream: EventStream;
  sockets: FakeSocket[];
  states: StreamState[];
  /** The socket of now. */
  socket(): FakeSocket;
  /** Lets the pause pass, and greets on the next socket. */
  again(): Promise<FakeSocket>;
}

async function setUp(t: TestContext): Promise<Bench> {
  const sockets: FakeSocket[] = [];
  const states: StreamState[] = [];
  const stream = new EventStream({
    url: () => Promise.resolve("ws://server/api/v1/ws?ticket=t"),
    open: (url, protocol) => {
      assert.equal(url, "ws://server/api/v1/ws?ticket=t");
      assert.equal(protocol, "miniasynq.v1");
      sockets.push(new FakeSocket());
      return sockets.at(-1)!;
    },
    onState: (state) => states.push(state),
  });
  t.after(() => { stream.close(); });
  await settle();
  const socket = (): FakeSocket => sockets.at(-1)!;
  return {
    stream, sockets, states, socket,
    again: async () => {
      mock.timers.tick(30_000);
      await settle();
      socket().greet();
      await settle();
      return socket();
    },
  };
}

interface Seen {
  seqs: number[];
  errors: Error[];
  skipped: unknown[];
  caughtUp: string[];
}

function consumer(seen: Seen, more: Partial<ConsumerOptions> = {}): ConsumerOptions {
  return {
    class: "consumer", after: "3-4",
    onEvents: (events) => { seen.seqs.push(...events.map((e) => e.seq)); },
    onEnd: (error) => { seen.errors.push(error); }, onCaughtUp: (cursor) => { seen.caughtUp.push(cursor); }, ...more,
  };
}

function view(seen: Seen, more: Partial<ViewOptions> = {}): ViewOptions {
  return {
    class: "view", after: "3-4",
    onEvents: (events) => { seen.seqs.push(...events.map((e) => e.seq)); },
    onSkip: (skipped) => { seen.skipped.push(skipped); },
    onEnd: (error) => { seen.errors.push(error); }, onCaughtUp: (cursor) => { seen.caughtUp.push(cursor); }, ...more,
  };
}

const nothing = (): Seen => ({ seqs: [], errors: [], skipped: [], caughtUp: [] });

test("cursors are read as they are written, and nothing else is", () => {
  assert.deepEqual(parseCursor("3-918273"), { epoch: 3, seq: 918273 });
  assert.equal(formatCursor({ epoch: 0, seq: 0 }), "0-0");
  for (const bad of ["", "3", "3-", "-3", "3-01", "+3-1", "3-1-1", "3-9007199254740992", "latest", 7, undefined]) {
    assert.equal(parseCursor(bad), undefined, String(bad));
  }
});

test("every close code is followed", () => {
  for (const code of [1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4409, 4410, 4412]) {
    assert.deepEqual(adviceOf(code, 5), { comesBack: false }, String(code));
  }
  for (const code of [1005, 1006, 1011, 1012, 4408, 4999]) {
    assert.deepEqual(adviceOf(code, 5), { comesBack: true, pauseMs: undefined }, String(code));
  }
  for (const code of [1001, 4508]) {
    assert.deepEqual(adviceOf(code, 1700), { comesBack: true, pauseMs: 1700 });
    assert.deepEqual(adviceOf(code, 3_600_000), { comesBack: true, pauseMs: 60_000 });
    assert.deepEqual(adviceOf(code, undefined), { comesBack: true, pauseMs: undefined });
  }
  assert.deepEqual(adviceOf(4429, 5), { comesBack: true, pauseMs: 30_000 });
  assert.deepEqual(parseReason('{"code":"slow","cursor":"3-1","retry_ms":12}'), { code: "slow", retryMs: 12 });
  for (const bad of ["", "null", "bad gateway", "[]"]) {
    assert.deepEqual(parseReason(bad), { code: "", retryMs: undefined });
  }
});

test("pauses are drawn from the whole of a bound that doubles up to 30 s", () => {
  const high = new Backoff(500, 30_000, () => 1);
  assert.deepEqual(Array.from({ length: 8 }, () => high.next()), [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
  high.reset();
  assert.equal(high.next(), 500);
  assert.equal(new Backoff(500, 30_000, () => 0).next(), 0);
});

test("a consumer resumes from what it handled, and drops doubles", async (t) => {
  const { stream, socket, again, states } = await setUp(t);
  const seen = nothing();
  const sub = stream.subscribe(consumer(seen, { credit: 10, payload: true }));
  socket().greet();
  await settle();
  assert.deepEqual(socket().sent, [
    { t: "ping", n: 0 }, { t: "sub", id: "s1", class: "consumer", after: "3-4", credit: 10, include: ["payload"] },
  ]);
  socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 3 }, ev("s1", 6, 5, 6));
  await settle();
  assert.equal(sub.cursor, "3-6");
  socket().end(1006);
  await again();
  assert.equal(socket().frames("sub")[0]?.after, "3-6");
  socket().say({ t: "subbed", id: "s1", cursor: "3-6", behind: 0 }, ev("s1", 8, 5, 6, 7, 8), { t: "caught_up", id: "s1", cursor: "3-8" });
  await settle();
  assert.deepEqual(seen, { seqs: [5, 6, 7, 8], errors: [], skipped: [], caughtUp: ["3-8"] });
  assert.deepEqual(states.map((s) => s.state), ["connecting", "open", "waiting", "connecting", "open"]);
});

test("from now on means from the first line on", async (t) => {
  const { stream, socket, again } = await setUp(t);
  const seen = nothing();
  stream.subscribe(consumer(seen, { after: "latest" }));
  socket().greet();
  await settle();
  socket().say({ t: "subbed", id: "s1", cursor: "3-41", behind: 0 });
  socket().end(1006);
  assert.equal((await again()).frames("sub")[0]?.after, "3-41");
});

test("marks move a filtered consumer on; holes in an unfiltered one are seen", async (t) => {
  const { stream, socket } = await setUp(t);
  const [filtered, held, event, mark, start] = [nothing(), nothing(), nothing(), nothing(), nothing()];
  const sub = stream.subscribe(consumer(filtered, { filter: { types: ["job.*"], tags: [] } }));
  for (const options of [consumer(held, { held: true }), consumer(event), consumer(mark), consumer(start)]) {
    stream.subscribe(options);
  }
  socket().greet();
  await settle();
  assert.deepEqual(socket().frames("sub")[0]?.filter, { types: ["job.*"], tags: [] });
  for (const id of ["s1", "s2", "s3", "s4"]) {
    socket().say({ t: "subbed", id, cursor: "3-4", behind: 0 });
  }
  socket().say({ t: "subbed", id: "s5", cursor: "3-9", behind: 0 });
  socket().say(ev("s1", 12, 7, 9), { t: "mark", id: "s1", cursor: "3-50" });
  socket().say(ev("s2", 12, 7, 9), ev("s3", 9, 5, 7, 9), ev("s4", 5, 5), { t: "mark", id: "s4", cursor: "3-6" });
  await settle();
  assert.deepEqual(filtered.seqs, [7, 9]);
  assert.equal(sub.cursor, "3-50");
  assert.deepEqual(held.seqs, [7, 9]);
  assert.deepEqual(event.seqs, [], "a frame with a hole is not handed over");
  assert.deepEqual(mark.seqs, [5]);
  for (const [seen, after, got] of [[event, "3-5", "3-7"], [mark, "3-5", "3-6"], [start, "3-4", "3-9"]] as const) {
    const [error] = seen.errors;
    assert.ok(error instanceof HoleError);
    assert.deepEqual([error.after, error.got], [after, got]);
  }
  assert.deepEqual(socket().frames("unsub").map((f) => f.id).sort(), ["s3", "s4", "s5"]);
});

test("a view is told what was skipped, and goes on behind it", async (t) => {
  const { stream, socket, again } = await setUp(t);
  const seen = nothing();
  const sub = stream.subscribe(view(seen));
  socket().greet();
  await settle();
  assert.deepEqual(socket().frames("sub"), [{ t: "sub", id: "s1", class: "view", after: "3-4" }]);
  socket().say(
    { t: "subbed", id: "s1", cursor: "3-4", behind: 9000 },
    { t: "skip", id: "s1", from: "3-4", cursor: "3-9000", n: 8996 },
    ev("s1", 9010, 9003, 9009), { t: "mark", id: "s1", cursor: "3-9020" }, { t: "news", id: "s1" },
  );
  assert.deepEqual(seen.skipped, [{ from: "3-4", cursor: "3-9000", n: 8996 }]);
  assert.deepEqual(seen.seqs, [9003, 9009]);
  assert.equal(sub.cursor, "3-9020");
  socket().end(4508, { code: "slow", retry_ms: 100 });
  assert.equal((await again()).frames("sub")[0]?.after, "3-9020");
});

test("lost history is said to the subscription alone", async (t) => {
  const { stream, socket } = await setUp(t);
  const [expired, epoch, refused, other] = [nothing(), nothing(), nothing(), nothing()];
  stream.subscribe(view(expired, { after: "3-1" }));
  stream.subscribe(view(epoch, { after: "2-90" }));
  stream.subscribe(view(refused, { filter: { types: ["?"] } }));
  const alive = stream.subscribe(view(other));
  socket().greet();
  await settle();
  socket().say(
    { t: "ended", id: "s1", code: "cursor_expired", floor: "3-2" }, { t: "ended", id: "s2", code: "epoch_changed" },
    { t: "err", id: "s3", code: "invalid_parameter", detail: "types: event types" }, { t: "subbed", id: "s4", cursor: "3-4", behind: 0 },
  );
  assert.ok(expired.errors[0] instanceof CursorExpiredError);
  assert.deepEqual([expired.errors[0].cursor, expired.errors[0].floor], ["3-1", "3-2"]);
  assert.ok(epoch.errors[0] instanceof EpochChangedError);
  assert.deepEqual([epoch.errors[0].cursor, epoch.errors[0].head], ["2-90", "3-100"]);
  assert.ok(refused.errors[0] instanceof RefusedError);
  assert.deepEqual([refused.errors[0].code, refused.errors[0].message], ["invalid_parameter", "types: event types"]);
  assert.equal(alive.cursor, "3-4");
  assert.deepEqual(other.errors, []);
});

test("a node that is behind is not believed at once", async (t) => {
  const { stream, socket, sockets, again } = await setUp(t);
  const seen = nothing();
  stream.subscribe(consumer(seen, { after: "4-7" }));
  socket().greet();
  await settle();
  for (let i = 0; i < 9; i++) {
    assert.deepEqual(seen.errors, []);
    if (i > 0) {
      await again();
    }
    socket().say(i % 2 ? { t: "err", id: "s1", code: "cursor_invalid", detail: "ahead" } : { t: "ended", id: "s1", code: "epoch_changed" });
    await settle();
  }
  assert.equal(sockets.length, 9);
  assert.ok(seen.errors[0] instanceof RefusedError);
  assert.equal(seen.errors[0].code, "cursor_invalid");
});

test("credit is paid for what the promise of the handler is done with", async (t) => {
  const { stream, socket } = await setUp(t);
  const seen = nothing();
  const waiting: (() => void)[] = [];
  stream.subscribe(consumer(seen, {
    credit: 4,
    onEvents: (events) => new Promise<void>((done) => {
      seen.seqs.push(...events.map((e) => e.seq));
      waiting.push(done);
    }),
  }));
  socket().greet();
  await settle();
  socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 0 }, ev("s1", 6, 5, 6), ev("s1", 8, 7, 8));
  await settle();
  assert.deepEqual(seen.seqs, [5, 6], "one batch at a time");
  assert.deepEqual(socket().frames("credit"), []);
  waiting.shift()!();
  await settle();
  assert.deepEqual(socket().frames("credit"), [{ t: "credit", id: "s1", n: 2 }]);
  assert.deepEqual(seen.seqs, [5, 6, 7, 8]);
  waiting.shift()!();
  await settle();
  assert.equal(socket().frames("credit").length, 1, "not too often: the server counts frames");
  mock.timers.tick(100);
  assert.deepEqual(socket().frames("credit")[1], { t: "credit", id: "s1", n: 2 });
});

test("what was not handled when the line broke comes again, after the handler is done", async (t) => {
  const { stream, socket, again } = await setUp(t);
  const seen = nothing();
  let done = (): void => undefined;
  stream.subscribe(consumer(seen, {
    onEvents: (events) => {
      seen.seqs.push(...events.map((e) => e.seq));
      return new Promise<void>((resolve) => { done = resolve; });
    },
  }));
  socket().greet();
  await settle();
  socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 0 }, ev("s1", 5, 5), ev("s1", 6, 6));
  socket().end(1006);
  const next = await again();
  assert.deepEqual(next.frames("sub"), [], "the handler is at work still");
  done();
  await settle();
  assert.equal(next.frames("sub")[0]?.after, "3-5");
  assert.deepEqual(seen.seqs, [5]);
});

test("an error of the handler ends its subscription, in front of what it failed at", async (t) => {
  const { stream, socket } = await setUp(t);
  for (const fail of [(): never => { throw new Error("full"); }, (): Promise<void> => Promise.reject(new Error("full"))]) {
    const seen = nothing();
    const sub = stream.subscribe(consumer(seen, { onEvents: fail }));
    socket().greet();
    await settle();
    const { id } = socket().frames("sub").at(-1)! as { id: string };
    socket().say({ t: "subbed", id, cursor: "3-4", behind: 0 }, ev(id, 5, 5), ev(id, 6, 6));
    await settle();
    assert.deepEqual(seen.errors.map((e) => e.message), ["full"]);
    assert.equal(sub.cursor, "3-4");
    assert.deepEqual(socket().frames("unsub").at(-1), { t: "unsub", id });
  }
});

test("another filter goes on behind the same cursor; meanwhile nothing is counted", async (t) => {
  const { stream, socket, again } = await setUp(t);
  const seen = nothing();
  const sub = stream.subscribe(consumer(seen, { filter: { queues: ["a"] } }));
  socket().greet();
  await settle();
  socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 0 });
  sub.refilter({});
  assert.deepEqual(socket().frames("filter"), [{ t: "filter", id: "s1", filter: {} }]);
  socket().say(ev("s1", 9, 7), ev("s1", 10, 10));
  await settle();
  assert.deepEqual(seen.seqs, [7, 10]);
  socket().end(1006);
  await again();
  assert.equal(socket().frames("sub")[0]?.filter, undefined);
  socket().say({ t: "subbed", id: "s1", cursor: "3-10", behind: 0 }, ev("s1", 12, 12));
  await settle();
  assert.ok(seen.errors[0] instanceof HoleError, "and then it is");
});

test("closing a subscription says so; the stream lives on", async (t) => {
  const { stream, socket } = await setUp(t);
  const seen = nothing();
  const sub = stream.subscribe(view(seen));
  socket().greet();
  await settle();
  socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 0 });
  sub.close();
  sub.close();
  socket().say(ev("s1", 5, 5));
  assert.deepEqual(socket().frames("unsub"), [{ t: "unsub", id: "s1" }]);
  assert.deepEqual(seen, nothing());
});

test("a silent line is asked for a sign of life, and left", async (t) => {
  const { socket, sockets, states } = await setUp(t);
  socket().greet();
  await settle();
  mock.timers.tick(5000);
  assert.deepEqual(socket().sent, [{ t: "ping", n: 0 }, { t: "ping", n: 1 }]);
  mock.timers.tick(9000);
  socket().say({ t: "pong", n: 1 });
  mock.timers.tick(5000);
  assert.equal(socket().frames("ping").length, 3);
  mock.timers.tick(9999);
  assert.equal(sockets.length, 1);
  assert.equal(states.at(-1)?.state, "open");
  mock.timers.tick(1);
  assert.equal(states.at(-1)?.state, "waiting");
  assert.equal(socket().closedWith, 1005);
});

test("a socket that never speaks is left, too", async (t) => {
  const { states } = await setUp(t);
  mock.timers.tick(14_999);
  assert.equal(states.at(-1)?.state, "connecting");
  mock.timers.tick(1);
  assert.equal(states.at(-1)?.state, "waiting");
});

test("a goodbye says when to come back; retryNow does not wait for it", async (t) => {
  const { stream, socket, sockets, states } = await setUp(t);
  socket().greet();
  socket().say({ t: "bye", retry_ms: 1700 });
  socket().end(1001, { code: "draining" });
  assert.deepEqual(states.at(-1), { state: "waiting", pauseMs: 1700, failures: 1 });
  stream.retryNow();
  stream.retryNow();
  await settle();
  assert.equal(sockets.length, 2);
});

test("a login that has ended ends the stream and its subscriptions", async (t) => {
  const { stream, socket, states } = await setUp(t);
  const [seen, late] = [nothing(), nothing()];
  stream.subscribe(view(seen));
  socket().greet();
  socket().end(4401, { code: "unauthorized" });
  const state = states.at(-1);
  assert.ok(state?.state === "closed" && state.error instanceof ClosedError);
  assert.equal(state.error.code, 4401);
  assert.deepEqual(seen.errors, [state.error]);
  stream.subscribe(view(late));
  await settle();
  assert.ok(late.errors[0] instanceof ClosedError);
});

test("what is no frame, or of another version, is no protocol", async (t) => {
  for (const frame of ["x", "[]", { v: 1 }]) {
    const { socket, states } = await setUp(t);
    socket().say(frame);
    const state = states.at(-1);
    assert.ok(state?.state === "closed" && state.error instanceof ClosedError);
  }
  const { socket, states } = await setUp(t);
  socket().say({ t: "hello", v: 2 });
  const state = states.at(-1);
  assert.ok(state?.state === "closed" && state.error instanceof ProtocolError);
  for (const frame of [{ ...ev("s1", 5, 6) }, { t: "mark", id: "s1", cursor: "4-1" }, { t: "mark", id: "s1" }]) {
    const seen = nothing();
    const bench = await setUp(t);
    bench.stream.subscribe(view(seen));
    bench.socket().greet();
    await settle();
    bench.socket().say({ t: "subbed", id: "s1", cursor: "3-4", behind: 0 }, frame);
    assert.ok(seen.errors[0] instanceof ProtocolError);
  }
});

test("the numbers are asked for again on each line", async (t) => {
  const { stream, socket, again } = await setUp(t);
  const at: string[] = [];
  stream.watchStats(1000, ["mail"], (stats) => at.push(stats.at));
  socket().greet();
  await settle();
  socket().say({ t: "stats", at: "one" });
  socket().end(1006);
  await again();
  assert.deepEqual(socket().frames("stats"), [{ t: "stats", every: "1000ms", queues: ["mail"] }]);
  socket().say({ t: "stats", at: "two" });
  stream.unwatchStats();
  socket().say({ t: "stats", at: "three" });
  assert.deepEqual(at, ["one", "two"]);
  assert.deepEqual(socket().frames("stats").at(-1), { t: "stats", every: "0s" });
});

test("numbers that the server refuses are said to be refused", async (t) => {
  const { stream, socket } = await setUp(t);
  const refused: string[] = [];
  const seen = nothing();
  stream.subscribe(view(seen));
  stream.watchStats(100, [], () => assert.fail("none came"), (error) => refused.push(`${error.code}: ${error.message}`));
  socket().greet();
  await settle();
  socket().say({ t: "err", code: "invalid_parameter", detail: "every: 500ms to 10s, or 0s" });
  assert.deepEqual(refused, ["invalid_parameter: every: 500ms to 10s, or 0s"]);
  assert.deepEqual(seen.errors, []);
  stream.unwatchStats();
  socket().say({ t: "err", code: "unavailable", detail: "" });
  assert.equal(refused.length, 1);
});

test("a ticket that cannot be had is waited for", async (t) => {
  const states: StreamState[] = [];
  let asked = 0;
  const stream = new EventStream({
    url: () => Promise.reject(new Error(`${++asked}`)), onState: (state) => states.push(state), open: () => assert.fail(),
  });
  t.after(() => { stream.close(); });
  await settle();
  mock.timers.tick(500);
  await settle();
  assert.equal(asked, 2);
  assert.deepEqual(states.map((s) => s.state), ["connecting", "waiting", "connecting", "waiting"]);
});

test("a cursor that is none is a TypeError", async (t) => {
  const { stream } = await setUp(t);
  assert.throws(() => stream.subscribe(view(nothing(), { after: "yesterday" })), TypeError);
});
