"""A single instant, and the one extra instant that ``run_at_start`` adds to another schedule."""

import datetime as dt

from natscron.schedule.base import Schedule, ScheduleBase, Wrapper, instant_of

__all__ = ["OnceSchedule", "WithStart"]


class OnceSchedule(ScheduleBase):
    """One slot, at ``at_ms``."""

    __slots__ = ("at_ms",)

    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def next_after_ms(self, t_ms: int) -> int | None:
        """The instant if ``t_ms`` is before it."""
        return self.at_ms if t_ms < self.at_ms else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The instant if ``t_ms`` is not before it."""
        return self.at_ms if t_ms >= self.at_ms else None

    @property
    def run_at(self) -> dt.datetime | None:
        """The instant, in UTC."""
        return instant_of(self.at_ms)


class WithStart(Wrapper):
    """``inner`` and one slot more, at ``start_ms``. A slot that both have is one."""

    __slots__ = ("start_ms",)

    def __init__(self, inner: Schedule, start_ms: int) -> None:
        super().__init__(inner)
        self.start_ms = start_ms

    def next_after_ms(self, t_ms: int) -> int | None:
        """The earlier of the inner schedule's next slot and the start."""
        slot = self.inner.next_after_ms(t_ms)
        if t_ms < self.start_ms and (slot is None or self.start_ms < slot):
            return self.start_ms
        return slot

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The later of the inner schedule's last slot and the start; None where the inner one gave up looking."""
        slot = self.inner.last_at_or_before_ms(t_ms)
        if slot is None and self.inner.failure is not None:
            return None  # there may be one after the start
        if t_ms >= self.start_ms and (slot is None or self.start_ms > slot):
            return self.start_ms
        return slot

    def mark(self, slot_ms: int) -> str:
        """The inner schedule's, for its own slots."""
        return self.inner.mark(slot_ms) if self.inner.last_at_or_before_ms(slot_ms) == slot_ms else ""

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``."""
        more = 0
        if after_ms < self.start_ms <= until_ms:
            last_ms = self.inner.last_at_or_before_ms(self.start_ms)
            if last_ms is None and self.inner.failure is not None:
                return 0
            more = int(last_ms != self.start_ms)
        # Last, for it is the inner schedule's newest search that says by its failure whether it gave up.
        return max(0, min(self.inner.count(after_ms, until_ms, cap) + more, cap))
