"""What nats-server is told so that it times a schedule.

The server takes one instant, or six cron fields; our schedules are said to it exactly or not at all. Its own intervals
(``@every``) are not used: after a crash it begins to count anew, so no grid would hold. An interval whose steps come at
the same places of every minute, hour or day is said as cron, which has no phase to lose.
"""

from typing import Final, NamedTuple

import msgspec

from natscron.durations import parse_duration
from natscron.errors import InvalidScheduleError
from natscron.model import Ms, ScheduleSpec, Timer
from natscron.schedule.base import MAX_MS
from natscron.schedule.instants import format_instant, resolve_instant
from natscron.schedule.plain import kind_of, zone_of
from natscron.schedule.serverwords import cron_timing

__all__ = ["ServerTiming", "on_server_grid", "server_timing"]

_SECOND_MS: Final = 1_000
_SECOND_NS: Final = 1_000_000_000
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400
_INEXPRESSIBLE: Final = (
    ("any", "a union"),
    ("rrule", "an RRULE"),
    ("solar", "the sun"),
    ("kind", "a class of the application"),
    ("except_", "'except'"),
    ("run_at_start", "run_at_start"),
    ("not_before", "not_before"),
    ("not_after", "not_after"),
    ("max_runs", "max_runs"),
    ("jitter", "jitter"),
)


class ServerTiming(NamedTuple):
    """When the server shall fire, in its own words. ``at_ms``: the instant of a schedule that fires once."""

    text: str
    tz: str = ""
    at_ms: Ms | None = None


def on_server_grid(
    spec: ScheduleSpec, now_ms: Ms, before: ScheduleSpec | None = None, anchor_ms: Ms | None = None
) -> ScheduleSpec:
    """An interval that the server times gets a start at a whole second, since it fires at those.

    ``before``: the schedule that is stored; if it is the same but for that start, or who times it, the start is kept.
    ``anchor_ms``: the job's creation, if it is there already; then the steps stay where they are but for the rounding.
    """
    if spec.start_at or not spec.every:
        return spec
    timed = before is not None and before.timer is not None
    if timed and before is not None and msgspec.structs.replace(before, start_at=None, timer=spec.timer) == spec:
        return msgspec.structs.replace(spec, start_at=before.start_at)
    if spec.timer is None:
        return spec
    step_ms = parse_duration(spec.every) // 1_000_000
    first_ms = now_ms + step_ms
    if anchor_ms is not None and step_ms > 0:
        first_ms = anchor_ms + (max(now_ms - anchor_ms, 0) // step_ms + 1) * step_ms
    first_ms = -(-first_ms // _SECOND_MS) * _SECOND_MS
    return msgspec.structs.replace(spec, start_at=format_instant(min(first_ms, MAX_MS)))


def server_timing(spec: ScheduleSpec, now_ms: Ms) -> ServerTiming:
    """What the server is told for a schedule. ``now_ms``: from when on clock changes count.

    Raises InvalidScheduleError, naming the value, the rule and the remedy, for what it cannot be told exactly.
    """
    for field, name in _INEXPRESSIBLE:
        if getattr(spec, field):
            raise _refused(f"a schedule with {name}", "nats-server times one cron expression, interval or instant")
    kind, text = kind_of(spec)
    if kind == "at":
        at_ms = resolve_instant(text, now_ms)
        return ServerTiming(f"@at {format_instant(at_ms)}", at_ms=at_ms)
    if kind == "every":
        if not spec.start_at:
            raise _refused(f"an interval of {text} without a start", "the server has no other grid; make it by every()")
        return ServerTiming(_interval(text, parse_duration(text), resolve_instant(spec.start_at, now_ms)))
    try:
        timing = cron_timing(text, zone_of(spec), now_ms // _SECOND_MS)
    except InvalidScheduleError as error:
        # Its advice is for who takes the server's rules for clock changes; a job has its own.
        raise _refused(f"'{text[:64]}'", str(error).partition(". Move the time")[0]) from None
    if timing.warnings:
        raise _refused(f"'{text[:64]}'", timing.warnings[0])
    return ServerTiming(timing.text, timing.tz)


def _interval(text: str, interval_ns: int, start_ms: Ms) -> str:
    """The steps of an interval as six cron fields in UTC."""
    every, part = divmod(interval_ns, _SECOND_NS)
    if part or start_ms % _SECOND_MS:
        what = f"an interval of {text}" if part else f"the start {format_instant(start_ms)}"
        raise _refused(what, "nats-server fires at whole seconds")
    phase = start_ms // _SECOND_MS % every if every else 0
    second, minute, hour = phase % _MINUTE, phase // _MINUTE % 60, phase // _HOUR
    if 0 < every < _MINUTE and not _MINUTE % every:
        return f"{_step(phase, every)} * * * * *"
    if not every % _MINUTE and 0 < every < _HOUR and not _HOUR % every:
        return f"{second} {_step(minute, every // _MINUTE)} * * * *"
    if not every % _HOUR and 0 < every < _DAY and not _DAY % every:
        return f"{second} {minute} {_step(hour, every // _HOUR)} * * *"
    if every == _DAY:
        return f"{second} {minute} {hour} * * *"
    raise _refused(
        f"an interval of {text}",
        "its steps must come at the same places of every minute, hour or day (10s, 5m, 1h, 8h, 24h), because "
        "nats-server loses count of any other when it crashes",
    )


def _step(first: int, step: int) -> str:
    return "*" if step == 1 else f"{first}/{step}"


def _refused(what: str, rule: str) -> InvalidScheduleError:
    return InvalidScheduleError(
        f"timer '{Timer.SERVER}' is not possible for {what}: {rule}; change that, or use timer='{Timer.LEADER}'"
    )
