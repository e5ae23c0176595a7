"""How fast bytes go by, from counts and a clock: the rate of the last seconds, and the time that is left at it."""

from __future__ import annotations

from collections import deque

_WINDOW = 10.0  # seconds


class Pace:
    """Counts with their times. The clock is the caller's, in seconds."""

    def __init__(self, started: float) -> None:
        self._seen = deque([(started, 0.0)])

    def tell(self, done: float, now: float) -> None:
        """Take in how much is done now."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW:  # noqa: PLR2004 - two points make a rate
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Give units a second over the last seconds; None while nothing has moved."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first and after > before else None

    def left(self, total: float) -> float | None:
        """Give the seconds that are left; None while there is no rate."""
        return None if self.rate is None else max(0.0, total - self._seen[-1][1]) / self.rate
