"""The slots of one or several schedules without those that others take away.

Taking away is a search: ask every member for its next slot, see whether anything takes the earliest, and if so go on
behind everything that is known to be taken in one piece. A calendar's piece is its window. A cron schedule's piece
comes from the fields: what is left of a pattern without another one is the union of at most five patterns, so the first
wall second that is left is found at once, however many slots lie before it. That holds while neither schedule's clock
changes, and so a piece ends there, or where the look at the days ends, at the latest. Any other schedule takes away
one slot at a time.

Work is counted, in the units of :mod:`~natscron.schedule.work`, over all members together. A search that has used up
its units finds nothing and says so by ``failure``; the compiler refuses a schedule whose first search does that, and so
only what changes its nature years from now can meet it.
"""

from typing import TYPE_CHECKING, Final, Protocol

from natscron.schedule.base import Schedule, ScheduleBase
from natscron.schedule.cron import CronSchedule, Stretch
from natscron.schedule.days import NEAR_DAYS, NEVER, DayDifference, DayFields, NearDays, day_set
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.pattern import Pattern
from natscron.schedule.union import UnionSchedule
from natscron.schedule.work import UNITS, Meter, price_of_question, price_of_search

if TYPE_CHECKING:
    from natscron.schedule.windows import Windows

__all__ = ["Exclusion", "Taken", "never_meet", "taken_by_calendar", "taken_by_schedule"]

_PRICE_OF_WINDOW: Final = 10
_PRICE_OF_PIECE: Final = 40
_MS_A_UNIT: Final = 365 * 86_400_000 // 80
"""Milliseconds that a search may go on for a unit more: the first time they are read out of the zone ..."""
_MOST_A_LEAP: Final = 160
"""... but not if they are many: only what is around both ends is read then."""
_BOUND: Final = 50 * 366 * 86_400_000
_MS: Final = 1_000_000
_SECOND_NS: Final = 1_000_000_000
_DAY: Final = 86_400
_NEAR: Final = (NEAR_DAYS - 1) * _DAY
_MAX_KNOWN: Final = 16
_ALL_SECONDS: Final = (1 << 60) - 1
_ALL_HOURS: Final = (1 << 24) - 1
_ALL_MONTHS: Final = (1 << 13) - 2
_ALL_DAYS: Final = DayFields((1 << 32) - 2, _ALL_MONTHS, (1 << 7) - 1, both=True)

_GAVE_UP: Final = (
    "finding a slot takes too long here: 'except' takes away too many in a row; "
    "exclude less, or whole spans by a calendar"
)

_Shape = tuple[int, int, int, DayFields]


class Taken(Protocol):
    """Something that takes slots away."""

    price: int
    """Of asking whether it does."""
    price_of_piece: int
    """Of asking how far."""

    @property
    def failure(self) -> str | None:
        """Why it could not tell; None if it could."""
        ...

    def takes(self, slot_ms: int) -> bool:
        """Whether a slot is taken away."""
        ...

    def until(self, slot_ms: int, member: int) -> int:
        """An instant behind a taken slot of a member before which everything from the slot on is taken."""
        ...

    def since(self, slot_ms: int, member: int) -> int:
        """An instant not behind a taken slot of a member from which on everything up to the slot is taken."""
        ...


class _Windowed:
    """What falls into a calendar."""

    __slots__ = ("price", "price_of_piece", "windows")

    def __init__(self, windows: "Windows") -> None:
        self.windows = windows
        self.price = self.price_of_piece = _PRICE_OF_WINDOW

    @property
    def failure(self) -> None:
        return None

    def takes(self, slot_ms: int) -> bool:
        return self.windows.covering_ms(slot_ms) is not None

    def until(self, slot_ms: int, member: int) -> int:  # noqa: ARG002 - it is the same for all members
        window = self.windows.covering_ms(slot_ms)
        return slot_ms + 1 if window is None else window[1]

    def since(self, slot_ms: int, member: int) -> int:  # noqa: ARG002 - as above
        window = self.windows.covering_ms(slot_ms)
        return slot_ms if window is None else window[0]


