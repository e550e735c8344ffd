"""Recurrence rules of RFC 5545: python-dateutil says which days, the zone rules of this package say which instants.

A rule is a set of wall times, as a cron expression is, and is searched as one: days by :mod:`recurring`, times of day
by masks or residues, clock changes by the same code with the same choices. HOURLY and finer rules are interval jobs,
which fire at every real instant that matches; all others are wall-time jobs, also if they list every hour. Nothing is
walked from the start, so a search costs the same after 50 years. Only rules with COUNT are expanded, once.
"""

import datetime as dt
import math
from bisect import bisect_left, bisect_right
from typing import Final, Protocol, cast

from natscron.errors import InvalidScheduleError, ValidationError
from natscron.schedule.base import MAX_MS, Schedule, ScheduleBase
from natscron.schedule.cron import CronSchedule, Fold, Gap, ZonedCronSchedule
from natscron.schedule.days import NEVER
from natscron.schedule.pattern import Pattern
from natscron.schedule.recurrence import MAX_COUNT, Rule, parse_rule
from natscron.schedule.recurring import RecurringDays, days_of
from natscron.schedule.zones import PERIOD, REPEATS_FROM, Zone, zone_named

__all__ = ["Walls", "compile_rrule", "offset_at", "walls_of"]

_DAY: Final = 86_400
_BOUND: Final = 50 * 366 * _DAY
_MAX_STEPS: Final = 2_000
"""Steps that a COUNT of minutes or seconds may take. If more are needed, its occurrences are too far apart."""
_MAX_SHOWN: Final = 64
_UNITS: Final = {"HOURLY": 3_600, "MINUTELY": 60, "SECONDLY": 1}
_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_YEARS: Final = 60 * 366 * _DAY


class Walls(Protocol):
    """A set of wall seconds. What a zoned search asks of a cron pattern, too."""

    def after(self, wall: int) -> int:
        """The first one strictly later than ``wall``, or NEVER."""
        ...

    def before(self, wall: int) -> int:
        """The last one not later than ``wall``, or minus NEVER."""
        ...

    def count(self, start: int, end: int) -> int:
        """How many lie in [start, end)."""
        ...


class _Listed:
    """Few wall seconds, all known."""

    __slots__ = ("walls",)

    def __init__(self, walls: list[int]) -> None:
        self.walls = walls

    def after(self, wall: int) -> int:
        at = bisect_right(self.walls, wall)
        return self.walls[at] if at < len(self.walls) else NEVER

    def before(self, wall: int) -> int:
        at = bisect_right(self.walls, wall)
        return self.walls[at - 1] if at else -NEVER

    def count(self, start: int, end: int) -> int:
        return max(0, bisect_left(self.walls, end) - bisect_left(self.walls, start))


