"""Which days a cron expression matches, as one bit mask per shape of month.

What the day fields mean in a month (``L``, ``15W``, ``2#1`` and the either-or rule included) depends only on the
month's length and on the weekday of its first day. There are 28 such shapes; each one's mask is computed once, and a
search then looks at one integer per month. Days are counted from 1970-01-01 (day 0), weekdays from Sunday (0).
"""

import datetime as dt
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["NEAR_DAYS", "NEVER", "DayDifference", "DayFields", "DaySet", "NearDays", "day_set"]

NEVER: Final = 1 << 62
"""Stands for a day or a wall second that does not come; negated, for one that never was."""

NEAR_DAYS: Final = 400
"""Days that :class:`NearDays` and :class:`DayDifference` see at least, both ways."""

_SEARCH_MONTHS: Final = 600  # 50 years
_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_MAX_DAY: Final = dt.date.max.toordinal() - _EPOCH
_MIN_DAY: Final = -366  # wall clocks behind UTC still show 1969 at the first instants
_LENGTHS: Final = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FEBRUARY: Final = 2
_DECEMBER: Final = 12
_THURSDAY: Final = 4
_SUNDAY: Final = 0
_SATURDAY: Final = 6
_SHORTEST: Final = 28
_ALL_MONTHS: Final = 0b1_1111_1111_1110
_ALL_WEEKDAYS: Final = 0b111_1111
_WEEKLY: Final = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28
_AHEAD_MONTHS: Final = 14

_from_ordinal = dt.date.fromordinal


class DayFields(NamedTuple):
    """The three day fields, parsed. Masks have bit n for value n; the tuples hold the special forms."""

    dom: int
    """Days of the month, bits 1 to 31."""
    month: int
    """Months, bits 1 to 12."""
    dow: int
    """Weekdays, bits 0 (Sunday) to 6."""
    both: bool
    """Both day fields have to match (one is unrestricted); else either does."""
    last: tuple[int, ...] = ()
    """Days before the month's last one: ``L`` is 0, ``L-3`` is 3."""
    near: tuple[int, ...] = ()
    """``nW``: the weekday nearest to that day; 0 stands for ``LW``."""
    nth: tuple[tuple[int, int], ...] = ()
    """``n#k`` as (weekday, k); ``nL`` has k = 0: the last such weekday."""


def _length(year: int, month: int) -> int:
    if month == _FEBRUARY and year % 4 == 0 and (year % 100 or year % 400 == 0):
        return 29
    return _LENGTHS[month]


def _nearest(day: int, first: int, length: int) -> int:
    """The day from Monday to Friday nearest to ``day`` in the same month; ``day`` 0 is the last."""
    day = day or length
    weekday = (first + day - 1) % 7
    if weekday == _SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == _SUNDAY:
        return day + 1 if day < length else day - 2
    return day


def _month_mask(fields: DayFields, length: int, first: int) -> int:
    """The matching days (bit n for day n) of a month of ``length`` days whose first is the weekday ``first``."""
    every = (2 << length) - 2
    dom = fields.dom & every
    for before in fields.last:
        if before < length:
            dom |= 1 << length - before
    for day in fields.near:
        if day <= length:
            dom |= 1 << _nearest(day, first, length)
    week = (fields.dow >> first | fields.dow << 7 - first) & _ALL_WEEKDAYS  # bit 0 is the weekday of the 1st
    dow = (week * _WEEKLY << 1) & every
    for weekday, k in fields.nth:
        day = 1 + (weekday - first) % 7
        day += 7 * (k - 1) if k else (length - day) // 7 * 7
        if day <= length:
            dow |= 1 << day
    return dom & dow if fields.both else dom | dow


