"""A job while it runs, as its handler sees it."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Callable, Optional

from .outcome import Cancelled
from .spans import seconds_of

_PROGRESS_BYTES = 256  # of a message, as the server keeps it


class Cancellation(threading.Event):
    """Set when the handler is to stop. `cause` then says why: "operator" (or what else the server gave as its reason),
    "timeout", "worker stops" or "lease lost"."""

    def __init__(self) -> None:
        super().__init__()
        self.cause: Optional[str] = None

    def cancel(self, cause: str) -> None:
        """Set it. The first cause stays."""
        if self.cause is None:
            self.cause = cause
        self.set()


class RunningJob:
    """One attempt of a job, as a claim gave it.

    `attempt` counts from 1; `attempts_left` are those after this one. `fence` grows with each claim of any job: a store
    that remembers the largest one it saw can refuse what an older attempt sends. `deadline` is when the attempt times
    out, by time.monotonic(). `raw` is the job as it came.
    """

    def __init__(self, raw: dict[str, Any], received: float, told: Callable[[], None]) -> None:
        self.id: str = raw["id"]
        self.queue: str = raw["queue"]
        self.kind: str = raw["kind"]
        self.payload: Any = raw.get("payload")
        self.attempt: int = raw["attempt"]
        self.attempts_left: int = raw["attempts_left"]
        self.snoozes: int = raw["snoozes"]
        self.fence: int = raw["fence"]
        self.tags: list[str] = raw.get("tags") or []
        self.metadata: dict[str, str] = raw.get("metadata") or {}
        self.deadline: float = received + seconds_of(raw["timeout"])
        self.raw = raw
        self.cancelled = Cancellation()
        self._told = told
        self._lock = threading.Lock()  # guards _unsent
        self._unsent: Optional[dict[str, Any]] = None

    @property
    def time_left(self) -> float:
        """Seconds until the attempt times out; not below 0."""
        return max(self.deadline - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise Cancelled if the job is to stop."""
        if self.cancelled.is_set():
            raise Cancelled(self.cancelled.cause or "")

    def progress(self, percent: float, message: str = "") -> None:
        """Say how far the job is, 0 to 100, and in up to 256 bytes what it does. Returns at once; the latest is sent
        within about a second. ValueError for another percentage."""
        if not (math.isfinite(percent) and 0 <= percent <= 100):
            raise ValueError(f"not a percentage: {percent}")
        # The server would refuse the whole heartbeat for a text that it cannot store.
        raw = message.replace("\0", "").encode("utf-8", "replace")
        with self._lock:
            self._unsent = {"percent": percent, "message": raw[:_PROGRESS_BYTES].decode("utf-8", "ignore")}
        self._told()

    def unsent_progress(self) -> Optional[dict[str, Any]]:
        """Return what the server has not heard yet. For the worker."""
        with self._lock:
            return self._unsent

    def progress_was_sent(self, sent: Optional[dict[str, Any]]) -> None:
        """Take note, unless there is something newer. For the worker."""
        with self._lock:
            if self._unsent is sent:
                self._unsent = None
