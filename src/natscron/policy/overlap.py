"""What happens to a run that is due while the job's previous one is still going. Pure.

A run that is due is *decided* once; one that is told to wait is asked again each time a run of its job ends, under the
policy that the job has then. So an edit of the policy takes effect on what waits already, and nothing waits for ever:
a waiting run is let go when nothing of its job is going any more, whatever the policy has become.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from natscron.model import Overlap, QueuedRun, Trigger

__all__ = ["BUFFER_MAX", "Verdict", "decide", "enter", "leaving"]

BUFFER_MAX: Final = 100
"""Runs of one job that wait at the most, under ``buffer_all``; ``buffer_one`` keeps one."""


class Verdict(StrEnum):
    """What is to be done with a run."""

    START = "start"
    """Send it."""
    SKIP = "skip"
    """Leave it out, because another is going."""
    BUFFER = "buffer"
    """It waits."""
    DROP = "drop"
    """Leave it out, because as many as may wait are waiting."""
    REPLACE = "replace"
    """Send it in the place of all that are going or waiting."""


def decide(policy: Overlap, *, running: int, waiting: int) -> Verdict:
    """About a run that is due while ``running`` of its job are going and ``waiting`` wait."""
    if policy is Overlap.ALLOW or not running + waiting:
        return Verdict.START
    if policy is Overlap.CANCEL_OTHER:
        return Verdict.REPLACE
    if policy is Overlap.SKIP:
        return Verdict.SKIP
    return Verdict.BUFFER if waiting < _room(policy) else Verdict.DROP


def enter(run: QueuedRun, *, running: int, waiting: int) -> Verdict:
    """About a run that is put into the run queue while ``running`` of its job are due or going and ``waiting`` wait.

    As :func:`decide`, but for what the run queue can do besides. As many as :attr:`QueuedRun.capacity` may go at once.
    REPLACE: those that wait are dropped and those that are going are to end, and the run waits until they have, so that
    two never overlap. What would overlap under ALLOW with a ``concurrency``, and the slots of a backfill, wait in any
    number: the backlog of the queue has no bound either, and a backfill is bounded by itself.
    """
    if not run.capacity or (running < run.capacity and not waiting):
        return Verdict.START
    if run.overlap is Overlap.CANCEL_OTHER:
        return Verdict.REPLACE
    if run.overlap is Overlap.SKIP:
        return Verdict.SKIP
    if run.overlap is Overlap.ALLOW or run.trigger is Trigger.BACKFILL:
        return Verdict.BUFFER
    return Verdict.BUFFER if waiting < _room(run.overlap) else Verdict.DROP


def leaving(policies: Sequence[Overlap], *, running: int) -> list[Verdict]:
    """About each run that waits, the oldest first and each by its policy, when ``running`` are still going."""
    verdicts: list[Verdict] = []
    going, kept = running, 0
    for policy in policies:
        if policy is Overlap.CANCEL_OTHER:
            # The newest of these takes the place of all before it; they are ended with what is going.
            verdicts = [Verdict.DROP] * len(verdicts) + [Verdict.REPLACE if running else Verdict.START]
            going, kept = 1, 0
        elif policy is Overlap.ALLOW or not going:
            verdicts.append(Verdict.START)
            going += 1
        elif policy is Overlap.SKIP:
            verdicts.append(Verdict.SKIP)
        elif kept < _room(policy):
            verdicts.append(Verdict.BUFFER)
            kept += 1
        else:
            verdicts.append(Verdict.DROP)
    return verdicts


def _room(policy: Overlap) -> int:
    return 1 if policy is Overlap.BUFFER_ONE else BUFFER_MAX
