"""The slots of a schedule without those that others take away.

Taking away is a search: ask for the next slot, see whether anything takes it, and if so go on behind everything that is
known to be taken in one piece. A calendar's piece is its window. A cron schedule's piece comes from the fields: what
is left of a pattern without another one is the union of at most five patterns, so the first wall second that is left
is found at once, however many slots lie before it. That holds while neither schedule's clock changes, and so a piece
ends there at the latest. Any other schedule takes away one slot at a time.

Work is counted: one unit a question, and more a search that goes on elsewhere. A search that has used up its units
finds nothing; the compiler refuses what comes near that, and so only what changes its nature years from now can meet
it.
"""

from typing import TYPE_CHECKING, Final, Protocol

from natscron.schedule.base import Schedule, Wrapper
from natscron.schedule.cron import CronSchedule, Stretch
from natscron.schedule.days import NEVER, DayDifference, DayFields, day_set
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.pattern import Pattern

if TYPE_CHECKING:
    from natscron.schedule.windows import Windows

__all__ = ["UNITS", "Exclusion", "Meter", "Taken", "never_meet", "taken_by_calendar", "taken_by_schedule"]

UNITS: Final = 360
"""Searches and questions that one search of a whole schedule may take: about five milliseconds."""

_JUMP: Final = 3
_BOUND: Final = 50 * 366 * 86_400_000
_MS: Final = 1_000_000
_SECOND_NS: Final = 1_000_000_000
_DAY: Final = 86_400
_MAX_KNOWN: Final = 16
_ALL_SECONDS: Final = (1 << 60) - 1
_ALL_HOURS: Final = (1 << 24) - 1
_ALL_MONTHS: Final = (1 << 13) - 2
_ALL_DAYS: Final = DayFields((1 << 32) - 2, _ALL_MONTHS, (1 << 7) - 1, both=True)

_Shape = tuple[int, int, int, DayFields]


class Taken(Protocol):
    """Something that takes slots away."""

    def until(self, slot_ms: int) -> int | None:
        """If this takes the slot: an instant behind it before which everything from the slot on is taken. Else None."""
        ...

    def since(self, slot_ms: int) -> int | None:
        """If this takes the slot: an instant not behind it from which on everything up to the slot is taken."""
        ...


class Meter:
    """Units that may be used by many searches together."""

    __slots__ = ("left",)

    def __init__(self, units: int) -> None:
        self.left = units


class _Windowed:
    """What falls into a calendar."""

    __slots__ = ("windows",)

    def __init__(self, windows: "Windows") -> None:
        self.windows = windows

    def until(self, slot_ms: int) -> int | None:
        window = self.windows.covering_ms(slot_ms)
        return None if window is None else window[1]

    def since(self, slot_ms: int) -> int | None:
        window = self.windows.covering_ms(slot_ms)
        return None if window is None else window[0]


class _Single:
    """The slots of a schedule, one by one."""

    __slots__ = ("schedule",)

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def until(self, slot_ms: int) -> int | None:
        return slot_ms + 1 if self.schedule.last_at_or_before_ms(slot_ms) == slot_ms else None

    def since(self, slot_ms: int) -> int | None:
        return slot_ms if self.schedule.last_at_or_before_ms(slot_ms) == slot_ms else None


