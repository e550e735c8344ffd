"""Which days a recurrence rule matches, by year.

python-dateutil expands a rule by walking from its start, which takes longer the older the rule gets. So it is asked
for one year at a time with INTERVAL=1, and INTERVAL is laid over the result as a mask: every so many days, weeks,
months or years from the start. Without INTERVAL what a year holds depends only on its shape (leap or not, the weekday
of its first day, and its neighbours' lengths for the weeks that reach over its ends), so there are at most 28
expansions of a rule, however long it runs, and they are shared by all rules with the same parts.
"""

import datetime as dt
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from natscron.schedule.days import NEVER, DayFields, DaySet
from natscron.schedule.recurrence import FREQUENCIES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RecurringDays", "days_of", "expander"]

_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_MAX_DAY: Final = dt.date.max.toordinal() - _EPOCH
_SEARCH_YEARS: Final = 51
_MAX_KNOWN: Final = 128
_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FEBRUARY: Final = 2
_WEEK: Final = 0b111_1111
_LONGEST: Final = 366
_NTH_IN_MONTH: Final = 5
_NTH_IN_YEAR: Final = 53
_ALL_DAYS: Final = DayFields((1 << 32) - 2, (1 << 13) - 2, (1 << 7) - 1, both=True)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _months(year: int) -> list[int]:
    """The lengths of a year's months."""
    return [length + (month == _FEBRUARY and _leap(year)) for month, length in enumerate(_LENGTHS, 1)]


def _dates(year: int, months: tuple[int, ...], days: tuple[int, ...]) -> int:
    """These days of these months."""
    mask, begin = 0, 0
    for month, length in enumerate(_months(year), 1):
        if month in months:
            for day in days:
                if abs(day) <= length:
                    mask |= 1 << begin + (day - 1 if day > 0 else length + day)
        begin += length
    return mask


def _first_of(year: int) -> int:
    """The first of January, counted from 1970-01-01."""
    return dt.date(year, 1, 1).toordinal() - _EPOCH


class _Parts(NamedTuple):
    """What decides on days, with nothing left to be implied by the start."""

    freq: str
    months: tuple[int, ...]
    month_days: tuple[int, ...]
    year_days: tuple[int, ...]
    weeks: tuple[int, ...]
    weekdays: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]
    week_start: int


def expander() -> "Callable[..., Any]":
    """The class that expands rules. Raises ImportError if the extra is not installed."""
    from dateutil.rrule import rrule  # noqa: PLC0415 - an extra, loaded by those who use it

    return rrule


