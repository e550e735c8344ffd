"""A job's versions: its own schedules, its pauses, and what its calendars held, merged by their stamps. Pure.

A version begins with the write that brought it (or, after a pause that ends by itself, at the instant that the write
named) and ends where the next begins. A calendar's write begins a new version of the jobs that refer to it. The oldest
content that is known of a calendar counts from the beginning: what was before it is decided, or there was none.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from natscron.engine.calendars import calendars_of
from natscron.engine.table import Entry
from natscron.errors import InvalidCalendarError, InvalidScheduleError
from natscron.model import Calendar, CalendarSpec, Ms, ScheduleSpec, Stamp
from natscron.schedule import Schedule, compile_schedule

__all__ = ["InForce", "compiled", "timeline"]


class InForce(msgspec.Struct, frozen=True):
    """One version. ``spec`` None: paused."""

    spec: ScheduleSpec | None
    since: Stamp
    until: Ms | None
    """None: it is the last one."""
    calendars: tuple[tuple[str, CalendarSpec], ...] = ()
    """What ``spec`` refers to, as it was."""
    own: bool = True
    """It began with a write of the job itself."""
    void: bool = False
    """It never came into force: a pause was to end by itself, and another write came first."""


def timeline(entry: Entry) -> list[InForce]:
    """The versions, oldest first; the last one is the present, or what it becomes when a pause ends by itself."""
    job = entry.job
    specs = [*((v.schedule, v.since) for v in job.previous), (None if job.paused else job.schedule, job.counts_from)]
    if job.paused and job.paused_until_ms is not None:
        since = job.counts_from
        specs.append((job.schedule, Stamp(max(job.paused_until_ms, since.at_ms), since.seq)))
    # A pause whose end lay behind its own write was none.
    none = {i for i, (a, b) in enumerate(pairwise(specs)) if a[0] is None and a[1] == b[1]}
    begun = [(spec, since, True) for i, (spec, since) in enumerate(specs) if i not in none]
    if entry.calendars:
        begun = _with_calendars(begun, entry.calendars)
    versions: list[InForce] = []
    until: Ms | None = None
    for i in range(len(begun) - 1, -1, -1):
        spec, since, own = begun[i]
        if i and begun[i - 1][1].seq == since.seq and until is not None and until <= since.at_ms:
            # Who had not heard of that write went by it all the same.
            versions.append(InForce(spec, since, until, _held(spec, since, entry.calendars), own, void=True))
            continue
        held = _held(spec, since, entry.calendars) if entry.calendars else ()
        versions.append(InForce(spec, since, until, held, own))
        # A pause's own end may lie behind the write that ended it before.
        until = since.at_ms if until is None else min(until, since.at_ms)
    versions.reverse()
    return versions


_Begun = tuple[ScheduleSpec | None, Stamp, bool]


def _with_calendars(begun: Sequence[_Begun], calendars: Sequence[Calendar]) -> list[_Begun]:
    merged: list[_Begun] = []
    for i, (spec, since, own) in enumerate(begun):
        merged.append((spec, since, own))
        names = calendars_of(spec)
        if not names:
            continue
        end = begun[i + 1][1] if i + 1 < len(begun) else None
        changes = sorted({stamp for c in calendars if c.name in names for _, stamp in _contents(c)[1:]})
        merged.extend((spec, s, False) for s in changes if s > since and (end is None or s < end))
    return merged


def _contents(calendar: Calendar) -> list[tuple[CalendarSpec, Stamp]]:
    return [*((v.spec, v.since) for v in calendar.previous), (calendar.spec, calendar.counts_from)]


def _held(spec: ScheduleSpec | None, at: Stamp, calendars: Sequence[Calendar]) -> tuple[tuple[str, CalendarSpec], ...]:
    names = calendars_of(spec)
    held = []
    for calendar in calendars:
        if calendar.name in names:
            contents = _contents(calendar)
            past = [content for content, since in contents if since <= at]
            held.append((calendar.name, past[-1] if past else contents[0][0]))
    return tuple(held)


def compiled(entry: Entry, version: InForce, *, last: bool) -> Schedule | None:
    """The version's schedule; None while paused, or if it cannot be compiled here."""
    if version.spec is None:
        return None
    if last:
        return entry.schedule
    try:
        # It was valid when it was in force; the minimum interval of today must not undo that.
        return compile_schedule(
            version.spec,
            anchor_ms=entry.job.anchor_ms,
            seed=entry.job.id,
            min_interval_ns=1,
            lenient=True,
            calendars=dict(version.calendars),
        ).schedule
    except (InvalidScheduleError, InvalidCalendarError):
        # Not here: a zone that this host does not know, say. The present version runs all the same.
        return None
