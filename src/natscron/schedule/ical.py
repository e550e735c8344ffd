"""The events of iCalendar text as spans of wall time, by the icalendar package.

The text comes from outside. Only the lines of events that say when they are reach the parser: no time zone
definitions (whose rules would be expanded), no alarms, no descriptions. It gets bytes, because it takes text in one
line for a path and reads that file. What it could not read is refused, not left out.

Single events are joined once. Recurring ones are laid out for one year when that year is asked about, and kept.
"""

import datetime as dt
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from natscron.errors import InvalidCalendarError, NatscronError, ValidationError
from natscron.schedule.calendar import Spans, StaticSpans
from natscron.schedule.days import NEVER
from natscron.schedule.recurrence import Rule, parse_rule
from natscron.schedule.rrule import Walls, offset_at, walls_of
from natscron.schedule.zones import Zone, zone_named

if TYPE_CHECKING:
    from icalendar import Event

__all__ = ["MAX_BYTES", "MAX_EVENTS", "MAX_PER_YEAR", "MAX_RECURRING", "MAX_RULES", "compile_ical"]

MAX_BYTES: Final = 98_304
"""Bytes of the longest iCalendar text that is looked at."""
MAX_EVENTS: Final = 2_000
"""The most events in it."""
MAX_RECURRING: Final = 500
"""The most of them that recur."""
MAX_RULES: Final = 64
"""The most different rules among them that say more than a date."""
MAX_PER_YEAR: Final = 5_000
"""The most occurrences that recurring events may have within a year."""

_DAY: Final = 86_400
_YEAR: Final = 366 * _DAY
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - a wall time
_EPOCH_DAY: Final = dt.date(1970, 1, 1).toordinal()
_SECOND: Final = dt.timedelta(seconds=1)
_MAX_SHOWN: Final = 64
_KEPT: Final = re.compile(
    r"(DTSTART|DTEND|DURATION|RRULE|RDATE|EXDATE|EXRULE|RECURRENCE-ID|STATUS|TRANSP|UID)[;:]", re.IGNORECASE
)
_MAX_KNOWN: Final = 64
_COARSE: Final = frozenset({"YEARLY", "MONTHLY", "WEEKLY", "DAILY"})


class _Moment(NamedTuple):
    """When something is: on the wall of a zone."""

    wall: int
    """Seconds since 1970-01-01T00:00:00 on the wall."""
    zone: Zone | None
    """None: the calendar's."""
    all_day: bool


class _Recurring(NamedTuple):
    walls: Walls
    length: int
    last: int
    """No occurrence begins after this wall second."""
    without: frozenset[int]
    """These wall seconds are no occurrences."""
    without_days: frozenset[int]

    def between(self, start: int, end: int) -> Iterator[int]:
        """The occurrences that begin in [start, end)."""
        end = min(end, self.last + 1)
        wall = self.walls.after(start - 1)
        while wall < end:
            if wall not in self.without and wall // _DAY not in self.without_days:
                yield wall
            wall = self.walls.after(wall)


