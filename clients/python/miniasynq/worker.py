"""Runs handlers for jobs."""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, TypeVar, Union

from . import outcome
from .backoff import Backoff
from .client import Client
from .errors import NotFound, Problem, TooManyRequests, ValidationFailed
from .leases import Lease, Leases
from .reporter import Reporter
from .outcome import OPERATOR, STOPPING
from .running import RunningJob
from .spans import seconds_of, span
from .transport import Connection

Handler = Callable[[RunningJob], Any]
_H = TypeVar("_H", bound=Handler)

_log = logging.getLogger("miniasynq")

_CLAIM_WAIT = 20.0
_CLAIM_ANSWER = 10.0  # how long after its wait a claim may be answered
_MOST_CLAIMED = 100
_MOST_SLOTS = 1000
_PROGRESS_REST = 1.0  # the server takes no more of one job
_PROGRESS_TIMEOUT = 2.0  # short, because the heartbeat waits behind it
_OBEY = 1.0  # how long handlers have to end once they are told at the end of the grace
_GOODBYE = 3.0  # how long the last calls may take

# What the loop of run() is told.
_STOP, _DRAIN, _CHANGED = "stop", "drain", "changed"


@dataclass(frozen=True)
class _Registration:
    id: str
    lease: float
    heartbeat_every: float

    @property
    def margin(self) -> float:
        """How long before its end a lease counts as lost, so that handlers stop in time."""
        return min(1.0, self.lease / 20)


