"""The sentences of an explanation: what a record says, what a reason means, what a policy does. Pure."""

from collections.abc import Iterator
from typing import Final

from natscron.durations import format_duration
from natscron.engine.explain.lines import Line, What
from natscron.model import CatchUpPolicy, Delivery, Job, Ms, Overlap, Reason, Run, RunStatus, Trigger
from natscron.schedule import format_instant

__all__ = ["instant_of", "length", "policies_of", "said", "story", "why"]

_WHY: Final[dict[str, str]] = {
    Reason.CATCHUP_LATEST: "it was missed, and catch-up 'latest' makes up for the newest one only",
    Reason.CATCHUP_LIMIT: "it was missed, and beyond the newest that catch-up 'all' makes up for (its limit)",
    Reason.CATCHUP_NONE: "it was missed, and catch-up 'none' makes up for nothing",
    Reason.CATCHUP_WINDOW: "it was missed, and found older than the catch-up window",
    Reason.FOREIGN_LEADER: "an instance of the Go version was there and is taken to have run it",
    Reason.ONCE_PASSED: "its instant was over when it began to count",
    Reason.CLOCK_PULLED_BACK: "the clock of the leader before was ahead and had decided it already",
    Reason.OVERLAP_SKIP: "the run before was still going (overlap 'skip')",
    Reason.NO_RESPONDERS: "nobody was subscribed to the subject",
    Reason.NO_STREAM: "no stream captured the subject",
    Reason.TIMEOUT: "no answer came within the timeout",
    Reason.STREAM_REFUSED: "the stream refused it",
    Reason.WORKER_ERROR: "the worker reported an error",
    Reason.OUTCOME_UNKNOWN: "the leader that sent it is gone, so its end is not known: it may have run",
    Reason.RESERVED_SUBJECT: "the subject is reserved or not allowed",
    Reason.TOO_LARGE: "the message is larger than the server takes",
    Reason.INVALID_JOB: "the stored job cannot be honoured, or the class of its schedule failed",
    Reason.PAUSED: "the job was paused",
    Reason.SKIP_NEXT: "it was asked to be left out (skip next)",
    Reason.BUFFER_FULL: "the run before was still going, and as many as may wait were waiting",
    Reason.REPLACED: "a newer run took its place (overlap 'cancel_other')",
    Reason.JOB_REMOVED: "the job was removed, or its target changed, before it could be tried again",
    Reason.FAILURES_PAUSED: "the job was paused after too many failures in a row",
    Reason.OVERLAP_WAIT: "it waits for the run before to end",
    Reason.NO_HANDLER: "no process that is alive has its handler",
    Reason.HANDLER_ERROR: "the handler raised",
    Reason.WORKER_LOST: "its worker died or was cut off",
    Reason.WORKER_STOPPED: "its worker stopped before the handler had ended",
    Reason.CANCELLED: "the handler was cancelled",
    Reason.REDRIVEN: "it was asked to be tried once more",
    Reason.RETRY: "it waits to be tried again",
    Reason.BACKFILL_CANCELLED: "the backfill was cancelled, or its job removed",
}
_TRIGGERS: Final = {
    Trigger.SCHEDULE: "",
    Trigger.CATCHUP: "by catch-up: ",
    Trigger.MANUAL: "by hand: ",
    Trigger.BACKFILL: "by a backfill: ",
}
_ENDS: Final = {
    RunStatus.SENT: "sent",
    RunStatus.STORED: "stored in the stream",
    RunStatus.COMPLETED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.DEAD: "given up",
    RunStatus.RUNNING: "sent, its end is not known yet",
    RunStatus.SKIPPED: "not run",
}
_OVERLAPS: Final = {
    Overlap.ALLOW: "a slot runs whether or not the run before has ended",
    Overlap.SKIP: "a slot that comes while a run is going is left out",
    Overlap.BUFFER_ONE: "a slot that comes while a run is going waits; one may wait, more are left out",
    Overlap.BUFFER_ALL: "slots that come while a run is going wait, at most 100",
    Overlap.CANCEL_OTHER: "a slot that comes while a run is going takes its place",
}
_LATE: Final = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})
_PLAIN: Final = frozenset(
    {Reason.NO_RESPONDERS, Reason.TIMEOUT, Reason.OVERLAP_SKIP, Reason.BUFFER_FULL, Reason.REPLACED, Reason.SKIP_NEXT}
)
"""Reasons that a record's error repeats in other words."""

_MS: Final = 1_000_000
_PERCENT: Final = 100


