"""A worker that the server's conformance tests drive. It prints "ready" once it is registered."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from miniasynq import Cancelled, CancelJob, NonRetryable, RetryAfter, RunningJob, Snooze, Worker

worker = Worker(
    name=os.environ["WORKER_NAME"],
    queues={name: 1 for name in os.environ.get("WORKER_QUEUES", "*").split(",")},
    slots=int(os.environ.get("WORKER_SLOTS", "4")),
    grace=float(os.environ.get("WORKER_GRACE", "10")),
)


class Boom(Exception):
    """What the failing handlers raise."""


@worker.handler("echo")
def echo(job: RunningJob) -> Any:
    return job.payload


@worker.handler("fail")
def fail(job: RunningJob) -> None:
    raise Boom(job.payload["message"])


@worker.handler("never")
def never(job: RunningJob) -> None:
    raise NonRetryable(Boom(job.payload["message"]))


@worker.handler("retry_after")
def retry_after(job: RunningJob) -> str:
    if job.attempt == 1:
        raise RetryAfter(job.payload["after"], "later")
    return "done"


@worker.handler("snooze")
def snooze(job: RunningJob) -> int:
    if job.snoozes < job.payload["times"]:
        raise Snooze(0.2)
    return job.snoozes


@worker.handler("sleep")
def sleep(job: RunningJob) -> str:
    until = time.monotonic() + job.payload["ms"] / 1000
    while (left := until - time.monotonic()) > 0:
        if job.cancelled.wait(min(left, 0.05)):
            raise Cancelled(job.cancelled.cause)
    return "slept"


@worker.handler("progress")
def progress(job: RunningJob) -> str:
    job.progress(50, "half")
    if job.cancelled.wait(job.payload["ms"] / 1000):
        raise Cancelled(job.cancelled.cause)
    return "done"


@worker.handler("bad_result")
def bad_result(job: RunningJob) -> Any:
    return {1, 2}


@worker.handler("cancel_self")
def cancel_self(job: RunningJob) -> None:
    raise CancelJob("not wanted")


def announce() -> None:
    worker.registered.wait()
    print("ready", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    threading.Thread(target=announce, daemon=True).start()
    worker.run()
