"""Calendars: dates, weekly windows and the events of iCalendar text, as windows of instants.

A window is a span of wall time. An instant is covered if the clock of the calendar's zone, as it stands at that
instant, shows a time inside the span. That says all about clock changes: what lies in a gap covers nothing, a window
that begins in one begins at the first instant after it, and in a fold both passes are covered. A search looks at one
stretch of constant offset, and windows that go on behind a clock change are put together again.
"""

import datetime as dt
import re
from bisect import bisect_right
from functools import lru_cache
from typing import Final, Protocol

from natscron.errors import InvalidCalendarError, ValidationError
from natscron.model import CalendarSpec, Weekly
from natscron.schedule.base import MAX_MS
from natscron.schedule.fields import parse_fields
from natscron.schedule.windows import Windows, merged
from natscron.schedule.zones import PERIOD, REPEATS_FROM, Zone, zone_named

__all__ = ["MAX_DATES", "MAX_WEEKLY", "Spans", "StaticSpans", "ZonedWindows", "compile_calendar", "joined"]

MAX_DATES: Final = 1_000
"""The most dates of a calendar."""
MAX_WEEKLY: Final = 100
"""The most weekly windows of a calendar."""

_DAY: Final = 86_400
_WEEK: Final = 7 * _DAY
_THURSDAY: Final = 4
_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_LAST: Final = MAX_MS // 1000
"""The last wall second: clocks ahead of UTC show year 10000 in the last hours, which is no date here."""
_MARGIN: Final = 60 * 366 * _DAY
_MAX_SHOWN: Final = 64
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_YEARLY: Final = re.compile(r"([0-9]{2})-([0-9]{2})")
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00)")
_HASHED: Final = re.compile(r"(?<![A-Za-z])H(?![A-Za-z])|[~#]", re.IGNORECASE)
_LEAP_YEAR: Final = 2000
_PLAIN_YEAR: Final = 2001


class Spans(Protocol):
    """Spans of wall seconds, counted from 1970-01-01T00:00:00 on the wall. Immutable to those who look."""

    def around(self, wall: int) -> tuple[int, int] | None:
        """A span [start, end) that holds ``wall``; None if none does."""
        ...


def joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same seconds in spans that neither touch nor overlap, sorted; empty ones are left out."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


