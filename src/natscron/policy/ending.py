"""What follows when a handler's try is over: another try, or the run's end. Pure.

A try that failed by itself goes by the job's retry policy. One that was interrupted, because its worker died or had to
stop, says nothing against the handler and is tried again at once whatever that policy is; but it counts as an attempt,
and a handler that brings down every process that runs it must stop somewhere: at :data:`INTERRUPTED_MAX` attempts, or
at the policy's number if that is larger.
"""

from typing import Final

from natscron.model import Ms, Reason, Retry, RunStatus
from natscron.policy.retry import applies, delay_ms

__all__ = ["INTERRUPTED_MAX", "INTERRUPTIONS", "next_try_in_ms", "status_of"]

INTERRUPTED_MAX: Final = 5
"""Attempts of a run whose worker died or was stopped each time."""
INTERRUPTIONS: Final = frozenset({Reason.WORKER_LOST, Reason.WORKER_STOPPED})


def next_try_in_ms(retry: Retry, attempt: int, *, reason: str, code: str | None, key: str) -> Ms | None:
    """How long after the failed try ``attempt`` (1 = the first) the next one starts; None: there is none.

    ``code``: the exception's name, which the policy may name. ``key``: the run id, by which waits are spread.
    """
    if reason in INTERRUPTIONS:
        return 0 if attempt < max(retry.attempts, INTERRUPTED_MAX) else None
    if attempt >= retry.attempts or not applies(retry, reason, code):
        return None
    return delay_ms(retry, attempt, key)


def status_of(retry: Retry, attempt: int, *, again: bool) -> RunStatus:
    """The status of a failed try: FAILED, or DEAD if it was the last of several, or of a job that tries several times.

    A run that is dead, or failed with none following, can be redriven.
    """
    return RunStatus.FAILED if again or (attempt == 1 and retry.attempts == 1) else RunStatus.DEAD
