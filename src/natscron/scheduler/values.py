"""What callers give, as what is stored: durations, instants, ids, payloads."""

import datetime as dt
from typing import Any, Final, TypeAlias

import msgspec

from natscron.durations import parse_duration_ms
from natscron.errors import EmptyJobIDError, LimitExceededError, ValidationError
from natscron.model import Ms
from natscron.schedule.base import ms_of

__all__ = ["Duration", "instant_ms", "job_id", "millis", "moment", "payload_of", "seconds"]

Duration: TypeAlias = str | dt.timedelta | float
"""Duration text (``30s``, ``1h30m``), a timedelta, or seconds."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
_MAX_ID: Final = 255
_MAX_PAYLOAD: Final = 524_288


def millis(value: Duration, what: str, *, least: Ms = 0) -> Ms:
    """The duration in whole milliseconds, a finer one rounded up. Raises ValidationError, which names ``what``."""
    if isinstance(value, str):
        try:
            found = parse_duration_ms(value)
        except ValidationError as error:
            raise ValidationError(f"{what}: {error} (such as 30s, 5m or 1h30m)") from None
    elif isinstance(value, dt.timedelta):
        found = -(-value // _MS)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = -int(-value * 1000 // 1)
        except (ValueError, OverflowError):
            raise ValidationError(f"{what} must be a duration; got {value!r}") from None
    else:
        raise ValidationError(f"{what} must be text such as '30s', a timedelta or seconds; got {value!r:.80}")
    if found < least:
        raise ValidationError(f"{what} must be at least {least} ms; got {value!r:.80}")
    return found


def seconds(value: Duration, what: str) -> float:
    """The duration in seconds."""
    return millis(value, what) / 1000


def job_id(value: object) -> str:
    """A job's id: 1 to 255 characters, none of them NUL. Raises EmptyJobIDError and ValidationError."""
    if not isinstance(value, str):
        raise ValidationError(f"a job's id is text; got {value!r:.80}")
    if not value:
        raise EmptyJobIDError("job ID cannot be empty: give the job a name")
    if len(value) > _MAX_ID or "\x00" in value:
        raise ValidationError(f"job id {value!r:.80}: at most {_MAX_ID} characters, none of them NUL; shorten it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"job id {value!r:.80} has half of a surrogate pair, which no store takes") from None
    return value


def payload_of(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The payload as it will be read back; UNSET for None. Raises ValidationError for what JSON cannot say."""
    if value is None or value is msgspec.UNSET:
        return msgspec.UNSET
    try:
        raw = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ValidationError(f"the payload must be JSON (dict, list, text, number, bool): {error}") from None
    if len(raw) > _MAX_PAYLOAD:
        raise LimitExceededError(
            f"payload: {len(raw)} bytes, and the limit is {_MAX_PAYLOAD}; store the data elsewhere, give a reference"
        )
    return msgspec.json.decode(raw)


def instant_ms(value: dt.datetime, what: str) -> Ms:
    """An aware datetime in milliseconds. Raises ValidationError (InvalidScheduleTimeError) for a naive one."""
    if not isinstance(value, dt.datetime):
        raise ValidationError(f"{what} must be an aware datetime; got {value!r:.80}")
    return ms_of(value)


def moment(ms: Ms | None) -> dt.datetime | None:
    """The instant as an aware datetime in UTC."""
    return None if ms is None else _EPOCH + ms * _MS
