"""Slots that are due a little later than they are: to spread the load of jobs whose slots coincide.

The delay of a slot is a hash of the job's id and the slot, so it is the same on every instance, after every restart
and in every preview. A due instant never reaches the next slot, so slots and due instants are in the same order and
each leads to the other without anything being kept.
"""

import hashlib
from typing import NamedTuple

from natscron.schedule import zones
from natscron.schedule.base import MAX_MS, DelayedSchedule, Schedule, Wrapper

__all__ = ["DueSchedule", "JitteredSchedule"]


class _Drawn(NamedTuple):
    """One slot: when it is due, the next slot (past the end of time if there is none), and by which zone data."""

    slot: int
    due: int
    following: int
    zones: int


class JitteredSchedule(DelayedSchedule):
    """The slots of ``inner``, unchanged; :attr:`dues` says when they are due."""

    __slots__ = ()

    def __init__(self, inner: Schedule, jitter_ms: int, seed: str) -> None:
        super().__init__(inner, DueSchedule(inner, jitter_ms, seed))


class DueSchedule(Wrapper):
    """The instants at which the slots of ``inner`` are due, each 0 to ``jitter_ms`` later than its slot."""

    __slots__ = ("_drawn", "_hash", "jitter_ms")

    def __init__(self, inner: Schedule, jitter_ms: int, seed: str) -> None:
        super().__init__(inner)
        self.jitter_ms = jitter_ms
        self._hash = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=8)
        self._hash.update(b"\0")  # an id holds none, so no other id and slot give the same bytes
        self._drawn = _Drawn(1, 0, 0, 0)

    def due_of(self, slot_ms: int) -> int:
        """When a slot is due."""
        return self._draw(slot_ms).due

    def slot_of(self, due_ms: int) -> int:
        """The slot that is due at ``due_ms``."""
        found = self._around(due_ms)
        return due_ms if found is None else found.slot

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first due instant strictly later than ``t_ms``, or None."""
        found = self._around(t_ms)
        if found is not None and found.due > t_ms:
            return found.due
        if found is None and self.inner.failure is not None:
            return None  # a slot that was not found may be due yet
        slot = self.inner.next_after_ms(t_ms) if found is None else found.following
        return None if slot is None or slot > MAX_MS else self._draw(slot).due

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last due instant not later than ``t_ms``, or None."""
        found = self._around(t_ms)
        if found is None or found.due <= t_ms:
            return None if found is None else found.due
        slot = self.inner.last_at_or_before_ms(found.slot - 1)
        return None if slot is None else self._draw(slot).due

    def _around(self, t_ms: int) -> "_Drawn | None":
        """The last slot at or before ``t_ms``."""
        drawn = self._drawn
        if drawn.slot <= t_ms < drawn.following and drawn.zones == zones.generation():
            return drawn
        slot = self.inner.last_at_or_before_ms(t_ms)
        return None if slot is None else self._draw(slot)

    def _draw(self, slot_ms: int) -> "_Drawn":
        """A slot, when it is due, and the slot that follows; the newest is kept: who walks asks for it next."""
        hashed = self._hash.copy()
        hashed.update(slot_ms.to_bytes(8, "big"))
        due = slot_ms + int.from_bytes(hashed.digest(), "big") % (self.jitter_ms + 1)
        generation = zones.generation()
        following = self.inner.next_after_ms(slot_ms)
        if following is None:
            following = MAX_MS + 1
        drawn = self._drawn = _Drawn(slot_ms, min(due, following - 1), following, generation)
        return drawn

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many due instants lie in (after_ms, until_ms], at most ``cap``; the work is the inner schedule's."""
        if after_ms >= until_ms:
            return 0
        found = self.inner.count(after_ms, until_ms, cap + 1)
        found += self._pending(after_ms) - self._pending(until_ms)
        return max(0, min(found, cap))

    def _pending(self, t_ms: int) -> bool:
        """Whether a slot has come at ``t_ms`` that is due only later."""
        found = self._around(t_ms)
        return found is not None and found.due > t_ms
