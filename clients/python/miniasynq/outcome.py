"""How handlers end, and what is reported of it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Optional, Union

from .errors import Problem
from .spans import Seconds, span

# Why a handler is to stop.
OPERATOR = "operator"
TIMED_OUT = "timeout"
STOPPING = "worker stops"
LEASE_LOST = "lease lost"

# The server keeps less of both; a body that is too large it would refuse.
_MESSAGE_CHARACTERS = 8 << 10
_STACK_CHARACTERS = 32 << 10


class _Ending(Exception):
    """What a handler raises to say more than that it failed. An exception given instead of a text becomes the cause;
    the type of a cause is the type of the error that is reported."""

    def __init__(self, why: Union[str, BaseException] = "") -> None:
        super().__init__(str(why))
        if isinstance(why, BaseException):
            self.__cause__ = why


class NonRetryable(_Ending):
    """The job is dead at once, however many attempts are left: `raise NonRetryable("no such user")`,
    `raise NonRetryable(error)` or `raise NonRetryable("no such user") from error`."""


class RetryAfter(_Ending):
    """The attempt failed, and the next one is not to come before `seconds`, up to 7 days."""

    def __init__(self, seconds: Seconds, why: Union[str, BaseException] = "") -> None:
        super().__init__(why)
        self.seconds = _positive(seconds)


class CancelJob(_Ending):
    """Nobody wants the job any more: it ends as cancelled."""


class Snooze(Exception):
    """The job is put off for `seconds`, up to a year; the attempt is not charged."""

    def __init__(self, seconds: Seconds) -> None:
        super().__init__(f"for {seconds}")
        self.seconds = _positive(seconds)


class Cancelled(Exception):
    """The handler stopped because `job.cancelled` was set."""


def _positive(seconds: Seconds) -> float:
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    if not 0 <= value < float("inf"):
        raise ValueError(f"not a span to wait for: {seconds}")
    return value


@dataclass(frozen=True)
class Report:
    """What is said about an attempt: POST /jobs/:id/`verb` with `body` and the fence."""

    verb: str
    body: dict[str, Any] = field(default_factory=dict)


RELEASE = Report("release")


def completed(result: Any) -> Report:
    """Report what a handler returned; None is no result."""
    return Report("complete", {} if result is None else {"result": result})


def raised(error: BaseException, cause: Optional[str] = None) -> Report:
    """Report what a handler raised. `cause` is why it was to stop, if it was. One that obeyed because the worker stops
    gives its job back."""
    if isinstance(error, Snooze):
        return Report("snooze", {"delay": span(error.seconds)})
    if isinstance(error, Cancelled) and cause == STOPPING:
        return RELEASE
    if isinstance(error, Cancelled) and cause == TIMED_OUT:
        return _failed("TimeoutError", "the attempt took longer than its timeout", _stack(error), {"retry": "default"})
    if isinstance(error, RetryAfter):
        return _failure(error, {"retry": "after", "retry_after": span(error.seconds)})
    if isinstance(error, NonRetryable):
        return _failure(error, {"retry": "never"})
    if isinstance(error, CancelJob):
        return _failure(error, {"retry": "cancel"})
    return _failure(error, {"retry": "default"})


def refused(problem: Problem) -> Report:
    """Report a failure instead of an outcome that the server refused."""
    return _failed("ReportRefused", str(problem), "", {"retry": "default"})


def not_json(error: Exception) -> Report:
    """Report a failure instead of a result that cannot be written as JSON."""
    return _failed(type(error).__name__, f"the result is not JSON: {error}", "", {"retry": "default"})


def _failure(error: BaseException, retry: dict[str, Any]) -> Report:
    told = (error.__cause__ if isinstance(error, _Ending) else None) or error
    return _failed(type(told).__name__, _message(error), _stack(error), retry)


def _failed(kind: str, message: str, stack: str, retry: dict[str, Any]) -> Report:
    error = {"type": kind, "message": message[:_MESSAGE_CHARACTERS], "stack": stack[-_STACK_CHARACTERS:]}
    return Report("fail", {"error": error, **retry})


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a __str__ of the handler's own must not keep its failure from being reported
        return ""


def _stack(error: BaseException) -> str:
    first = error.__traceback__
    own: Optional[Any] = first.tb_next if first is not None else None  # without the worker's call of the handler
    try:
        return "".join(traceback.format_exception(type(error), error, own))
    except Exception:  # the same
        return ""