class DaySet:
    """The days that match; shared by every schedule with the same day fields."""

    __slots__ = ("_masks", "_months", "_reach", "every_day", "fields")

    def __init__(self, fields: DayFields) -> None:
        self.fields = fields
        self._reach = _SEARCH_MONTHS
        self._months = fields.month
        self._masks: list[int | None] = [None] * 28
        full = fields.dow == _ALL_WEEKDAYS, fields.dom == (1 << 32) - 2
        self.every_day = fields.month == _ALL_MONTHS and (all(full) if fields.both else any(full))
        """No day is left out: nothing needs to be looked up."""

    def _mask(self, length: int, first: int) -> int:
        shape = (length - _SHORTEST) * 7 + first
        mask = self._masks[shape]
        if mask is None:
            mask = self._masks[shape] = self._make(length, first)
        return mask

    def _make(self, length: int, first: int) -> int:
        return _month_mask(self.fields, length, first)

    @property
    def yearly(self) -> bool:
        """Whether a match is at most a year from the next: one of the months has one, whatever its shape."""
        if self.every_day:
            return True
        for month in range(1, _DECEMBER + 1):
            if self._months >> month & 1:
                lengths = (28, 29) if month == _FEBRUARY else (_LENGTHS[month],)
                if all(self._mask(length, first) for length in lengths for first in range(7)):
                    return True
        return False

    def has(self, day: int) -> bool:
        """Whether a day matches."""
        if not _MIN_DAY <= day <= _MAX_DAY:
            return False
        date = _from_ordinal(day + _EPOCH)
        if not self._months >> date.month & 1:
            return False
        mask = self._mask(_length(date.year, date.month), (day - date.day + 1 + _THURSDAY) % 7)
        return bool(mask >> date.day & 1)

    def on_or_after(self, day: int) -> int:
        """The first matching day not before ``day``; :data:`NEVER` if there is none within 50 years."""
        if day > _MAX_DAY:
            return NEVER
        date = _from_ordinal((max(_MIN_DAY, day)) + _EPOCH)
        month = date.month
        number = date.day
        year = date.year
        first = day - number + 1
        length = _length(year, month)
        if self._months >> month & 1:
            found = self._mask(length, (first + _THURSDAY) % 7) >> number
            if found:
                return day + (found & -found).bit_length() - 1
        for _ in range(self._reach):
            first += length
            month += 1
            if month > _DECEMBER:
                month = 1
                year += 1
            length = _length(year, month)
            if self._months >> month & 1:
                found = self._mask(length, (first + _THURSDAY) % 7)
                if found:
                    return first + (found & -found).bit_length() - 2
        return NEVER

    def on_or_before(self, day: int) -> int:
        """The last matching day not after ``day``; minus :data:`NEVER` if there is none since 50 years."""
        if day < _MIN_DAY:
            return -NEVER
        date = _from_ordinal((min(_MAX_DAY, day)) + _EPOCH)
        month = date.month
        number = date.day
        year = date.year
        first = day - number + 1
        length = _length(year, month)
        if self._months >> month & 1:
            found = self._mask(length, (first + _THURSDAY) % 7) & (2 << number) - 1
            if found:
                return first + found.bit_length() - 2
        for _ in range(self._reach):
            month -= 1
            if not month:
                month = _DECEMBER
                year -= 1
            length = _length(year, month)
            first -= length
            if self._months >> month & 1:
                found = self._mask(length, (first + _THURSDAY) % 7)
                if found:
                    return first + found.bit_length() - 2
        return -NEVER

    def count(self, start: int, end: int) -> int:
        """How many days in [start, end) match; the work grows with the months between them."""
        if self.every_day:
            return max(0, end - start)
        found = 0
        while start < end:
            date = _from_ordinal(start + _EPOCH)
            month = date.month
            first = start - date.day + 1
            length = _length(date.year, month)
            if self._months >> month & 1:
                days = self._mask(length, (first + _THURSDAY) % 7) >> date.day
                found += (days & (1 << min(end, first + length) - start) - 1).bit_count()
            start = first + length
        return found


class NearDays(DaySet):
    """The days that match, looked for :data:`NEAR_DAYS` far only."""

    __slots__ = ()

    def __init__(self, fields: DayFields) -> None:
        shared = day_set(fields)
        self.fields = fields
        self._months = fields.month
        self._masks = shared._masks  # noqa: SLF001 - of its own kind
        self._reach = _AHEAD_MONTHS
        self.every_day = shared.every_day


class DayDifference(DaySet):
    """The days that ``fields`` match and ``taken`` do not, in the months that both have; looked for nearby only."""

    __slots__ = ("_one", "_other")

    def __init__(self, fields: DayFields, taken: DayFields) -> None:
        super().__init__(fields._replace(month=fields.month & taken.month))
        self._reach = _AHEAD_MONTHS
        self._one = day_set(fields)
        self._other = day_set(taken)
        self.every_day = False

    def _make(self, length: int, first: int) -> int:
        return self._one._mask(length, first) & ~self._other._mask(length, first)  # noqa: SLF001 - of its own kind


@lru_cache(maxsize=1024)
def day_set(fields: DayFields) -> DaySet:
    """The shared :class:`DaySet` of these fields."""
    return DaySet(fields)
