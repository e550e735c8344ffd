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
_DAY_S: Final = 86_400
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
        offset_s = 0
        if zone not in "Zz":
            clock = dt.time.fromisoformat(zone[1:])
            offset_s = (clock.hour * 60 + clock.minute) * (-60 if zone[0] == "-" else 60)
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    since = moment - _EPOCH
    instant_ms = (since.days * _DAY_S + since.seconds - offset_s) * 1000
    if fraction:
        instant_ms -= -int(fraction) * 1000 // 10 ** len(fraction)
    return _checked(text, instant_ms)


def resolve_instant(text: str, now_ms: int) -> int:
    """As :func:`parse_instant`; also takes ``in 5m``, counted from ``now_ms``."""
    stripped = text.strip()
    found = _RELATIVE.fullmatch(stripped) if stripped.startswith("in") else None
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
