"""Records that the leader itself makes: of messages that went out, and of slots that are not run. Pure."""

from natscron.engine.journal import Ready
from natscron.engine.table import Entry
from natscron.model import Delivery, Ms, Reason, Run, RunStatus
from natscron.policy.catchup import Skipped

__all__ = ["core_run", "skipped_run"]


def core_run(run: Ready, sent_ms: Ms, instance: str) -> Run:
    """Of a message that nothing answers."""
    return Run(
        job=run.job_id,
        status=RunStatus.SENT,
        run_id=run.run_id,
        scheduled_at_ms=run.slot_ms,
        started_at_ms=sent_ms,
        finished_at_ms=sent_ms,
        trigger=run.trigger,
        delivery=Delivery.CORE,
        lateness_ms=sent_ms - run.due_ms,
        duration_ms=0,
        instance=instance,
    )


def skipped_run(entry: Entry, skipped: Skipped, instance: str) -> Run:
    """Of a range of slots that are not run. It says why a schedule found none, where that is the reason."""
    failure = None if entry.schedule is None else entry.schedule.failure
    return Run(
        job=entry.job.id,
        status=RunStatus.SKIPPED,
        reason=skipped.reason,
        from_ms=skipped.from_ms,
        to_ms=skipped.to_ms,
        count=skipped.count,
        instance=instance,
        error=failure if skipped.reason is Reason.INVALID_JOB else None,
    )
