"""Runs that handlers execute: as they are queued, claimed by a worker, and ended.

One row per try, under (run id, attempt). States: *pending* (due, or due at its ``not_before``), *held* (pending, and
waiting for another run of its job to end), *running* (claimed by a worker) and the final ones.
"""

from typing import Any

import msgspec

from natscron.model.words import Ms, Overlap, RunStatus, Trigger

__all__ = ["Activity", "Claim", "Claimed", "Ending", "QueuedRun", "WorkerInfo"]


class QueuedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the leader queues it. ``overlap`` and ``concurrency`` are the job's, or the run's own.

    ``priority``: the higher goes first. ``payload`` UNSET: the job's own.
    """

    run_id: str
    job: str
    generation: int
    scheduled_at_ms: Ms
    due_ms: Ms
    trigger: Trigger = Trigger.SCHEDULE
    handler: str = ""
    overlap: Overlap = Overlap.SKIP
    concurrency: int = 0
    priority: int = 0
    payload: Any = msgspec.UNSET

    @property
    def capacity(self) -> int:
        """How many runs of the job may go at once when this one is among them; 0: any number."""
        return self.concurrency or (0 if self.overlap is Overlap.ALLOW else 1)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one run that a worker has taken, or had. ``worker`` is the claimant.

    ``last_completed_ms``: when a run of the job last completed before the claim; None if none is known.
    """

    run_id: str
    job: str
    generation: int
    scheduled_at_ms: Ms
    due_ms: Ms
    trigger: Trigger = Trigger.SCHEDULE
    attempt: int = 1
    handler: str = ""
    payload: Any = msgspec.UNSET
    worker: str = ""
    started_ms: Ms = 0
    last_completed_ms: Ms | None = None


class Claimed(msgspec.Struct, frozen=True):
    """What a worker got. ``next_ms``: when, by the store, the next run that it could take is due; None: none is known.

    Only told where fewer runs were claimed than asked for. ``now_ms`` is the store's time of the claim.
    """

    runs: tuple[Claim, ...]
    next_ms: Ms | None
    now_ms: Ms


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a try ended. ``retry_in_ms``: another follows that long after this is stored; None: the run is over.

    ``retry_reason`` is the reason that the next try shows while it waits. Texts are bounded by the worker.
    """

    run_id: str
    attempt: int
    status: RunStatus
    started_ms: Ms
    finished_ms: Ms
    reason: str | None = None
    error: str | None = None
    result: str | None = None
    retry_in_ms: Ms | None = None
    retry_reason: str | None = None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it announces itself; ``id`` is unique to the process.

    It counts as alive for ``lease_ms`` after each announcement, by the store's clock. ``handlers``: the names that it
    can run, "" for its global handler.
    """

    id: str
    instance: str
    lease_ms: Ms
    handlers: tuple[str, ...] = ()
    concurrency: int = 0


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's runs are doing. ``status`` and ``finished_ms`` are those of the newest run that is over."""

    running: int = 0
    waiting: int = 0
    status: RunStatus | None = None
    started_ms: Ms | None = None
    finished_ms: Ms | None = None