class _Stepped:
    """The same seconds of every so many hours or days: a unit matches by its remainder and by its day."""

    __slots__ = ("_cycle", "_days", "_in_day", "_offsets", "_residues", "_unit")

    def __init__(self, days: RecurringDays, unit: int, cycle: int, residues: list[int], offsets: list[int]) -> None:
        self._days = days
        self._unit = unit
        self._in_day = _DAY // unit
        self._cycle = cycle
        self._residues = residues
        self._offsets = offsets

    def after(self, wall: int) -> int:
        wall += 1
        first = wall // self._unit
        unit = self._on_or_after(first)
        if unit == first:
            at = bisect_left(self._offsets, wall - unit * self._unit)
            if at < len(self._offsets):
                return unit * self._unit + self._offsets[at]
            unit = self._on_or_after(first + 1)
        return NEVER if unit >= NEVER else unit * self._unit + self._offsets[0]

    def _on_or_after(self, unit: int) -> int:
        bound = unit + _BOUND // self._unit
        unit = max(unit, self._days.first * self._in_day)
        while True:
            base = unit - unit % self._cycle
            at = bisect_left(self._residues, unit - base)
            unit = base + self._residues[at] if at < len(self._residues) else base + self._cycle + self._residues[0]
            day = unit // self._in_day
            found = self._days.on_or_after(day)
            if found == day:
                return unit
            unit = found * self._in_day
            if unit > bound:
                return NEVER

    def before(self, wall: int) -> int:
        last = wall // self._unit
        unit = self._on_or_before(last)
        if unit == last:
            at = bisect_right(self._offsets, wall - unit * self._unit)
            if at:
                return unit * self._unit + self._offsets[at - 1]
            unit = self._on_or_before(last - 1)
        return -NEVER if unit <= -NEVER else unit * self._unit + self._offsets[-1]

    def _on_or_before(self, unit: int) -> int:
        bound = max(unit - _BOUND // self._unit, self._days.first * self._in_day)
        while unit >= bound:
            base = unit - unit % self._cycle
            at = bisect_right(self._residues, unit - base)
            unit = base + self._residues[at - 1] if at else base - self._cycle + self._residues[-1]
            day = unit // self._in_day
            found = self._days.on_or_before(day)
            if found == day:
                return unit
            unit = found * self._in_day + self._in_day - 1
        return -NEVER

    def count(self, start: int, end: int) -> int:
        found = 0
        wall = self.after(start - 1)
        while wall < end:
            found += 1
            wall = self.after(wall)
        return found


class _Within:
    """Those of ``inner`` from ``first`` to ``last``, and all of them ``behind`` seconds earlier."""

    __slots__ = ("behind", "first", "inner", "last")

    def __init__(self, inner: Walls, first: int, last: int, behind: int = 0) -> None:
        self.inner = inner
        self.first = first
        self.last = last
        self.behind = behind

    def after(self, wall: int) -> int:
        wall += self.behind
        if wall >= self.last:
            return NEVER
        found = self.inner.after(max(wall, self.first - 1))
        return found - self.behind if found <= self.last else NEVER

    def before(self, wall: int) -> int:
        wall += self.behind
        if wall < self.first:
            return -NEVER
        found = self.inner.before(min(wall, self.last))
        return found - self.behind if found >= self.first else -NEVER

    def count(self, start: int, end: int) -> int:
        return self.inner.count(max(start + self.behind, self.first), min(end + self.behind, self.last + 1))


class _Zoned(ZonedCronSchedule):
    """The search of cron over other wall times. These do not repeat every 400 years: they move when the zone folds."""

    __slots__ = ()

    def _moved(self, behind: int) -> "_Zoned":
        walls = cast("_Within", self.pattern)
        return _zoned(_Within(walls.inner, walls.first, walls.last, behind), self.zone, self.gap, self.fold)

    def next_after_ms(self, t_ms: int) -> int | None:
        second = t_ms // 1000
        behind = _behind(second)
        found = self._moved(behind).first_after(second - behind) + behind if behind else self._after(second)
        return found * 1000 if found <= MAX_MS // 1000 else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        second = min(t_ms, MAX_MS) // 1000
        behind = _behind(second)
        found = self._moved(behind).last_until(second - behind) + behind if behind else self._before(second)
        return found * 1000 if found >= 0 else None

    def first_after(self, second: int) -> int:
        return self._after(second)

    def last_until(self, second: int) -> int:
        return self._before(second)


def _behind(second: int) -> int:
    """Whole zone periods to go back; 60 years above :data:`REPEATS_FROM` stay, so that searches meet the rule only."""
    return max(0, (second - REPEATS_FROM - _YEARS) // PERIOD * PERIOD)


def _zoned(walls: Walls, zone: Zone, gap: Gap, fold: Fold) -> _Zoned:
    return _Zoned("", cast("Pattern", walls), zone, gap, fold)


class RecurrenceSchedule(ScheduleBase):
    """A recurrence rule in a zone, from its start to its end."""

    __slots__ = ("_end_ms", "_search", "_start_ms")

    def __init__(self, search: CronSchedule, start_ms: int, end_ms: int) -> None:
        self._search = search
        self._start_ms = start_ms
        self._end_ms = end_ms

    @property
    def zone_name(self) -> str | None:
        """The IANA name of the zone."""
        return self._search.zone_name

    def next_after_ms(self, t_ms: int) -> int | None:
        """The first slot strictly later than ``t_ms``, or None if there is none within 50 years of it or the start."""
        t_ms = max(t_ms, self._start_ms - 1)
        if t_ms >= self._end_ms:
            return None
        slot = self._search.next_after_ms(t_ms)
        return slot if slot is not None and slot <= self._end_ms else None

    def last_at_or_before_ms(self, t_ms: int) -> int | None:
        """The last slot not later than ``t_ms``, or None."""
        t_ms = min(t_ms, self._end_ms)
        if t_ms < self._start_ms:
            return None
        slot = self._search.last_at_or_before_ms(t_ms)
        return slot if slot is not None and slot >= self._start_ms else None

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        """How many slots lie in (after_ms, until_ms], at most ``cap``."""
        after_ms, until_ms = max(after_ms, self._start_ms - 1), min(until_ms, self._end_ms)
        if until_ms >= REPEATS_FROM * 1000:
            return super().count(after_ms, until_ms, cap)
        return self._search.count(after_ms, until_ms, cap) if until_ms > after_ms else 0

    def mark(self, slot_ms: int) -> str:
        """``moved`` if a clock change moved this slot, ``repeated`` if it is a slot's second pass, else empty."""
        return self._search.mark(slot_ms) if slot_ms < REPEATS_FROM * 1000 else ""


def offset_at(zone: Zone, second: int) -> int:
    """The offset of a zone at an instant, both in seconds."""
    second -= _behind(second)
    table = zone.around(second)
    return table.offset[bisect_right(table.at, second)]


def _mask(values: tuple[int, ...]) -> int:
    return sum(1 << value for value in values)


def _picked(sets: list[tuple[int, ...]], positions: tuple[int, ...]) -> list[int]:
    """The sums of one item of each set, or those at the positions, from 1 or backwards from -1; not all are built."""
    size = math.prod(map(len, sets))
    at = {n - 1 if n > 0 else size + n for n in positions} if positions else set(range(size))
    found = []
    for index in sorted(at):
        if 0 <= index < size:
            rest, total = index, 0
            for values in reversed(sets):
                rest, item = divmod(rest, len(values))
                total += values[item]
            found.append(total)
    if not found:
        raise ValidationError(f"it never matches: BYSETPOS asks for what a set of {size} does not have")
    return found


def _times(hours: tuple[int, ...], minutes: tuple[int, ...], seconds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """In seconds."""
    return [tuple(hour * 3600 for hour in hours), tuple(minute * 60 for minute in minutes), seconds]


def _coarse(rule: Rule, start: int, days: RecurringDays) -> Walls:
    """DAILY or coarser: the days, each at the same times."""
    hours = rule.hours or (start % _DAY // 3600,)
    minutes = rule.minutes or (start % 3600 // 60,)
    seconds = rule.seconds or (start % 60,)
    times = len(hours) * len(minutes) * len(seconds)
    if rule.positions and rule.freq == "DAILY":
        return _Stepped(days, _DAY, 1, [0], _picked(_times(hours, minutes, seconds), rule.positions))
    if rule.positions and times > 1:
        raise ValidationError(
            f"BYSETPOS with FREQ={rule.freq} picks days: give one time of day, and further ones as rules under 'any'"
        )
    return Pattern(_mask(seconds), _mask(minutes), _mask(hours), days)


def _hourly(rule: Rule, start: int, days: RecurringDays) -> Walls:
    """Hours match by their remainder: INTERVAL and the hour of the day repeat together at the latest every 24 steps."""
    times = _times((0,), rule.minutes or (start % 3600 // 60,), rule.seconds or (start % 60,))
    offsets = _picked(times, rule.positions)
    cycle = math.lcm(rule.interval, 24)
    steps = range(start // 3600 % rule.interval, cycle, rule.interval)
    residues = [hour for hour in steps if not rule.hours or hour % 24 in rule.hours]
    if not residues:
        raise ValidationError(f"it never matches: INTERVAL={rule.interval} from its start meets no hour of BYHOUR")
    return _Stepped(days, 3600, cycle, residues, offsets)


def _fine(rule: Rule, start: int, days: RecurringDays, count: int) -> list[int]:
    """MINUTELY and SECONDLY: the first ``count`` wall seconds, by steps that leap over what cannot match."""
    size = _UNITS[rule.freq]
    unit = phase = start // size
    offsets = _picked([rule.seconds or (start % 60,)], rule.positions) if size > 1 else [0]
    if size == 1 and rule.positions and not {1, -1} & set(rule.positions):
        raise ValidationError("it never matches: BYSETPOS asks for what a set of 1 does not have")
    found: list[int] = []
    for _ in range(_MAX_STEPS):
        wall = unit * size
        day = days.on_or_after(wall // _DAY)
        if len(found) >= count or day >= NEVER:
            return found[:count]
        rest = wall % _DAY
        if day != wall // _DAY:
            wall = day * _DAY
        elif rule.hours and rest // 3600 not in rule.hours:
            wall += 3600 - rest % 3600
        elif rule.minutes and rest % 3600 // 60 not in rule.minutes:
            wall += 60 - rest % 60
        else:
            if size > 1 or not rule.seconds or rest % 60 in rule.seconds:
                found.extend(wall + offset for offset in offsets if wall + offset >= start)
            wall += size
        unit = wall // size
        unit += (phase - unit) % rule.interval
    raise ValidationError(
        f"its occurrences lie too far apart to be counted (over {_MAX_STEPS} steps): "
        "use a coarser FREQ or a smaller COUNT"
    )


def _counted(walls: Walls, start: int, count: int) -> list[int]:
    found: list[int] = []
    wall = walls.after(start - 1)
    while wall < NEVER and len(found) < count:
        if wall - start > PERIOD:
            raise ValidationError("its occurrences lie too far apart to be counted: COUNT reaches over 400 years")
        found.append(wall)
        wall = walls.after(wall)
    return found


def walls_of(rule: Rule, start: int) -> Walls:
    """The wall seconds of a rule that starts at the wall second ``start``."""
    days = days_of(rule, dt.date.fromordinal(start // _DAY + _EPOCH))
    if rule.freq in {"MINUTELY", "SECONDLY"}:
        if rule.most is None:
            raise ValidationError(
                f"FREQ={rule.freq} needs a COUNT of at most {MAX_COUNT}: what has no end goes into 'every' or 'cron'"
            )
        return _Listed(_fine(rule, start, days, rule.most))
    walls = _hourly(rule, start, days) if rule.fine else _coarse(rule, start, days)
    return walls if rule.most is None else _Listed(_counted(walls, start, rule.most))


def _compile(rule: Rule, zone_name: str, start_ms: int, gap: str | None, fold: str | None) -> RecurrenceSchedule:
    zone = zone_named(zone_name)
    start_s = start_ms // 1000
    start = start_s + offset_at(zone, start_s)
    walls = walls_of(rule, start)
    end_ms, last = MAX_MS, NEVER - 1
    if rule.until is not None:
        # The bound of the other kind lies behind whatever a zone can make of it: it only ends searches.
        end_ms = min(MAX_MS, (rule.until.second + (0 if rule.until.in_utc else 2 * _DAY)) * 1000)
        last = rule.until.second + (2 * _DAY if rule.until.in_utc else 0)
    elif rule.most is not None:
        end_ms = min(MAX_MS, (walls.before(NEVER - 1) + 2 * _DAY) * 1000)
    within = _Within(walls, start, last)
    by_class = (Gap.SKIP, Fold.BOTH) if rule.fine else (Gap.RUN_AFTER, Fold.FIRST)
    search: CronSchedule = CronSchedule("", cast("Pattern", within))
    if zone_name != "UTC":
        search = _zoned(within, zone, Gap(gap) if gap else by_class[0], Fold(fold) if fold else by_class[1])
    schedule = RecurrenceSchedule(search, start_s * 1000, end_ms)
    if schedule.next_after_ms(schedule._start_ms - 1) is None:  # noqa: SLF001 - made here
        raise ValidationError("it never matches: no occurrence within 50 years of its start")
    return schedule


def compile_rrule(text: str, *, zone_name: str, start_ms: int, gap: str | None, fold: str | None) -> Schedule:
    """Compile ``FREQ=...``, an RFC 5545 rule. Its DTSTART is the wall time of ``start_ms``, in whole seconds.

    The start is a slot only if the rule matches it, and COUNT (at most 1,000) counts from it. An UNTIL without ``Z`` is
    a wall time, inclusive; a date stands for its whole day. ``gap`` and ``fold`` are as for cron; None means by class:
    HOURLY and finer fire at every real instant that matches, all others keep to the wall clock.

    Raises :class:`~natscron.errors.InvalidScheduleError`: not a rule, SECONDLY or MINUTELY without COUNT, no occurrence
    within 50 years of the start, or python-dateutil is not installed.
    """
    shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    try:
        return _compile(parse_rule(text), zone_name, start_ms, gap, fold)
    except ImportError:
        raise InvalidScheduleError(
            "rrule needs python-dateutil, which is not installed: pip install 'natscron[rrule]'"
        ) from None
    except (ValidationError, ValueError) as error:  # of this package; of dateutil, for parts that exclude each other
        raise InvalidScheduleError(f"invalid rrule '{shown}': {error}") from None