class Worker:
    """Claims jobs and runs a handler for each, up to `slots` at once, in threads.

    `server` is a Client or an address; without it the environment decides, as for Client. `name` is for people; host
    name and process id by default. `queues` gives each queue a weight from 1 to 1000, "*" being every queue not named.
    `grace` is how many seconds running handlers have once the worker is to stop.

    While the server is away the worker keeps trying. `registered` is set once the server knows it.
    """

    def __init__(
        self,
        server: Union[Client, str, None] = None,
        name: Optional[str] = None,
        queues: Optional[Mapping[str, int]] = None,
        slots: int = 4,
        grace: float = 20.0,
        *,
        version: Optional[str] = None,
        labels: Optional[Mapping[str, str]] = None,
    ) -> None:
        if not 1 <= slots <= _MOST_SLOTS:
            raise ValueError(f"slots: 1 to {_MOST_SLOTS}")
        self.client = server if isinstance(server, Client) else Client(server)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.queues = dict(queues or {"*": 1})
        self.slots = slots
        self.grace = grace
        self.version = version
        self.labels = dict(labels or {})
        self.registered = threading.Event()
        self._handlers: dict[str, Handler] = {}
        self._leases = Leases()
        self._reporter = Reporter(self.client.transport)
        # A SimpleQueue, because a signal handler may put into it whatever its thread is doing.
        self._inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[Optional[Lease]] = queue.SimpleQueue()
        self._changed = threading.Condition()  # guards _busy and _claiming
        self._busy = 0
        self._claiming = True
        self._parked: Connection = self.client.transport.connection()
        self._registering = threading.Lock()  # guards the change of _registration
        self._registration: Optional[_Registration] = None
        self._ended = threading.Event()
        self._told = threading.Event()  # the thread of heartbeats has progress to send, or is to end
        self._ran = False

    def handler(self, kind: str) -> Callable[[_H], _H]:
        """Register the function below for jobs of a kind. It gets a RunningJob.

        What it returns is the job's result (JSON, up to 256 KiB; None is no result). What it raises fails the attempt;
        Snooze, RetryAfter, NonRetryable and CancelJob say more.
        """

        def register(function: _H) -> _H:
            if kind in self._handlers:
                raise ValueError(f"{kind} has a handler")
            self._handlers[kind] = function
            return function

        return register

    def run(self) -> None:
        """Work until `stop`, SIGTERM or SIGINT (in the main thread only), or until an operator drains the worker.

        Then no job is claimed any more; running handlers have `grace` seconds, or as long as they need after a drain.
        Then they are told to stop, and what does not end is given back. A second signal ends the grace. Raises Problem
        if the server refuses the registration. A worker runs once.
        """
        if not self._handlers:
            raise ValueError("the worker has no handlers")
        if self._ran:
            raise RuntimeError("the worker ran before")
        self._ran = True
        with self._signals(), self.client:
            if not self._register_at_start():
                return
            self.registered.set()
            threads = [self._start(self._claim_jobs, "claim"), self._start(self._send_heartbeats, "heartbeat")]
            for n in range(self.slots):
                self._start(self._work, f"slot-{n}")
            try:
                self._supervise()
            finally:
                self._leave(threads)

    def stop(self) -> None:
        """Let `run` end as if SIGTERM had come. Returns at once, and may be called by any thread."""
        self._inbox.put(_STOP)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, was in before.items():
                signal.signal(number, signal.SIG_DFL if was is None else was)

    def _start(self, target: Callable[[], None], name: str) -> threading.Thread:
        # Daemons: a handler that ignores its cancellation must not keep the process from ending.
        thread = threading.Thread(target=target, name=f"miniasynq-{name}", daemon=True)
        thread.start()
        return thread

    # --- the loop of run() ---

    def _next_message(self, until: Optional[float]) -> Optional[str]:
        wait = 3600.0 if until is None else min(max(until - time.monotonic(), 0.0), 3600.0)
        try:
            return self._inbox.get(timeout=wait)
        except queue.Empty:
            return None

    def _supervise(self) -> None:
        """Watch over the leases until it is time to go."""
        leaving = False
        grace_ends: Optional[float] = None
        while True:
            moments = [m for m in (self._leases.next_look(), grace_ends) if m is not None]
            message = self._next_message(min(moments, default=None))
            now = time.monotonic()
            self._leases.look(now)
            if message in (_STOP, _DRAIN):
                leaving = True
                self._stop_claiming()
            if message == _STOP:
                grace_ends = now + self.grace if grace_ends is None else now
            if leaving and (not self._leases.all() or (grace_ends is not None and now >= grace_ends)):
                return

    def _leave(self, threads: list[threading.Thread]) -> None:
        self._stop_claiming()
        for lease in self._leases.all():
            lease.job.cancelled.cancel(STOPPING)
        until = time.monotonic() + _OBEY
        while self._leases.all() and time.monotonic() < until:
            self._next_message(until)
        self._ended.set()
        self._told.set()
        for _ in range(self.slots):
            self._todo.put(None)
        for thread in threads:
            thread.join(_PROGRESS_TIMEOUT)  # a hanging call need not be waited for
        left = self._leases.all()
        for lease in left:
            self._leases.drop(lease)
        assert self._registration is not None
        address = f"/workers/{self._registration.id}"
        if left:
            outcomes = [{"job_id": lease.job.id, "fence": lease.job.fence, "outcome": "release"} for lease in left]
            self._say_goodbye("POST", f"{address}/outcomes", {"outcomes": outcomes})
        self._say_goodbye("DELETE", address)

    def _say_goodbye(self, method: str, path: str, body: Any = None) -> None:
        until = time.monotonic() + _GOODBYE
        backoff = Backoff()
        while True:
            left = until - time.monotonic()
            try:
                self.client.transport.call(method, path, body, timeout=max(left, 0.1))
                return
            except NotFound:
                return
            except Problem as problem:
                pause = backoff.pause(problem)
                if pause >= left:
                    _log.warning("the server did not hear that the worker goes: %s", problem)
                    return
            time.sleep(pause)

    def _complain(self, what: str, problem: Problem, backoff: Backoff) -> None:
        # A server that is away is one line of the log, not one for each try.
        _log.log(logging.DEBUG if backoff.begun else logging.WARNING, "%s, trying again: %s", what, problem)

    # --- registration ---

    def _register_at_start(self) -> bool:
        """Register, however long that takes; False if the worker was stopped before."""
        backoff = Backoff()
        while True:
            try:
                self._register(None)
                return True
            except Problem as problem:
                if 0 < problem.status < 500 and not isinstance(problem, TooManyRequests):
                    raise
                self._complain("not registered yet", problem, backoff)
                until = time.monotonic() + backoff.pause(problem)
            if self._next_message(until) == _STOP:
                return False

    def _register(self, gone: Optional[_Registration]) -> None:
        """Register in place of a registration that is gone, unless another thread has done so. Raises Problem."""
        with self._registering:
            if self._registration is not gone:
                return
            body: dict[str, Any] = {
                "name": self.name,
                "queues": self.queues,
                "kinds": list(self._handlers),
                "slots": self.slots,
                "labels": self.labels,
            }
            if self.version is not None:
                body["version"] = self.version
            answer = self.client.transport.call("POST", "/workers", body, timeout=self.client.timeout)[1]
            self._registration = _Registration(
                answer["id"], seconds_of(answer["lease"]), seconds_of(answer["heartbeat_every"])
            )
            _log.info("registered as %s (%s)", self.name, answer["id"])

    def _current(self) -> _Registration:
        registration = self._registration
        assert registration is not None  # the threads begin after it
        return registration

    # --- claiming ---

    def _claim_jobs(self) -> None:
        backoff = Backoff()
        while True:
            idle = self._wait_for_idle()
            if idle == 0:
                self._parked.close()
                self.client.close()
                return
            registration = self._current()
            try:
                try:
                    self._claim(registration, idle)
                except NotFound:
                    self._register(registration)
                backoff.reset()
            except Problem as problem:
                if not self._is_claiming():
                    continue
                self._complain("no claim", problem, backoff)
                self._ended.wait(backoff.pause(problem))
            except Exception:
                _log.exception("no claim")
                self._ended.wait(backoff.pause())

    def _claim(self, registration: _Registration, idle: int) -> None:
        answer = self.client.transport.call(
            "POST",
            f"/workers/{registration.id}/claim",
            {"max": min(idle, _MOST_CLAIMED), "wait": span(_CLAIM_WAIT)},
            timeout=_CLAIM_WAIT + _CLAIM_ANSWER,
            connection=self._parked,
        )[1]
        received = time.monotonic()
        for raw in answer["jobs"]:
            job = RunningJob(raw, received, self._told.set)
            self._take(Lease(job, received + seconds_of(raw["lease_remaining"]) - registration.margin))
        self._obey(answer["commands"])

    def _take(self, lease: Lease) -> None:
        with self._changed:
            if self._claiming:
                self._busy += 1
                self._leases.add(lease)
                self._todo.put(lease)
                self._inbox.put(_CHANGED)
                return
        self._reporter.deliver(lease, outcome.RELEASE, _GOODBYE)

    def _wait_for_idle(self) -> int:
        """Return how many slots are idle, as soon as one is; 0 when there is to be no claim any more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._claiming or self._busy < self.slots)
            return self.slots - self._busy if self._claiming else 0

    def _is_claiming(self) -> bool:
        with self._changed:
            return self._claiming

    def _stop_claiming(self) -> None:
        with self._changed:
            self._claiming = False
            self._changed.notify_all()
        self._parked.abort()

    def _obey(self, commands: list[dict[str, Any]]) -> None:
        for command in commands:
            what = command.get("type")
            if what == "cancel":
                self._leases.cancel(command["fence"], command.get("reason") or OPERATOR)
            elif what == "quiet":
                self._stop_claiming()
            elif what == "drain":
                self._inbox.put(_DRAIN)

    # --- handlers ---

    def _work(self) -> None:
        while True:
            lease = self._todo.get()
            if lease is None:
                self.client.close()
                return
            try:
                self._run_handler(lease)
            except Exception:
                _log.exception("job %s: its outcome could not be reported", lease.job.id)
            finally:
                self._leases.drop(lease)
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()
                self._inbox.put(_CHANGED)

    def _run_handler(self, lease: Lease) -> None:
        job = lease.job
        try:
            report = outcome.completed(self._handlers[job.kind](job))
        except BaseException as e:  # SystemExit as well: a handler may end its job, not its worker
            report = outcome.raised(e, job.cancelled.cause)
        if lease.over.is_set():
            _log.warning("job %s: the lease is lost, its outcome is dropped", job.id)
            return
        self._reporter.deliver(lease, report, self._current().lease)

    # --- heartbeats ---

    def _send_heartbeats(self) -> None:
        backoff = Backoff()
        due = time.monotonic() + self._current().heartbeat_every
        while not self._ended.is_set():
            if self._told.wait(max(due - time.monotonic(), 0.0)):
                self._told.clear()
            registration = self._current()
            if time.monotonic() < due:
                self._send_progress(due)
                self._ended.wait(min(_PROGRESS_REST, max(due - time.monotonic(), 0.0)))
                continue
            sent = time.monotonic()
            try:
                try:
                    self._beat(registration)
                    due = sent + registration.heartbeat_every
                except NotFound:
                    self._register(registration)
                    due = sent
                backoff.reset()
            except Problem as problem:
                self._complain("no heartbeat", problem, backoff)
                due = time.monotonic() + min(backoff.pause(problem), registration.heartbeat_every)
            except Exception:
                _log.exception("no heartbeat")
                due = time.monotonic() + min(backoff.pause(), registration.heartbeat_every)
        self.client.close()

    def _beat(self, registration: _Registration) -> None:
        held = [(lease.job, lease.job.unsent_progress()) for lease in self._leases.all()]
        stated: list[dict[str, Any]] = []
        for job, progress in held:
            lease: dict[str, Any] = {"job_id": job.id, "fence": job.fence}
            if progress is not None:
                lease["progress"] = progress
            stated.append(lease)
        with self._changed:
            busy = self._busy
        sent = time.monotonic()
        # A call that hangs must leave time for another one before the leases end.
        end = self._leases.first_end()
        timeout = registration.heartbeat_every if end is None else min(registration.heartbeat_every, end - sent)
        try:
            answer = self.client.transport.call(
                "POST",
                f"/workers/{registration.id}/heartbeat",
                {"leases": stated, "busy": busy},
                timeout=max(timeout, 0.1),
            )[1]
        except ValidationFailed:
            # Rather no progress than no leases.
            for job, progress in held:
                job.progress_was_sent(progress)
            raise
        for job, progress in held:
            job.progress_was_sent(progress)
        for line in answer["leases"]:
            if line.get("lost"):
                self._leases.lose(line["fence"])
            else:
                self._leases.extend(line["fence"], sent + seconds_of(line["remaining"]) - registration.margin)
        # The ends have moved, and leases may be lost: the loop of run() looks anew.
        self._inbox.put(_CHANGED)
        self._obey(answer["commands"])

    def _send_progress(self, due: float) -> None:
        """Send what handlers said since the last heartbeat, which is not due yet."""
        for lease in self._leases.all():
            progress = lease.job.unsent_progress()
            if progress is None:
                continue
            if time.monotonic() >= due or self._ended.is_set():
                return
            try:
                self.client.transport.call(
                    "POST",
                    f"/jobs/{lease.job.id}/progress",
                    {"fence": lease.job.fence, **progress},
                    timeout=_PROGRESS_TIMEOUT,
                )
            except Problem as problem:
                if problem.status == 0 or problem.status >= 500:
                    return  # the next heartbeat says it
            lease.job.progress_was_sent(progress)
