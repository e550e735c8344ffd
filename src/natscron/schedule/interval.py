"""Intervals: slot k is anchor + k x interval, by integer arithmetic, so nothing drifts however long it runs."""

import datetime as dt
from typing import Final

from natscron.schedule.base import MAX_MS, ScheduleBase, instant_of

__all__ = ["IntervalSchedule"]

_MS: Final = 1_000_000


class IntervalSchedule(ScheduleBase):
    """Slots at ``anchor_ms`` + k x ``interval_ns``, each rounded up to the millisecond, for k from ``first`` on.

    ``first`` is 0 if the anchor itself is a slot (an explicit start, or run_at_start), else 1. The interval is at
    least one millisecond; the compiler sees to it.
    """

    __slots__ = ("anchor_ms", "explicit", "first", "interval_ns")

    def __init__(self, interval_ns: int, anchor_ms: int, *, first: int, explicit: bool) -> None:
        self.interval_ns = interval_ns
        self.anchor_ms = anchor_ms
        self.first = first
        self.explicit = explicit

    def _steps(self, t_ms: int) -> int:
        """The k of the last slot at or before ``t_ms``, as if there were slots before the first."""
        # ceil(k x ns) <= t is the same as k x ns <= t for a whole t, so the floor of the quotient is exact.
        return (t_ms - self.anchor_ms) * _MS // self.interval_ns

    def _slot(self, k: int) -> int:
        return self.anchor_ms - (-k * self.interval_ns // _MS)

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``."""
        slot = self._slot(max(self._steps(max(t_ms, -1)) + 1, self.first))
        return slot if slot <= MAX_MS else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``."""
        k = self._steps(min(t_ms, MAX_MS))
        if k < self.first:
            return None
        slot = self._slot(k)
        return slot if slot >= 0 else None

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; constant time."""
        low = max(self._steps(max(after_ms, -1)), self.first - 1)
        return max(0, min(self._steps(min(until_ms, MAX_MS)) - low, cap))

    @property
    def interval(self) -> dt.timedelta | None:
        """The interval, to the microsecond; ``interval_ns`` is exact."""
        return dt.timedelta(microseconds=self.interval_ns // 1_000)

    @property
    def start_at(self) -> dt.datetime | None:
        """The anchor if it was given; None if it is the job's creation."""
        return instant_of(self.anchor_ms) if self.explicit else None