class _Single:
    """The slots of a schedule, one by one."""

    __slots__ = ("price", "price_of_piece", "schedule")

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.price = price_of_question(schedule)
        self.price_of_piece = 1

    @property
    def failure(self) -> str | None:
        return self.schedule.failure

    def takes(self, slot_ms: int) -> bool:
        return self.schedule.last_at_or_before_ms(slot_ms) == slot_ms

    def until(self, slot_ms: int, member: int) -> int:  # noqa: ARG002 - as above
        return slot_ms + 1

    def since(self, slot_ms: int, member: int) -> int:  # noqa: ARG002 - as above
        return slot_ms


class _Crons:
    """The slots of a cron schedule, in pieces as long as each member allows."""

    __slots__ = ("_pieces", "price", "price_of_piece", "schedule")

    def __init__(self, schedule: CronSchedule, members: tuple[Schedule, ...]) -> None:
        self.schedule = schedule
        self.price = price_of_question(schedule)
        self.price_of_piece = _PRICE_OF_PIECE
        self._pieces = [_Patterned(schedule, member) if _in_seconds(member) else None for member in members]

    @property
    def failure(self) -> None:
        return None

    def takes(self, slot_ms: int) -> bool:
        return self.schedule.has(slot_ms)

    def until(self, slot_ms: int, member: int) -> int:
        pieces = self._pieces[member]
        return slot_ms + 1 if pieces is None else pieces.until(slot_ms)

    def since(self, slot_ms: int, member: int) -> int:
        pieces = self._pieces[member]
        return slot_ms if pieces is None else pieces.since(slot_ms)


