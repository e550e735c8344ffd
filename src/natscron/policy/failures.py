"""How many runs of a job failed in a row, and when that is enough. Pure."""

from natscron.model import Reason, Run, RunStatus, Trigger

__all__ = ["counted", "reached"]

_GOOD = frozenset({RunStatus.SENT, RunStatus.STORED, RunStatus.COMPLETED})
_BAD = frozenset({RunStatus.FAILED, RunStatus.DEAD})
_NO_FAILURE = frozenset({Reason.REPLACED, Reason.JOB_REMOVED})
_BY_ITSELF = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})


def counted(before: int, run: Run) -> int:
    """Failures in a row after ``run``, of which there were ``before``.

    Any good end begins anew, one that was triggered by hand too: whoever mended it wants it to count. Only scheduled
    runs count as failures: what is tried by hand says nothing of how the job does by itself, nor does a run that a
    newer one replaced, or whose job was removed.
    """
    if run.status in _GOOD:
        return 0
    bad = run.status in _BAD and run.reason not in _NO_FAILURE
    return before + 1 if bad and run.trigger in _BY_ITSELF else before


def reached(failures: int, limit: int) -> bool:
    """Whether a job with this ``pause_after_failures`` (0: never) is to be paused."""
    return 0 < limit <= failures
