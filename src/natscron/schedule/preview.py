"""The next slots of a schedule, for people: in UTC and on the wall, and what a clock change did to them."""

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from natscron.model import CalendarSpec, ScheduleSpec
from natscron.schedule.base import Schedule, instant_of, ms_of
from natscron.schedule.compile import NO_CALENDARS, compile_schedule
from natscron.schedule.instants import format_instant
from natscron.schedule.jitter import DueSchedule
from natscron.schedule.plain import zone_of
from natscron.schedule.resolve import resolve_spec
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
    due: str = ""
    """When it is due if jitter delays it, RFC 3339 with ``Z``; empty if the schedule has no jitter."""


def next_slots(
    schedule: Schedule | ScheduleSpec,
    after: dt.datetime,
    n: int,
    *,
    calendars: Mapping[str, CalendarSpec] = NO_CALENDARS,
) -> list[dt.datetime]:
    """The next ``n`` slots (at most :data:`MAX_SLOTS`) strictly later than ``after``, in UTC; fewer if it ends.

    An interval that is given as data and has no ``start_at`` counts from ``after``, and so does a ``max_runs`` that
    has not come to a ``last_slot`` yet. Jitter leaves slots as they are. Raises
    :class:`~natscron.errors.InvalidScheduleTimeError` if ``after`` has no time zone.
    """
    after_ms = ms_of(after)
    if isinstance(schedule, ScheduleSpec):
        anchor_ms = max(after_ms, 0)
        spec = _limited(schedule, anchor_ms, "", calendars)
        schedule = compile_schedule(spec, anchor_ms=anchor_ms, calendars=calendars).schedule
    return [instant_of(slot) for slot in _slots(schedule, after_ms, n)]


def _limited(spec: ScheduleSpec, anchor_ms: int, seed: str, calendars: Mapping[str, CalendarSpec]) -> ScheduleSpec:
    """A schedule whose ``max_runs`` counts: from ``anchor_ms`` on, if it was never saved."""
    if spec.max_runs is None or spec.last_slot is not None:
        return spec
    return resolve_spec(spec, anchor_ms, anchor_ms=anchor_ms, seed=seed, calendars=calendars)


def _slots(schedule: Schedule, after_ms: int, n: int) -> list[int]:
    found: list[int] = []
    slot = schedule.next_after_ms(after_ms)
    while slot is not None and len(found) < min(n, MAX_SLOTS):
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    return found


def preview(  # noqa: PLR0913 - what compiling needs, and what is asked
    spec: ScheduleSpec,
    after_ms: int,
    n: int,
    *,
    anchor_ms: int | None = None,
    seed: str = "",
    lenient: bool = False,
    calendars: Mapping[str, CalendarSpec] = NO_CALENDARS,
) -> list[Slot]:
    """The next ``n`` slots (at most :data:`MAX_SLOTS`) after ``after_ms``, each with its wall time and its mark.

    ``anchor_ms`` is the job's creation (default ``after_ms``), ``seed`` its id, ``calendars`` the stored ones. The
    wall is that of ``tz``; without it, of the one zone that the schedule's parts are in; else UTC. Raises
    :class:`~natscron.errors.InvalidScheduleError` as compiling does.
    """
    anchor = max(after_ms, 0) if anchor_ms is None else anchor_ms
    spec = _limited(spec, anchor, seed, calendars)
    schedule = compile_schedule(spec, anchor_ms=anchor, seed=seed, lenient=lenient, calendars=calendars).schedule
    zone = zone_named(zone_of(spec) or schedule.zone_name or "UTC").info
    dues = schedule.dues
    slots = []
    for at_ms in _slots(schedule, after_ms, n):
        wall = instant_of(at_ms)
        with suppress(OverflowError):  # the wall may already show the year 10000, which cannot be written
            wall = wall.astimezone(zone)
        slots.append(
            Slot(
                at_ms,
                format_instant(at_ms),
                wall.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds"),
                schedule.mark(at_ms),
                format_instant(dues.due_of(at_ms)) if isinstance(dues, DueSchedule) else "",
            )
        )
    return slots
