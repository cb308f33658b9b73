// A graphile-worker that handles the jobs of a benchmark. It is started by bench/peers/graphile.go, which passes its
// settings as JSON in the first argument, and tells its progress in lines:
//
//   ready          it works
//   ran 4711       so many attempts have been handled
//   at 17 1700.25  job 17 began at this time, in milliseconds since 1970
//   failed text    it cannot go on
//
// SIGTERM ends it in order.
import { run, Logger } from "graphile-worker";

const settings = JSON.parse(process.argv[2]);
let ran = 0;
let told = 0;
let lines = [];

function tell() {
  if (ran !== told) {
    told = ran;
    lines.push(`ran ${ran}`);
  }
  if (lines.length > 0) {
    process.stdout.write(lines.join("\n") + "\n");
    lines = [];
  }
}

const silent = new Logger(() => () => {});

try {
  const runner = await run({
    connectionString: settings.dsn,
    noHandleSignals: true,
    preset: {
      worker: {
        connectionString: settings.dsn,
        concurrentJobs: settings.slots,
        maxPoolSize: settings.connections,
        pollInterval: 2000,
        localQueue: { size: settings.localQueue },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger: silent,
      },
    },
    taskList: {
      bench: async (payload, helpers) => {
        if (settings.times) {
          lines.push(`at ${payload.n} ${performance.timeOrigin + performance.now()}`);
        }
        ran++;
        if (settings.failOdd && payload.n % 2 === 1 && helpers.job.attempts === 1) {
          throw new Error("this attempt is meant to fail");
        }
      },
    },
  });
  const telling = setInterval(tell, 5);
  process.once("SIGTERM", async () => {
    await runner.stop();
    clearInterval(telling);
    tell();
    process.exit(0);
  });
  process.stdout.write("ready\n");
  await runner.promise;
} catch (err) {
  process.stdout.write(`failed ${err.message}\n`);
  process.exit(1);
}
