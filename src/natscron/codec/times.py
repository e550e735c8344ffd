"""RFC 3339 text to whole milliseconds since 1970 UTC, and back."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from natscron.errors import InvalidScheduleTimeError
from natscron.model import Ms

__all__ = ["MAX_MS", "ms_to_text", "text_to_ms"]

MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_CACHE_LIMIT: Final = 4096
_seconds: dict[int, str] = {}


def text_to_ms(text: str) -> Ms:
    """The instant that ``text`` names; a finer one than a millisecond is rounded up, so that nothing is ever early.

    An offset (or Z) is mandatory. Raises InvalidScheduleTimeError for anything else, also outside 1970 to 9999.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise InvalidScheduleTimeError(
            f"invalid time {text[:64]!r}: must be RFC 3339 with an offset, like 2026-11-20T09:00:00Z or "
            "2026-11-20T10:00:00+01:00"
        )
    year, month, day, hour, minute, second, fraction, _, sign, off_h, off_m = match.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError as error:
        raise InvalidScheduleTimeError(f"invalid time {text!r}: {error}") from None
    seconds = (moment - _EPOCH) // timedelta(seconds=1)
    if sign is not None:
        if int(off_h) > 23 or int(off_m) > 59:  # noqa: PLR2004 - hours and minutes of an offset
            raise InvalidScheduleTimeError(f"invalid time {text!r}: the offset must be within 23:59")
        offset = int(off_h) * 3600 + int(off_m) * 60
        seconds += offset if sign == "-" else -offset
    millis = seconds * 1000
    if fraction:
        scale = 10 ** len(fraction)
        millis += -(-int(fraction) * 1000 // scale)
    if not 0 <= millis <= MAX_MS:
        raise InvalidScheduleTimeError(f"invalid time {text!r}: must lie in the years 1970 to 9999")
    return millis


def ms_to_text(instant_ms: Ms) -> str:
    """``instant_ms`` as RFC 3339 with three decimals and Z; values outside the years 1 to 9999 are clamped."""
    second, millis = divmod(instant_ms, 1000)
    prefix = _seconds.get(second)
    if prefix is None:
        prefix = _prefix(second)
    return f"{prefix}{millis:03d}Z"


def _prefix(second: int) -> str:
    low = -62_135_596_800  # the year 1
    moment = _EPOCH + timedelta(seconds=min(max(second, low), MAX_MS // 1000))
    text = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}T{moment:%H:%M:%S}."
    if len(_seconds) >= _CACHE_LIMIT:
        _seconds.clear()
    _seconds[second] = text
    return text
