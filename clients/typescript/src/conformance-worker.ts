// A worker that the server's tests drive. It prints "ready" when it has registered.
import { setTimeout as delay } from "node:timers/promises";
import { CancelJob, Client, NonRetryable, RetryAfter, Snooze, Worker, type Job } from "./index.js";
import { Fields } from "./wire.js";

class Boom extends Error {
  override readonly name = "Boom";
}

const { WORKER_NAME, WORKER_SLOTS, WORKER_QUEUES, WORKER_GRACE } = process.env;
if (!WORKER_NAME) {
  throw new Error("WORKER_NAME is missing");
}

const payload = (job: Job): Fields => Fields.of(job.payload, "payload");

/** Ends early when the job is to stop, with the reason of that. */
async function sleep(ms: number, job: Job): Promise<void> {
  await delay(ms, undefined, { signal: job.signal }).catch(() => job.signal.throwIfAborted());
}

let ready = false;
const worker = new Worker({
  client: new Client(),
  name: WORKER_NAME,
  queues: WORKER_QUEUES ? WORKER_QUEUES.split(",") : ["*"],
  slots: WORKER_SLOTS ? Number(WORKER_SLOTS) : 4,
  graceMs: (WORKER_GRACE ? Number(WORKER_GRACE) : 10) * 1000,
  onRegistered: () => {
    if (!ready) {
      console.log("ready");
      ready = true;
    }
  },
});

worker
  .handle("echo", (job) => job.payload)
  .handle("fail", (job) => {
    throw new Boom(payload(job).text("message"));
  })
  .handle("never", (job) => {
    const message = payload(job).text("message");
    throw new NonRetryable(message, { cause: new Boom(message) });
  })
  .handle("retry_after", (job) => {
    if (job.attempt === 1) {
      throw new RetryAfter(payload(job).number("after") * 1000, "not yet");
    }
    return "done";
  })
  .handle("snooze", (job) => {
    if (job.snoozes < payload(job).integer("times")) {
      throw new Snooze(200);
    }
    return job.snoozes;
  })
  .handle("sleep", async (job) => {
    await sleep(payload(job).number("ms"), job);
    return "slept";
  })
  .handle("progress", async (job) => {
    job.progress(50, "half");
    await sleep(payload(job).number("ms"), job);
    return "done";
  })
  .handle("bad_result", () => 1n)
  .handle("cancel_self", () => {
    throw new CancelJob("not wanted");
  });

await worker.run();
// A handler that did not end must not keep the process.
process.exit(0);
