"""From a cron expression as our users write it to what nats-server takes, or the reason why that cannot be.

Whoever writes the server's own language (six fields that it takes, a predefined alias) gets the server's rules, and a
warning where clock changes make them differ from ours. Whoever writes ours (five fields, Sunday as 7, ``FRI-MON``)
gets six fields that mean exactly the same, or an error: never nearly the same.

*Exactly* means: the fields have the same values, no slot falls into what a clock change skips or repeats, and the
server's search, followed step by step, finds the same slots around every clock change of the zone that is known, for
28 years ahead (after which weekdays, dates and leap years have met in every way).
"""

from bisect import bisect_right
from functools import lru_cache
from typing import Final, NamedTuple

from natscron.durations import format_duration, parse_duration
from natscron.errors import (
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    ValidationError,
)
from natscron.model import ScheduleSpec
from natscron.schedule.base import instant_of
from natscron.schedule.compile import compile_schedule
from natscron.schedule.cron import CronSchedule, ZonedCronSchedule
from natscron.schedule.pattern import Pattern
from natscron.schedule.plain import HASHED, UTC_NAMES
from natscron.schedule.servercron import ServerCron, parse_server_cron
from natscron.schedule.zones import Zone, generation, zone_named

__all__ = ["MAX_INTERVAL_NS", "Timing", "cron_timing", "every_timing", "server_rules"]

MAX_INTERVAL_NS: Final = (1 << 63) - 1
_SECOND_NS: Final = 1_000_000_000
_YEAR_S: Final = 366 * 86_400
_AHEAD_S: Final = 28 * _YEAR_S
_DAY_S: Final = 86_400
_EVERY: Final = "@every "
_ALIASES: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_SIX: Final = 6
_RUN: Final = 3
"""Values in a row from which on they are written as a range."""
_LOOKS: Final = (-25 * 3600, -1, 0, 1800, 3600, 25 * 3600)
"""Seconds from a clock change at which both searches are compared; the server may look at any time."""


class Timing(NamedTuple):
    """When the server shall fire, in its own words."""

    text: str
    """The value of ``Nats-Schedule``: ``@every 5m0s``, an alias, or six fields."""
    tz: str = ""
    """The value of ``Nats-Schedule-Time-Zone``; empty: UTC."""
    warnings: tuple[str, ...] = ()


def every_timing(interval_ns: int) -> Timing:
    """An interval in nanoseconds. Raises InvalidIntervalError unless it is whole seconds, and at least one.

    The server rounds to whole seconds before it adds the interval, so that ``1500ms`` would fire every two seconds.
    """
    if interval_ns < _SECOND_NS or interval_ns > MAX_INTERVAL_NS:
        raise InvalidIntervalError(
            f"interval {format_duration(interval_ns, short=True)}: nats-server takes 1s at least, and 292 years at most"
        )
    if interval_ns % _SECOND_NS:
        raise InvalidIntervalError(
            f"interval {format_duration(interval_ns, short=True)}: nats-server fires at whole seconds only and would "
            "round each step; give whole seconds, or use a job of the service or the Scheduler"
        )
    return Timing(f"{_EVERY}{format_duration(interval_ns)}")


