"""Brings outcomes of attempts to the server."""

from __future__ import annotations

import logging
import time
from typing import Callable

from . import outcome
from .backoff import Backoff
from .errors import LeaseLost, NotFound, Problem
from .leases import Lease
from .outcome import Report
from .transport import Transport

_log = logging.getLogger("miniasynq")

# Answers that say nothing about the report itself. A key that is refused can be put right while the lease lasts.
_LATER = frozenset({0, 401, 403, 408, 429})


class Reporter:
    """Says how attempts ended: the same again, with growing pauses, while the lease lasts."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock

    def deliver(self, lease: Lease, report: Report, timeout: float) -> None:
        """Return when the report is stored, or cannot be stored any more. `timeout` is of one try, in seconds."""
        job = lease.job
        backoff = Backoff()
        instead = False
        while not lease.over.is_set() and self._clock() < lease.end:
            body = {"fence": job.fence, **report.body}
            try:
                self._transport.call("POST", f"/jobs/{job.id}/{report.verb}", body, timeout=timeout)
                return
            except (LeaseLost, NotFound):
                _log.warning("job %s: the lease is lost, its outcome is dropped", job.id)
                return
            except (TypeError, ValueError, RecursionError) as e:
                replacement = outcome.not_json(e)
            except Problem as problem:
                if problem.status in _LATER or problem.status >= 500:
                    _log.warning("job %s: its outcome is not stored yet: %s", job.id, problem)
                    lease.over.wait(min(backoff.pause(problem), max(lease.end - self._clock(), 0.0)))
                    continue
                replacement = outcome.refused(problem)
            if instead:
                _log.error("job %s: the report of its failure is refused, too; its lease will run out", job.id)
                return
            _log.warning("job %s: its outcome cannot be stored: %s", job.id, replacement.body["error"]["message"])
            report, instead = replacement, True
        _log.warning("job %s: its outcome was not stored before its lease ended", job.id)
