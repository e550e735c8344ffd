"""How a try ended, as it is stored. Pure: ``took`` is (started, finished), both by the store's clock."""

from typing import Final

from natscron.model import DEFAULT_RETRY, Claim, Ending, Job, Ms, Reason, RunStatus
from natscron.policy.ending import next_try_in_ms, status_of
from natscron.worker.calls import Called

__all__ = ["completed", "failed", "interrupted", "lost", "removed"]

_ON_PURPOSE: Final = frozenset({Reason.REPLACED, Reason.JOB_REMOVED})
"""Cancelled on purpose: no further try follows."""
_INTERRUPTED: Final[dict[str, str]] = {
    Reason.WORKER_STOPPED: "the worker stopped, and the handler did not end in the time it was given",
    Reason.WORKER_LOST: "the worker gave no sign of life for its lease",
    Reason.REPLACED: "a newer run took its place (overlap cancel_other)",
}


def completed(claim: Claim, called: Called, took: tuple[Ms, Ms]) -> Ending:
    """The handler returned."""
    return _ending(claim, RunStatus.COMPLETED, took, result=called.result)


def removed(claim: Claim, took: tuple[Ms, Ms]) -> Ending:
    """Its job was removed before the handler began."""
    return _ending(claim, RunStatus.SKIPPED, took, reason=Reason.JOB_REMOVED, error="its job was removed")


def failed(claim: Claim, job: Job | None, called: Called, took: tuple[Ms, Ms]) -> Ending:
    """The handler raised, timed out or could not be called; the job's retry policy says whether a try follows."""
    retry, reason = DEFAULT_RETRY if job is None else job.retry, called.reason or Reason.HANDLER_ERROR
    wait_ms = None
    if reason not in _ON_PURPOSE:
        wait_ms = next_try_in_ms(retry, claim.attempt, reason=reason, code=called.code, key=claim.run_id)
    status = status_of(retry, claim.attempt, again=wait_ms is not None or reason in _ON_PURPOSE)
    return _ending(claim, status, took, reason=reason, error=called.error, retry_in_ms=wait_ms)


def interrupted(claim: Claim, job: Job | None, reason: str, took: tuple[Ms, Ms]) -> Ending:
    """The handler was cancelled."""
    return failed(claim, job, Called(reason, _INTERRUPTED.get(reason, "the handler was cancelled")), took)


def lost(claim: Claim, job: Job | None, now_ms: Ms) -> Ending:
    """Its worker is not alive any more."""
    return interrupted(claim, job, Reason.WORKER_LOST, (claim.started_ms, now_ms))


def _ending(  # noqa: PLR0913 - what an ending is made of
    claim: Claim,
    status: RunStatus,
    took: tuple[Ms, Ms],
    *,
    reason: str | None = None,
    error: str | None = None,
    result: str | None = None,
    retry_in_ms: Ms | None = None,
) -> Ending:
    started_ms, finished_ms = took
    return Ending(
        run_id=claim.run_id,
        attempt=claim.attempt,
        status=status,
        started_ms=started_ms,
        finished_ms=max(finished_ms, started_ms),
        reason=reason,
        error=error,
        result=result,
        retry_in_ms=retry_in_ms,
        retry_reason=None if retry_in_ms is None else Reason.RETRY,
    )
