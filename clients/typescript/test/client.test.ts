import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import {
  Client, LeaseLostError, NotFinishedError, NotFoundError, ProblemError, ProtocolError, UnavailableError, ValidationError,
  type ClientOptions,
} from "../dist/index.js";
import { Backoff, retrying } from "../dist/backoff.js";
import { formatDuration, parseDuration } from "../dist/duration.js";
import { problemOf } from "../dist/http.js";
import { Fake, jobBody, problem, type Reply, type Seen } from "./fake.js";

async function clientOf(t: TestContext, answer: (call: Seen) => Reply | Promise<Reply>, options: ClientOptions = {}): Promise<[Client, Fake]> {
  const fake = await Fake.start(answer);
  t.after(() => fake.close());
  return [new Client({ server: fake.url, ...options }), fake];
}

test("pauses double up to the cap, and are drawn from the upper half", () => {
  const low = new Backoff(100, 1000, () => 0);
  const high = new Backoff(100, 1000, () => 1);
  assert.deepEqual(Array.from({ length: 6 }, () => low.next()), [50, 100, 200, 400, 500, 500]);
  assert.deepEqual(Array.from({ length: 6 }, () => high.next()), [100, 200, 400, 800, 1000, 1000]);
  low.reset();
  assert.equal(low.next(), 50);
});

test("a pause is at least what the server asks for", () => {
  const busy = new UnavailableError({ status: 429, code: "rate_limited", detail: "", retryAfterMs: 700 });
  assert.equal(new Backoff(100, 1000, () => 0).after(busy), 700);
  assert.equal(new Backoff(100, 1000, () => 0).after(new Error("other")), 50);
});

test("retrying ends when its time is over, and at once for what is not transient", async () => {
  let calls = 0;
  const fail = (): Promise<never> => Promise.reject(new Error(`try ${++calls}`));
  await assert.rejects(retrying(fail, { forMs: 300, transient: () => true, backoff: new Backoff(10, 10) }), /try \d+/);
  assert.ok(calls > 1);
  calls = 0;
  await assert.rejects(retrying(fail, { forMs: 60_000, transient: () => false }), /try 1/);
});

test("durations", () => {
  const cases: [string, number | undefined][] = [
    ["30s", 30_000], ["29.9s", 29_900], ["1m30s", 90_000], ["7d", 604_800_000], ["250ms", 250], ["0s", 0], ["0", 0],
    ["", undefined], ["s", undefined], ["1", undefined], ["1s ", undefined], ["-1s", undefined], ["1y", undefined],
  ];
  for (const [text, ms] of cases) {
    assert.equal(parseDuration(text), ms, text);
  }
  assert.equal(formatDuration(0.2), "1ms");
  assert.equal(formatDuration(1e22), "10000000000000000000000ms");
});

test("problems become errors by status and code", () => {
  const of = (status: number, code = "c"): ProblemError => problemOf(status, null, JSON.stringify({ code, detail: "d" }));
  assert.ok(of(404) instanceof NotFoundError);
  for (const status of [400, 413, 422]) {
    assert.ok(of(status) instanceof ValidationError);
  }
  for (const status of [429, 502, 503, 504]) {
    assert.ok(of(status) instanceof UnavailableError);
  }
  assert.ok(of(409, "lease_lost") instanceof LeaseLostError);
  assert.equal(of(409, "duplicate_job").constructor, ProblemError);
  assert.equal(of(500, "internal").constructor, ProblemError);

  const full = problemOf(422, null, JSON.stringify({
    code: "validation_failed", detail: "2 faults", request_id: "r7", errors: [{ pointer: "/kind", code: "missing", detail: "m" }, 3],
  }));
  assert.deepEqual(
    [full.status, full.code, full.detail, full.requestId, full.errors],
    [422, "validation_failed", "2 faults", "r7", [{ pointer: "/kind", code: "missing", detail: "m" }]],
  );
  const foreign = problemOf(502, "2", "<html>bad gateway");
  assert.deepEqual([foreign.code, foreign.retryAfterMs], ["http_502", 2000]);
});

