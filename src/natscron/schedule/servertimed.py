"""To the leader: a job that nats-server times has slots that are due :data:`~natscron.model.SERVER_LAG_MS` late.

A slot that the server has fired by then has its run, and the leader leaves it. One that the server has not is run by
the leader, by the job's own policies. What the server is told is in :mod:`~natscron.schedule.servertiming`.
"""

from natscron.model import SERVER_LAG_MS
from natscron.schedule.base import MAX_MS, DelayedSchedule, Schedule, Wrapper

__all__ = ["LaggingDues", "ServerTimedSchedule"]


class ServerTimedSchedule(DelayedSchedule):
    """The slots of ``inner``, unchanged; :attr:`dues` says when the leader goes through them."""

    __slots__ = ()

    def __init__(self, inner: Schedule) -> None:
        super().__init__(inner, LaggingDues(inner))


class LaggingDues(Wrapper):
    """The slots of ``inner``, each :data:`~natscron.model.SERVER_LAG_MS` later than it is."""

    __slots__ = ()

    def due_of(self, slot_ms: int) -> int:
        """When a slot is due."""
        return slot_ms + SERVER_LAG_MS

    def slot_of(self, due_ms: int) -> int:
        """The slot that is due at ``due_ms``."""
        return due_ms - SERVER_LAG_MS

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first due instant strictly later than ``t_ms``, or None."""
        slot = self.inner.next_after_ms(t_ms - SERVER_LAG_MS)
        return None if slot is None or slot > MAX_MS - SERVER_LAG_MS else slot + SERVER_LAG_MS

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last due instant not later than ``t_ms``, or None."""
        slot = self.inner.last_at_or_before_ms(t_ms - SERVER_LAG_MS)
        return None if slot is None else slot + SERVER_LAG_MS

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many due instants lie in (after_ms, until_ms], at most ``cap``."""
        return self.inner.count(after_ms - SERVER_LAG_MS, until_ms - SERVER_LAG_MS, cap)
