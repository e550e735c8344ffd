"""Reading an RFC 5545 recurrence rule into numbers: no zone, no start, nothing expanded.

Only what the RFC allows is taken. Parts that it forbids together are refused with the reason, because libraries differ
in what they make of them, mostly by leaving one out without a word.
"""

import contextlib
import datetime as dt
import re
from typing import Final, NamedTuple

from natscron.errors import ValidationError

__all__ = ["FREQUENCIES", "MAX_COUNT", "MAX_RULE", "Rule", "Until", "parse_rule"]

MAX_RULE: Final = 2048
"""Characters of the longest rule that is looked at."""
MAX_COUNT: Final = 1_000
"""The most occurrences that a COUNT may ask for."""

FREQUENCIES: Final = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY")
"""From the coarsest to the finest."""

_MAX_INTERVAL: Final = 100_000
_MAX_ITEMS: Final = 366
_MAX_SHOWN: Final = 64
_WEEKDAYS: Final = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_LINE: Final = re.compile(r"\s*(DTSTART|DTEND|DURATION|EXDATE|RDATE|EXRULE)\b", re.IGNORECASE)
_REMEDIES: Final = {
    "DTSTART": "give the start as 'start_at' and the zone as 'tz'",
    "DTEND": "a schedule has slots, not spans",
    "DURATION": "a schedule has slots, not spans",
    "EXDATE": "put the dates into a calendar under 'except'",
    "RDATE": "add the instants as 'at' schedules under 'any'",
    "EXRULE": "put the rule under 'except'",
}
_DAY: Final = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,6}")
_UNTIL: Final = re.compile(r"([0-9]{8})(?:T([0-9]{6})(Z)?)?")
_NTH: Final = 53
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Until(NamedTuple):
    """The inclusive end of a rule."""

    second: int
    """Seconds since 1970: in UTC, or on the wall. A date alone is its last second."""
    in_utc: bool


class Rule(NamedTuple):
    """The parts of a rule. Tuples are sorted, without repetition, and empty if the part is not given."""

    freq: str
    interval: int = 1
    most: int | None = None
    """COUNT."""
    until: Until | None = None
    months: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    weeks: tuple[int, ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    """(weekday from Monday = 0, n); n is 0 without a number before the weekday."""
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    week_start: int = 0
    """A weekday from Monday = 0."""

    @property
    def fine(self) -> bool:
        """HOURLY or finer."""
        return self.freq in {"HOURLY", "MINUTELY", "SECONDLY"}


class _Bounds(NamedTuple):
    field: str
    low: int
    high: int
    signed: bool = False


_LISTS: Final = {
    "BYMONTH": _Bounds("months", 1, 12),
    "BYMONTHDAY": _Bounds("month_days", 1, 31, signed=True),
    "BYYEARDAY": _Bounds("year_days", 1, 366, signed=True),
    "BYWEEKNO": _Bounds("weeks", 1, 53, signed=True),
    "BYHOUR": _Bounds("hours", 0, 23),
    "BYMINUTE": _Bounds("minutes", 0, 59),
    "BYSECOND": _Bounds("seconds", 0, 59),
    "BYSETPOS": _Bounds("positions", 1, 366, signed=True),
}
_KNOWN: Final = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_LISTS)
_FORBIDDEN: Final = {
    "BYWEEKNO": {"MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"},
    "BYYEARDAY": {"MONTHLY", "WEEKLY", "DAILY"},
    "BYMONTHDAY": {"WEEKLY"},
}


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _whole(name: str, text: str, low: int, high: int, *, signed: bool = False) -> int:
    value = int(text) if _NUMBER.fullmatch(text) and text.isascii() else 0
    if not low <= (abs(value) if signed else value) <= high or not text[-1:].isdigit():
        sign = f", or -{high} to -{low}" if signed else ""
        raise ValidationError(f"{name} takes numbers from {low} to {high}{sign}; it has '{_shown(text)}'")
    return value


def _items(name: str, value: str) -> list[str]:
    items = value.split(",")
    if len(items) > _MAX_ITEMS:
        raise ValidationError(f"{name} has {len(items)} items; at most {_MAX_ITEMS}")
    return items


def _weekdays(value: str) -> tuple[tuple[int, int], ...]:
    found = set()
    for item in _items("BYDAY", value):
        day = _DAY.fullmatch(item)
        n = int(day[1] or 0) if day else 0
        if day is None or (day[1] and not 1 <= abs(n) <= _NTH):
            raise ValidationError(
                f"BYDAY takes {', '.join(_WEEKDAYS)}, or such as 1MO and -1FR; it has '{_shown(item)}'"
            )
        found.add((_WEEKDAYS.index(day[2]), n))
    return tuple(sorted(found))


