"""A schedule between two instants."""

from natscron.schedule.base import MAX_MS, Schedule, Wrapper

__all__ = ["BoundedSchedule"]


class BoundedSchedule(Wrapper):
    """The slots of ``inner`` from ``first_ms`` to ``last_ms``, both inclusive."""

    __slots__ = ("first_ms", "last_ms")

    def __init__(self, inner: Schedule, first_ms: int = 0, last_ms: int = MAX_MS) -> None:
        super().__init__(inner)
        self.first_ms = first_ms
        self.last_ms = last_ms

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None."""
        if t_ms >= self.last_ms:
            return None
        slot = self.inner.next_after_ms(max(t_ms, self.first_ms - 1))
        return None if slot is None or slot > self.last_ms else slot

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        if t_ms < self.first_ms:
            return None
        slot = self.inner.last_at_or_before_ms(min(t_ms, self.last_ms))
        return None if slot is None or slot < self.first_ms else slot

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; the work is the inner schedule's."""
        start, end = max(after_ms, self.first_ms - 1), min(until_ms, self.last_ms)
        return self.inner.count(start, end, cap) if start < end else 0
