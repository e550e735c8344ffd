"""What callers give, as what is stored: instants, durations, headers, bodies. Pure."""

import datetime as dt
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from natscron.codec import check_headers
from natscron.codec.times import MAX_MS
from natscron.durations import parse_duration
from natscron.errors import InvalidIntervalError, InvalidScheduleTimeError, ValidationError
from natscron.schedule.instants import format_instant, resolve_instant

__all__ = ["Body", "Duration", "Past", "When", "body_of", "due_ms", "duration_ns", "headers_of", "ttl_text"]

Duration: TypeAlias = str | dt.timedelta | float
"""Duration text (``30s``, ``1h30m``), a timedelta, or seconds."""
When: TypeAlias = dt.datetime | dt.timedelta | str
"""An aware datetime, a timedelta from now, RFC 3339 text with an offset, or ``in 5m``."""
Body: TypeAlias = bytes | str
"""Bytes, or text that is sent as UTF-8."""
Past: TypeAlias = Literal["fire", "refuse"]
"""What happens to an instant that is over: it fires at once, or it is refused."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_SECOND_NS: Final = 1_000_000_000
_LAST_MS: Final = 9_223_372_036_854
"""The server counts nanoseconds in 64 bits: what is due later (from April 2262) it would fire at once."""
_MAX_TTL_S: Final = 100 * 366 * 86_400


def due_ms(when: When, now_ms: int, past: Past = "fire") -> int:
    """The instant in milliseconds since 1970 UTC, a finer one rounded up, so that nothing is early.

    Raises InvalidScheduleTimeError: not an instant, no time zone, before 1970, after April 2262, or over (with
    ``past="refuse"``).
    """
    if isinstance(when, dt.datetime):
        if when.tzinfo is None or when.utcoffset() is None:
            raise InvalidScheduleTimeError(
                f"{when.isoformat()} has no time zone: pass an aware datetime, such as datetime.now(UTC)"
            )
        due = -((_EPOCH - when) // _MS)
    elif isinstance(when, dt.timedelta):
        due = now_ms - (-when // _MS)
    elif isinstance(when, str):
        due = resolve_instant(when, now_ms)
    else:
        raise InvalidScheduleTimeError(
            f"{when!r:.80} is no instant: give an aware datetime, a timedelta from now, RFC 3339 text, or 'in 5m'"
        )
    if not 0 <= due <= _LAST_MS:
        raise InvalidScheduleTimeError(
            f"{_shown(due)} lies outside what nats-server can time: from 1970 to {format_instant(_LAST_MS)}"
        )
    if past == "refuse":
        if due <= now_ms:
            raise InvalidScheduleTimeError(
                f'{format_instant(due)} is over; past="fire" (the default) would have it fire at once'
            )
    elif past != "fire":
        raise ValidationError(f"past is 'fire' or 'refuse'; got {past!r:.80}")
    return due


def _shown(ms: int) -> str:
    return format_instant(ms) if 0 <= ms <= MAX_MS else f"{ms} ms since 1970"


def duration_ns(value: Duration, what: str) -> int:
    """The duration in nanoseconds, may be negative. Raises InvalidIntervalError, which names ``what``."""
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValidationError as error:
            raise InvalidIntervalError(f"{what} '{value[:64]}': {error} (such as 30s, 5m or 1h30m)") from None
    if isinstance(value, dt.timedelta):
        return value // _MICROSECOND * 1_000
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return round(value * _SECOND_NS)
        except (ValueError, OverflowError):  # not a number, or infinite
            pass
    raise InvalidIntervalError(f"{what} {value!r:.80} is no duration: give text such as '5m', a timedelta, or seconds")


def ttl_text(value: Duration | None, what: str = "ttl") -> str:
    """How long a generated message lives, in the server's words; empty: as long as the stream says.

    Whole seconds, at least one, at most 100 years; ``never`` keeps it for good even where the stream has an age limit.
    Raises InvalidIntervalError.
    """
    if value is None:
        return ""
    if value == "never":
        return "never"
    ns = duration_ns(value, what)
    if ns % _SECOND_NS or not 1 <= ns // _SECOND_NS <= _MAX_TTL_S:
        raise InvalidIntervalError(f"{what} {value!r:.80}: nats-server takes whole seconds, at least 1s; or 'never'")
    return f"{ns // _SECOND_NS}s"


def headers_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's own headers, checked. Raises ValidationError."""
    if not headers:
        return {}
    found = dict(headers)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValidationError(f"a header is text: text; got {name!r:.80}: {value!r:.80}")
    check_headers(found)
    return found


def body_of(body: Body) -> bytes:
    """The body as bytes. Raises ValidationError."""
    if isinstance(body, bytes):
        return bytes(body)
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError:
            raise ValidationError(f"the body {body[:40]!r} cannot be written as UTF-8") from None
    raise ValidationError(f"the body is bytes or text; got {type(body).__name__}: encode it first")
