"""A job as the library shows it."""

import datetime as dt
from enum import StrEnum
from typing import Any

import msgspec

from natscron.codec import unpacked
from natscron.model import Activity, CatchUp, JobState, Ms, Overlap, Retry, RunStatus, ScheduleSpec, Timer
from natscron.model import Job as Row
from natscron.scheduler.policies import timer_of
from natscron.scheduler.values import moment
from natscron.worker.event import copied

__all__ = ["Job", "JobStatus", "snapshot_of"]


class JobStatus(StrEnum):
    """What a job is doing; the words of the Go library."""

    PENDING = "pending"
    """It waits for its first run."""
    RUNNING = "running"
    """A handler of it runs, in any process."""
    COMPLETED = "completed"
    """Its last run completed."""
    FAILED = "failed"
    """Its last run failed."""
    RESCHEDULING_FAILED = "rescheduling_failed"
    """It cannot be honoured, or its schedule found no next slot by an error; see :attr:`Job.error`."""
    DISABLED = "disabled"
    """It is paused."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was at one moment. Instants are aware datetimes in UTC, None where there is none.

    ``next_run``: the next due instant, computed; None if there is none, or the job is paused. ``last_run``: when its
    newest run started, in any process. ``error``: why it is ``rescheduling_failed``. ``payload`` None: there is none.
    """

    id: str
    schedule: ScheduleSpec | None
    status: JobStatus
    metadata: dict[str, str]
    payload: Any = None
    timer: Timer = Timer.LEADER
    handler: str = ""
    overlap: Overlap = Overlap.SKIP
    concurrency: int = 0
    timeout: dt.timedelta | None = None
    retry: Retry = Retry()
    catchup: CatchUp = CatchUp()
    priority: int = 0
    pause_after_failures: int = 0
    paused: bool = False
    paused_until: dt.datetime | None = None
    note: str = ""
    next_run: dt.datetime | None = None
    last_run: dt.datetime | None = None
    is_running: bool = False
    error: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None
    revision: int = 0


def snapshot_of(
    row: Row, *, state: JobState, next_run_ms: Ms | None, activity: Activity | None, failure: str | None = None
) -> Job:
    """The job's snapshot. ``failure``: why its schedule found no next slot."""
    found = activity or Activity()
    return Job(
        id=row.id,
        schedule=row.schedule,
        status=_status(state, found),
        metadata=dict(row.labels),
        payload=None if row.payload is msgspec.UNSET else copied(unpacked(row.payload)),
        timer=timer_of(row.schedule),
        handler=row.handler,
        overlap=row.overlap,
        concurrency=row.concurrency,
        timeout=None if row.timeout_ms is None else dt.timedelta(milliseconds=row.timeout_ms),
        retry=row.retry,
        catchup=row.catchup,
        priority=row.priority,
        pause_after_failures=row.pause_after_failures,
        paused=state is JobState.PAUSED,
        paused_until=moment(row.paused_until_ms) if row.paused else None,
        note=row.note,
        next_run=moment(next_run_ms),
        last_run=moment(found.started_ms),
        is_running=found.running > 0,
        error=row.invalid or failure,
        created_at=moment(row.created_at_ms or None),
        updated_at=moment(row.updated_at_ms or None),
        revision=row.revision,
    )


def _status(state: JobState, found: Activity) -> JobStatus:
    if found.running:
        return JobStatus.RUNNING
    if state is JobState.INVALID:
        return JobStatus.RESCHEDULING_FAILED
    if state is JobState.PAUSED:
        return JobStatus.DISABLED
    if found.status in {RunStatus.FAILED, RunStatus.DEAD}:
        return JobStatus.FAILED
    return JobStatus.PENDING if found.status is None else JobStatus.COMPLETED
