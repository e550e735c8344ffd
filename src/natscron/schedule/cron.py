"""Cron schedules: a wall-clock pattern laid over a zone, with rules for what happens when clocks change.

A zone is a row of stretches with one offset each. Within a stretch a search is one look at the pattern. Between two
stretches the wall clock either skips some seconds (a gap) or shows some twice (a fold), and the two rules decide:

* gap: ``run_after`` collapses the slots inside into one, at the first instant after the gap; ``shift`` keeps each at
  the offset before the gap; ``skip`` drops them.
* fold: ``first`` and ``last`` fire in one of the two passes, ``both`` in each.

The result is always strictly later than the start: every candidate is compared as an instant, never as a wall time.
"""

from bisect import bisect_right
from enum import StrEnum
from typing import NamedTuple

from natscron.schedule.base import MAX_MS, ScheduleBase
from natscron.schedule.days import NEVER
from natscron.schedule.pattern import Pattern
from natscron.schedule.zones import HORIZON, MARGIN, PERIOD, REPEATS_FROM, Zone

__all__ = ["CronSchedule", "Fold", "Gap", "Stretch", "ZonedCronSchedule"]

_MAX_S = MAX_MS // 1000
_BOUND = 50 * 366 * 86_400  # the search bound of 50 years, in seconds
_PATIENCE = 1_000  # more than there are clock changes in that time
_NEAR = 3 * 86_400  # more than what offsets and gaps can be


class Gap(StrEnum):
    """What happens to slots that a clock change skips."""

    RUN_AFTER = "run_after"
    SKIP = "skip"
    SHIFT = "shift"


class Fold(StrEnum):
    """In which pass slots fire that a clock change repeats."""

    FIRST = "first"
    LAST = "last"
    BOTH = "both"


class Stretch(NamedTuple):
    """A time in which a cron schedule follows its pattern at one offset, in seconds since 1970 UTC."""

    offset: int
    """Seconds east of UTC."""
    start: int
    """Its first second."""
    end: int
    """The first second after it."""
    moved: int
    """Seconds by which slots from the gap before it are shifted into it. With 0, there are no slots beside those of
    the pattern but perhaps one at ``start``."""