def _until(value: str) -> Until:
    found = _UNTIL.fullmatch(value)
    if found is not None:
        date, clock = found[1], found[2] or "235959"
        digits = (date[:4], date[4:6], date[6:], clock[:2], clock[2:4], clock[4:])
        with contextlib.suppress(ValueError):  # no such day or time
            moment = dt.datetime(*map(int, digits), tzinfo=dt.UTC)  # type: ignore[arg-type, misc]  # six numbers
            if moment.year >= _EPOCH.year:
                return Until((moment - _EPOCH) // dt.timedelta(seconds=1), in_utc=bool(found[3]))
    raise ValidationError(
        f"UNTIL takes a date (20301231, inclusive), a wall time (20301231T090000) or an instant (20301231T080000Z) "
        f"from 1970 on; it has '{_shown(value)}'"
    )


def _parts(text: str) -> dict[str, str]:
    if len(text) > MAX_RULE:
        raise ValidationError(f"longer than {MAX_RULE} characters")
    for line in text.splitlines():
        if found := _LINE.match(line):
            name = found[1].upper()
            raise ValidationError(f"{name} has no place in a rule: {_REMEDIES[name]}")
    text = text.strip().upper().removeprefix("RRULE:")
    if "\n" in text or "\r" in text:
        raise ValidationError("more than one line: several rules go under 'any'")
    parts: dict[str, str] = {}
    for pair in text.rstrip(";").split(";"):
        name, equals, value = pair.partition("=")
        if not (equals and value):
            raise ValidationError(f"expected parts such as FREQ=DAILY;BYHOUR=9; found '{_shown(pair)}'")
        if name not in _KNOWN:
            raise ValidationError(f"unknown part {_shown(name)}: known are {', '.join(_KNOWN)}")
        if name in parts:
            raise ValidationError(f"{name} is given twice")
        parts[name] = value
    return parts


def _checked(rule: Rule, given: dict[str, str]) -> None:
    for name, frequencies in _FORBIDDEN.items():
        if name in given and rule.freq in frequencies:
            raise ValidationError(f"{name} does not go with FREQ={rule.freq} (RFC 5545, 3.3.10)")
    numbered = any(n for _, n in rule.weekdays)
    if numbered and rule.freq not in {"YEARLY", "MONTHLY"}:
        raise ValidationError(f"BYDAY takes no numbers with FREQ={rule.freq}: 1MO needs MONTHLY or YEARLY")
    if numbered and rule.weeks:
        raise ValidationError("BYDAY takes no numbers beside BYWEEKNO (RFC 5545, 3.3.10)")
    if rule.positions and not any(name.startswith("BY") and name != "BYSETPOS" for name in given):
        raise ValidationError("BYSETPOS picks from what other BY parts give: add one, such as BYDAY")
    if rule.most is not None and rule.until is not None:
        raise ValidationError("COUNT and UNTIL cannot both end a rule: give one")


def parse_rule(text: str) -> Rule:
    """Parse ``FREQ=...;...``, with or without ``RRULE:`` before it, in either case.

    Bounds: 2048 characters, INTERVAL 1 to 100,000, COUNT 1 to 1,000. Raises
    :class:`~natscron.errors.ValidationError` with the part, the value and what would be right.
    """
    given = _parts(text)
    freq = given.get("FREQ")
    if freq not in FREQUENCIES:
        raise ValidationError(f"FREQ must be one of {', '.join(FREQUENCIES)}; it is {_shown(freq or 'missing')}")
    lists = {
        bounds.field: tuple(
            sorted(
                {
                    _whole(name, item, bounds.low, bounds.high, signed=bounds.signed)
                    for item in _items(name, given[name])
                }
            )
        )
        for name, bounds in _LISTS.items()
        if name in given
    }
    week_start = given.get("WKST", "MO")
    if week_start not in _WEEKDAYS:
        raise ValidationError(f"WKST takes one of {', '.join(_WEEKDAYS)}; it has '{_shown(week_start)}'")
    rule = Rule(
        freq,
        _whole("INTERVAL", given.get("INTERVAL", "1"), 1, _MAX_INTERVAL),
        _whole("COUNT", given["COUNT"], 1, MAX_COUNT) if "COUNT" in given else None,
        _until(given["UNTIL"]) if "UNTIL" in given else None,
        weekdays=_weekdays(given["BYDAY"]) if "BYDAY" in given else (),
        week_start=_WEEKDAYS.index(week_start),
        **lists,
    )
    _checked(rule, given)
    return rule