class _Expansion:
    """The days of years by their shape; shared."""

    __slots__ = ("_masks", "_parts", "_plain", "_reaches")

    def __init__(self, parts: _Parts) -> None:
        self._parts = parts
        self._reaches = bool(parts.weeks) or parts.freq == "WEEKLY"
        self._masks: dict[int, int] = {}
        self._plain: dict[int, int] = {}

    def mask(self, year: int) -> int:
        """Bit n for the day n after the first of January."""
        shape = dt.date(year, 1, 1).weekday() << 3 | _leap(year) << 2
        if self._reaches:
            shape |= _leap(year - 1) << 1 | _leap(year + 1)
        mask = self._masks.get(shape)
        if mask is None:
            mask = self._masks[shape] = self._picked(year) if self._parts.positions else self._expand(year)
        return mask

    def _expand(self, year: int) -> int:
        """The days of a year without BYSETPOS: python-dateutil's part."""
        parts = self._parts
        if parts.months and parts.month_days and not (parts.year_days or parts.weeks or parts.weekdays):
            return _dates(year, parts.months, parts.month_days)  # birthdays and holidays, which come by the hundred
        from dateutil.rrule import weekday  # noqa: PLC0415 - as in expander

        found = expander()(
            FREQUENCIES.index("YEARLY"),
            dtstart=dt.datetime(year, 1, 1),  # noqa: DTZ001 - a wall time
            interval=dt.MAXYEAR,  # one year; an UNTIL would not end a walk that finds nothing
            wkst=parts.week_start,
            bymonth=parts.months or None,
            bymonthday=parts.month_days or None,
            byyearday=parts.year_days or None,
            byweekno=parts.weeks or None,
            byweekday=[weekday(day, n or None) for day, n in parts.weekdays] or None,
            byhour=0,
            byminute=0,
            bysecond=0,
        )
        start = dt.date(year, 1, 1).toordinal()
        mask = 0
        for moment in found:
            mask |= 1 << moment.toordinal() - start
        return mask

    def _whole(self, year: int) -> int:
        """As :meth:`_expand`, kept: weeks ask for three years each. Rules with weeks have no BYWEEKNO."""
        shape = dt.date(year, 1, 1).weekday() << 1 | _leap(year)
        if self._parts.weeks:
            return self._expand(year)
        if shape not in self._plain:
            self._plain[shape] = self._expand(year)
        return self._plain[shape]

    def _picked(self, year: int) -> int:
        """The days of a year at the positions in their week, month or year."""
        parts = self._parts
        days, behind = self._whole(year), 0
        length = 365 + _leap(year)
        if parts.freq == "WEEKLY":
            # A week may begin in the year before, or end in the one after: lay their ends against this year's days.
            behind = (dt.date(year, 1, 1).weekday() - parts.week_start) % 7
            days = days << behind | self._whole(year - 1) >> 365 + _leap(year - 1) - behind
            if year < dt.MAXYEAR:
                days |= self._whole(year + 1) << behind + length
            sizes = [7] * 54
        else:
            sizes = _months(year) if parts.freq == "MONTHLY" else [length]
        mask, begin = 0, 0
        for size in sizes:
            among = [day for day in range(begin, begin + size) if days >> day & 1]
            for n in parts.positions:
                if abs(n) <= len(among):
                    mask |= 1 << among[n - 1 if n > 0 else n]
            begin += size
        return mask >> behind & (1 << length) - 1


_expansion: Final = lru_cache(maxsize=1024)(_Expansion)


def _each(weekdays: tuple[tuple[int, int], ...], most: int) -> tuple[tuple[int, int], ...]:
    """Weekdays with and without numbers side by side mean either; dateutil takes them as both, unless all have one."""
    if not any(n for _, n in weekdays):
        return weekdays
    every = {(day, k) for day, n in weekdays for k in ((n,) if n else range(1, most + 1))}
    return tuple(sorted(every))


def _parts_of(rule: Rule, start: dt.date) -> _Parts:
    """The rule with what its start implies, as it would be written with FREQ=YEARLY; ``freq`` says what sets are of."""
    freq, months, month_days, weekdays = rule.freq, rule.months, rule.month_days, rule.weekdays
    if not (rule.weeks or rule.year_days or month_days or weekdays):
        if freq == "YEARLY":
            months = months or (start.month,)
            month_days = (start.day,)
        elif freq == "MONTHLY":
            month_days = (start.day,)
        else:
            weekdays = ((start.weekday(), 0),) if freq == "WEEKLY" else tuple((day, 0) for day in range(7))
    if freq == "MONTHLY":
        months = months or tuple(range(1, 13))  # numbers before weekdays count in the month then
    weekdays = _each(weekdays, _NTH_IN_MONTH if months else _NTH_IN_YEAR)
    sets = rule.positions if freq in {"YEARLY", "MONTHLY", "WEEKLY"} else ()
    return _Parts(freq if sets else "", months, month_days, rule.year_days, rule.weeks, weekdays, sets, rule.week_start)


