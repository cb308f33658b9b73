import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import {
  CancelJob, Client, JobCancelled, LeaseExpired, NonRetryable, RetryAfter, Snooze, Worker, WorkerStopping, type Job,
  type WorkerOptions,
} from "../dist/index.js";
import { invalidOutcome, outcomeOfError, reportOf } from "../dist/outcome.js";
import { Fake, jobBody, problem, within, type Reply, type Seen } from "./fake.js";

const live = new AbortController().signal;
const spoken = (error: unknown, signal = live): unknown => {
  const { verb, body } = reportOf(outcomeOfError(error, signal), 7);
  const { error: said, ...rest } = JSON.parse(body);
  return { verb, ...rest, ...(said ? { type: said.type, message: said.message } : {}) };
};

class Boom extends Error {
  override readonly name = "Boom";
}

test("what a handler throws says how the attempt ends", () => {
  const cause = new Boom("inner");
  const fail = { verb: "fail", fence: 7 };
  assert.deepEqual(spoken(new Boom("b")), { ...fail, retry: "default", type: "Boom", message: "b" });
  assert.deepEqual(spoken(new TypeError("t", { cause })), { ...fail, retry: "default", type: "TypeError", message: "t" });
  assert.deepEqual(spoken("text"), { ...fail, retry: "default", type: "Error", message: "text" });
  assert.deepEqual(spoken({ a: 1 }), { ...fail, retry: "default", type: "Error", message: "{ a: 1 }" });
  assert.deepEqual(spoken(new NonRetryable("n", { cause })), { ...fail, retry: "never", type: "Boom", message: "n" });
  assert.deepEqual(spoken(new NonRetryable("n")), { ...fail, retry: "never", type: "NonRetryable", message: "n" });
  assert.deepEqual(spoken(new RetryAfter(1500, "r")), { ...fail, retry: "after", retry_after: "1500ms", type: "RetryAfter", message: "r" });
  assert.deepEqual(spoken(new CancelJob("c")), { ...fail, retry: "cancel", type: "CancelJob", message: "c" });
  assert.deepEqual(spoken(new Snooze(200)), { verb: "snooze", fence: 7, delay: "200ms" });
  assert.throws(() => new Snooze(NaN), RangeError);
});

test("what breaks because the worker stops is given back; what a handler decides still counts", () => {
  const stopping = AbortSignal.abort(new WorkerStopping());
  assert.deepEqual(spoken(new Error("socket closed"), stopping), { verb: "release", fence: 7 });
  assert.deepEqual(spoken(new Snooze(1), stopping), { verb: "snooze", fence: 7, delay: "1ms" });
});

test("a result that cannot be sent is a failure; none is none", () => {
  const cycle: unknown[] = [];
  cycle.push(cycle);
  for (const result of [1n, cycle, () => 1, Symbol("s"), "x".repeat(256 * 1024)]) {
    const { verb, body } = reportOf({ kind: "complete", result }, 7);
    assert.equal(verb, "fail");
    assert.equal(JSON.parse(body).error.type, "InvalidOutcome");
  }
  assert.deepEqual(reportOf({ kind: "complete", result: undefined }, 7), { verb: "complete", body: '{"fence":7}' });
  assert.deepEqual(reportOf({ kind: "complete", result: null }, 7), { verb: "complete", body: '{"fence":7,"result":null}' });
});

test("the texts of an error are bounded", () => {
  assert.ok(reportOf(invalidOutcome("\u0001".repeat(10_000_000)), 7).body.length < 1 << 20);
});

interface Script {
  /** Jobs of the first claim. */
  jobs?: Record<string, unknown>[];
  lease?: string;
  beat?: (call: Seen, n: number) => Reply;
  report?: (call: Seen, n: number) => Reply;
  claim?: (call: Seen, n: number) => Reply | undefined;
}

