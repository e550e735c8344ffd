"""What a job must pass before it is stored. Pure: told the time, asks nobody."""

from typing import Final

import msgspec

from natscron.errors import InvalidScheduleError, ValidationError
from natscron.model import Delivery, Job, Ms, Overlap, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, resolve_spec
from natscron.server.delivery import StreamMap
from natscron.server.limits import Limits
from natscron.server.subjects import SubjectPolicy

__all__ = ["Admission", "Admitted", "schedule_of"]

_MISSING: Final = "invalid schedule: schedule must specify either 'every' or 'cron' (or 'at')"


class Admitted(msgspec.Struct, frozen=True):
    """A job that may be stored, its compiled schedule, and what its author should know."""

    job: Job
    schedule: Schedule
    warnings: tuple[str, ...]


def schedule_of(
    spec: ScheduleSpec | None, *, anchor_ms: Ms, seed: str, min_interval_ns: int, lenient: bool = False
) -> tuple[Schedule, tuple[str, ...]]:
    """Compile a schedule. Raises InvalidScheduleError with the text that Go's begins with."""
    if spec is None or (spec.every is None and spec.cron is None and spec.at is None):
        raise InvalidScheduleError(_MISSING)
    try:
        compiled = compile_schedule(
            spec, anchor_ms=anchor_ms, seed=seed, min_interval_ns=min_interval_ns, lenient=lenient
        )
    except InvalidScheduleError as error:
        raise _with_prefix(error) from None
    return compiled.schedule, tuple(compiled.warnings)


def _with_prefix(error: InvalidScheduleError) -> InvalidScheduleError:
    text = str(error)
    return error if text.startswith("invalid schedule") else type(error)(f"invalid schedule: {text}")


class Admission(msgspec.Struct, frozen=True):
    """The rules of one service."""

    policy: SubjectPolicy
    limits: Limits
    streams: StreamMap
    min_interval_ns: int

    def resolve(self, job: Job, now_ms: Ms) -> Job:
        """``job`` with relative instants in its schedule (``in 5m``) made absolute: done once, when it is saved."""
        if job.schedule is None:
            return job
        try:
            spec = resolve_spec(job.schedule, now_ms)
        except InvalidScheduleError as error:
            raise _with_prefix(error) from None
        return job if spec is job.schedule else msgspec.structs.replace(job, schedule=spec)

    def admit(self, job: Job, now_ms: Ms) -> Admitted:
        """Check everything about ``job``. Raises ValidationError and its subclasses."""
        self.policy.check(job.id)
        schedule, warnings = schedule_of(
            job.schedule, anchor_ms=job.anchor_ms or now_ms, seed=job.id, min_interval_ns=self.min_interval_ns
        )
        self.limits.check(job)
        return Admitted(job, schedule, warnings + self._about_delivery(job) + self._about_overlap(job))

    def _about_overlap(self, job: Job) -> tuple[str, ...]:
        """Only where an answer is awaited is it known when a run ends."""
        if job.overlap is Overlap.ALLOW:
            return ()
        if job.overlap is not Overlap.SKIP:
            raise ValidationError(
                f"overlap {job.overlap.value!r} is not supported by this version; use 'allow', or 'skip' with "
                "delivery 'request'"
            )
        if job.delivery is Delivery.CORE:
            raise ValidationError(
                "overlap 'skip' has no meaning with delivery 'core', which does not tell when a run ends; "
                "use delivery 'request', whose worker answers"
            )
        if job.delivery is Delivery.AUTO and self.streams.resolve(job.id) is Delivery.CORE:
            return ("overlap is kept and has no effect: delivery 'auto' comes to 'core' now",)
        return ()

    def _about_delivery(self, job: Job) -> tuple[str, ...]:
        stream = self.streams.capturing(job.id) if self.streams.known else None
        if self.streams.known and job.delivery is Delivery.JETSTREAM:
            if stream is None:
                return (f"no stream captures {job.id!r} now: runs with delivery 'jetstream' fail until one does",)
            if stream.no_ack:
                return (f"stream {stream.name} does not acknowledge: runs with delivery 'jetstream' time out",)
        if stream is not None and job.delivery is Delivery.REQUEST:
            return (f"stream {stream.name} captures {job.id!r} and may answer in the worker's place",)
        if job.timeout_ms is None:
            return ()
        if job.delivery is Delivery.CORE:
            raise ValidationError(
                "timeout has no meaning with delivery 'core', which waits for no answer; "
                "leave it out, or use delivery 'request' or 'jetstream'"
            )
        if job.delivery is Delivery.AUTO and self.streams.resolve(job.id) is Delivery.CORE:
            return ("timeout is kept and has no effect: delivery 'auto' comes to 'core' now",)
        return ()