class RecurringDays(DaySet):
    """The days, counted from 1970-01-01, that a rule matches from its first day on."""

    __slots__ = ("_begun", "_expansion", "_freq", "_interval", "_known", "_steps", "first")

    def __init__(self, expansion: _Expansion, rule: Rule, start: dt.date) -> None:
        super().__init__(_ALL_DAYS)
        self.every_day = False
        self.first = start.toordinal() - _EPOCH
        """The first day of the rule; none before it matches."""
        self._begun = start
        if rule.freq == "WEEKLY":
            self._begun -= dt.timedelta((start.weekday() - rule.week_start) % 7)
        self._expansion = expansion
        self._interval = rule.interval
        self._freq = rule.freq if rule.interval > 1 else ""
        self._known: dict[int, int] = {}
        self._steps = 0
        if self._freq == "WEEKLY":
            self._steps = sum(_WEEK << at for at in range(0, _LONGEST, 7 * rule.interval))
        elif self._freq == "DAILY":
            self._steps = sum(1 << at for at in range(0, _LONGEST, rule.interval))

    def _left(self, year: int) -> int:
        """The days of a year that INTERVAL leaves."""
        begun, interval = self._begun, self._interval
        if self._freq == "YEARLY":
            return 0 if (year - begun.year) % interval else -1
        if self._freq == "MONTHLY":
            mask, day = 0, 0
            for month, days in enumerate(_months(year), 1):
                if ((year - begun.year) * 12 + month - begun.month) % interval == 0:
                    mask |= (1 << days) - 1 << day
                day += days
            return mask
        behind = begun.toordinal() - dt.date(year, 1, 1).toordinal()
        if self._freq == "DAILY":
            return self._steps << behind % interval
        if self._freq == "WEEKLY":
            phase = behind % (7 * interval)
            return self._steps << phase | _WEEK >> min(7 * interval - phase, 7)  # and the week that began last year
        return -1

    def mask(self, year: int) -> int:
        """The matching days of a year, bit n for the day n after its first; those before the rule's first too."""
        mask = self._known.get(year)
        if mask is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            mask = self._left(year)
            if mask:
                mask &= self._expansion.mask(year)
            self._known[year] = mask
        return mask

    def on_or_after(self, day: int) -> int:
        """The first matching day not before ``day``; :data:`~natscron.schedule.days.NEVER` if none in 50 years."""
        day = max(day, self.first)
        if day > _MAX_DAY:
            return NEVER
        date = dt.date.fromordinal(day + _EPOCH)
        year = date.year
        begin = _first_of(year)
        found = self.mask(year) >> day - begin
        if found:
            return day + (found & -found).bit_length() - 1
        for following in range(year + 1, min(year + _SEARCH_YEARS, dt.MAXYEAR) + 1):
            found = self.mask(following)
            if found:
                return _first_of(following) + (found & -found).bit_length() - 1
        return NEVER

    def on_or_before(self, day: int) -> int:
        """The last matching day not after ``day``; minus ``NEVER`` if none since 50 years."""
        if day < self.first:
            return -NEVER
        day = min(day, _MAX_DAY)
        year = dt.date.fromordinal(day + _EPOCH).year
        begin = _first_of(year)
        found = self.mask(year) & (2 << day - begin) - 1
        while not found:
            year -= 1
            begin = _first_of(year)
            if begin + _LONGEST < self.first or day - begin > _SEARCH_YEARS * 366:
                return -NEVER
            found = self.mask(year)
        found_day = begin + found.bit_length() - 1
        return found_day if found_day >= self.first else -NEVER

    def count(self, start: int, end: int) -> int:
        """How many days in [start, end) match; the work grows with the years between them."""
        start, end = max(start, self.first), min(end, _MAX_DAY + 1)
        found = 0
        while start < end:
            year = dt.date.fromordinal(start + _EPOCH).year
            begin = _first_of(year)
            until = min(end, begin + 365 + _leap(year))
            found += (self.mask(year) >> start - begin & (1 << until - start) - 1).bit_count()
            start = until
        return found


def days_of(rule: Rule, start: dt.date) -> RecurringDays:
    """The days of a rule that begins on ``start``; what that implies counts: its month, day of month or weekday.

    Raises ImportError if the extra is not installed, ValueError for parts that can never match.
    """
    expander()
    return RecurringDays(_expansion(_parts_of(rule, start)), rule, start)
