"""Jobs that the storage's server times: what is refused, and that the server knows of a change at once.

Who is authoritative: the job's row. The leader has the server's timers follow the rows; whoever changes a row does the
same right away, because this process may be the only one, and may end before anybody leads. What fails here the leader
makes good, so it is logged and not raised: the row is stored.
"""

import logging
from typing import cast

from natscron.clock import Clock
from natscron.engine.freshness import Freshness
from natscron.engine.table import JobTable
from natscron.engine.timed import timed_by_server, wanted_timer
from natscron.errors import NatscronError, ValidationError
from natscron.model import Job as Row
from natscron.schedule.servertiming import on_server_grid, server_timing
from natscron.storage.queue import QueueStorage
from natscron.storage.timers import TimerStore

__all__ = ["Timing", "check_timer", "timers_of"]

log = logging.getLogger("natscron.scheduler")


def timers_of(storage: QueueStorage) -> TimerStore | None:
    """The storage in its role of a timer; None: it has none."""
    return cast("TimerStore", storage) if storage.capabilities.timers else None


def check_timer(job: Row, storage: QueueStorage, clock: Clock) -> None:
    """Raise ValidationError (InvalidScheduleError) for a job that the storage's server cannot time."""
    if job.schedule is None or not timed_by_server(job):
        return
    if timers_of(storage) is None:
        raise ValidationError(
            f"job {job.id!r}: timer 'server' needs a scheduler on nats://, and {type(storage).__name__} is none; "
            "use timer='leader'"
        )
    now_ms = clock.now_ms()
    server_timing(on_server_grid(job.schedule, now_ms), now_ms)


class Timing:
    """Has the server know."""

    def __init__(self, storage: QueueStorage, table: JobTable, fresh: Freshness, clock: Clock) -> None:
        self._timers = timers_of(storage)
        self._name = type(storage).__name__
        self._table = table
        self._fresh = fresh
        self._clock = clock

    async def check(self, job: Row) -> None:
        """Raise ServerTooOldError, or what else keeps the server from timing this job."""
        if job.schedule is None or not timed_by_server(job):
            return
        if self._timers is None:
            raise ValidationError(f"job {job.id!r}: timer 'server' needs nats://, and this is {self._name}")
        await self._timers.check_timers(recurring=not job.schedule.at)

    async def keep(self, *rows: Row) -> None:
        """A job was written, or removed: have its timer follow. ``rows``: before and after, as far as known."""
        if self._timers is None or not any(timed_by_server(row) for row in rows):
            return
        job_id = rows[0].id
        try:
            await self._fresh.catch_up()
            entry = self._table.get(job_id)
            timer = None if entry is None else wanted_timer(entry, self._clock.now_ms())
            if timer is None:
                await self._timers.take_timers(job_id)
            else:
                await self._timers.lay_timer(timer)
        except (NatscronError, TimeoutError) as error:
            log.warning("the timer is left to the leader", extra={"job": job_id, "error": str(error)})