class StaticSpans:
    """Spans that are all known."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        kept = joined(spans)
        self._starts = [start for start, _ in kept]
        self._ends = [end for _, end in kept]

    def around(self, wall: int) -> tuple[int, int] | None:
        """The span that holds ``wall``."""
        at = bisect_right(self._starts, wall) - 1
        if at < 0 or wall >= self._ends[at]:
            return None
        return self._starts[at], self._ends[at]


class _Yearly:
    """Days that come every year."""

    __slots__ = ("_leap", "_plain")

    def __init__(self, days: set[tuple[int, int]]) -> None:
        self._leap = self._in(_LEAP_YEAR, days)
        self._plain = self._in(_PLAIN_YEAR, days)

    @staticmethod
    def _in(year: int, days: set[tuple[int, int]]) -> StaticSpans:
        """The spans of a year, from its first second."""
        first = dt.date(year, 1, 1).toordinal()
        found = [
            dt.date(year, month, day).toordinal() - first
            for month, day in days
            if (month, day) != (2, 29) or year == _LEAP_YEAR
        ]
        return StaticSpans([(day * _DAY, (day + 1) * _DAY) for day in found])

    def around(self, wall: int) -> tuple[int, int] | None:
        """The span that holds ``wall``, within its year."""
        year = dt.date.fromordinal(wall // _DAY + _EPOCH).year
        begin = (dt.date(year, 1, 1).toordinal() - _EPOCH) * _DAY
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        found = (self._leap if leap else self._plain).around(wall - begin)
        return None if found is None else (found[0] + begin, found[1] + begin)


class _EveryWeek:
    """Windows that come every week, from Sunday to Saturday."""

    __slots__ = ("_spans",)

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._spans = StaticSpans(spans)

    def around(self, wall: int) -> tuple[int, int] | None:
        """The span that holds ``wall``, within its week."""
        begin = wall - (wall + _THURSDAY * _DAY) % _WEEK
        found = self._spans.around(wall - begin)
        return None if found is None else (found[0] + begin, found[1] + begin)


class ZonedWindows:
    """Spans of a zone's wall clock as windows of instants."""

    __slots__ = ("_spans", "_zone")

    def __init__(self, spans: Spans, zone: Zone) -> None:
        self._spans = spans
        self._zone = zone

    def covering_ms(self, t_ms: int) -> tuple[int, int] | None:
        """The window around ``t_ms``, within one offset of the zone."""
        if not 0 <= t_ms <= MAX_MS:
            return None
        second = t_ms // 1000
        behind = max(0, (second - REPEATS_FROM - _MARGIN) // PERIOD * PERIOD)
        table = self._zone.around(second - behind)
        at = bisect_right(table.at, second - behind)
        offset = table.offset[at]
        wall = second + offset
        found = self._spans.around(wall) if wall <= _LAST else None
        if found is None:
            return None
        start, end = found[0] - offset, found[1] - offset
        start = max(start, (table.at[at - 1] if at else table.start) + behind)
        end = min(end, (table.at[at] if at < len(table.at) else table.end) + behind)
        return start * 1000, end * 1000


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _day(text: str, whole: str) -> int:
    """The day, counted from 1970-01-01, of a full date."""
    found = _DATE.fullmatch(text)
    try:
        return dt.date(*map(int, found.groups())).toordinal() - _EPOCH if found else _no_date(whole, "it is no date")
    except ValueError as error:
        return _no_date(whole, str(error))


def _no_date(text: str, why: str) -> int:
    raise InvalidCalendarError(
        f"invalid date '{_shown(text)}': {why}; give 2026-12-25, 2026-12-24/2027-01-01 (both inclusive) "
        "or 12-25 (every year)"
    )


def _dates(texts: tuple[str, ...]) -> list[Spans]:
    if len(texts) > MAX_DATES:
        raise InvalidCalendarError(
            f"the calendar has {len(texts)} dates; at most {MAX_DATES}: write neighbours as ranges, or split it"
        )
    spans: list[tuple[int, int]] = []
    yearly: set[tuple[int, int]] = set()
    for text in texts:
        if found := _YEARLY.fullmatch(text):
            month, day = int(found[1]), int(found[2])
            try:
                dt.date(_LEAP_YEAR, month, day)
            except ValueError as error:
                _no_date(text, str(error))
            yearly.add((month, day))
            continue
        first, slash, last = text.partition("/")
        start = _day(first, text)
        end = _day(last, text) if slash else start
        if end < start:
            _no_date(text, "the range ends before it starts")
        spans.append((start * _DAY, (end + 1) * _DAY))
    if len(yearly) >= 365 and len(yearly - {(2, 29)}) == 365:  # noqa: PLR2004 - the days of a year
        raise InvalidCalendarError("the calendar's dates are every day of every year: nothing would ever run")
    parts: list[Spans] = []
    if spans:
        parts.append(StaticSpans(spans))
    if yearly:
        parts.append(_Yearly(yearly))
    return parts


def _clock(text: str, name: str) -> int:
    """Seconds since midnight."""
    found = _CLOCK.fullmatch(text)
    if found is None or (found[3] and name == "start"):
        most = "23:59" if name == "start" else "24:00"
        raise InvalidCalendarError(f"weekly {name} '{_shown(text)}' is not a time: give HH:MM from 00:00 to {most}")
    return int(found[1] or found[3]) * 3600 + int(found[2] or found[4]) * 60


def _weekdays(text: str) -> list[int]:
    why = "it takes days, names, ranges and lists only"
    if not _HASHED.search(text) and " " not in text.strip():
        try:
            days = parse_fields(["0", "0", "*", "*", text.strip()], seed="", lenient=False)[0].days
        except ValidationError as error:
            why = str(error)
        else:
            if not days.nth:
                return [day for day in range(7) if days.dow >> day & 1]
            why = "'L' has no meaning in a week"
    raise InvalidCalendarError(f"invalid weekly days '{_shown(text)}': {why}; give such as SAT,SUN or MON-FRI or *")


def _weekly(windows: tuple[Weekly, ...]) -> list[Spans]:
    if len(windows) > MAX_WEEKLY:
        raise InvalidCalendarError(f"the calendar has {len(windows)} weekly windows; at most {MAX_WEEKLY}")
    spans: list[tuple[int, int]] = []
    for window in windows:
        start, end = _clock(window.start, "start"), _clock(window.end, "end")
        if start == end:
            raise InvalidCalendarError(
                f"a weekly window from {window.start} to {window.end} is empty: a whole day is 00:00 to 24:00"
            )
        for day in _weekdays(window.days):
            first = day * _DAY + start
            last = day * _DAY + end + (_DAY if end < start else 0)
            spans.append((first, min(last, _WEEK)))
            spans.append((0, last - _WEEK))
    if joined(spans) == [(0, _WEEK)]:
        raise InvalidCalendarError("the calendar's weekly windows cover every hour of every week: nothing would run")
    return [_EveryWeek(spans)] if spans else []


@lru_cache(maxsize=1_024)  # as many as a service stores, for each is compiled for every job that names it
def compile_calendar(spec: CalendarSpec) -> Windows:
    """Compile a calendar; equal ones share one object.

    Bounds: 1,000 dates, 100 weekly windows, 96 KiB of iCalendar text. A calendar without any covers nothing. Raises
    :class:`~natscron.errors.InvalidCalendarError`: an unknown zone, a date, window or event that cannot be read, one
    that covers all time, or icalendar is not installed.
    """
    try:
        zone = zone_named(spec.tz or "UTC")
    except ValidationError as error:
        raise InvalidCalendarError(f"{error}: tz takes an IANA name such as Europe/Berlin") from None
    parts: list[Windows] = [ZonedWindows(spans, zone) for spans in (*_dates(spec.dates), *_weekly(spec.weekly))]
    if spec.ical:
        from natscron.schedule.ical import compile_ical  # noqa: PLC0415 - the extra is loaded by those who use it

        parts.extend(ZonedWindows(spans, where) for spans, where in compile_ical(spec.ical, zone))
    return merged(tuple(parts))
