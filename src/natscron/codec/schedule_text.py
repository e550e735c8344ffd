"""Schedules as the Go library stores them: a type word and a text.

| type | text |
|---|---|
| ``interval`` | Go duration text, ``1h30m1.5s`` |
| ``once`` | an instant, RFC 3339 with up to nine decimals, in UTC |
| ``start_at_interval`` | instant and duration, with ``|`` between them |
| ``cron`` | five fields, also behind ``TZ=Zone`` or ``CRON_TZ=Zone`` |

A schedule that says no more than that is written so, and the Go library reads it. A class that the application
registered is its kind (which has a dot) and its config. Anything else is ``natscron`` and the schedule as JSON.
"""

import re
from collections.abc import Callable
from typing import Final

import msgspec

from natscron.codec.gojson import decode
from natscron.codec.spec import read_schedule, schedule_json
from natscron.codec.times import ms_to_text, text_to_ms
from natscron.durations import format_duration, parse_duration
from natscron.errors import (
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    MalformedInputError,
    ValidationError,
)
from natscron.model import ScheduleSpec

__all__ = ["OWN_TYPE", "schedule_from_text", "schedule_to_text"]

OWN_TYPE: Final = "natscron"

_INTERVAL: Final = "interval"
_ONCE: Final = "once"
_START_AT: Final = "start_at_interval"
_CRON: Final = "cron"
_GO_FIELDS: Final = 5
_NANO_DIGITS: Final = 9
_FRACTION: Final = re.compile(r"\.(\d+)", re.ASCII)
_ZONE: Final = re.compile(r"(?:CRON_)?TZ=\S+\s+")


def schedule_to_text(spec: ScheduleSpec) -> tuple[str, str]:
    """Type and text. What the Go types cannot say exactly goes as JSON, also texts that cannot be read."""
    return _go_text(spec) or (OWN_TYPE, msgspec.json.encode(schedule_json(spec)).decode())


def schedule_from_text(kind: str, config: str) -> ScheduleSpec:
    """The schedule. Raises InvalidScheduleError (or one under it) for an unknown type and a text that is none.

    An instant with an offset is kept as it is. Whether a cron expression matches anything is seen when it is compiled.
    """
    read = _READERS.get(kind)
    if read is not None:
        if not config:
            raise InvalidScheduleError(f"invalid schedule configuration: {kind} with an empty text")
        return read(config)
    if "." in kind:
        return ScheduleSpec(kind=kind, config=config or None)
    known = ", ".join(_READERS)
    raise InvalidScheduleError(
        f"unsupported schedule type {kind[:64]!r}; known are {known}, and registered kinds, which have a dot"
    )


def _go_text(spec: ScheduleSpec) -> tuple[str, str] | None:
    """None: the Go types cannot say it."""
    if spec.every is not None and spec == ScheduleSpec(every=spec.every, start_at=spec.start_at):
        return _every_text(spec.every, spec.start_at)
    if spec.at is not None and spec == ScheduleSpec(at=spec.at):
        instant = _utc_nano(spec.at)
        return None if instant is None else (_ONCE, instant)
    if spec.cron is not None and spec == ScheduleSpec(cron=spec.cron):
        fields = _ZONE.sub("", spec.cron.strip(), count=1).split()
        return (_CRON, spec.cron) if len(fields) == _GO_FIELDS else None
    if spec.kind is not None and "." in spec.kind and spec == ScheduleSpec(kind=spec.kind, config=spec.config):
        return spec.kind, spec.config or ""
    return None


def _every_text(every: str, start_at: str | None) -> tuple[str, str] | None:
    try:
        _check_duration(every)
    except InvalidIntervalError:
        return None
    duration = format_duration(parse_duration(every))
    if start_at is None:
        return _INTERVAL, duration
    start = _utc_nano(start_at)
    return None if start is None else (_START_AT, f"{start}|{duration}")


def _utc_nano(text: str) -> str | None:
    """The instant in UTC as Go writes it, to the nanosecond and without trailing zeros; None: it is not one."""
    found = _FRACTION.search(text)
    digits = found[1].rstrip("0") if found else ""
    if len(digits) > _NANO_DIGITS:
        return None
    whole = text if found is None else text[: found.start()] + text[found.end() :]
    try:
        text_to_ms(text)
        second = ms_to_text(text_to_ms(whole)).partition(".")[0]
    except InvalidScheduleTimeError:
        return None
    return second + (f".{digits}Z" if digits else "Z")


def _interval(config: str) -> ScheduleSpec:
    _check_duration(config)
    return ScheduleSpec(every=config)


def _once(config: str) -> ScheduleSpec:
    text_to_ms(config)
    return ScheduleSpec(at=config)


def _start_at_interval(config: str) -> ScheduleSpec:
    start, bar, duration = config.partition("|")
    if not bar or "|" in duration:
        raise InvalidScheduleError(
            f"invalid schedule configuration {config[:64]!r}: must be an instant and a duration with one | between them"
        )
    text_to_ms(start)
    _check_duration(duration)
    return ScheduleSpec(every=duration, start_at=start)


def _cron(config: str) -> ScheduleSpec:
    if not config.strip():
        raise InvalidCronExpressionError("invalid schedule configuration: a cron expression without fields")
    return ScheduleSpec(cron=config)


def _own(config: str) -> ScheduleSpec:
    try:
        found = read_schedule(decode(config))
    except InvalidScheduleError:
        raise
    except (MalformedInputError, ValidationError) as error:
        raise InvalidScheduleError(f"invalid schedule configuration: {error}") from None
    if found is None:
        raise InvalidScheduleError("invalid schedule configuration: null")
    return found


def _check_duration(text: str) -> None:
    try:
        nanos = parse_duration(text)
    except ValidationError as error:
        raise InvalidIntervalError(f"invalid interval: {error}") from None
    if nanos <= 0:
        raise InvalidIntervalError(f"invalid interval {text!r}: must be positive")


_READERS: Final[dict[str, Callable[[str], ScheduleSpec]]] = {
    _INTERVAL: _interval,
    _ONCE: _once,
    _START_AT: _start_at_interval,
    _CRON: _cron,
    OWN_TYPE: _own,
}