class _RecurringSpans:
    """What recurs in one zone, laid out year by year."""

    __slots__ = ("_events", "_longest", "_years")

    def __init__(self, events: list[_Recurring]) -> None:
        self._events = events
        self._longest = max(event.length for event in events)
        self._years: dict[int, StaticSpans] = {}

    def around(self, wall: int) -> tuple[int, int] | None:
        """The span that holds ``wall``."""
        # Clocks ahead of UTC already show 10000 at the last instants, and those behind it 1969 at the first.
        year = dt.date.fromordinal(min(wall // _DAY + _EPOCH_DAY, dt.date.max.toordinal())).year
        spans = self._years.get(year)
        if spans is None:
            if len(self._years) >= _MAX_KNOWN:
                self._years.clear()
            spans = self._years[year] = self._lay_out(year)
        return spans.around(wall)

    def _lay_out(self, year: int) -> StaticSpans:
        start = (dt.date(year, 1, 1).toordinal() - _EPOCH_DAY) * _DAY
        end = start + _YEAR
        found: list[tuple[int, int]] = []
        for event in self._events:
            for wall in event.between(start - event.length, end):
                found.append((wall, wall + event.length))
                if len(found) > 3 * MAX_PER_YEAR:  # far more than in its first year: what was checked then
                    return StaticSpans(found)
        return StaticSpans(found)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class _Lines:
    """Takes lines one by one and keeps those that say when an event is."""

    def __init__(self) -> None:
        self.kept = ["BEGIN:VCALENDAR"]
        self.depth: list[str] = []
        self.events = 0
        self.began = False
        self._keep = False

    def take(self, line: str) -> None:
        if line[:1] not in {" ", "\t"}:  # else it goes on with the line before
            name, _, value = line.partition(":")
            word = name.upper()
            if word == "BEGIN":
                self._begin(value.strip().upper())
            elif word == "END":
                self._end(value.strip().upper())
            else:
                self._keep = self.depth[1:] == ["VEVENT"] and _KEPT.match(line) is not None
        if self._keep:
            self.kept.append(line)

    def _begin(self, what: str) -> None:
        self.depth.append(what)
        if self.depth[0] != "VCALENDAR":
            raise InvalidCalendarError("invalid iCalendar text: expected BEGIN:VCALENDAR around everything")
        self.began = True
        self._keep = self.depth[1:] == ["VEVENT"]
        self.events += self._keep
        if self.events > MAX_EVENTS:
            raise InvalidCalendarError(f"the iCalendar text has more than {MAX_EVENTS} events: leave old ones out")

    def _end(self, what: str) -> None:
        self._keep = self.depth[1:] == ["VEVENT"]
        if not self.depth or self.depth.pop() != what:
            raise InvalidCalendarError(f"invalid iCalendar text: END:{_shown(what)} without its BEGIN")


def _kept(text: str) -> bytes:
    """The text without all that does not say when an event is."""
    lines = _Lines()
    for line in re.split(r"\r\n|\n|\r", text):
        lines.take(line)
    if lines.depth or not lines.began:
        missing = f"END:{_shown(lines.depth[-1])} is missing" if lines.depth else "expected BEGIN:VCALENDAR first"
        raise InvalidCalendarError(f"invalid iCalendar text: {missing}")
    return "\r\n".join([*lines.kept, "END:VCALENDAR", ""]).encode("utf-8", "replace")


def _parsed(text: str) -> "list[Event]":
    """The events. Raises ImportError without the extra."""
    from icalendar import Calendar  # noqa: PLC0415 - an extra, loaded by those who use it

    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidCalendarError(f"the iCalendar text is over {MAX_BYTES} bytes: split it, or leave old events out")
    try:
        parsed = Calendar.from_ical(_kept(text))
    except NatscronError:
        raise
    except Exception as error:  # noqa: BLE001 - the text may be anything, and so may what the parser raises
        raise InvalidCalendarError(f"invalid iCalendar text: {_shown(error)}") from None
    return parsed.events


def _wall(moment: dt.date) -> int:
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime(moment.year, moment.month, moment.day)  # noqa: DTZ001 - a wall time
    return (moment.replace(tzinfo=None) - _EPOCH) // _SECOND


def _named(tzid: str) -> Zone:
    try:
        return zone_named(tzid)
    except ValidationError:
        from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON  # noqa: PLC0415 - an extra

        known = WINDOWS_TO_OLSON.get(tzid)
        if known is None:
            raise InvalidCalendarError(
                f"unknown TZID '{_shown(tzid)}': give an IANA name such as Europe/Berlin"
            ) from None
        return zone_named(known)


def _moment(value: dt.date, tzid: str | None) -> _Moment:
    if not isinstance(value, dt.datetime):
        return _Moment(_wall(value), None, all_day=True)
    if tzid:
        return _Moment(_wall(value), _named(tzid), all_day=False)
    return _Moment(_wall(value), None if value.tzinfo is None else zone_named("UTC"), all_day=False)


def _tzid(prop: Any) -> str | None:  # noqa: ANN401 - a property of the package, of several classes
    found = prop.params.get("TZID")
    return str(found) if found else None


def _moved(moment: _Moment, to: Zone, default: Zone) -> int:
    """The wall time in another zone; all-day and floating times show the same everywhere."""
    zone = moment.zone or default
    if moment.all_day or zone is to:
        return moment.wall
    instant = moment.wall - offset_at(zone, moment.wall)
    instant = moment.wall - offset_at(zone, instant)
    return instant + offset_at(to, instant)


def _one(event: "Event", name: str) -> Any:  # noqa: ANN401 - as above
    found = event.get(name)
    if isinstance(found, list):
        raise InvalidCalendarError(f"an event has more than one {name}")
    return found


def _many(event: "Event", name: str) -> list[Any]:
    found = event.get(name, [])
    return found if isinstance(found, list) else [found]


class _Reader:
    """Reads events one after the other into spans by zone."""

    def __init__(self, default: Zone) -> None:
        self.default = default
        self.single: dict[Zone, list[tuple[int, int]]] = {}
        self.recurring: dict[Zone, list[_Recurring]] = {}
        self.moved: dict[str, list[_Moment]] = {}
        """By UID, the occurrences that other events stand for."""
        self.count = 0
        self.rules: set[Rule] = set()
        self.per_year = 0

    def override(self, event: "Event") -> None:
        """Note that the event stands for one occurrence of another one, if it does."""
        for name, why in event.errors:
            raise InvalidCalendarError(f"an event's {name or 'line'} cannot be read: {_shown(why)}")
        at = _one(event, "RECURRENCE-ID")
        if at is None:
            return
        if "RANGE" in at.params:
            raise InvalidCalendarError("RECURRENCE-ID with RANGE is not supported: end the first rule by UNTIL instead")
        self.moved.setdefault(str(event.get("UID", "")), []).append(_moment(at.dt, _tzid(at)))

    def read(self, event: "Event") -> None:
        """Add the event's spans."""
        if str(event.get("STATUS", "")).upper() == "CANCELLED" or str(event.get("TRANSP", "")).upper() == "TRANSPARENT":
            return
        begin = _one(event, "DTSTART")
        if begin is None:
            raise InvalidCalendarError("an event has no DTSTART")
        start = _moment(begin.dt, _tzid(begin))
        zone = start.zone or self.default
        length = self._length(event, start, zone)
        spans = self.single.setdefault(zone, [])
        without, without_days = self._without(event, zone)
        if event.get("EXRULE") is not None:
            raise InvalidCalendarError("EXRULE is not supported: list the days as EXDATE")
        rules = _many(event, "RRULE") if event.get("RECURRENCE-ID") is None else []
        for rule in rules:
            self._recur(rule.to_ical().decode(), start.wall, zone, (length, without, without_days))
        if not rules and start.wall not in without and start.wall // _DAY not in without_days:
            spans.append((start.wall, start.wall + length))
        for item, tzid in self._dates(event, "RDATE"):
            period = item if isinstance(item, tuple) else (item, None)
            first = _moved(_moment(period[0], tzid), zone, self.default)
            last = first + length
            if isinstance(period[1], dt.timedelta):
                last = first + period[1] // _SECOND
            elif period[1] is not None:
                last = _moved(_moment(period[1], tzid), zone, self.default)
            if first not in without and first // _DAY not in without_days:
                spans.append((first, last))

    def _length(self, event: "Event", start: _Moment, zone: Zone) -> int:
        """How long the event lasts on the wall, in seconds."""
        end, duration = _one(event, "DTEND"), _one(event, "DURATION")
        if end is not None and duration is not None:
            raise InvalidCalendarError("an event has both DTEND and DURATION: give one")
        if end is not None:
            length = _moved(_moment(end.dt, _tzid(end)), zone, self.default) - start.wall
        elif duration is not None:
            length = duration.dt // _SECOND
        else:
            length = _DAY if start.all_day else 0
        if length < 0:
            raise InvalidCalendarError(f"an event ends before it starts, at {_EPOCH + start.wall * _SECOND}")
        return length

    def _dates(self, event: "Event", name: str) -> Iterator[tuple[Any, str | None]]:
        for prop in _many(event, name):
            for item in prop.dts:
                yield item.dt, _tzid(prop) or _tzid(item)

    def _without(self, event: "Event", zone: Zone) -> tuple[frozenset[int], frozenset[int]]:
        """The wall seconds and the days at which the event does not recur."""
        moments = [_moment(item, tzid) for item, tzid in self._dates(event, "EXDATE")]
        if event.get("RECURRENCE-ID") is None:
            moments += self.moved.get(str(event.get("UID", "")), [])
        walls = [(_moved(moment, zone, self.default), moment.all_day) for moment in moments]
        return (
            frozenset(wall for wall, all_day in walls if not all_day),
            frozenset(wall // _DAY for wall, all_day in walls if all_day),
        )

    def _recur(self, text: str, start: int, zone: Zone, what: tuple[int, frozenset[int], frozenset[int]]) -> None:
        length, without, without_days = what
        try:
            rule = parse_rule(text)
            walls = walls_of(rule, start) if rule.freq in _COARSE else None
        except (ValidationError, ValueError) as error:
            raise InvalidCalendarError(f"invalid RRULE '{_shown(text)}' of an event: {error}") from None
        if walls is None:
            raise InvalidCalendarError(f"FREQ={rule.freq} is too fine for a calendar: use DAILY or coarser")
        if length > _YEAR:
            raise InvalidCalendarError("a recurring event lasts longer than a year: give it as dates")
        last = NEVER - 1
        if rule.until is not None:
            last = rule.until.second + (offset_at(zone, rule.until.second) if rule.until.in_utc else 0)
        self.count += 1
        if rule.weeks or rule.year_days or rule.weekdays or rule.positions:
            self.rules.add(rule._replace(interval=1, most=None, until=None))
        if len(self.rules) > MAX_RULES:
            raise InvalidCalendarError(f"more than {MAX_RULES} different rules: split the calendar")
        if self.count > MAX_RECURRING:
            raise InvalidCalendarError(f"more than {MAX_RECURRING} events recur: split the calendar")
        self.per_year += walls.count(start, min(start + _YEAR, last + 1))
        if self.per_year > MAX_PER_YEAR:
            raise InvalidCalendarError(
                f"events recur more than {MAX_PER_YEAR} times a year: use weekly windows, or split the calendar"
            )
        walls = _From(walls, start)
        self.recurring.setdefault(zone, []).append(_Recurring(walls, length, last, without, without_days))


class _From:
    """Those from a first wall second on."""

    __slots__ = ("_first", "_inner")

    def __init__(self, inner: Walls, first: int) -> None:
        self._inner = inner
        self._first = first

    def after(self, wall: int) -> int:
        return self._inner.after(max(wall, self._first - 1))

    def before(self, wall: int) -> int:
        found = self._inner.before(wall)
        return found if found >= self._first else -NEVER

    def count(self, start: int, end: int) -> int:
        return self._inner.count(max(start, self._first), end)


def compile_ical(text: str, zone: Zone) -> list[tuple[Spans, Zone]]:
    """The spans that the text's events cover, each with the zone of its wall times; ``zone`` is of those without one.

    Cancelled and transparent events cover nothing, nor do such that last no time. Raises
    :class:`~natscron.errors.InvalidCalendarError`, and nothing else.
    """
    try:
        events = _parsed(text)
        reader = _Reader(zone)
        for event in events:
            reader.override(event)
        for event in events:
            reader.read(event)
    except ImportError:
        raise InvalidCalendarError(
            "iCalendar text needs icalendar, which is not installed: pip install 'natscron[ical]'"
        ) from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InvalidCalendarError(f"an event cannot be read: {_shown(error)}") from None
    found: list[tuple[Spans, Zone]] = [(StaticSpans(spans), where) for where, spans in reader.single.items() if spans]
    found.extend((_RecurringSpans(recurring), where) for where, recurring in reader.recurring.items())
    return found