const claimed = (over: Record<string, unknown> = {}): Record<string, unknown> => ({
  ...jobBody(), payload: {}, fence: 7, lease_remaining: "30s", timeout: "30m", ...over,
});
const isBeat = (c: Seen): boolean => c.path.endsWith("/heartbeat");
/** A heartbeat of a worker whose job runs. */
const isHolding = (c: Seen): boolean => isBeat(c) && (c.body as { leases: unknown[] }).leases.length > 0;
const isReport = (c: Seen): boolean => /^\/api\/v1\/jobs\/[^/]+\/(complete|fail|snooze|release)$/.test(c.path);
const isClaim = (c: Seen): boolean => c.path.endsWith("/claim");
const isBye = (c: Seen): boolean => c.method === "DELETE";
const verbOf = (c: Seen): string => c.path.replace(/.*\//, "");
const bodyOf = (c: Seen): Record<string, unknown> => c.body as Record<string, unknown>;

/** A server that hands out jobs once and then keeps claims parked. */
function serverOf(script: Script): Promise<Fake> {
  const counts = { claim: 0, beat: 0, report: 0, register: 0 };
  return Fake.start((call) => {
    if (call.path === "/api/v1/workers") {
      return { status: 201, body: { id: `w${++counts.register}`, lease: script.lease ?? "30s", heartbeat_every: "20ms" } };
    }
    if (isClaim(call)) {
      const n = ++counts.claim;
      const scripted = script.claim?.(call, n);
      return scripted ?? (n === 1 ? { status: 200, body: { jobs: script.jobs ?? [], commands: [] } } : new Promise<Reply>(() => undefined));
    }
    if (isBeat(call)) {
      return script.beat ? script.beat(call, ++counts.beat) : confirmed(call);
    }
    if (isReport(call)) {
      return script.report ? script.report(call, ++counts.report) : { status: 200, body: jobBody() };
    }
    return { status: 204 };
  });
}

function confirmed(call: Seen, commands: unknown[] = []): Reply {
  const { leases } = call.body as { leases: { job_id: string; fence: number }[] };
  return { status: 200, body: { leases: leases.map((l) => ({ job_id: l.job_id, fence: l.fence, remaining: "30s" })), commands } };
}

interface Running {
  fake: Fake;
  worker: Worker;
  end: Promise<void>;
  troubles: unknown[];
}

async function work(t: TestContext, script: Script, handler: (job: Job) => unknown, options: Partial<WorkerOptions> = {}): Promise<Running> {
  const fake = await serverOf(script);
  const troubles: unknown[] = [];
  const worker = new Worker({
    client: new Client({ server: fake.url }), signals: false, slots: 4, onTrouble: (e) => troubles.push(e), ...options,
  });
  worker.handle("k", handler);
  const end = worker.run();
  t.after(async () => {
    worker.stop();
    await end;
    await fake.close();
  });
  return { fake, worker, end, troubles };
}

/** A handler that goes on until its signal ends it, and the reason of that. */
function untilAborted(): { handler: (job: Job) => Promise<never>; reason: Promise<unknown> } {
  let tell: (reason: unknown) => void = () => undefined;
  const reason = new Promise<unknown>((resolve) => {
    tell = resolve;
  });
  const handler = (job: Job): Promise<never> => new Promise((_, reject) => {
    job.signal.addEventListener("abort", () => {
      tell(job.signal.reason);
      reject(job.signal.reason);
    });
  });
  return { handler, reason };
}

test("a worker registers, claims its idle slots, completes, and says goodbye", async (t) => {
  const { fake, worker, end } = await work(t, { jobs: [claimed()] }, (job) => ({ fence: job.fence }), { queues: ["a", "b"], name: "w" });
  const report = await fake.call("report", isReport);
  assert.deepEqual([verbOf(report), report.body], ["complete", { fence: 7, result: { fence: 7 } }]);
  assert.deepEqual(fake.calls[0]?.body, { name: "w", queues: { a: 1, b: 1 }, kinds: ["k"], slots: 4 });
  const first = await fake.call("claim", isClaim);
  assert.deepEqual(first.body, { max: 4, wait: "20000ms" });
  await fake.call("second claim", (c) => isClaim(c) && c !== first);
  worker.stop();
  await within("end", end);
  await fake.call("goodbye", isBye);
});

test("a report is repeated until it is answered", async (t) => {
  const replies: Reply[] = [undefined, problem(503, "unavailable"), problem(500, "internal"), { status: 200, body: jobBody() }];
  const { fake, worker, end } = await work(t, { jobs: [claimed()], report: (_, n) => replies[n - 1] }, () => 1);
  await fake.call("fourth report", () => fake.calls.filter(isReport).length === 4);
  worker.stop();
  await within("end", end);
  const reports = fake.calls.filter(isReport);
  assert.deepEqual(reports.map((c) => [verbOf(c), c.body]), Array(4).fill(["complete", { fence: 7, result: 1 }]));
});

test("a refused report becomes a failure, and that is said once", async (t) => {
  const { fake, worker, end } = await work(t, { jobs: [claimed()], report: () => problem(422, "validation_failed", "no NUL") }, () => "\0");
  await fake.call("failure", (c) => isReport(c) && verbOf(c) === "fail");
  worker.stop();
  await within("end", end);
  const reports = fake.calls.filter(isReport);
  assert.deepEqual(reports.map(verbOf), ["complete", "fail"]);
  assert.deepEqual(bodyOf(reports[1] ?? assert.fail()).error, {
    type: "InvalidOutcome", message: "the server refused to complete: no NUL", stack: "",
  });
});

for (const [status, code] of [[409, "lease_lost"], [404, "not_found"]] as const) {
  test(`a report that is answered ${status} is not repeated`, async (t) => {
    const { fake, worker, end } = await work(t, { jobs: [claimed()], report: () => problem(status, code) }, () => 1);
    await fake.call("report", isReport);
    worker.stop();
    await within("end", end);
    assert.equal(fake.calls.filter(isReport).length, 1);
  });
}

test("heartbeats state all leases and the latest progress once", async (t) => {
  let done: (v: unknown) => void = () => undefined;
  const ended = new Promise((resolve) => {
    done = resolve;
  });
  const { fake } = await work(t, { jobs: [claimed(), claimed({ id: "j2", fence: 8 })] }, (job) => {
    if (job.id === "j1") {
      assert.throws(() => job.progress(101), RangeError);
      job.progress(1);
      job.progress(50, `half\0${"ü".repeat(200)}`);
    }
    return ended;
  });
  const both = (c: Seen): boolean => isBeat(c) && (bodyOf(c).leases as unknown[]).length === 2;
  const first = await fake.call("heartbeat", both);
  const [one, two] = bodyOf(first).leases as { progress?: { percent: number; message: string } }[];
  assert.equal(one?.progress?.percent, 50);
  assert.ok(one.progress.message.startsWith("half\uFFFDü") && Buffer.byteLength(one.progress.message) <= 256);
  assert.ok(!one.progress.message.endsWith("\uFFFD"));
  assert.equal(two?.progress, undefined);
  assert.equal(bodyOf(first).busy, 2);
  const next = await fake.call("next heartbeat", (c) => both(c) && c !== first);
  assert.equal((bodyOf(next).leases as { progress?: unknown }[])[0]?.progress, undefined);
  done(1);
});

test("a cancel aborts the signal, and the failure is reported", async (t) => {
  const { handler, reason } = untilAborted();
  const cancel = { type: "cancel", job_id: "j1", fence: 7, reason: "operator" };
  const { fake } = await work(t, { jobs: [claimed()], beat: (call) => confirmed(call, [{ type: "news" }, cancel]) }, handler);
  const why = await within("abort", reason);
  assert.ok(why instanceof JobCancelled && why.reason === "operator");
  const report = await fake.call("report", isReport);
  assert.equal(verbOf(report), "fail");
});

test("a lease that is lost aborts the signal, and the result is dropped", async (t) => {
  const { handler, reason } = untilAborted();
  const beat = (call: Seen): Reply => ({
    status: 200,
    body: { leases: (bodyOf(call).leases as { fence: number }[]).map((l) => ({ ...l, lost: true })), commands: [] },
  });
  const { fake, worker, end } = await work(t, { jobs: [claimed()], beat }, handler);
  assert.ok((await within("abort", reason)) instanceof LeaseExpired);
  const after = fake.calls.length;
  await fake.call("heartbeat without it", (c) => isBeat(c) && fake.calls.indexOf(c) >= after && (bodyOf(c).leases as unknown[]).length === 0);
  worker.stop();
  await within("end", end);
  assert.equal(fake.calls.filter(isReport).length, 0);
});

test("a lease that is not confirmed in time aborts the signal before its end", async (t) => {
  const { handler, reason } = untilAborted();
  const started = performance.now();
  const { fake, worker, end } = await work(t, {
    lease: "300ms", jobs: [claimed({ lease_remaining: "300ms" })], beat: () => undefined,
  }, handler);
  assert.ok((await within("abort", reason)) instanceof LeaseExpired);
  assert.ok(performance.now() - started >= 250);
  worker.stop();
  await within("end", end);
  assert.equal(fake.calls.filter(isReport).length, 0);
});

test("heartbeats carry a lease beyond its first end; one that says 0s takes nothing away", async (t) => {
  let aborted = false;
  const beat = (call: Seen, n: number): Reply => ({
    status: 200,
    body: { leases: (bodyOf(call).leases as { fence: number }[]).map((l) => ({ ...l, remaining: n % 2 ? "0s" : "500ms" })), commands: [] },
  });
  const { fake } = await work(t, { lease: "500ms", jobs: [claimed({ lease_remaining: "500ms" })], beat }, (job) => {
    job.signal.addEventListener("abort", () => {
      aborted = true;
    });
    return fake.call("the 40th heartbeat", () => fake.calls.filter(isBeat).length === 40).then(() => "kept");
  });
  const report = await fake.call("report", isReport);
  assert.equal(bodyOf(report).result, "kept");
  assert.equal(aborted, false);
});

test("a handler that blocks the event loop beyond its lease says nothing", async (t) => {
  const { fake, worker, end } = await work(t, { lease: "50ms", jobs: [claimed({ lease_remaining: "50ms" })] }, () => {
    const until = performance.now() + 80;
    while (performance.now() < until) {
      // busy
    }
    return 1;
  });
  await fake.call("next claim", () => fake.calls.filter(isClaim).length === 2);
  worker.stop();
  await within("end", end);
  assert.equal(fake.calls.filter(isReport).length, 0);
});

test("a refused heartbeat is sent again without progress", async (t) => {
  const hasProgress = (c: Seen): boolean => (bodyOf(c).leases as { progress?: unknown }[]).some((l) => l.progress !== undefined);
  const { fake } = await work(t, {
    jobs: [claimed()], beat: (call) => (hasProgress(call) ? problem(422, "validation_failed") : confirmed(call)),
  }, async (job) => {
    job.progress(10);
    await fake.call("plain heartbeat", (c) => isBeat(c) && !hasProgress(c) && bodyOf(c).busy === 1);
  });
  await fake.call("report", isReport);
});

test("a worker that is not known registers again, once, and keeps its leases", async (t) => {
  let done: (v: unknown) => void = () => undefined;
  const { fake } = await work(t, {
    jobs: [claimed()],
    claim: (call) => (call.path.includes("/w1/") && fake.calls.some(isHolding) ? problem(404, "not_found") : undefined),
    beat: (call) => (call.path.includes("/w1/") && isHolding(call) ? problem(404, "not_found") : confirmed(call)),
  }, () => new Promise((resolve) => {
    done = resolve;
  }));
  const beat = await fake.call("heartbeat of the new id", (c) => isBeat(c) && c.path.includes("/w2/"));
  assert.equal((bodyOf(beat).leases as unknown[]).length, 1);
  assert.equal(fake.calls.filter((c) => c.path === "/api/v1/workers").length, 2);
  done(1);
});

test("while the server is away the worker keeps trying", async (t) => {
  const { fake, troubles } = await work(t, { claim: (_, n) => (n < 4 ? problem(503, "draining") : undefined) }, () => 1);
  await fake.call("fourth claim", () => fake.calls.filter(isClaim).length === 4);
  assert.equal(troubles.length, 3);
});

test("a refused registration ends run", async (t) => {
  const fake = await Fake.start(() => problem(401, "unauthorized"));
  t.after(() => fake.close());
  const worker = new Worker({ client: new Client({ server: fake.url }), signals: false }).handle("k", () => 1);
  await assert.rejects(worker.run(), { status: 401 });
});

test("quiet claims no more; drain lets jobs end and leaves", async (t) => {
  let done: (v: unknown) => void = () => undefined;
  let command = "quiet";
  const { fake, end } = await work(t, { jobs: [claimed()], beat: (call) => confirmed(call, isHolding(call) ? [{ type: command }] : []) }, () => new Promise((resolve) => {
    done = resolve;
  }));
  const first = await fake.call("heartbeat", isHolding);
  const second = await fake.call("second heartbeat", (c) => isHolding(c) && c !== first);
  const claims = fake.calls.filter(isClaim).length;
  command = "drain";
  await fake.call("a later heartbeat", (c) => isBeat(c) && fake.calls.indexOf(c) > fake.calls.indexOf(second) + 1);
  assert.equal(fake.calls.some(isBye), false);
  done("ok");
  await within("end", end);
  assert.equal(fake.calls.filter(isClaim).length, claims);
  assert.equal(bodyOf(fake.calls.find(isReport) ?? assert.fail()).result, "ok");
  assert.ok(fake.calls.some(isBye));
});

test("after the grace the signals are aborted, and what ends by that is given back", async (t) => {
  const { handler, reason } = untilAborted();
  const { fake, worker, end } = await work(t, { jobs: [claimed()] }, handler, { graceMs: 30 });
  await fake.call("heartbeat", isHolding);
  worker.stop();
  assert.ok((await within("abort", reason)) instanceof WorkerStopping);
  await within("end", end);
  assert.deepEqual(fake.calls.filter(isReport).map(verbOf), ["release"]);
  assert.ok(fake.calls.some(isBye));
});

test("a handler that does not end is left behind, and its job given back", async (t) => {
  const { fake, worker, end } = await work(t, { jobs: [claimed()] }, () => new Promise(() => undefined), { graceMs: 0 });
  await fake.call("heartbeat", isHolding);
  worker.stop();
  await within("end", end);
  assert.deepEqual(fake.calls.filter(isReport).map(verbOf), ["release"]);
});
