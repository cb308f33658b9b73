"""The leases that a worker holds, by its own monotonic clock."""

from __future__ import annotations

import threading
from typing import Optional

from .outcome import LEASE_LOST, TIMED_OUT
from .running import RunningJob


class Lease:
    """The right to an attempt until `end`, by time.monotonic(). `over` is set when nothing is to be said about it any
    more."""

    def __init__(self, job: RunningJob, end: float) -> None:
        self.job = job
        self.end = end
        self.over = threading.Event()


class Leases:
    """The leases that are held. All methods may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _held and the ends of leases
        self._held: dict[int, Lease] = {}  # by fence, which is different for each claim

    def add(self, lease: Lease) -> None:
        """Hold it."""
        with self._lock:
            self._held[lease.job.fence] = lease

    def drop(self, lease: Lease) -> None:
        """Hold it no longer; nothing is said about it any more."""
        with self._lock:
            self._held.pop(lease.job.fence, None)
        lease.over.set()

    def all(self) -> list[Lease]:
        """Return those held at the moment."""
        with self._lock:
            return list(self._held.values())

    def extend(self, fence: int, end: float) -> None:
        """Take in that the server confirmed it until `end`. An earlier end than the known one is none: the server says
        "0s" where it could not look at the job at that moment."""
        with self._lock:
            lease = self._held.get(fence)
            if lease is not None:
                lease.end = max(lease.end, end)

    def lose(self, fence: int) -> None:
        """Take in that the attempt is over: its handler is told to stop, and its result is dropped."""
        lease = self._find(fence)
        if lease is not None:
            self.drop(lease)
            lease.job.cancelled.cancel(LEASE_LOST)

    def cancel(self, fence: int, cause: str) -> None:
        """Tell the handler of an attempt to stop."""
        lease = self._find(fence)
        if lease is not None:
            lease.job.cancelled.cancel(cause)

    def look(self, now: float) -> None:
        """Lose what was not confirmed before its end, and stop what is over its time."""
        for lease in self.all():
            if now >= lease.end:
                self.lose(lease.job.fence)
            elif now >= lease.job.deadline:
                lease.job.cancelled.cancel(TIMED_OUT)

    def next_look(self) -> Optional[float]:
        """When `look` has something to do, if nothing happens before; None while nothing is held."""
        with self._lock:
            moments = [lease.end for lease in self._held.values()]
            moments += [lease.job.deadline for lease in self._held.values() if not lease.job.cancelled.is_set()]
        return min(moments, default=None)

    def first_end(self) -> Optional[float]:
        """When the first lease ends that is not confirmed before; None while nothing is held."""
        with self._lock:
            return min((lease.end for lease in self._held.values()), default=None)

    def _find(self, fence: int) -> Optional[Lease]:
        with self._lock:
            return self._held.get(fence)