class CronSchedule(ScheduleBase):
    """A cron expression in UTC, where clocks do not change."""

    __slots__ = ("_expression", "pattern")

    def __init__(self, expression: str, pattern: Pattern) -> None:
        self._expression = expression
        self.pattern = pattern

    @property
    def expression(self) -> str:
        """The expression as given, without its zone prefix."""
        return self._expression

    @property
    def zone_name(self) -> str:
        """The IANA name of the zone."""
        return "UTC"

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None if there is none within 50 years."""
        wall = self.pattern.after(t_ms // 1000 if t_ms >= 0 else -1)
        return wall * 1000 if wall <= _MAX_S else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        wall = self.pattern.before(min(t_ms, MAX_MS) // 1000)
        return wall * 1000 if wall >= 0 else None

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; the work grows with the months between."""
        start, end = max(after_ms // 1000, -1) + 1, min(until_ms // 1000, _MAX_S) + 1
        return max(0, min(self._count(start, end), cap))

    def has(self, t_ms: int) -> bool:
        """Whether an instant is a slot: a look where a search may be many."""
        second, rest = divmod(t_ms, 1000)
        return not rest and 0 <= second <= _MAX_S and self._has(second)

    def _has(self, second: int) -> bool:
        return self.pattern.has(second)

    def _count(self, start: int, end: int) -> int:
        """How many slots lie in [start, end), in seconds."""
        return self.pattern.count(start, end)

    def stretch(self, second: int) -> Stretch:  # noqa: ARG002 - there is only one
        """The stretch around an instant, in seconds."""
        return Stretch(0, -1, _MAX_S + 1, 0)


class ZonedCronSchedule(CronSchedule):
    """A cron expression in a zone."""

    __slots__ = ("_failure", "_patience", "fold", "gap", "zone")

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self, expression: str, pattern: Pattern, zone: Zone, gap: Gap, fold: Fold, patience: int = _PATIENCE
    ) -> None:
        super().__init__(expression, pattern)
        self.zone = zone
        self.gap = gap
        self.fold = fold
        self._patience = patience
        self._failure: str | None = None

    def patient(self, lost: int) -> "ZonedCronSchedule":
        """The same, but a search gives up after so many matches that ``skip`` drops, one after the other."""
        return ZonedCronSchedule(self._expression, self.pattern, self.zone, self.gap, self.fold, lost)

    @property
    def failure(self) -> str | None:
        """Why the last search gave up; None if it did not."""
        return self._failure

    def _gave_up(self) -> int:
        self._failure = (
            f"finding a slot of '{self._expression}' takes too long here: more than {self._patience} in a row fall "
            "into hours that clock changes skip: use dst_gap run_after, or a job of its own"
        )
        return NEVER

    @property
    def zone_name(self) -> str:
        """The IANA name of the zone."""
        return self.zone.name

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None if there is none within 50 years."""
        second = t_ms // 1000 if t_ms >= 0 else -1
        if second >= _MAX_S:
            return None
        folded = 0
        if second >= REPEATS_FROM + PERIOD:
            folded = (second - REPEATS_FROM) // PERIOD * PERIOD
        if self._failure is not None:
            self._failure = None
        found = self._after(second - folded) + folded
        return found * 1000 if found <= _MAX_S else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        if t_ms < 0:
            return None
        second = min(t_ms, MAX_MS) // 1000
        folded = 0
        if second >= REPEATS_FROM + PERIOD:
            # One period is left on top, so that 50 years back from here lie where the rules already repeat.
            folded = (second - REPEATS_FROM) // PERIOD * PERIOD
        if self._failure is not None:
            self._failure = None
        found = self._before(second - folded)
        return (found + folded) * 1000 if found >= 0 else None

    def _has(self, second: int) -> bool:
        if second >= REPEATS_FROM + PERIOD:
            second -= (second - REPEATS_FROM) // PERIOD * PERIOD
        table = self.zone.table
        if not table.safe_from <= second < table.safe_until:
            table = self.zone.around(second)
        changes = table.at
        i = bisect_right(changes, second)
        if (i and second - changes[i - 1] < _NEAR) or (i < len(changes) and changes[i] - second < _NEAR):
            return self._before(second, second) == second
        return self.pattern.has(second + table.offset[i])

    def _after(  # noqa: C901, PLR0912, PLR0915 - the hot path: calls would cost more than the search
        self, t: int, bound: int | None = None, lost: int = 0
    ) -> int:
        """The first slot after ``t``, in seconds; NEVER if there is none up to ``bound``, by default 50 years on."""
        table = self.zone.table
        if not table.safe_from <= t < table.safe_until:
            table = self.zone.around(t)
        changes, offsets = table.at, table.offset
        after = self.pattern.after
        i = bisect_right(changes, t)
        offset = offsets[i]
        wall = t + offset
        shifted = NEVER  # a slot of a gap behind us that ``shift`` moved to after t
        if i:
            change, previous = changes[i - 1], offsets[i - 1]
            if previous > offset:
                if self.fold is Fold.FIRST and wall < change + previous:
                    wall = change + previous - 1  # still in the second pass
            elif self.gap is Gap.SHIFT and t + previous < change + offset:
                found = after(t + previous)
                if found < change + offset:
                    shifted = found - previous
        found = after(wall)
        if bound is None:
            bound = t + _BOUND
        while True:
            slot = found - offset
            if i == len(changes):
                if slot < table.end:
                    break
                if slot > bound or table.end >= HORIZON or shifted < NEVER:
                    return shifted
                if slot - _NEAR > table.end:  # nothing matches up to there, whatever the clocks do
                    return self._after(slot - _NEAR, bound, lost)
                begun = changes[i - 1] if i else t
                table = self.zone.cover(table.start, table.end + 1)
                changes, offsets = table.at, table.offset
                i = bisect_right(changes, begun)  # another thread may have let the table grow at its start
                continue
            change, following = changes[i], offsets[i + 1]
            if slot < change and not (self.fold is Fold.LAST and found >= change + following):
                break
            if following > offset:
                if found < change + following:  # inside the gap
                    if self.gap is Gap.RUN_AFTER:
                        slot = change
                        break
                    if self.gap is Gap.SHIFT:
                        shifted = min(shifted, slot)
                    else:
                        lost += 1
                        if lost > self._patience:
                            return self._gave_up()
                    wall = change + following - 1
                    found = after(wall)
            elif self.fold is not Fold.FIRST and wall >= change + following:  # the second pass shows these again
                found = after(change + following - 1)
            i += 1
            offset = following
            if found - offset > bound:
                return shifted
        return min(slot, shifted)

    def _before(self, t: int, bound: int | None = None) -> int:  # noqa: C901, PLR0912 - as above
        """The last slot at or before ``t``, in seconds; negative if there is none from ``bound`` on."""
        table = self.zone.table
        if not table.safe_from <= t < table.safe_until:
            table = self.zone.around(t)
        before = self.pattern.before
        if bound is None:
            bound = t - _BOUND
        i = bisect_right(table.at, t)
        found = searched = NEVER
        lost = 0
        while t >= bound:
            changes, offsets = table.at, table.offset
            offset = offsets[i]
            wall = t + offset
            if i < len(changes) and self.fold is Fold.LAST:
                wall = min(wall, changes[i] + min(offset, offsets[i + 1]) - 1)
            if found > wall or wall > searched:  # a fold goes back to wall times that were not looked at
                found, searched = before(wall), wall
            if i == 0:
                if found >= table.start + offset or table.start == 0:
                    return found - offset
                if found - offset + _NEAR < table.start:  # nothing matches since then, whatever the clocks did
                    t = found - offset + _NEAR
                    if t >= bound:
                        table = self.zone.around(t)
                        i = bisect_right(table.at, t)
                    continue
                table = self.zone.cover(table.start - 1, table.end)
                i = bisect_right(table.at, t)
                continue
            change, previous = changes[i - 1], offsets[i - 1]
            first_wall = change + offset
            if previous > offset and self.fold is Fold.FIRST:
                first_wall = change + previous
            slot = found - offset if found >= first_wall else -NEVER
            if previous < offset and (found >= change + previous or wall < first_wall):
                slot = max(slot, self._in_gap(t, change, previous, offset))
                lost += slot < change and found >= change + previous
                if lost > self._patience:
                    return -self._gave_up()
            if slot >= change:
                return slot
            t = change - 1
            i -= 1
            if (
                found - offset + _NEAR < t and t + previous <= searched
            ):  # else a first pass goes on behind what was seen
                t = found - offset + _NEAR
                i = bisect_right(changes, t)
        return -NEVER

    def _in_gap(self, t: int, change: int, previous: int, offset: int) -> int:
        """The last slot at or before ``t`` that comes out of the gap at ``change``; minus NEVER if none does."""
        if self.gap is Gap.SKIP:
            return -NEVER
        shift = self.gap is Gap.SHIFT
        found = self.pattern.before(min(t + previous, change + offset - 1) if shift else change + offset - 1)
        if found < change + previous:
            return -NEVER
        return found - previous if shift else change

    def _count(self, start: int, end: int) -> int:
        """How many slots lie in [start, end), in seconds, stretch by stretch."""
        if start >= end:
            return 0
        if end > REPEATS_FROM:  # far ahead: what is before, and then a walk
            found = self._count(start, REPEATS_FROM)
            slot = self.next_after_ms(max(start, REPEATS_FROM) * 1000 - 1)
            while slot is not None and slot < end * 1000:
                found += 1
                slot = self.next_after_ms(slot)
            return found
        table = self.zone.cover(start - MARGIN, end + MARGIN)
        changes, offsets = table.at, table.offset
        i = bisect_right(changes, start)
        found = 0
        while start < end:
            offset = offsets[i]
            until = min(changes[i], end) if i < len(changes) else end
            first_wall, end_wall = start + offset, until + offset
            if i and offsets[i - 1] > offset and self.fold is Fold.FIRST:
                first_wall = max(first_wall, changes[i - 1] + offsets[i - 1])
            if i < len(changes) and offsets[i + 1] < offset and self.fold is Fold.LAST:
                end_wall = min(end_wall, changes[i] + offsets[i + 1])
            found += self.pattern.count(first_wall, end_wall)
            if i and offsets[i - 1] < offset:
                found += self._count_moved(start, until, changes[i - 1], offsets[i - 1], offset)
            start = until
            i += 1
        return found

    def _count_moved(self, start: int, end: int, change: int, previous: int, offset: int) -> int:
        """How many slots in [start, end) come out of the gap at ``change`` and are no slots by themselves."""
        pattern = self.pattern
        if self.gap is Gap.SKIP or (self.gap is Gap.RUN_AFTER and start != change):
            return 0
        wall = pattern.after(max(start, change) + previous - 1)
        if self.gap is Gap.RUN_AFTER:
            return int(wall < change + offset and pattern.before(change + offset) != change + offset)
        found = 0
        while wall < change + offset and wall - previous < end:
            shifted = wall - previous + offset
            found += pattern.before(shifted) != shifted
            wall = pattern.after(wall)
        return found

    def stretch(self, second: int) -> Stretch:
        """The stretch around an instant, in seconds; it ends where the offset changes or a fold is over."""
        folded = 0
        if second >= REPEATS_FROM + PERIOD:
            folded = (second - REPEATS_FROM) // PERIOD * PERIOD
        second -= folded
        table = self.zone.table
        if not table.safe_from <= second < table.safe_until:
            table = self.zone.around(second)
        changes, offsets = table.at, table.offset
        i = bisect_right(changes, second)
        offset = offsets[i]
        start, end = (changes[i - 1] if i else table.start), (changes[i] if i < len(changes) else table.end)
        cuts, moved = [], 0
        if i and offsets[i - 1] != offset:
            cut = changes[i - 1] + abs(offsets[i - 1] - offset)  # a fold's second pass ends here, a gap's shift as well
            if offsets[i - 1] < offset and second < cut and self.gap is Gap.SHIFT:
                moved = offset - offsets[i - 1]
            cuts.append(cut)
        if i < len(changes) and offsets[i + 1] < offset:
            cuts.append(changes[i] - (offset - offsets[i + 1]))  # a fold's first pass begins here
        for cut in cuts:
            if second >= cut:
                start = max(start, cut)
            else:
                end = min(end, cut)
        return Stretch(offset, start + folded, end + folded, moved)

    def mark(self, slot_ms: int) -> str:
        """``moved`` if a clock change moved this slot, ``repeated`` if it is a slot's second pass, else empty."""
        second = slot_ms // 1000
        if second >= REPEATS_FROM + PERIOD:
            second -= (second - REPEATS_FROM) // PERIOD * PERIOD
        table = self.zone.around(second)
        i = bisect_right(table.at, second)
        wall = second + table.offset[i]
        if self.pattern.before(wall) != wall:
            return "moved"
        if i and self.fold is Fold.BOTH and wall < table.at[i - 1] + table.offset[i - 1]:
            return "repeated"
        return ""
