"""Schedules as users write them in Python. Each gives a :class:`~natscron.model.ScheduleSpec`, which is plain data.

A mistake shows here already, not when the job is saved: what is built is compiled once and thrown away.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final, TypedDict, Unpack

import msgspec

from natscron.durations import format_duration, parse_duration
from natscron.errors import InvalidIntervalError, InvalidScheduleError, ValidationError
from natscron.model import ScheduleSpec
from natscron.schedule.base import MAX_MS, ms_of
from natscron.schedule.compile import compile_schedule
from natscron.schedule.instants import format_instant

__all__ = ["CronSpec", "Limits", "cron", "daily_at", "every", "once", "union"]

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NS_OF_SECOND: Final = 1_000_000_000


class Limits(TypedDict, total=False):
    """What each builder takes beside its own arguments."""

    except_: ScheduleSpec | str | Sequence[ScheduleSpec | str]
    """What is taken away: the slots of a schedule, or what falls into the calendar of this name. One, or at most 8."""
    not_before: dt.datetime
    """The first instant at which slots count, inclusive."""
    not_after: dt.datetime
    """The last one, inclusive."""
    max_runs: int
    """How many slots there are at most from the saving on: 1 to 10,000."""
    jitter: str | dt.timedelta | float
    """The longest delay of a slot, as duration text, a timedelta or seconds: at most 24 hours."""


def _checked(spec: ScheduleSpec) -> ScheduleSpec:
    """The calendars are known only where they are stored, so all is checked but their names."""
    here = tuple(item for item in spec.except_ if not item.calendar)
    compile_schedule(msgspec.structs.replace(spec, except_=here) if here != spec.except_ else spec, anchor_ms=0)
    return spec


def _limited(spec: ScheduleSpec, limits: Limits) -> ScheduleSpec:
    """The checked schedule within its limits."""
    changes: dict[str, object] = {}
    if items := limits.get("except_"):
        changes["except_"] = tuple(
            ScheduleSpec(calendar=item) if isinstance(item, str) else item
            for item in ([items] if isinstance(items, (str, ScheduleSpec)) else items)
        )
    if (first := limits.get("not_before")) is not None:
        changes["not_before"] = _instant(first)
    if (last := limits.get("not_after")) is not None:
        changes["not_after"] = _instant(last)
    if (max_runs := limits.get("max_runs")) is not None:
        changes["max_runs"] = max_runs
    if (jitter := limits.get("jitter")) is not None:
        changes["jitter"] = _duration(jitter)
    if unknown := sorted(set(limits) - set(Limits.__annotations__)):
        raise TypeError(f"unknown argument '{unknown[0]}': one of {', '.join(Limits.__annotations__)}")
    return _checked(msgspec.structs.replace(spec, **changes) if changes else spec)


def _duration(value: str | dt.timedelta | float) -> str:
    """Duration text, of text, a timedelta, or seconds."""
    if isinstance(value, str):
        return value
    try:
        if isinstance(value, dt.timedelta):
            ns = value // _MICROSECOND * 1_000
        else:
            ns = value * _NS_OF_SECOND if isinstance(value, int) else round(value * _NS_OF_SECOND)
        text = format_duration(ns)
        parse_duration(text)
    except (ValidationError, ValueError, OverflowError):
        raise InvalidIntervalError(f"invalid duration {value!r}: longer than 292 years") from None
    return text


def _instant(moment: dt.datetime) -> str:
    """RFC 3339 text, a finer instant rounded up to the millisecond."""
    if not isinstance(moment, dt.datetime):
        raise InvalidScheduleError(f"an instant is an aware datetime, such as datetime.now(UTC); got {moment!r:.80}")
    ms = ms_of(moment)
    if (moment - _EPOCH) % dt.timedelta(milliseconds=1):
        ms += 1
    if not 0 <= ms <= MAX_MS:
        raise InvalidScheduleError(f"{moment.isoformat()} lies outside the years 1970 to 9999")
    return format_instant(ms)


def cron(
    expression: str,
    *,
    tz: str | None = None,
    dst_gap: str | None = None,
    dst_fold: str | None = None,
    **limits: Unpack[Limits],
) -> ScheduleSpec:
    """A cron expression of five fields (minute first) or six (second first), or an alias such as ``@daily``.

    ``tz``: an IANA zone, default UTC. ``dst_gap`` (``run_after | skip | shift``) and ``dst_fold``
    (``first | last | both``): what happens when clocks change, default by the kind of expression. ``limits``: see
    :class:`Limits`. Raises :class:`~natscron.errors.InvalidScheduleError`.
    """
    if not isinstance(expression, str):
        raise InvalidScheduleError(f"a cron expression is text, such as '0 3 * * *'; got {expression!r:.80}")
    return _limited(ScheduleSpec(cron=expression, tz=tz, dst_gap=dst_gap, dst_fold=dst_fold), limits)


def every(
    interval: str | dt.timedelta | float,
    *,
    start_at: dt.datetime | None = None,
    run_at_start: bool = False,
    **limits: Unpack[Limits],
) -> ScheduleSpec:
    """An interval: Go duration text (``1h30m``), a timedelta, or seconds. At least 10 ms.

    Counted from ``start_at`` (an aware datetime; the first slot), else from the job's creation. ``run_at_start`` adds
    one slot at the creation. ``limits``: see :class:`Limits`. Raises :class:`~natscron.errors.InvalidScheduleError`.
    """
    text = _duration(interval)
    start = None if start_at is None else _instant(start_at)
    return _limited(ScheduleSpec(every=text, start_at=start, run_at_start=run_at_start), limits)


def once(at: dt.datetime) -> ScheduleSpec:
    """A single instant, an aware datetime. Raises :class:`~natscron.errors.InvalidScheduleError` if it has no zone."""
    return _checked(ScheduleSpec(at=_instant(at)))


def daily_at(
    hour: int, minute: int = 0, second: int = 0, *, tz: str | None = None, **limits: Unpack[Limits]
) -> ScheduleSpec:
    """Once a day at this wall time of ``tz`` (an IANA zone, default UTC); see ``cron`` for clock changes and limits."""
    fields = f"{minute} {hour} * * *"
    return cron(f"{second} {fields}" if second else fields, tz=tz, **limits)


def union(*schedules: ScheduleSpec, tz: str | None = None, **limits: Unpack[Limits]) -> ScheduleSpec:
    """Every slot that any of ``schedules`` has, 1 to 8 of them; slots that are equal are one.

    ``tz`` is the zone of those that give none. A union among them is taken apart. ``limits`` (see :class:`Limits`)
    hold for the whole: the schedules have none of their own. Raises :class:`~natscron.errors.InvalidScheduleError`.
    """
    members: list[ScheduleSpec] = []
    for schedule in schedules:
        members.extend(schedule.any if schedule.any and schedule == ScheduleSpec(any=schedule.any) else [schedule])
    if not members:
        raise InvalidScheduleError("a union of nothing never runs: give it at least one schedule")
    return _limited(ScheduleSpec(any=tuple(members), tz=tz), limits)


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
    **limits: Unpack[Limits],
) -> ScheduleSpec:
    """A cron expression field by field. Empty means ``*``; with ``second`` there are six fields, else five."""
    fields = [minute, hour, day_of_month, month, day_of_week]
    if second is not None:
        fields.insert(0, second)
    for field in fields:
        if len(field.split()) > 1:
            raise InvalidScheduleError(f"the field '{field[:64]}' holds more than one: give each field by its name")
    return cron(" ".join(field.strip() or "*" for field in fields), tz=tz, dst_gap=dst_gap, dst_fold=dst_fold, **limits)