class _Patterned:
    """The slots of a cron schedule, as far as possible at once. The schedule they are taken from has whole seconds."""

    __slots__ = ("_known", "main", "taken")

    def __init__(self, taken: CronSchedule, main: Schedule) -> None:
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
            assert isinstance(main, CronSchedule) and own is not None  # noqa: S101, PT018 - a cron schedule has one
            shape = _of_cron(main.pattern, offset - own.offset, own.moved)
        left = self._known.get(shape)
        if left is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            left = self._known[shape] = _difference(shape, self.taken.pattern)
        return left

    def until(self, slot_ms: int) -> int:
        second = slot_ms // 1000
        lefts, _, end = self._left(second)
        found = max(
            min(min(pattern.after(second + offset) for pattern in left) - offset, second + _NEAR) if left else NEVER
            for left, offset in lefts
        )
        return min(found, end) * 1000

    def since(self, slot_ms: int) -> int:
        second = slot_ms // 1000
        lefts, start, _ = self._left(second)
        # The first second of a stretch may hold a slot that was moved there, which the patterns do not show.
        if second <= start:
            return slot_ms
        found = min(
            max(max(pattern.before(second + offset - 1) for pattern in left) - offset, second - _NEAR)
            if left
            else -NEVER
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
    near = NearDays(days)
    left = []
    if rest := seconds & ~taken.seconds:
        left.append(Pattern(rest, minutes, hours, near))
    if rest := minutes & ~taken.minutes:
        left.append(Pattern(seconds, rest, hours, near))
    if rest := hours & ~taken.hours:
        left.append(Pattern(seconds, minutes, rest, near))
    without = taken.days
    if rest := days.month & ~without.month:
        left.append(Pattern(seconds, minutes, hours, NearDays(days._replace(month=rest))))
    if days.month & without.month and days != without and not day_set(without).every_day:
        left.append(Pattern(seconds, minutes, hours, DayDifference(days, without)))
    return tuple(left)


def taken_by_calendar(windows: "Windows") -> Taken:
    """Takes what falls into a calendar."""
    return _Windowed(windows)


def taken_by_schedule(schedule: Schedule, members: tuple[Schedule, ...]) -> Taken:
    """Takes the slots of ``schedule`` out of those of ``members``."""
    return _Crons(schedule, members) if isinstance(schedule, CronSchedule) else _Single(schedule)


def _in_seconds(schedule: Schedule) -> bool:
    """Whether it is known to have slots at whole seconds only, and which fields of a clock they show."""
    if isinstance(schedule, IntervalSchedule):
        return not (schedule.interval_ns % _SECOND_NS or schedule.anchor_ms % 1000)
    return isinstance(schedule, CronSchedule)


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


class Exclusion(UnionSchedule):
    """The slots of ``members`` that nothing of ``taken`` takes away.

    ``units`` bound the work of one search; ``meter`` bounds that of many, for those who walk.
    """

    __slots__ = ("_failure", "_meter", "_prices", "_units", "taken")

    def __init__(
        self,
        members: tuple[Schedule, ...],
        taken: tuple[Taken, ...],
        *,
        units: int = UNITS,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(members)
        self.taken = taken
        self._units = units
        self._meter = meter
        self._prices = [price_of_search(member) for member in members]
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why the last search gave up, or what a part of the application's own did wrong."""
        failures = [*(member.failure for member in self.members), *(taken.failure for taken in self.taken)]
        return self._failure or next((failure for failure in failures if failure is not None), None)

    def _settled(self, found: tuple[int | None, int]) -> int | None:
        slot, left = found
        if self._meter is not None:
            self._meter.left -= self._units - left
        failure = _GAVE_UP if left < 0 else None
        if failure is not self._failure:
            self._failure = failure
        return slot

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None."""
        return self._settled(self.search_after(t_ms, self._units))

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        return self._settled(self.search_before(t_ms, self._units))

    def search_after(self, t_ms: int, units: int, only: int | None = None) -> tuple[int | None, int]:
        """The first slot after ``t_ms`` and the units left; negative if they did not suffice. ``only``: of a member."""
        members, prices = self.members, self._prices
        ahead = [NEVER] * len(members)
        for i in range(len(members)) if only is None else (only,):
            slot = members[i].next_after_ms(t_ms)
            units -= prices[i]
            if slot is not None:
                ahead[i] = slot
        bound = min(min(ahead) + _BOUND, NEVER - 1)
        while (slot := min(ahead)) <= bound:
            by = None
            for taken in self.taken:
                units -= taken.price
                if taken.takes(slot):
                    by = taken
                    break
            if by is None:
                return slot, max(units, 0)
            if units <= 0:
                return None, -1
            for i, one in enumerate(ahead):
                if one == slot:
                    units -= by.price_of_piece + prices[i]
                    following = members[i].next_after_ms(by.until(slot, i) - 1)
                    ahead[i] = NEVER if following is None else following
                    units -= min((ahead[i] - slot) // _MS_A_UNIT, _MOST_A_LEAP)
        return None, max(units, 0)

    def search_before(self, t_ms: int, units: int, only: int | None = None) -> tuple[int | None, int]:
        """The last slot at or before ``t_ms`` and the units left; ``only`` and else as :meth:`search_after`."""
        members, prices = self.members, self._prices
        behind = [-1] * len(members)
        for i in range(len(members)) if only is None else (only,):
            slot = members[i].last_at_or_before_ms(t_ms)
            units -= prices[i]
            if slot is not None:
                behind[i] = slot
        bound = max(behind) - _BOUND
        while (slot := max(behind)) >= max(bound, 0):
            by = None
            for taken in self.taken:
                units -= taken.price
                if taken.takes(slot):
                    by = taken
                    break
            if by is None:
                return slot, max(units, 0)
            if units <= 0:
                return None, -1
            for i, one in enumerate(behind):
                if one == slot:
                    units -= by.price_of_piece + prices[i]
                    before = members[i].last_at_or_before_ms(by.since(slot, i) - 1)
                    behind[i] = -1 if before is None else before
                    units -= min((slot - behind[i]) // _MS_A_UNIT, _MOST_A_LEAP)
        return None, max(units, 0)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``; a search for each."""
        return ScheduleBase.count(self, after_ms, until_ms, cap)
