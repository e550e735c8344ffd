"""What a cron expression says about wall clocks: no zone, no clock changes, whole seconds.

A wall second is counted from 1970-01-01T00:00:00 on the wall (it equals the instant where the offset is zero). Each
time field is a bit mask, so that "the next minute that matches" is a shift and a look at the lowest bit.
"""

from natscron.schedule.days import NEVER, DayFields, DaySet, day_set

__all__ = ["Pattern"]

_DAY = 86_400


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


class Pattern:
    """The wall seconds that match. Immutable; masks have bit n for value n and are not empty."""

    __slots__ = (
        "_days",
        "_every_day",
        "_first",
        "_first_minute",
        "_first_second",
        "_last",
        "_last_minute",
        "_last_second",
        "hours",
        "minutes",
        "seconds",
    )

    def __init__(self, seconds: int, minutes: int, hours: int, days: DayFields | DaySet) -> None:
        self.seconds = seconds
        self.minutes = minutes
        self.hours = hours
        self._days = days if isinstance(days, DaySet) else day_set(days)
        self._every_day = self._days.every_day
        self._first_second = _lowest(seconds)
        self._last_second = seconds.bit_length() - 1
        self._first_minute = _lowest(minutes) * 60 + self._first_second
        self._last_minute = (minutes.bit_length() - 1) * 60 + self._last_second
        self._first = _lowest(hours) * 3600 + self._first_minute
        self._last = (hours.bit_length() - 1) * 3600 + self._last_minute

    @property
    def days(self) -> DayFields:
        """The day fields."""
        return self._days.fields

    def has(self, wall: int) -> bool:
        """Whether a wall second matches."""
        day, rest = divmod(wall, _DAY)
        if not self.hours >> rest // 3600 & 1 or not self.minutes >> rest % 3600 // 60 & 1:
            return False
        return bool(self.seconds >> rest % 60 & 1) and (self._every_day or self._days.has(day))

    def after(self, wall: int) -> int:
        """The first match strictly later than ``wall``; :data:`~natscron.schedule.days.NEVER` if none in 50 years."""
        wall += 1
        day = wall // _DAY
        found_day = day if self._every_day else self._days.on_or_after(day)
        if found_day == day:
            rest = wall - day * _DAY
            hour = rest // 3600
            hours = self.hours >> hour
            if hours & 1:
                rest -= hour * 3600
                minute = rest // 60
                minutes = self.minutes >> minute
                if minutes & 1:
                    found = self.seconds >> rest - minute * 60
                    if found:
                        return wall + (found & -found).bit_length() - 1
                found = minutes >> 1
                if found:
                    minute += (found & -found).bit_length()
                    return day * _DAY + hour * 3600 + minute * 60 + self._first_second
            found = hours >> 1
            if found:
                hour += (found & -found).bit_length()
                return day * _DAY + hour * 3600 + self._first_minute
            day += 1
            found_day = day if self._every_day else self._days.on_or_after(day)
        return found_day * _DAY + self._first if found_day < NEVER else NEVER

    def before(self, wall: int) -> int:
        """The last match not later than ``wall``; minus ``NEVER`` if none since 50 years."""
        day = wall // _DAY
        found_day = day if self._every_day else self._days.on_or_before(day)
        if found_day == day:
            rest = wall - day * _DAY
            hour = rest // 3600
            if self.hours >> hour & 1:
                rest -= hour * 3600
                minute = rest // 60
                if self.minutes >> minute & 1:
                    found = self.seconds & (2 << rest - minute * 60) - 1
                    if found:
                        return day * _DAY + hour * 3600 + minute * 60 + found.bit_length() - 1
                found = self.minutes & (1 << minute) - 1
                if found:
                    return day * _DAY + hour * 3600 + (found.bit_length() - 1) * 60 + self._last_second
            found = self.hours & (1 << hour) - 1
            if found:
                return day * _DAY + (found.bit_length() - 1) * 3600 + self._last_minute
            day -= 1
            found_day = day if self._every_day else self._days.on_or_before(day)
        return found_day * _DAY + self._last if found_day > -NEVER else -NEVER

    def _count_below(self, rest: int) -> int:
        """How many matching seconds of a day lie before its second ``rest``."""
        hour, rest = divmod(rest, 3600)
        minute, second = divmod(rest, 60)
        in_minute = self.seconds.bit_count()
        found = (self.hours & (1 << hour) - 1).bit_count() * self.minutes.bit_count() * in_minute
        if self.hours >> hour & 1:
            found += (self.minutes & (1 << minute) - 1).bit_count() * in_minute
            if self.minutes >> minute & 1:
                found += (self.seconds & (1 << second) - 1).bit_count()
        return found

    def count(self, start: int, end: int) -> int:
        """How many wall seconds in [start, end) match; the work grows with the months between them."""
        if start >= end:
            return 0
        first, first_rest = divmod(start, _DAY)
        last, last_rest = divmod(end, _DAY)
        found = self._days.count(first, last) * self._count_below(_DAY)
        if last_rest and self._days.count(last, last + 1):
            found += self._count_below(last_rest)
        if first_rest and self._days.count(first, first + 1):
            found -= self._count_below(first_rest)
        return found
