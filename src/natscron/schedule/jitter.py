"""Slots that are due a little later than they are: to spread the load of jobs whose slots coincide.

The delay of a slot is a hash of the job's id and the slot, so it is the same on every instance, after every restart
and in every preview. A due instant never reaches the next slot, so slots and due instants are in the same order and
each leads to the other without anything being kept.
"""

import hashlib

from natscron.schedule.base import MAX_MS, Schedule, Wrapper

__all__ = ["DueSchedule", "JitteredSchedule"]


class JitteredSchedule(Wrapper):
    """The slots of ``inner``, unchanged; :attr:`dues` says when they are due."""

    __slots__ = ("_dues",)

    def __init__(self, inner: Schedule, jitter_ms: int, seed: str) -> None:
        super().__init__(inner)
        self._dues = DueSchedule(inner, jitter_ms, seed)

    def next_after_ms(self, t_ms: int) -> int | None:
        """The inner schedule's."""
        return self.inner.next_after_ms(t_ms)

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The inner schedule's."""
        return self.inner.last_at_or_before_ms(t_ms)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """The inner schedule's."""
        return self.inner.count(after_ms, until_ms, cap)

    @property
    def dues(self) -> "DueSchedule":
        """The due instants."""
        return self._dues


class DueSchedule(Wrapper):
    """The instants at which the slots of ``inner`` are due, each 0 to ``jitter_ms`` later than its slot."""

    __slots__ = ("_hash", "jitter_ms")

    def __init__(self, inner: Schedule, jitter_ms: int, seed: str) -> None:
        super().__init__(inner)
        self.jitter_ms = jitter_ms
        self._hash = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=8)
        self._hash.update(b"\0")  # an id holds none, so no other id and slot give the same bytes

    def due_of(self, slot_ms: int) -> int:
        """When a slot is due."""
        drawn = self._hash.copy()
        drawn.update(slot_ms.to_bytes(8, "big"))
        due = slot_ms + int.from_bytes(drawn.digest(), "big") % (self.jitter_ms + 1)
        following = self.inner.next_after_ms(slot_ms)
        return min(due, MAX_MS if following is None else following - 1)

    def slot_of(self, due_ms: int) -> int:
        """The slot that is due at ``due_ms``."""
        slot = self.inner.last_at_or_before_ms(due_ms)
        return due_ms if slot is None else slot

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first due instant strictly later than ``t_ms``, or None."""
        slot = self.inner.last_at_or_before_ms(t_ms)
        if slot is not None and (due := self.due_of(slot)) > t_ms:
            return due
        slot = self.inner.next_after_ms(t_ms)
        return None if slot is None else self.due_of(slot)

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last due instant not later than ``t_ms``, or None."""
        slot = self.inner.last_at_or_before_ms(t_ms)
        if slot is None or (due := self.due_of(slot)) <= t_ms:
            return None if slot is None else due
        slot = self.inner.last_at_or_before_ms(slot - 1)
        return None if slot is None else self.due_of(slot)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many due instants lie in (after_ms, until_ms], at most ``cap``; the work is the inner schedule's."""
        if after_ms >= until_ms:
            return 0
        found = self.inner.count(after_ms, until_ms, cap + 1)
        found += self._pending(after_ms) - self._pending(until_ms)
        return max(0, min(found, cap))

    def _pending(self, t_ms: int) -> bool:
        """Whether a slot has come at ``t_ms`` that is due only later."""
        slot = self.inner.last_at_or_before_ms(t_ms)
        return slot is not None and self.due_of(slot) > t_ms
