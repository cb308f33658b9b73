"""Enqueue jobs and ask about them."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Mapping, NamedTuple, Optional, Sequence
from urllib.parse import quote

from .backoff import Backoff
from .errors import JobNotFinished, Problem, TooManyRequests, Unavailable
from .spans import Seconds, seconds_of, span
from .transport import Transport

DEFAULT_SERVER = "http://localhost:8080"

_LONGEST_WAIT = 30.0  # of one call; the server takes up to 60
_BATCH = 1000


@dataclass(frozen=True)
class NewJob:
    """A job to enqueue; the fields are the arguments of `Client.enqueue`."""

    kind: str
    payload: Any = None
    queue: Optional[str] = None
    priority: Optional[str] = None
    max_retries: Optional[int] = None
    delay: Optional[Seconds] = None
    run_at: Optional[datetime] = None
    timeout: Optional[Seconds] = None
    idempotency_key: Optional[str] = None
    tags: Optional[Sequence[str]] = None
    metadata: Optional[Mapping[str, str]] = None

    def body(self) -> dict[str, Any]:
        """Return it as the server reads it. ValueError for a `run_at` without a time zone."""
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise ValueError("run_at needs a time zone")
        given = {
            "kind": self.kind,
            "queue": self.queue,
            "priority": self.priority,
            "max_retries": self.max_retries,
            "delay": None if self.delay is None else span(self.delay),
            "run_at": self.run_at and self.run_at.astimezone(timezone.utc).isoformat().replace("+00:00", "Z"),
            "timeout": None if self.timeout is None else span(self.timeout),
            "idempotency_key": self.idempotency_key,
            "tags": None if self.tags is None else list(self.tags),
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        # A payload that is left out would become an empty object.
        return {"payload": self.payload, **{name: value for name, value in given.items() if value is not None}}


class Enqueued(NamedTuple):
    """A job of a batch. `status` is None where the job's own key says that it was stored before."""

    id: str
    queue: str
    status: Optional[str]


@dataclass(frozen=True)
class Job:
    """A job as the server described it in one answer.

    `status` is pending, scheduled, running, retrying, completed, dead or cancelled. `timeout` is in seconds, None where
    the server's own counts. `payload` and `result` are None where the answer had none, as after `enqueue`. `error` is
    the last failure: a dict with `type`, `message` and more. `raw` is the whole answer.
    """

    id: str
    queue: str
    kind: str
    status: str
    priority: str
    attempt: int
    attempts_left: int
    max_retries: int
    snoozes: int
    payload: Any
    result: Any
    error: Optional[dict[str, Any]]
    progress: Optional[dict[str, Any]]
    tags: list[str]
    metadata: dict[str, str]
    timeout: Optional[float]
    run_at: Optional[datetime]
    created_at: Optional[datetime]
    finished_at: Optional[datetime]
    raw: dict[str, Any] = field(repr=False)

    @property
    def finished(self) -> bool:
        """Whether the job has ended, in whichever way."""
        return self.finished_at is not None


def _job_of(raw: dict[str, Any]) -> Job:
    timeout = raw.get("timeout")
    return Job(
        id=raw["id"],
        queue=raw["queue"],
        kind=raw["kind"],
        status=raw["status"],
        priority=raw["priority"],
        attempt=raw["attempt"],
        attempts_left=raw["attempts_left"],
        max_retries=raw["max_retries"],
        snoozes=raw["snoozes"],
        payload=raw.get("payload"),
        result=raw.get("result"),
        error=raw.get("error"),
        progress=raw.get("progress"),
        tags=raw.get("tags") or [],
        metadata=raw.get("metadata") or {},
        timeout=seconds_of(timeout) if timeout else None,
        run_at=_time(raw.get("run_at")),
        created_at=_time(raw.get("created_at")),
        finished_at=_time(raw.get("finished_at")),
        raw=raw,
    )


def _time(text: Optional[str]) -> Optional[datetime]:
    if not text:
        return None
    # Python before 3.11 reads neither Z nor fractions that are not of three or six digits.
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction:0<6.6}+00:00")


