"""Schedules as users write them in Python. Each gives a :class:`~natscron.model.ScheduleSpec`, which is plain data.

A mistake shows here already, not when the job is saved: what is built is compiled once and thrown away.
"""

import datetime as dt
from typing import Final

from natscron.durations import format_duration, parse_duration
from natscron.errors import InvalidIntervalError, InvalidScheduleError, ValidationError
from natscron.model import ScheduleSpec
from natscron.schedule.base import MAX_MS, ms_of
from natscron.schedule.compile import compile_schedule
from natscron.schedule.instants import format_instant

__all__ = ["CronSpec", "cron", "daily_at", "every", "once"]

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NS_OF_SECOND: Final = 1_000_000_000


def _checked(spec: ScheduleSpec) -> ScheduleSpec:
    compile_schedule(spec, anchor_ms=0)
    return spec


def _instant(moment: dt.datetime) -> str:
    """RFC 3339 text, a finer instant rounded up to the millisecond."""
    ms = ms_of(moment)
    if (moment - _EPOCH) % dt.timedelta(milliseconds=1):
        ms += 1
    if not 0 <= ms <= MAX_MS:
        raise InvalidScheduleError(f"{moment.isoformat()} lies outside the years 1970 to 9999")
    return format_instant(ms)


def cron(
    expression: str, *, tz: str | None = None, dst_gap: str | None = None, dst_fold: str | None = None
) -> ScheduleSpec:
    """A cron expression of five fields (minute first) or six (second first), or an alias such as ``@daily``.

    ``tz``: an IANA zone, default UTC. ``dst_gap`` (``run_after | skip | shift``) and ``dst_fold``
    (``first | last | both``): what happens when clocks change, default by the kind of expression. Raises
    :class:`~natscron.errors.InvalidScheduleError`.
    """
    return _checked(ScheduleSpec(cron=expression, tz=tz, dst_gap=dst_gap, dst_fold=dst_fold))


def every(
    interval: str | dt.timedelta | float, *, start_at: dt.datetime | None = None, run_at_start: bool = False
) -> ScheduleSpec:
    """An interval: Go duration text (``1h30m``), a timedelta, or seconds. At least 10 ms.

    Counted from ``start_at`` (an aware datetime; the first slot), else from the job's creation. ``run_at_start`` adds
    one slot at the creation. Raises :class:`~natscron.errors.InvalidScheduleError`.
    """
    if isinstance(interval, str):
        text = interval
    else:
        try:
            if isinstance(interval, dt.timedelta):
                ns = interval // _MICROSECOND * 1_000
            else:
                ns = interval * _NS_OF_SECOND if isinstance(interval, int) else round(interval * _NS_OF_SECOND)
            text = format_duration(ns)
            parse_duration(text)
        except (ValidationError, ValueError, OverflowError):
            raise InvalidIntervalError(f"invalid duration {interval!r}: longer than 292 years") from None
    start = None if start_at is None else _instant(start_at)
    return _checked(ScheduleSpec(every=text, start_at=start, run_at_start=run_at_start))


def once(at: dt.datetime) -> ScheduleSpec:
    """A single instant, an aware datetime. Raises :class:`~natscron.errors.InvalidScheduleError` if it has no zone."""
    return _checked(ScheduleSpec(at=_instant(at)))


def daily_at(hour: int, minute: int = 0, second: int = 0, *, tz: str | None = None) -> ScheduleSpec:
    """Once a day at this wall time of ``tz`` (an IANA zone, default UTC); see ``cron`` for clock changes."""
    fields = f"{minute} {hour} * * *"
    return cron(f"{second} {fields}" if second else fields, tz=tz)


def CronSpec(  # noqa: N802, PLR0913, PLR0917 - reads as the record it stands for; one argument a field
    minute: str = "",
    hour: str = "",
    day_of_month: str = "",
    month: str = "",
    day_of_week: str = "",
    second: str | None = None,
    *,
    tz: str | None = None,
    dst_gap: str | None = None,
    dst_fold: str | None = None,
) -> ScheduleSpec:
    """A cron expression field by field. Empty means ``*``; with ``second`` there are six fields, else five."""
    fields = [minute, hour, day_of_month, month, day_of_week]
    if second is not None:
        fields.insert(0, second)
    for field in fields:
        if len(field.split()) > 1:
            raise InvalidScheduleError(f"the field '{field[:64]}' holds more than one: give each field by its name")
    return cron(" ".join(field.strip() or "*" for field in fields), tz=tz, dst_gap=dst_gap, dst_fold=dst_fold)
