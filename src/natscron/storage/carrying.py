"""What a job takes along to another store. Pure.

It takes everything that says what shall happen, and what its slots and runs are made of: creation and anchor, so that
an interval keeps its phase, and the generation, so that a slot has the same run id in both stores. That is what keeps a
run whose record was taken along from being queued once more, and what makes a trigger's key go on meaning the same run.

What it cannot take is the place in an order of writes. ``counts_from`` says since when a schedule counts, by an instant
and by a number of the store that it was written to; the new store has numbers and a mark of its own, which know nothing
of what was decided in the old one. So the instant is set to what was decided there, and the number is left to the
write (:data:`natscron.codec.row.THIS_WRITE`): no mark of the new store is believed to have decided anything of the job
before its leader has seen it there. From this follows:

* A slot that the old store's mark has passed never runs again, a ``run_at_start`` and a once job included.
* A slot after that mark is undecided, whether it is due next year or was due while the job was carried over: it runs,
  or the job's catch-up policy says that it does not, and that is recorded. So moving is like a restart.
* A version that the old store's leader had not seen is undecided from where it begins, as it was there. Of a store that
  nobody ever led, all versions are.
* A once job that is over gets number 0, which every mark has passed: nothing is to be recorded of it.

With jitter a mark counts due instants and ``counts_from`` slots: a slot that waits for its delay is undecided too.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from natscron.codec import successor, successor_calendar, text_to_ms
from natscron.codec.row import THIS_WRITE
from natscron.codec.versions import MAX_JITTER_MS
from natscron.errors import NatscronError
from natscron.model import Calendar, CalendarSpec, Job, Mark, Ms, ScheduleSpec, Stamp, Version
from natscron.schedule import MAX_MS, Schedule, compile_schedule

__all__ = ["carried", "carried_calendar"]

_SEEN_BY_ALL: Final = 0


def carried(job: Job, mark: Mark | None, calendars: Mapping[str, CalendarSpec], *, timers: bool = True) -> Job:
    """The job as it is to be created in another store.

    ``mark``: how far the old store's slots are decided; None: nobody ever led there. ``calendars``: the old store's.
    ``timers`` False: the new store times no jobs by itself, so its leader does.
    """
    *previous, (spec, since_ms) = _versions(job, mark, calendars)
    done = not previous and _is_over(job, spec, since_ms, mark)
    schedule = job.schedule
    if not timers:
        schedule = _by_leader(schedule)
        previous = [(_by_leader(spec), at_ms) for spec, at_ms in previous]
    return msgspec.structs.replace(
        job,
        schedule=schedule,
        counts_from=Stamp(since_ms, _SEEN_BY_ALL) if done else _stamp(since_ms),
        previous=tuple(Version(schedule=spec, since=_stamp(at_ms)) for spec, at_ms in previous),
    )


def _by_leader(spec: ScheduleSpec | None) -> ScheduleSpec | None:
    return spec if spec is None or spec.timer is None else msgspec.structs.replace(spec, timer=None)


def carried_calendar(calendar: Calendar, mark: Mark | None) -> Calendar:
    """The calendar as it is to be created, with those of its earlier contents that a slot may still be judged by."""
    if mark is not None:
        calendar = successor_calendar(calendar, calendar, mark, MAX_JITTER_MS)
    return msgspec.structs.replace(
        calendar,
        counts_from=_stamp(calendar.counts_from.at_ms),
        previous=tuple(
            msgspec.structs.replace(version, since=_stamp(version.since.at_ms)) for version in calendar.previous
        ),
    )


def _stamp(at_ms: Ms) -> Stamp:
    return Stamp(at_ms, THIS_WRITE)


def _versions(
    job: Job, mark: Mark | None, calendars: Mapping[str, CalendarSpec]
) -> list[tuple[ScheduleSpec | None, Ms]]:
    """What is not over yet of a job's schedules and pauses (None), each with where it counts from; the present last."""
    known = job.previous if mark is None else successor(job, job, mark).previous
    versions = [*((version.schedule, version.since) for version in known), (_in_force(job, mark), job.counts_from)]
    found: list[tuple[ScheduleSpec | None, Ms]] = []
    resting: Ms | None = None
    ends: list[Stamp | None] = [*(since for _, since in versions[1:]), None]
    for (spec, since), end in zip(versions, ends, strict=True):
        # What is due in a pause does not run, and what is due after it does: it matters where the pause began, not
        # where it was last touched, nor where it ended.
        floor = since.at_ms if resting is None else resting
        since_ms = floor if spec is None else _undecided_from(job, spec, since, floor, mark, calendars, end)
        passed = end is not None and mark is not None and _seen(end, mark) and mark.instant_ms >= end.at_ms
        waits = spec is not None and end is not None and since_ms < end.at_ms
        if passed and not waits and not found:
            resting = since_ms if spec is None else None
            continue
        resting = None
        found.append((spec, since_ms))
    return found


