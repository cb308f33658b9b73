"""Spans of time as the server writes them: "90s", "1h30m", "250ms", "7d"."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Union

Seconds = Union[float, timedelta]
"""A span: a number of seconds, or a timedelta."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|μs|ns|d|h|m|s)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def seconds_of(text: str) -> float:
    """Read a span. ValueError if it is none."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"not a span of time: {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def span(value: Seconds) -> str:
    """Write a span, to the millisecond. ValueError or OverflowError if it is not finite."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return f"{round(seconds * 1000)}ms"