test("an enqueue is sent again under the same key and with the same body", async (t) => {
  const replies: Reply[] = [undefined, problem(503, "unavailable"), problem(409, "idempotency_in_flight"), { status: 201, body: jobBody() }];
  const [client, fake] = await clientOf(t, () => replies[fake.calls.length - 1]);
  const job = await client.enqueue("k", { a: 1 }, { queue: "q", delayMs: 1500, maxRetries: 2, tags: ["t"] });
  assert.equal(job.id, "j1");
  assert.equal(fake.calls.length, 4);
  assert.equal(new Set(fake.calls.map((c) => c.headers["idempotency-key"])).size, 1);
  assert.match(String(fake.calls[0]?.headers["idempotency-key"]), /^[0-9a-f-]{36}$/);
  for (const call of fake.calls) {
    assert.deepEqual(call.body, { kind: "k", payload: { a: 1 }, queue: "q", delay: "1500ms", max_retries: 2, tags: ["t"] });
  }
});

test("a key of the caller is used; a refusal is not tried again", async (t) => {
  const [client, fake] = await clientOf(t, () => problem(422, "validation_failed"), { apiKey: "secret" });
  await assert.rejects(client.enqueue("k", null, { idempotencyKey: "mine" }), ValidationError);
  assert.equal(fake.calls.length, 1);
  assert.equal(fake.calls[0]?.headers["idempotency-key"], "mine");
  assert.equal(fake.calls[0]?.headers.authorization, "Bearer secret");
});

test("a server that stays away is an UnavailableError after the time for retries", async (t) => {
  const [client, fake] = await clientOf(t, () => undefined, { retryForMs: 200 });
  await assert.rejects(client.get("j1"), (e) => e instanceof UnavailableError && e.status === 0 && e.code === "no_answer");
  assert.ok(fake.calls.length > 1);
});

test("an answer that does not come is given up", async (t) => {
  const [client] = await clientOf(t, () => new Promise<Reply>(() => undefined), { retryForMs: 0, requestTimeoutMs: 50 });
  await assert.rejects(client.get("j1"), /no answer within 50 ms/);
});

test("many jobs go in batches of 1000", async (t) => {
  const sizes: number[] = [];
  const [client] = await clientOf(t, (call) => {
    const { jobs } = call.body as { jobs: unknown[] };
    sizes.push(jobs.length);
    return { status: 201, body: { data: jobs.map((_, i) => ({ id: `${sizes.length}-${i}`, queue: "q", status: null, run_at: null })) } };
  });
  const stored = await client.enqueueMany(Array.from({ length: 2001 }, () => ({ kind: "k" })));
  assert.deepEqual(sizes, [1000, 1000, 1]);
  assert.equal(stored[2000]?.id, "3-0");
});

test("wait asks again until the job has finished", async (t) => {
  const [client, fake] = await clientOf(t, () => ({ status: 200, body: jobBody({ status: fake.calls.length < 2 ? "running" : "dead" }) }));
  assert.equal((await client.wait("j1", { timeoutMs: 4000 })).status, "dead");
  assert.match(String(fake.calls[0]?.path), /^\/api\/v1\/jobs\/j1\?wait=\d+ms&until=finished$/);
});

test("wait ends with its time, and with its signal", async (t) => {
  const [client] = await clientOf(t, () => ({ status: 200, body: jobBody({ status: "running" }) }));
  await assert.rejects(client.wait("j1", { timeoutMs: 30 }), (e) => e instanceof NotFinishedError && e.status === "running");
  const why = new Error("enough");
  await assert.rejects(client.wait("j1", { signal: AbortSignal.abort(why) }), why);
});

test("a result is bare JSON, nothing, or not there yet", async (t) => {
  const replies: Reply[] = [{ status: 200, body: [1] }, { status: 204 }, { status: 202, body: { id: "j1", status: "pending" } }];
  const [client, fake] = await clientOf(t, () => replies[fake.calls.length - 1]);
  assert.deepEqual(await client.result("j1"), [1]);
  assert.equal(await client.result("j1"), undefined);
  await assert.rejects(client.result("j1"), NotFinishedError);
});

test("an answer of another shape is a ProtocolError", async (t) => {
  const [client] = await clientOf(t, () => ({ status: 200, body: jobBody({ attempt: "one" }) }));
  await assert.rejects(client.get("j1"), ProtocolError);
});
