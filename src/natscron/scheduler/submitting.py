"""A job that becomes part of its submitter's own SQL transaction."""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from natscron.clock import Clock
from natscron.engine.calendars import calendars_of
from natscron.engine.options import EngineOptions
from natscron.errors import ValidationError
from natscron.model import Job as Row
from natscron.scheduler.jobs import Jobs, admit
from natscron.storage.queue import QueueStorage

__all__ = ["Insert", "admitted", "insert_of"]

_MIN_INTERVAL_NS: Final = EngineOptions(namespace="", instance="").min_interval_ns

Insert: TypeAlias = Callable[[Any, Row], Coroutine[Any, Any, None]]


def insert_of(storage: QueueStorage) -> Insert:
    """What inserts a job over a connection of the caller's. Raises ValidationError for a storage that cannot."""
    insert: Insert | None = getattr(storage, "insert_job", None)
    if insert is None:
        raise ValidationError(
            f"connection= needs a SQL storage, and {type(storage).__name__} is none: leave the argument out"
        )
    return insert


async def admitted(job: Row, jobs: Jobs | None, clock: Clock) -> Row:
    """The job as it is stored, checked; ``jobs`` None: the scheduler is not started. Raises InvalidScheduleError."""
    if jobs is not None:
        return await jobs.admitted(job)
    if calendars_of(job.schedule):
        raise ValidationError(
            f"job {job.id!r}: its schedule refers to calendars, which only a started scheduler knows; start it before"
        )
    return admit(job, now_ms=clock.now_ms(), min_interval_ns=_MIN_INTERVAL_NS, calendars={})
