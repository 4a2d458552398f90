"""Capped exponential backoff with full jitter, without end: a partition may last for days."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays in seconds: uniformly random in [base/2, base·2ⁿ], capped; `reset` after success."""

    def __init__(
        self,
        *,
        base: float = 0.1,
        cap: float = 5.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not 0 < base <= cap:
            raise ValueError(f"0 < base <= cap, not base={base} cap={cap}")
        self._base, self._cap, self._uniform = base, cap, uniform
        self._attempt = 0

    def next(self) -> float:
        """The delay before the next attempt."""
        ceiling = min(self._cap, self._base * 2 ** min(self._attempt, 32))
        self._attempt += 1
        return self._uniform(self._base / 2, ceiling)

    def reset(self) -> None:
        self._attempt = 0
