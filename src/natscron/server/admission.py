"""What a job must pass before it is stored. Pure: told the time and the calendars, asks nobody."""

from collections.abc import Mapping
from typing import Final

import msgspec

from natscron.engine.calendars import calendars_of
from natscron.errors import InvalidScheduleError, UnknownCalendarError, ValidationError
from natscron.model import CalendarSpec, Delivery, Job, Ms, Overlap, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, resolve_spec
from natscron.server import effects
from natscron.server.delivery import StreamMap
from natscron.server.limits import Limits
from natscron.server.subjects import SubjectPolicy

__all__ = ["Admission", "Admitted", "next_due", "schedule_of", "settled"]

_MISSING: Final = "invalid schedule: schedule must specify either 'every' or 'cron' (or 'at')"
_NAMED: Final = 10
_NONE: Final[Mapping[str, CalendarSpec]] = {}


class Admitted(msgspec.Struct, frozen=True):
    """A job that may be stored, its compiled schedule, and what its author should know."""

    job: Job
    schedule: Schedule
    warnings: tuple[str, ...]


def schedule_of(  # noqa: PLR0913 - what compiling needs
    spec: ScheduleSpec | None,
    *,
    anchor_ms: Ms,
    seed: str,
    min_interval_ns: int,
    lenient: bool = False,
    calendars: Mapping[str, CalendarSpec] = _NONE,
) -> tuple[Schedule, tuple[str, ...]]:
    """Compile a schedule. Raises InvalidScheduleError with the text that Go's begins with.

    Raises UnknownCalendarError for a calendar that is not among ``calendars``, naming those that are.
    """
    if spec is None:
        raise InvalidScheduleError(_MISSING)
    if spec.timer is not None:
        raise InvalidScheduleError("timer is possible for jobs of the Scheduler library only: leave it out")
    _check_calendars(spec, calendars)
    try:
        compiled = compile_schedule(
            spec,
            anchor_ms=anchor_ms,
            seed=seed,
            min_interval_ns=min_interval_ns,
            lenient=lenient,
            calendars=calendars,
        )
    except InvalidScheduleError as error:
        raise _with_prefix(error) from None
    return compiled.schedule, tuple(compiled.warnings)


def next_due(job: Job, schedule: Schedule, now_ms: Ms) -> Ms | None:
    """When the job's next run is due after ``now_ms``, its pause and the slots to be skipped left out."""
    if job.paused:
        if job.paused_until_ms is None:
            return None
        now_ms = max(now_ms, job.paused_until_ms - 1)
    dues = schedule.dues
    due = dues.next_after_ms(now_ms)
    skip = job.skip
    # Behind the skipped slots at once, and past the last of them if jitter makes it due later.
    while due is not None and skip is not None and skip.from_ms < dues.slot_of(due) <= skip.until_ms:
        due = dues.next_after_ms(max(due, skip.until_ms))
    return due


def settled(job: Job, given: frozenset[str]) -> Job:
    """``job`` with its pause and the pause's end in agreement; ``given`` names the fields that its author wrote.

    An end given alone pauses the job until then. Raises ValidationError for an end of a pause that is not.
    """
    if job.paused or job.paused_until_ms is None:
        return job
    if "paused_until" not in given:
        return msgspec.structs.replace(job, paused_until_ms=None)
    if "paused" in given:
        raise ValidationError("paused_until goes with paused: true; leave it out, or give both")
    return msgspec.structs.replace(job, paused=True)


def _check_calendars(spec: ScheduleSpec, calendars: Mapping[str, CalendarSpec]) -> None:
    for name in calendars_of(spec):
        if name not in calendars:
            known = ", ".join(sorted(calendars)[:_NAMED]) + (", ..." if len(calendars) > _NAMED else "")
            there = f"known are {known}" if known else "there is none yet"
            raise UnknownCalendarError(
                f"invalid schedule: there is no calendar {name[:64]!r}; {there} (calendars.put stores one)"
            )


def _with_prefix(error: InvalidScheduleError) -> InvalidScheduleError:
    text = str(error)
    return error if text.startswith("invalid schedule") else type(error)(f"invalid schedule: {text}")


class Admission(msgspec.Struct, frozen=True):
    """The rules of one service."""

    policy: SubjectPolicy
    limits: Limits
    streams: StreamMap
    min_interval_ns: int

    def resolve(
        self, job: Job, now_ms: Ms, calendars: Mapping[str, CalendarSpec] = _NONE, before: Job | None = None
    ) -> Job:
        """``job`` with what is relative in its schedule made absolute: done once, when it is saved.

        ``in 5m`` becomes an instant and ``max_runs`` the last slot. ``before`` is the stored job: the same schedule
        again changes nothing.
        """
        if job.schedule is None:
            return job
        _check_calendars(job.schedule, calendars)
        try:
            spec = resolve_spec(
                job.schedule,
                now_ms,
                anchor_ms=before.anchor_ms or None if before is not None else None,
                seed=job.id,
                calendars=calendars,
                before=before.schedule if before is not None else None,
            )
        except InvalidScheduleError as error:
            raise _with_prefix(error) from None
        return job if spec is job.schedule else msgspec.structs.replace(job, schedule=spec)

    def admit(self, job: Job, now_ms: Ms, calendars: Mapping[str, CalendarSpec] = _NONE) -> Admitted:
        """Check everything about ``job``. Raises ValidationError and its subclasses."""
        self.policy.check(job.id)
        schedule, warnings = schedule_of(
            job.schedule,
            anchor_ms=job.anchor_ms or now_ms,
            seed=job.id,
            min_interval_ns=self.min_interval_ns,
            calendars=calendars,
        )
        self.limits.check(job)
        effective = self.effective(job)
        return Admitted(
            job,
            schedule,
            (
                *warnings,
                *effects.schedule_idle(job, schedule, now_ms),
                *self._about_streams(job),
                *effects.check_timeout(job, effective),
                *effects.check_overlap(job, job.overlap, effective),
                *effects.idle(job, effective, now_ms),
            ),
        )

    def check_overlap(self, job: Job, overlap: Overlap) -> None:
        """Whether one run, or a backfill, of a stored job may have a policy of its own. Raises ValidationError."""
        effects.check_overlap(job, overlap, self.effective(job))

    def effective(self, job: Job) -> Delivery | None:
        """What the job's delivery comes to; None where that hangs on streams that are not known yet."""
        if job.delivery is not Delivery.AUTO:
            return job.delivery
        return self.streams.resolve(job.id) if self.streams.known else None

    def _about_streams(self, job: Job) -> tuple[str, ...]:
        stream = self.streams.capturing(job.id) if self.streams.known else None
        if self.streams.known and job.delivery is Delivery.JETSTREAM:
            if stream is None:
                return (f"no stream captures {job.id!r} now: runs with delivery 'jetstream' fail until one does",)
            if stream.no_ack:
                return (f"stream {stream.name} does not acknowledge: runs with delivery 'jetstream' time out",)
        if stream is not None and job.delivery is Delivery.REQUEST:
            return (f"stream {stream.name} captures {job.id!r} and may answer in the worker's place",)
        return ()