def why(reason: str | None) -> str:
    """What a reason means, as a clause; a reason of a later version is given as it is."""
    return _WHY.get(reason or "", reason or "no reason is recorded")


def length(ms: Ms) -> str:
    """``24h``, ``1.5s``: a duration as it is written in a job."""
    return format_duration(ms * _MS, short=True)


def instant_of(run: Run) -> Ms:
    """The time that the history files a record under."""
    return run.finished_at_ms or run.started_at_ms or run.scheduled_at_ms or run.to_ms or 0


def said(run: Run) -> str:
    """The error that a record has, after a colon."""
    return f": {run.error}" if run.error else ""


def story(run: Run) -> str:
    """What a run's record says, in one sentence."""
    if run.status is RunStatus.PENDING:
        end = "to be tried again" if run.reason else "about to be sent"
    else:
        end = _ENDS.get(run.status, run.status.value)
    text = _TRIGGERS[run.trigger] + end
    if run.lateness_ms is not None and run.trigger in _LATE:
        text += f", {length(run.lateness_ms)} late" if run.lateness_ms else ", on time"
    if run.duration_ms is not None and run.status in {RunStatus.COMPLETED, RunStatus.FAILED}:
        text += f", took {length(run.duration_ms)}"
    if run.attempt > 1:
        text += f", attempt {run.attempt}"
    if run.reason:
        text += f": {why(run.reason)}"
    return text + (f" ({run.error})" if run.error and run.reason not in _PLAIN else "")


def policies_of(job: Job, *, delivery: Delivery | None, grace_floor_ms: Ms) -> tuple[Line, ...]:
    """One sentence for each policy in force; ``delivery`` is what ``auto`` has come to, if that is known."""
    return tuple(
        Line(what=What.POLICY, reason=name, text=text) for name, text in _policies(job, delivery, grace_floor_ms)
    )


def _policies(job: Job, delivery: Delivery | None, grace_floor_ms: Ms) -> Iterator[tuple[str, str]]:
    if job.paused:
        until = "" if job.paused_until_ms is None else f" until {format_instant(job.paused_until_ms)}"
        yield "paused", f"the job is paused{until}: no slot runs, and none of these is made up for"
    if job.skip is not None:
        first, last = format_instant(job.skip.from_ms), format_instant(job.skip.until_ms)
        yield "skip", f"the user asked for slots after {first} up to {last} to be left out"
    yield "catchup", _catchup(job, grace_floor_ms)
    yield "overlap", _OVERLAPS[job.overlap]
    effective = delivery or job.delivery
    if effective in {Delivery.REQUEST, Delivery.JETSTREAM} or job.reports:
        timeout = length(job.timeout_ms if job.timeout_ms is not None else 30_000)
        what = "the report of how it ended" if job.reports else "an answer"
        what = "the stream's acknowledgement" if effective is Delivery.JETSTREAM and not job.reports else what
        yield "timeout", f"{what} is waited for {timeout} at the most"
        yield "retry", _retry(job)
    else:
        yield "delivery", "core NATS confirms nothing: a run counts as sent, whoever received it"
    if job.pause_after_failures:
        yield "pause_after_failures", f"after {job.pause_after_failures} failed runs in a row the job is paused"
    if job.priority:
        yield "priority", f"of runs due at one instant those with a higher priority than {job.priority} go first"
    if job.schedule is not None and job.schedule.jitter:
        yield "jitter", f"each slot is delayed by up to {job.schedule.jitter}, always the same for one slot"


def _catchup(job: Job, grace_floor_ms: Ms) -> str:
    policy = job.catchup
    grace = length(max(policy.grace_ms, grace_floor_ms))
    young = f"if nobody leads when a slot is due, it runs within {grace} all the same"
    if policy.policy is CatchUpPolicy.NONE:
        return f"{young}; older ones are not made up for"
    window = length(policy.window_ms)
    if policy.policy is CatchUpPolicy.LATEST:
        return f"{young}; of older ones the newest is made up for within {window}, if no newer slot is due"
    return f"{young}; of older ones the newest {policy.limit} are made up for within {window}"


def _retry(job: Job) -> str:
    retry = job.retry
    if retry.attempts <= 1:
        return "a run is tried once"
    text = (
        f"a run is tried {retry.attempts} times at most, waiting {length(retry.backoff_ms)} first, each time "
        f"{retry.factor:g} times as long, {length(retry.max_backoff_ms)} at the most, "
        f"+-{retry.jitter * _PERCENT:g}%"
    )
    if retry.only:
        text += f"; only for {', '.join(retry.only)}"
    if retry.never:
        text += f"; never for {', '.join(retry.never)}"
    return text
