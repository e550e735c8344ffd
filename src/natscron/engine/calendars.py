"""Which calendars a schedule refers to, and whether clock changes matter to it. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from natscron.model import CalendarSpec, Job, ScheduleSpec

__all__ = ["calendars_of", "calendars_used", "uses_zones"]

_ICAL_ZONE: Final = "TZID"


def calendars_of(spec: ScheduleSpec | None) -> tuple[str, ...]:
    """The names of the calendars that a schedule refers to, each once, in its order."""
    if spec is None or not spec.except_:
        return ()
    return tuple(dict.fromkeys(member.calendar for member in spec.except_ if member.calendar))


def calendars_used(job: Job) -> tuple[str, ...]:
    """The names of the calendars that a job's schedule and its earlier ones refer to."""
    spec, previous = job.schedule, job.previous
    if not previous and (spec is None or not spec.except_):
        return ()
    names = calendars_of(spec)
    return tuple(dict.fromkeys((*names, *(name for v in job.previous for name in calendars_of(v.schedule)))))


def uses_zones(spec: ScheduleSpec | None, calendars: Mapping[str, CalendarSpec]) -> bool:
    """Whether a schedule's slots hang on a zone's rules: its own, a member's, or those of a calendar it refers to.

    A class that an application registered may look at zones without saying so: it counts as one that does.
    """
    if spec is None:
        return False
    if any(_zoned(one) for one in _members(spec)):
        return True
    found = (calendars.get(name) for name in calendars_of(spec))
    return any(one is not None and (bool(one.tz) or _ICAL_ZONE in (one.ical or "")) for one in found)


def _members(spec: ScheduleSpec) -> Iterator[ScheduleSpec]:
    yield spec
    inner: Iterable[ScheduleSpec] = (*spec.any, *spec.except_)
    for member in inner:
        yield from _members(member)


def _zoned(spec: ScheduleSpec) -> bool:
    return bool(spec.tz) or "TZ=" in (spec.cron or "") or _ICAL_ZONE in (spec.rrule or "") or spec.kind is not None
