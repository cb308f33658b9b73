"""What a call can raise."""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional


class Problem(Exception):
    """The server refused a call, or did not answer it.

    `code` is the stable name to decide by ("lease_lost"), `detail` a sentence for people, `errors` the refused places
    of the body as dicts with `pointer`, `code` and `detail`. `retry_after` is in seconds, or None. `request_id` finds
    the call in the server's log. `members` is the problem as it came.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Optional[list[dict[str, Any]]] = None,
        *,
        retry_after: Optional[float] = None,
        request_id: Optional[str] = None,
        members: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors or []
        self.retry_after = retry_after
        self.request_id = request_id
        self.members = dict(members or {})

    def __str__(self) -> str:
        places = "".join(f"; {e.get('pointer', '')}: {e.get('detail', '')}" for e in self.errors)
        return f"{self.code} ({self.status}): {self.detail}{places}"


class NotFound(Problem):
    """404: it is not there, or not for this caller."""


class NotAllowed(Problem):
    """401 or 403: no valid credential, or one that lacks a scope."""


class LeaseLost(Problem):
    """409: the attempt is over, or another worker has the job. Nothing was changed."""


class ResultUnavailable(Problem):
    """409: the job ended without completing; `members["job_status"]` says how."""


class ValidationFailed(Problem):
    """400, 413 or 422: the request is wrong as it is; `errors` names the places. Nothing was stored."""


class IdempotencyKeyReused(ValidationFailed):
    """422: the idempotency key belongs to a request with another body."""


class TooManyRequests(Problem):
    """429: a limit is reached; `retry_after` says for how long at least."""


class Unavailable(Problem):
    """502, 503, 504, or no answer at all: the server is away or its database is. The request may have been done."""


class NoAnswer(Unavailable):
    """The server cannot be reached, or the connection broke before its answer was here. `status` is 0."""

    def __init__(self, detail: str) -> None:
        super().__init__(0, "no_answer", detail)


class JobNotFinished(Exception):
    """The result of a job that has not ended was asked for."""


_BY_CODE: dict[str, type[Problem]] = {
    "lease_lost": LeaseLost,
    "result_unavailable": ResultUnavailable,
    "idempotency_reused": IdempotencyKeyReused,
}

_BY_STATUS: dict[int, type[Problem]] = {
    400: ValidationFailed,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    413: ValidationFailed,
    422: ValidationFailed,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """Make the exception for an answer that is not a success. A body that is no problem, of a proxy for example, is
    judged by its status; its code is "http_<status>"."""
    try:
        members = json.loads(body)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        members = {}
    code = str(members.get("code") or f"http_{status}")
    errors = members.get("errors")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status, Problem)
    return kind(
        status,
        code,
        str(members.get("detail") or members.get("title") or "the server gave no reason"),
        [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else None,
        retry_after=_seconds(headers.get("Retry-After")),
        request_id=members.get("request_id"),
        members=members,
    )


def _seconds(header: Optional[str]) -> Optional[float]:
    # The other form, a date, would compare two clocks; nothing here sends it.
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
