"""A job's slots by the version of its schedule that was in force, and those that exclusions take away. Pure.

A slot that an exclusion takes away is no slot, so it leaves no record; to name it, the schedule is compiled once more
without its exclusions, and each of these by itself.
"""

import datetime as dt
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from natscron.engine.table import Entry
from natscron.engine.timeline import timeline
from natscron.errors import NatscronError
from natscron.model import CalendarSpec, Job, Ms, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, describe
from natscron.schedule.base import instant_of
from natscron.schedule.zones import zone_named

__all__ = ["Stretch", "Wall", "stretches_of"]

_PREFIX: Final = re.compile(r"\s*(?:CRON_)?TZ=(\S+)\s")


class Stretch:
    """One version of a job's schedule: in force for slots after ``after_ms``, up to and including ``until_ms``.

    ``paused``: none of its slots runs. A pause begins and ends by due instants, an edit by slots.
    """

    __slots__ = (
        "_exclusions",
        "after_by_due",
        "after_ms",
        "base",
        "calendars",
        "paused",
        "schedule",
        "seq",
        "spec",
        "until_by_due",
        "until_ms",
        "wall",
    )

    def __init__(  # noqa: PLR0913 - a record
        self,
        job: Job,
        spec: ScheduleSpec,
        calendars: Mapping[str, CalendarSpec],
        *,
        after_ms: Ms,
        until_ms: Ms | None,
        paused: bool,
    ) -> None:
        """Compiles; raises InvalidScheduleError."""
        self.spec = spec
        self.calendars = calendars
        self.after_ms = after_ms
        self.until_ms = until_ms
        self.seq = 0
        """The sequence of the write that began it."""
        self.paused = self.after_by_due = self.until_by_due = paused
        self.schedule = _compiled(job, spec, calendars)
        self.wall = Wall(spec, self.schedule)
        self.base: Schedule | None = None
        """The schedule without its exclusions and its jitter; None if it has no exclusions."""
        self._exclusions: list[tuple[str, Callable[[Ms], bool]]] = []
        if spec.except_:
            self.base = _compiled(job, msgspec.structs.replace(spec, except_=(), jitter=None, timer=None), calendars)
            for part in spec.except_:
                if part.calendar is not None:
                    self._exclusions.append((f"calendar {part.calendar}", _in_calendar(calendars[part.calendar])))
                else:
                    self._exclusions.append((_words(part, job), _in_schedule(_compiled(job, part, calendars))))

    def due_of(self, slot_ms: Ms) -> Ms:
        """When the slot is due."""
        return self.schedule.dues.due_of(slot_ms)

    def excluded_by(self, slot_ms: Ms) -> str:
        """The first exclusion that takes the slot away: ``calendar NAME``, or a schedule in English."""
        return next((name for name, takes in self._exclusions if takes(slot_ms)), "")

    def owns(self, slot_ms: Ms, due_ms: Ms) -> bool:
        """Whether the slot is this version's."""
        return (due_ms if self.after_by_due else slot_ms) > self.after_ms and (
            self.until_ms is None or (due_ms if self.until_by_due else slot_ms) <= self.until_ms
        )

    def back(self, since_ms: Ms, until_ms: Ms) -> Iterator[tuple[Ms, Ms]]:
        """Its slots in [since, until] with their due instants, newest first."""
        slot = self.schedule.last_at_or_before_ms(until_ms if self.until_ms is None else min(until_ms, self.until_ms))
        while slot is not None and slot >= since_ms:
            due = self.due_of(slot)
            if self.owns(slot, due):
                yield slot, due
            elif due <= self.after_ms or (slot <= self.after_ms and not self.after_by_due):
                return
            slot = self.schedule.last_at_or_before_ms(slot - 1)

    def forth(self, due_after_ms: Ms) -> Iterator[tuple[Ms, Ms]]:
        """Its slots that are due after an instant, with their due instants, oldest first."""
        dues = self.schedule.dues
        # A slot after the beginning may be due long after it, never before.
        due = dues.next_after_ms(max(due_after_ms, self.after_ms))
        while due is not None:
            slot = dues.slot_of(due)
            if self.owns(slot, due):
                yield slot, due
            elif self.until_ms is not None and slot > self.until_ms:
                return
            due = dues.next_after_ms(due)