class _Patterned:
    """The slots of a cron schedule, as far as possible at once. The schedule they are taken from has whole seconds."""

    __slots__ = ("_known", "main", "taken")

    def __init__(self, taken: CronSchedule, main: CronSchedule | IntervalSchedule) -> None:
        self.taken = taken
        self.main = main
        self._known: dict[_Shape, tuple[Pattern, ...]] = {}

    def _left(self, second: int) -> tuple[list[tuple[tuple[Pattern, ...], int]], int, int]:
        """What can be left around an instant: patterns with their offset, and from when until when that holds.

        Right after a gap slots may come at two offsets, those of the gap at the earlier one. What is known to be taken
        at either is taken.
        """
        stretch = self.taken.stretch(second)
        start, end = stretch.start, stretch.end
        own = None
        if isinstance(self.main, CronSchedule):
            own = self.main.stretch(second)
            start, end = max(start, own.start), min(end, own.end)
        offsets = (stretch.offset, stretch.offset - stretch.moved) if stretch.moved else (stretch.offset,)
        return [(self._at(offset, own), offset) for offset in offsets], start, end

    def _at(self, offset: int, own: Stretch | None) -> tuple[Pattern, ...]:
        """The patterns of what is left on a clock at this offset."""
        main = self.main
        if isinstance(main, IntervalSchedule):
            shape = _of_interval(main, offset)
        else:
            assert own is not None  # noqa: S101 - a cron schedule has one
            shape = _of_cron(main.pattern, offset - own.offset, own.moved)
        left = self._known.get(shape)
        if left is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            left = self._known[shape] = _difference(shape, self.taken.pattern)
        return left

    def until(self, slot_ms: int) -> int | None:
        if self.taken.last_at_or_before_ms(slot_ms) != slot_ms:
            return None
        second = slot_ms // 1000
        lefts, _, end = self._left(second)
        found = max(
            min((pattern.after(second + offset) for pattern in left), default=NEVER) - offset for left, offset in lefts
        )
        return min(found, end) * 1000

    def since(self, slot_ms: int) -> int | None:
        if self.taken.last_at_or_before_ms(slot_ms) != slot_ms:
            return None
        second = slot_ms // 1000
        lefts, start, _ = self._left(second)
        # The first second of a stretch may hold a slot that was moved there, which the patterns do not show.
        if second <= start:
            return slot_ms
        found = min(
            max((pattern.before(second + offset - 1) for pattern in left), default=-NEVER) - offset
            for left, offset in lefts
        )
        return max(found, start) * 1000 + 1


