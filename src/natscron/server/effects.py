"""Which of a job's options have no effect beside its others. Pure; told what ``auto`` delivery comes to."""

from collections.abc import Iterator
from typing import Final

from natscron.codec import ms_to_text
from natscron.errors import ValidationError
from natscron.model import (
    DEFAULT_CATCHUP,
    DEFAULT_RETRY,
    CatchUpPolicy,
    Delivery,
    Job,
    Ms,
    Overlap,
)
from natscron.policy.overlap import BUFFER_MAX
from natscron.schedule import Schedule

__all__ = ["check_overlap", "check_timeout", "idle", "knows_ends", "schedule_idle"]

_CROWDED: Final = {
    Overlap.SKIP: "overlap 'skip' leaves out all but the first of them",
    Overlap.BUFFER_ONE: "overlap 'buffer_one' leaves out all but the first two of them",
    Overlap.CANCEL_OTHER: "with overlap 'cancel_other' each takes the place of the one before",
}
_HOW: Final = (
    "use delivery 'request', whose worker answers, or reports: true with a worker that says through runs.report how "
    "its run ended"
)


def knows_ends(job: Job) -> bool:
    """Whether somebody tells when a run of the job ends. ``auto`` never comes to ``request``."""
    return job.reports or job.delivery is Delivery.REQUEST


def check_overlap(job: Job, overlap: Overlap, effective: Delivery | None) -> tuple[str, ...]:
    """Refuse a policy that needs to know when a run ends where nobody tells; a warning while that is not known yet.

    ``effective`` is what the job's delivery comes to, None: not known yet. Raises ValidationError.
    """
    if overlap is Overlap.ALLOW or knows_ends(job):
        return ()
    if effective is None:
        return (f"overlap {overlap.value!r} is kept and has no effect: nobody tells when a run ends; {_HOW}",)
    comes = "delivery 'auto', which comes to" if job.delivery is Delivery.AUTO else "delivery"
    raise ValidationError(
        f"overlap {overlap.value!r} has no meaning with {comes} {effective.value!r}: nobody tells when a run ends; "
        f"{_HOW}"
    )


def check_timeout(job: Job, effective: Delivery | None) -> tuple[str, ...]:
    """Refuse a time-out where nothing is waited for; a warning where ``auto`` comes to that. Raises ValidationError."""
    if job.timeout_ms is None or job.reports:
        return ()
    if job.delivery is Delivery.CORE:
        raise ValidationError(
            "timeout has no meaning with delivery 'core', which waits for no answer; "
            "leave it out, or use delivery 'request' or 'jetstream', or reports: true"
        )
    if job.delivery is Delivery.AUTO and effective is not Delivery.JETSTREAM:
        return ("timeout is kept and has no effect: delivery 'auto' comes to 'core' now",)
    return ()


def schedule_idle(job: Job, schedule: Schedule, now_ms: Ms) -> tuple[str, ...]:
    """What of a schedule that is saved now changes nothing, a sentence each."""
    spec = job.schedule
    found: list[str] = []
    if spec is not None and spec.cron and not spec.tz and "TZ=" not in spec.cron:
        found += [
            f"{name} changes nothing: the zone is UTC, whose clocks never change; give tz"
            for name, value in (("dst_gap", spec.dst_gap), ("dst_fold", spec.dst_fold))
            if value
        ]
    if schedule.dues.next_after_ms(now_ms) is None:
        last_ms = schedule.last_at_or_before_ms(now_ms)
        last = "" if last_ms is None else f" (the last was {ms_to_text(last_ms)})"
        found.append(f"the schedule has no slot ahead{last}: what catchup still reaches runs, and no more")
    return tuple(found)


def idle(job: Job, effective: Delivery | None, now_ms: Ms) -> tuple[str, ...]:
    """What is kept and changes nothing, a sentence each."""
    return (*_pause(job, now_ms), *_catchup(job), *_failures(job, effective), *_library(job))


def _library(job: Job) -> Iterator[str]:
    for name, value in (("handler", job.handler), ("concurrency", job.concurrency)):
        if value:
            yield f"{name} is kept and has no effect: it belongs to the Scheduler library, whose jobs call handlers"


def _pause(job: Job, now_ms: Ms) -> Iterator[str]:
    if job.paused and job.paused_until_ms is not None and job.paused_until_ms <= now_ms:
        yield "paused_until has passed: the pause is over"


def _catchup(job: Job) -> Iterator[str]:
    catchup = job.catchup
    if catchup == DEFAULT_CATCHUP:
        return
    if catchup.limit != DEFAULT_CATCHUP.limit and catchup.policy is not CatchUpPolicy.ALL:
        yield f"catchup.limit has no effect with policy {catchup.policy.value!r}; it goes with 'all'"
    if catchup.window_ms != DEFAULT_CATCHUP.window_ms and catchup.policy is CatchUpPolicy.NONE:
        yield "catchup.window has no effect with policy 'none', which runs no slot older than the grace"
    elif catchup.window_ms <= catchup.grace_ms and catchup.policy is not CatchUpPolicy.NONE:
        yield f"catchup policy {catchup.policy.value!r} has no effect: its window is not longer than its grace"
    if catchup.policy is not CatchUpPolicy.ALL or catchup.limit == 1:
        return
    if job.overlap in _CROWDED:
        yield f"slots that are caught up with come together, and {_CROWDED[job.overlap]}"
    elif job.overlap is Overlap.BUFFER_ALL and catchup.limit > BUFFER_MAX:
        yield f"catchup.limit is {catchup.limit}, and with overlap 'buffer_all' at most {BUFFER_MAX} runs wait"


def _failures(job: Job, effective: Delivery | None) -> Iterator[str]:
    retry = job.retry
    if job.reports and job.delivery is Delivery.REQUEST:
        yield "reports is not needed with delivery 'request': the worker's answer ends the run already"
    if not knows_ends(job) and effective is Delivery.CORE:
        if retry != DEFAULT_RETRY:
            yield "retry has no effect with delivery 'core': nobody tells that a run failed"
        if job.pause_after_failures:
            yield "pause_after_failures has no effect with delivery 'core': nobody tells that a run failed"
    elif not knows_ends(job) and effective is Delivery.JETSTREAM:
        if retry.attempts > 1:
            yield "retry.attempts has no effect with delivery 'jetstream': until the timeout it is tried again"
    elif retry != DEFAULT_RETRY and retry.attempts == 1 and effective is not None:
        yield "retry has no effect with one attempt; give attempts of 2 or more"