class Wall:
    """The clock on the wall of a schedule's zone."""

    def __init__(self, spec: ScheduleSpec, schedule: Schedule | None = None) -> None:
        """``schedule`` None: of a job that cannot be honoured."""
        self.zone = (schedule.zone_name if schedule is not None else None) or _zone_of(spec)
        self._info: dt.tzinfo = dt.UTC
        with suppress(NatscronError):
            self._info = zone_named(self.zone).info

    def local(self, at_ms: Ms) -> str:
        """RFC 3339 with the zone's offset; seconds, or milliseconds where there are any."""
        at = instant_of(at_ms)
        with suppress(OverflowError):
            at = at.astimezone(self._info)
        return at.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")


def _zone_of(spec: ScheduleSpec) -> str:
    """The zone that people read the schedule's slots in."""
    prefix = _PREFIX.match(spec.cron or "")
    inner = next((zone for part in spec.any if (zone := _zone_of(part)) != "UTC"), "")
    return prefix[1] if prefix else spec.tz or inner or "UTC"


def stretches_of(entry: Entry) -> list[Stretch]:
    """The versions of an entry's schedule that are still known, oldest first; the last one is the present.

    Earlier ones are known until the mark has passed them. Versions that cannot be compiled any more are left out.
    """
    job = entry.job
    if entry.schedule is None or job.schedule is None:
        return []
    found: list[Stretch] = []
    shown: ScheduleSpec = job.schedule
    for version in timeline(entry):
        # A pause is shown with the slots of what it paused.
        shown = version.spec or shown if version.spec or found else _first(job)
        calendars = dict(version.calendars) if version.spec else {one.name: one.spec for one in entry.calendars}
        with suppress(NatscronError):
            one = Stretch(
                job,
                shown,
                calendars,
                after_ms=version.since.at_ms,
                until_ms=version.until,
                paused=version.spec is None,
            )
            one.seq = version.since.seq
            found.append(one)
    for one, following in itertools.pairwise(found):
        one.until_by_due |= following.paused
        following.after_by_due |= one.paused
    _reach_back(entry, found)
    return found


def _first(job: Job) -> ScheduleSpec:
    """The oldest schedule that is known of a job."""
    known = (version.schedule for version in job.previous if version.schedule is not None)
    return next(known, None) or job.schedule or ScheduleSpec()


def _reach_back(entry: Entry, found: list[Stretch]) -> None:
    """The slots at a job's creation count although they are not after it: those of ``run_at_start`` and ``at``."""
    job = entry.job
    if not found or job.previous or job.generation not in {0, job.counts_from.seq}:
        return
    first = found[0]
    if first.spec.run_at_start:
        first.after_ms = min(first.after_ms, job.anchor_ms - 1)
    elif first.spec.at is not None and (at := first.schedule.next_after_ms(-1)) is not None:
        first.after_ms = min(first.after_ms, at - 1)


def _compiled(job: Job, spec: ScheduleSpec, calendars: Mapping[str, CalendarSpec]) -> Schedule:
    return compile_schedule(
        spec, anchor_ms=job.anchor_ms, seed=job.id, min_interval_ns=1, lenient=True, calendars=calendars
    ).schedule


def _in_calendar(spec: CalendarSpec) -> Callable[[Ms], bool]:
    from natscron.schedule.calendar import compile_calendar  # noqa: PLC0415 - most schedules need none

    windows = compile_calendar(spec)
    return lambda slot_ms: windows.covering_ms(slot_ms) is not None


def _in_schedule(schedule: Schedule) -> Callable[[Ms], bool]:
    return lambda slot_ms: schedule.last_at_or_before_ms(slot_ms) == slot_ms


def _words(spec: ScheduleSpec, job: Job) -> str:
    try:
        return describe(spec, seed=job.id, lenient=True)
    except NatscronError:
        return "a schedule under except"
