"""The next slots of a schedule, for people: in UTC and on the wall, and what a clock change did to them."""

import datetime as dt
from contextlib import suppress
from typing import NamedTuple

from natscron.model import ScheduleSpec
from natscron.schedule.base import Schedule, instant_of, ms_of
from natscron.schedule.compile import compile_schedule
from natscron.schedule.cron import CronSchedule, ZonedCronSchedule
from natscron.schedule.instants import format_instant
from natscron.schedule.once import WithStart
from natscron.schedule.zones import zone_named

__all__ = ["MAX_SLOTS", "Slot", "next_slots", "preview"]

MAX_SLOTS = 1_000
"""The most slots given at once."""


class Slot(NamedTuple):
    """One slot as it is shown."""

    at_ms: int
    """Milliseconds since 1970 UTC."""
    utc: str
    """RFC 3339 with ``Z``."""
    local: str
    """RFC 3339 in the schedule's zone, with its offset."""
    mark: str
    """``moved`` or ``repeated`` if a clock change did that to it, else empty."""


def next_slots(schedule: Schedule | ScheduleSpec, after: dt.datetime, n: int) -> list[dt.datetime]:
    """The next ``n`` slots (at most :data:`MAX_SLOTS`) strictly later than ``after``, in UTC; fewer if it ends.

    An interval that is given as data and has no ``start_at`` counts from ``after``. Raises
    :class:`~natscron.errors.InvalidScheduleTimeError` if ``after`` has no time zone.
    """
    after_ms = ms_of(after)
    if isinstance(schedule, ScheduleSpec):
        schedule = compile_schedule(schedule, anchor_ms=max(after_ms, 0)).schedule
    return [instant_of(slot) for slot in _slots(schedule, after_ms, n)]


def _slots(schedule: Schedule, after_ms: int, n: int) -> list[int]:
    found: list[int] = []
    slot = schedule.next_after_ms(after_ms)
    while slot is not None and len(found) < min(n, MAX_SLOTS):
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    return found


def preview(  # noqa: PLR0913 - what compiling needs, and what is asked
    spec: ScheduleSpec, after_ms: int, n: int, *, anchor_ms: int | None = None, seed: str = "", lenient: bool = False
) -> list[Slot]:
    """The next ``n`` slots (at most :data:`MAX_SLOTS`) after ``after_ms``, each with its wall time and its mark.

    ``anchor_ms`` is the job's creation (default ``after_ms``), ``seed`` its id. Raises
    :class:`~natscron.errors.InvalidScheduleError` as compiling does.
    """
    anchor = max(after_ms, 0) if anchor_ms is None else anchor_ms
    schedule = compile_schedule(spec, anchor_ms=anchor, seed=seed, lenient=lenient).schedule
    inner = schedule.inner if isinstance(schedule, WithStart) else schedule
    name = inner.zone_name if isinstance(inner, CronSchedule) else spec.tz or "UTC"
    zone = zone_named(name).info
    slots = []
    for at_ms in _slots(schedule, after_ms, n):
        wall = instant_of(at_ms)
        with suppress(OverflowError):  # the wall may already show the year 10000, which cannot be written
            wall = wall.astimezone(zone)
        marked = isinstance(inner, ZonedCronSchedule) and inner.last_at_or_before_ms(at_ms) == at_ms
        slots.append(
            Slot(
                at_ms,
                format_instant(at_ms),
                wall.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds"),
                inner.mark(at_ms) if marked and isinstance(inner, ZonedCronSchedule) else "",
            )
        )
    return slots
