"""Client and worker for Mini Asynq, a background-job server on PostgreSQL.

`Client` enqueues jobs and asks about them. `Worker` runs handlers for them. Spans of time are seconds everywhere.
"""

from .client import Client, Enqueued, Job, NewJob
from .errors import (
    IdempotencyKeyReused,
    JobNotFinished,
    LeaseLost,
    NoAnswer,
    NotAllowed,
    NotFound,
    Problem,
    ResultUnavailable,
    TooManyRequests,
    Unavailable,
    ValidationFailed,
)
from .outcome import Cancelled, CancelJob, NonRetryable, RetryAfter, Snooze
from .running import Cancellation, RunningJob
from .worker import Worker

__all__ = [
    "CancelJob",
    "Cancellation",
    "Cancelled",
    "Client",
    "Enqueued",
    "IdempotencyKeyReused",
    "Job",
    "JobNotFinished",
    "LeaseLost",
    "NewJob",
    "NoAnswer",
    "NonRetryable",
    "NotAllowed",
    "NotFound",
    "Problem",
    "ResultUnavailable",
    "RetryAfter",
    "RunningJob",
    "Snooze",
    "TooManyRequests",
    "Unavailable",
    "ValidationFailed",
    "Worker",
]