def _of_cron(pattern: Pattern, ahead: int, moved: int) -> _Shape:
    """The fields that a cron schedule's slots can show on a clock that is ``ahead`` of its own, in seconds."""
    if ahead % 60 or moved % 60:
        return _ALL_SECONDS, _ALL_SECONDS, _ALL_HOURS, _ALL_DAYS
    if moved:
        return pattern.seconds, _ALL_SECONDS, _ALL_HOURS, _ALL_DAYS
    if not ahead:
        return pattern.seconds, pattern.minutes, pattern.hours, pattern.days
    minutes = _turned(pattern.minutes, ahead // 60, 60)
    hours = _ALL_HOURS if ahead % 3600 else _turned(pattern.hours, ahead // 3600, 24)
    return pattern.seconds, minutes, hours, _ALL_DAYS


def _turned(mask: int, by: int, size: int) -> int:
    """The mask with each value moved up, around a circle of ``size``."""
    by %= size
    return (mask << by | mask >> size - by) & (1 << size) - 1


def _of_interval(interval: IntervalSchedule, offset: int) -> _Shape:
    """The fields that an interval of whole seconds can show on a clock at this offset."""
    step = interval.interval_ns // _SECOND_NS
    phase = interval.anchor_ms // 1000 + offset
    seconds = _steps(phase, step, 60, 1)
    minutes = _steps(phase, step, 3600, 60)
    return seconds, minutes, _steps(phase, step, _DAY, 3600), _ALL_DAYS


def _steps(phase: int, step: int, period: int, unit: int) -> int:
    """The units of a period that ``phase`` and steps from it fall into, as a mask."""
    step = _gcd(step, period)
    if step <= unit:
        return (1 << period // unit) - 1
    mask = 0
    for value in range(phase % step, period, step):
        mask |= 1 << value // unit
    return mask


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _difference(shape: _Shape, taken: Pattern) -> tuple[Pattern, ...]:
    """What is left of ``shape`` without ``taken``: a second is left if it is missing in any of its fields."""
    seconds, minutes, hours, days = shape
    left = []
    if rest := seconds & ~taken.seconds:
        left.append(Pattern(rest, minutes, hours, days))
    if rest := minutes & ~taken.minutes:
        left.append(Pattern(seconds, rest, hours, days))
    if rest := hours & ~taken.hours:
        left.append(Pattern(seconds, minutes, rest, days))
    without = taken.days
    if rest := days.month & ~without.month:
        left.append(Pattern(seconds, minutes, hours, days._replace(month=rest)))
    if days.month & without.month and days != without and not day_set(without).every_day:
        left.append(Pattern(seconds, minutes, hours, DayDifference(days, without)))
    return tuple(left)


def taken_by_calendar(windows: "Windows") -> Taken:
    """Takes what falls into a calendar."""
    return _Windowed(windows)


def taken_by_schedule(schedule: Schedule, main: Schedule) -> Taken:
    """Takes the slots of ``schedule`` out of those of ``main``."""
    if isinstance(schedule, CronSchedule):
        if isinstance(main, CronSchedule):
            return _Patterned(schedule, main)
        if isinstance(main, IntervalSchedule) and not (main.interval_ns % _SECOND_NS or main.anchor_ms % 1000):
            return _Patterned(schedule, main)
    return _Single(schedule)


def never_meet(main: Schedule, taken: Schedule) -> bool:
    """Whether it is plain that two schedules have no slot in common, or only by chance."""
    if not isinstance(taken, CronSchedule):
        return False
    if isinstance(main, IntervalSchedule):
        return not main.explicit or bool(main.anchor_ms % 1000 and not main.interval_ns % _SECOND_NS)
    if not isinstance(main, CronSchedule) or main.zone_name != taken.zone_name:
        return False
    one, other = main.pattern, taken.pattern
    return not (one.seconds & other.seconds and one.minutes & other.minutes and one.hours & other.hours)


class Exclusion(Wrapper):
    """The slots of ``inner`` that nothing of ``taken`` takes away.

    ``units`` bound the work of one search; ``meter`` bounds that of many, for those who walk.
    """

    __slots__ = ("_meter", "_units", "taken")

    def __init__(
        self, inner: Schedule, taken: tuple[Taken, ...], *, units: int = UNITS, meter: Meter | None = None
    ) -> None:
        super().__init__(inner)
        self.taken = taken
        self._units = units
        self._meter = meter

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None."""
        slot, left = self.search_after(t_ms, self._units)
        if self._meter is not None:
            self._meter.left -= self._units - left
        return slot

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        return self.search_before(t_ms, self._units)[0]

    def search_after(self, t_ms: int, units: int) -> tuple[int | None, int]:
        """The first slot after ``t_ms`` and the units left; negative if they did not suffice."""
        slot = self.inner.next_after_ms(t_ms)
        units -= 1
        bound = max(t_ms, 0) + _BOUND if slot is None else slot + _BOUND
        while slot is not None and slot <= bound:
            until = None
            for taken in self.taken:
                units -= 1
                until = taken.until(slot)
                if until is not None:
                    break
            if until is None:
                return slot, units
            if units <= 0:
                return None, -1
            slot = self.inner.next_after_ms(until - 1)
            units -= _JUMP
        return None, max(units, 0)

    def search_before(self, t_ms: int, units: int) -> tuple[int | None, int]:
        """The last slot at or before ``t_ms`` and the units left; negative if they did not suffice."""
        slot = self.inner.last_at_or_before_ms(t_ms)
        units -= 1
        bound = 0 if slot is None else slot - _BOUND
        while slot is not None and slot >= bound:
            since = None
            for taken in self.taken:
                units -= 1
                since = taken.since(slot)
                if since is not None:
                    break
            if since is None:
                return slot, units
            if units <= 0:
                return None, -1
            slot = self.inner.last_at_or_before_ms(since - 1)
            units -= _JUMP
        return None, max(units, 0)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; a search for each."""
        found = 0
        slot = self.next_after_ms(after_ms)
        while found < cap and slot is not None and slot <= until_ms:
            found += 1
            slot = self.next_after_ms(slot)
        return found
