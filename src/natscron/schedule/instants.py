"""Instants as text: RFC 3339 with an offset, in; UTC with ``Z``, out."""

import datetime as dt
import re
from typing import Final

from natscron.durations import parse_duration_ms
from natscron.errors import InvalidScheduleTimeError, ValidationError
from natscron.schedule.base import MAX_MS, instant_of

__all__ = ["format_instant", "parse_instant", "resolve_instant"]

_FORM: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,32}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_RELATIVE: Final = re.compile(r"in\s+(\S.*)", re.DOTALL)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MAX_SHOWN: Final = 64


def _wrong(text: str, why: str) -> InvalidScheduleTimeError:
    shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    return InvalidScheduleTimeError(f"invalid instant '{shown}': {why}")


def _checked(text: str, ms: int) -> int:
    if not 0 <= ms <= MAX_MS:
        raise _wrong(text, "it lies outside the years 1970 to 9999")
    return ms


def parse_instant(text: str) -> int:
    """Milliseconds since 1970 UTC of an RFC 3339 instant with an offset; a finer one is rounded up, never early.

    Bounds: 1970 to 9999. Raises :class:`~natscron.errors.InvalidScheduleTimeError` for anything else.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise _wrong(text, "expected RFC 3339 with an offset, such as 2030-01-31T09:00:00+01:00 or ...T08:00:00Z")
    date, time, fraction, zone = found.groups()
    try:
        moment = dt.datetime.fromisoformat(f"{date}T{time}+00:00")
        offset = dt.timedelta()
        if zone not in "Zz":
            clock = dt.time.fromisoformat(zone[1:])
            offset = dt.timedelta(hours=clock.hour, minutes=clock.minute)
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    second = (moment - _EPOCH) // dt.timedelta(seconds=1)
    second += (1 if zone[0] == "-" else -1) * (offset // dt.timedelta(seconds=1))
    digits = fraction or "0"
    return _checked(text, second * 1000 - (-int(digits) * 1000 // 10 ** len(digits)))


def resolve_instant(text: str, now_ms: int) -> int:
    """As :func:`parse_instant`; also takes ``in 5m``, counted from ``now_ms``."""
    stripped = text.strip()
    found = _RELATIVE.fullmatch(stripped)
    if found is None:
        return parse_instant(stripped)
    try:
        return _checked(text, now_ms + parse_duration_ms(found[1]))
    except InvalidScheduleTimeError:
        raise
    except ValidationError as error:
        raise _wrong(text, str(error)) from None


def format_instant(ms: int) -> str:
    """RFC 3339 in UTC; milliseconds only if there are any. ``ms`` from 0 to the end of 9999."""
    text = instant_of(ms).isoformat(timespec="milliseconds" if ms % 1000 else "seconds")
    return text.removesuffix("+00:00") + "Z"