class Client:
    """Calls to a server. Threads may share one; each gets a connection of its own.

    `server` and `api_key` default to the environment's MINIASYNQ_SERVER and MINIASYNQ_API_KEY. `timeout` is how many
    seconds one try waits for its answer. A call that the server cannot take at the moment (no connection, 502, 503,
    504, 429) is repeated with growing pauses for `retry_for` seconds, then its last Problem is raised. No repeat stores
    a job twice.
    """

    def __init__(
        self,
        server: Optional[str] = None,
        api_key: Optional[str] = None,
        timeout: float = 15.0,
        retry_for: float = 30.0,
    ) -> None:
        self.transport = Transport(
            server or os.environ.get("MINIASYNQ_SERVER") or DEFAULT_SERVER,
            api_key or os.environ.get("MINIASYNQ_API_KEY"),
        )
        self.timeout = timeout
        self.retry_for = retry_for

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the calling thread's connection. Those of other threads close when they end."""
        self.transport.close()

    def enqueue(
        self,
        kind: str,
        payload: Any = None,
        *,
        queue: Optional[str] = None,
        priority: Optional[str] = None,
        max_retries: Optional[int] = None,
        delay: Optional[Seconds] = None,
        run_at: Optional[datetime] = None,
        timeout: Optional[Seconds] = None,
        idempotency_key: Optional[str] = None,
        tags: Optional[Sequence[str]] = None,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> Job:
        """Store a job and return it, without its payload.

        `payload` is what JSON can hold, up to 256 KiB.
        `priority` is "high", "normal" or "low". `delay` and `timeout` (of one attempt) are seconds or timedeltas,
        `run_at` is a datetime with a time zone; give it or `delay`. Two calls with the same `idempotency_key` within a
        day are one job.

        Raises ValidationFailed, IdempotencyKeyReused, NotAllowed, TooManyRequests, Unavailable; TypeError or ValueError
        for what is not JSON.
        """
        new = NewJob(
            kind, payload, queue, priority, max_retries, delay, run_at, timeout, idempotency_key, tags, metadata
        )
        # A key in the body needs no other in the header: it makes the call safe to repeat, and may be any text.
        key = None if idempotency_key is not None else str(uuid.uuid4())
        return _job_of(self._call("POST", "/jobs", new.body(), key=key)[1])

    def enqueue_many(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Store up to 1000 jobs, all or none, and return them in order; for none there is no call.

        Raises what `enqueue` raises, and ValueError for more than 1000.
        """
        if len(jobs) > _BATCH:
            raise ValueError(f"{len(jobs)} jobs; a batch has at most {_BATCH}")
        if not jobs:
            return []
        body = {"jobs": [job.body() for job in jobs]}
        stored = self._call("POST", "/jobs/batch", body, key=str(uuid.uuid4()))[1]["data"]
        return [Enqueued(line["id"], line["queue"], line["status"]) for line in stored]

    def get(self, id: str) -> Job:
        """Return a job. Raises NotFound."""
        return _job_of(self._call("GET", f"/jobs/{quote(id, safe='')}")[1])

    def wait(self, id: str, timeout: float) -> Job:
        """Return a job once it has ended, in whichever way. Raises TimeoutError if it has not within `timeout` seconds,
        and NotFound."""
        until = time.monotonic() + timeout
        while True:
            left = max(until - time.monotonic(), 0.0)
            parked = min(left, _LONGEST_WAIT)
            job = _job_of(
                self._call(
                    "GET",
                    f"/jobs/{quote(id, safe='')}?wait={span(parked)}&until=finished",
                    timeout=parked + self.timeout,
                )[1]
            )
            if job.finished:
                return job
            if time.monotonic() >= until:
                raise TimeoutError(f"job {id} is {job.status} after {timeout} s")

    def result(self, id: str) -> Any:
        """Return what the handler of a completed job returned.

        Raises JobNotFinished, ResultUnavailable if the job ended otherwise, and NotFound.
        """
        status, document = self._call("GET", f"/jobs/{quote(id, safe='')}/result")
        if status == 202:
            raise JobNotFinished(f"job {id} is {document['status']}")
        return document

    def _call(
        self, method: str, path: str, body: Any = None, *, key: Optional[str] = None, timeout: Optional[float] = None
    ) -> tuple[int, Any]:
        until = time.monotonic() + self.retry_for
        backoff = Backoff()
        while True:
            try:
                return self.transport.call(method, path, body, key=key, timeout=timeout or self.timeout)
            except Problem as problem:
                if not _passes(problem):
                    raise
                pause = backoff.pause(problem)
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)


def _passes(problem: Problem) -> bool:
    """Whether the same call may succeed in a moment. All calls of a client can be repeated."""
    return isinstance(problem, (Unavailable, TooManyRequests)) or problem.code == "idempotency_in_flight"