def cron_timing(expression: str, tz: str | None, now_s: int) -> Timing:
    """A cron expression, or an alias; ``tz`` an IANA name (default: the expression's ``TZ=`` prefix, else UTC).

    ``now_s``: seconds since 1970 UTC, from which clock changes count. Raises
    :class:`~natscron.errors.InvalidCronExpressionError`, which says what cannot be said to the server, and why.
    """
    return _cron_timing(expression, tz or None, now_s // _DAY_S, generation())


@lru_cache(maxsize=1024)
def _cron_timing(expression: str, tz: str | None, day: int, _zone_data: int) -> Timing:
    schedule = _compiled(expression, tz)
    fields = schedule.expression.strip()
    zone = None if schedule.zone_name in UTC_NAMES else zone_named(schedule.zone_name)
    name = zone.name if zone else ""
    now_s = day * _DAY_S
    own = _servers_own(fields)
    if own is not None:
        server = parse_server_cron(own, zone)
        conflict = _conflict(schedule, server, now_s)
        if conflict is None:
            return Timing(fields, name)
        warning = (
            f"clocks: {conflict}; nats-server has rules of its own for that: nothing fires in an hour that is skipped, "
            "and an hour that comes twice fires twice"
        )
        return Timing(fields, name, (warning,))
    text = _six_fields(expression, schedule.pattern)
    conflict = _conflict(schedule, parse_server_cron(text, zone), now_s)
    if conflict is not None:
        raise InvalidCronExpressionError(
            f"'{expression[:64]}' cannot be said to nats-server exactly: {conflict}. Move the time, leave out the "
            f"zone, or write the server's six fields yourself ('{text}') and take its rules for clock changes"
        )
    return Timing(text, name)


def _compiled(expression: str, tz: str | None) -> CronSchedule:
    text = expression.strip()
    if HASHED.search(text):
        raise InvalidCronExpressionError(
            f"'{text[:64]}' has an 'H' or '~', which picks a value out of a job's id: nats-server has no such thing; "
            "write the value"
        )
    try:
        schedule = compile_schedule(ScheduleSpec(cron=text, tz=tz), anchor_ms=0).schedule
    except InvalidCronExpressionError:
        raise
    except InvalidScheduleError as error:
        raise InvalidCronExpressionError(str(error)) from None
    if not isinstance(schedule, CronSchedule):
        raise InvalidCronExpressionError(f"'{text[:64]}' is an interval: use every() for it")
    return schedule


def _servers_own(fields: str) -> str | None:
    """Six fields of what the server takes as it is; None if it has to be translated."""
    if fields.startswith("@"):
        return _ALIASES.get(fields)
    if len(fields.split()) != _SIX:
        return None
    try:
        parse_server_cron(fields, None)
    except InvalidCronExpressionError:
        return None
    return fields


def _six_fields(expression: str, pattern: Pattern) -> str:
    """The server's text for a pattern. Raises InvalidCronExpressionError for what its fields cannot say."""
    days = pattern.days
    for found, form in ((days.last, "L"), (days.near, "W"), (days.nth, "# or nL")):
        if found:
            raise InvalidCronExpressionError(
                f"'{expression[:64]}' uses {form}, which nats-server does not have: use a job of the service or the "
                "Scheduler, or let the worker look at the date"
            )
    return " ".join(
        (
            _list(pattern.seconds, 0, 59),
            _list(pattern.minutes, 0, 59),
            _list(pattern.hours, 0, 23),
            _list(days.dom, 1, 31, star=days.both),
            _list(days.month, 1, 12),
            _list(days.dow, 0, 6, star=days.both),
        )
    )


def _list(mask: int, low: int, high: int, *, star: bool = True) -> str:
    """The values of a mask as one field. ``star`` False: no star, which would change how the day fields combine."""
    values = [value for value in range(low, high + 1) if mask >> value & 1]
    if len(values) == high - low + 1:
        return "*" if star else f"{low}-{high}"
    if len(values) >= _RUN:
        step = values[1] - values[0]
        if step > 1 and values == list(range(low, high + 1, step)):
            return f"*/{step}"
    parts: list[str] = []
    while values:
        length = next((i for i, value in enumerate(values) if value != values[0] + i), len(values))
        taken = length if length >= _RUN else 1
        parts.append(str(values[0]) if taken == 1 else f"{values[0]}-{values[taken - 1]}")
        values = values[taken:]
    return ",".join(parts)


def _conflict(schedule: CronSchedule, server: ServerCron, now_s: int) -> str | None:
    """Where schedule and server come to different slots because clocks change; None if they never do."""
    if not isinstance(schedule, ZonedCronSchedule):
        return None
    zone = schedule.zone
    table = zone.cover(now_s - _DAY_S, now_s + _AHEAD_S)
    ahead = range(bisect_right(table.at, now_s - _DAY_S), bisect_right(table.at, now_s + _AHEAD_S))
    for i in ahead:
        change, before, after = table.at[i], table.offset[i], table.offset[i + 1]
        slot = schedule.pattern.after(change + min(before, after) - 1)
        if slot < change + max(before, after):
            kind = "skips" if after > before else "repeats"
            shown = f"{instant_of(slot * 1000):%H:%M:%S}"
            return f"a slot falls at {shown}, which the clock change of {_date(change + before)} in {zone.name} {kind}"
    for i in ahead:
        change = table.at[i]
        previous = schedule.last_at_or_before_ms((change - 1) * 1000)
        looks = [change + look for look in _LOOKS]
        if previous is not None:
            looks.append(previous // 1000)
        if any(schedule.next_after_ms(look * 1000) != _ms(server.next_after(look)) for look in looks):
            date = _date(change + table.offset[i])
            return f"the server's search goes astray around the clock change of {date} in {zone.name}"
    return None


def _date(wall: int) -> str:
    return f"{instant_of(wall * 1000):%Y-%m-%d}"


def _ms(second: int | None) -> int | None:
    return None if second is None else second * 1000


def server_rules(text: str, tz: str) -> ServerCron | int | None:
    """What the server makes of a stored recurring schedule: its cron rules, or its interval in whole seconds.

    None: neither, or not readable; it was written by somebody else.
    """
    if text.startswith(_EVERY):
        try:
            return parse_duration(text.removeprefix(_EVERY)) // _SECOND_NS or None
        except ValidationError:
            return None
    try:
        zone: Zone | None = None if tz in UTC_NAMES else zone_named(tz)
        return parse_server_cron(_ALIASES.get(text, text), zone)
    except ValidationError:
        return None