def _seen(stamp: Stamp, mark: Mark | None) -> bool:
    return stamp.seq == _SEEN_BY_ALL or (mark is not None and stamp.seq <= mark.jobs_seq)


def _in_force(job: Job, mark: Mark | None) -> ScheduleSpec | None:
    """The schedule; None while the job is paused, unless the mark has passed the pause's own end."""
    if not job.paused:
        return job.schedule
    over = mark is not None and job.paused_until_ms is not None and job.paused_until_ms <= mark.instant_ms
    return job.schedule if over else None


def _undecided_from(  # noqa: PLR0913, PLR0917 - a version, and what it is judged by
    job: Job,
    spec: ScheduleSpec,
    since: Stamp,
    floor: Ms,
    mark: Mark | None,
    calendars: Mapping[str, CalendarSpec],
    end: Stamp | None,
) -> Ms:
    """After which slot a version's slots are undecided; none at or before ``floor`` is."""
    if _is_creation(job, since):
        floor = min(floor, _first(job, spec) - 1)
    if mark is None or not _seen(since, mark):
        return floor
    delayed = spec.jitter is not None or spec.timer is not None
    schedule = _compiled(job, spec, calendars) if delayed or spec.run_at_start else None
    since_ms = max(floor, mark.instant_ms if schedule is None else _decided_slot(schedule, mark.instant_ms, end))
    if since_ms == job.anchor_ms and _first(job, spec) <= since_ms and _next_after(schedule, since_ms) != since_ms + 1:
        # A version that begins with its job may be taken for its creation there, and have its first slot once more.
        return since_ms + 1
    return since_ms


def _is_creation(job: Job, since: Stamp) -> bool:
    """Whether a version is the one that its job was created with."""
    first = job.previous[0].since if job.previous else job.counts_from
    if since != first or since.seq == _SEEN_BY_ALL or since.at_ms != job.anchor_ms:
        return False
    return job.generation in {0, since.seq}


def _first(job: Job, spec: ScheduleSpec) -> Ms:
    """The slot that a job's first version has also if it is not after its creation; if there is none, a late one."""
    at = job.anchor_ms if spec.run_at_start else _instant(spec)
    return MAX_MS if at is None else at


def _compiled(job: Job, spec: ScheduleSpec, calendars: Mapping[str, CalendarSpec]) -> Schedule | None:
    """None: not here. A class that this process does not have, say; the job is taken along all the same."""
    try:
        return compile_schedule(
            spec, anchor_ms=job.anchor_ms, seed=job.id, min_interval_ns=1, lenient=True, calendars=calendars
        ).schedule
    except NatscronError:
        return None


def _decided_slot(schedule: Schedule, mark_ms: Ms, end: Stamp | None) -> Ms:
    """Up to where slots, those before the ``end``, are decided if what is due up to the mark is."""
    slot = schedule.last_at_or_before_ms(mark_ms if end is None else min(mark_ms, end.at_ms))
    dues = schedule.dues
    decided_ms = mark_ms
    while slot is not None and dues.due_of(slot) > mark_ms:
        decided_ms = slot - 1
        slot = schedule.last_at_or_before_ms(decided_ms)
    return decided_ms


def _next_after(schedule: Schedule | None, at_ms: Ms) -> Ms | None:
    return None if schedule is None else schedule.next_after_ms(at_ms)


def _is_over(job: Job, spec: ScheduleSpec | None, since_ms: Ms, mark: Mark | None) -> bool:
    """Whether it is a once job of which nothing is undecided: a leader that sees it anew would tell of it as missed."""
    if not _seen(job.counts_from, mark):
        return False
    at = None if spec is None else _instant(spec)
    return mark is None or (at is not None and at <= since_ms)


def _instant(spec: ScheduleSpec) -> Ms | None:
    try:
        return None if spec.at is None else text_to_ms(spec.at)
    except NatscronError:
        return None
