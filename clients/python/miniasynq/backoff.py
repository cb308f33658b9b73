"""Growing pauses between tries."""

from __future__ import annotations

import random
from typing import Optional

from .errors import Problem


class Backoff:
    """Pauses in seconds that double from `first` up to `cap`.

    Each is drawn between its half and its whole, so that callers that were cut off together do not come back together.
    """

    def __init__(self, first: float = 0.1, cap: float = 5.0) -> None:
        self._first = first
        self._cap = cap
        self._next = first
        self.begun = False  # whether there was a pause since the beginning, or the last reset

    def pause(self, problem: Optional[Problem] = None) -> float:
        """Return the next pause; not below what the problem's Retry-After asks for, as far as the cap goes."""
        self.begun = True
        whole, self._next = self._next, min(self._next * 2, self._cap)
        asked = min((problem.retry_after if problem else None) or 0.0, self._cap)
        return max(random.uniform(whole / 2, whole), asked)

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._next = self._first
        self.begun = False
