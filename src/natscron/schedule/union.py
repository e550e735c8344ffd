"""The slots of several schedules together. Slots that are equal are one."""

from heapq import heapify, heappop, heapreplace

from natscron.schedule.base import Schedule, ScheduleBase

__all__ = ["UnionSchedule"]


class UnionSchedule(ScheduleBase):
    """Every slot that any of ``members`` has; there is at least one member."""

    __slots__ = ("members",)

    def __init__(self, members: tuple[Schedule, ...]) -> None:
        self.members = members

    def next_after_ms(self, t_ms: int) -> int | None:
        """The earliest of the members' next slots."""
        return min((slot for member in self.members if (slot := member.next_after_ms(t_ms)) is not None), default=None)

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The latest of the members' last slots."""
        found = (slot for member in self.members if (slot := member.last_at_or_before_ms(t_ms)) is not None)
        return max(found, default=None)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; a search for each slot of each member."""
        ahead = [
            (slot, i) for i, member in enumerate(self.members) if (slot := member.next_after_ms(after_ms)) is not None
        ]
        heapify(ahead)
        found, counted = 0, None
        while ahead and found < cap and ahead[0][0] <= until_ms:
            slot, i = ahead[0]
            if slot != counted:
                found, counted = found + 1, slot
            following = self.members[i].next_after_ms(slot)
            if following is None:
                heappop(ahead)
            else:
                heapreplace(ahead, (following, i))
        return found

    def mark(self, slot_ms: int) -> str:
        """That of the members that have the slot; empty if one of them has it without a mark."""
        marks = [m.mark(slot_ms) for m in self.members if m.last_at_or_before_ms(slot_ms) == slot_ms]
        return marks[0] if marks and all(marks) else ""

    @property
    def failure(self) -> str | None:
        """The first member's that has one."""
        return next((failure for member in self.members if (failure := member.failure) is not None), None)

    @property
    def zone_name(self) -> str | None:
        """The zone of all members that have one; None if they differ."""
        names = {name for member in self.members if (name := member.zone_name) is not None}
        return names.pop() if len(names) == 1 else None
