"""A running scheduler's calls about jobs.

Who is authoritative: the store. Reads go to the engine's hot table after it has caught up; every change is decided on a
row and written over just that revision, and decided again on the newer row if somebody else was faster, at most
:data:`_TRIES` times. So any number of processes may ensure the same jobs at once. What raises StorageUncertainError may
have happened; the same call again is safe for all but :meth:`Jobs.add`, which then says that the job exists.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from natscron.clock import Clock
from natscron.codec import successor
from natscron.codec.job import job_to_json
from natscron.engine.calendars import calendars_of
from natscron.engine.engine import Engine
from natscron.engine.freshness import Freshness
from natscron.errors import (
    JobAlreadyExistsError,
    JobNotFoundError,
    UnknownCalendarError,
    ValidationError,
    WrongRevisionError,
)
from natscron.model import Activity, CalendarSpec, JobState, Ms
from natscron.model import Job as Row
from natscron.schedule import compile_schedule, resolve_spec
from natscron.schedule.servertiming import on_server_grid, server_timing
from natscron.scheduler.policies import Policies, changed, spec_of, timed, timer_of
from natscron.scheduler.snapshot import Job, JobStatus, snapshot_of
from natscron.scheduler.timing import Timing
from natscron.scheduler.values import job_id
from natscron.storage.queue import QueueStorage
from natscron.worker.calls import CURRENT

__all__ = ["Jobs", "admit"]

_TRIES: Final = 8
_CHUNK: Final = 500
_LOOK_S: Final = 0.05
_LOOK_MAX_S: Final = 1.0


class Jobs:
    """Create, change, remove and show jobs."""

    def __init__(
        self, store: QueueStorage, engine: Engine, fresh: Freshness, clock: Clock, min_interval_ns: int
    ) -> None:
        self._store = store
        self._engine = engine
        self._fresh = fresh
        self._clock = clock
        self._min_interval_ns = min_interval_ns
        self._timing = Timing(store, engine.table, fresh, clock)

    async def add(self, job: Row) -> None:
        """Store a job that is not there. Raises JobAlreadyExistsError."""
        await self._store.create_job(await self.admitted(job))
        await self._timing.keep(job)

    async def ensure(self, job: Row, *, loaded: bool = False) -> bool:
        """Have the job stored as given; whether that changed anything.

        ``loaded``: the jobs were loaded a moment ago, and nothing was changed here since.
        What people do to it at run time stays: whether it is paused, until when, and what is to be skipped.
        """
        entry = self._engine.table.get(job.id)
        old = entry.row if entry is not None else None
        for _ in range(_TRIES):
            if old is None:
                try:
                    await self.add(job)
                except JobAlreadyExistsError:
                    old = await self._store.fetch_job(job.id)
                    continue
                return True
            kept = msgspec.structs.replace(
                job, paused=old.paused, paused_until_ms=old.paused_until_ms, skip=old.skip, note=job.note or old.note
            )
            new = await self.admitted(kept, before=old)
            if _content(new) == _content(old):
                newest = old if loaded else await self._newest(job.id)
                if newest is not None and newest.revision == old.revision:
                    return False
                old, loaded = newest, True
                continue
            try:
                await self._store.put_job(successor(old, new, self._engine.mark), old.revision)
            except WrongRevisionError:
                old = await self._store.fetch_job(job.id)
                continue
            await self._timing.keep(old, new)
            return True
        raise WrongRevisionError(f"job {job.id!r} was changed by others {_TRIES} times in a row; try again")

    async def _newest(self, identity: str) -> Row | None:
        await self._fresh.catch_up()
        entry = self._engine.table.get(identity)
        return None if entry is None else entry.row

    async def update(self, identity: str, policies: Policies, schedule: object = None) -> None:
        """Change the policies that are given, and the schedule if one is. Raises JobNotFoundError."""
        spec = None if schedule is None else spec_of(schedule)

        def change(old: Row) -> Row:
            new = changed(old, policies)
            if spec is None:
                return new
            given = timed(spec, timer_of(new.schedule))
            # What was to be skipped were slots of the old schedule.
            return msgspec.structs.replace(new, schedule=given, skip=old.skip if given == old.schedule else None)

        await self._edit(identity, change)

    async def reschedule(self, identity: str, schedule: object) -> None:
        """Change the schedule alone. Raises EmptyJobIDError first, then InvalidScheduleError, JobNotFoundError."""
        await self.update(job_id(identity), {}, spec_of(schedule))

    async def rest(self, identity: str, *, paused: bool, until_ms: Ms | None) -> None:
        """Pause or resume. Raises JobNotFoundError, and ValidationError for an end that is not in the future."""
        if until_ms is not None and until_ms <= self._clock.now_ms():
            raise ValidationError("until must lie in the future: a pause ends later than now")
        await self._edit(
            identity, lambda old: msgspec.structs.replace(old, paused=paused, paused_until_ms=until_ms), resolve=False
        )

    async def remove(self, identity: str, *, wait: bool) -> None:
        """Remove a job and what waits of it; ``wait``: until its handlers have ended, but for the one that calls this.

        Raises JobNotFoundError.
        """
        old = await self._store.fetch_job(job_id(identity))
        if old is None:
            raise _unknown(identity)
        await self._store.delete_job(identity)
        await self._timing.keep(old)
        going = await self._store.drop_runs(identity, old.generation)
        mine = 1 if CURRENT.get() == identity else 0
        delay_s = _LOOK_S
        while wait and going > mine:
            # Handlers end in any process, and no store tells of an end across all of them.
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LOOK_MAX_S)
            going = await self._store.drop_runs(identity, old.generation)

    async def get(self, identity: str) -> Job:
        """One job. Raises JobNotFoundError."""
        await self._fresh.catch_up()
        entry = self._engine.table.get(job_id(identity))
        if entry is None:
            raise _unknown(identity)
        [found] = await self._snapshots([entry.job])
        return found

    async def all(self, status: JobStatus | None) -> list[Job]:
        """All jobs, oldest change first."""
        await self._fresh.catch_up()
        rows = [entry.job for entry in self._engine.table.entries()]
        found: list[Job] = []
        for begin in range(0, len(rows), _CHUNK):
            chunk = await self._snapshots(rows[begin : begin + _CHUNK])
            found += [job for job in chunk if status is None or job.status is status]
            await asyncio.sleep(0)
        return found

    def snapshot(self, row: Row) -> Job:
        """The job as this process knows it, without asking what its runs are doing."""
        return self._shown(row, None)

    async def _snapshots(self, rows: Sequence[Row]) -> list[Job]:
        activity = await self._store.activity([row.id for row in rows])
        return [self._shown(row, activity.get(row.id)) for row in rows]

    def _shown(self, row: Row, activity: Activity | None) -> Job:
        entry = self._engine.table.get(row.id)
        if entry is None:
            return snapshot_of(row, state=JobState.DONE, next_run_ms=None, activity=activity)
        next_ms = self._engine.next_run_ms(row.id)
        state = self._engine.state_of(entry)
        failure = None if entry.schedule is None else entry.schedule.failure
        return snapshot_of(row, state=state, next_run_ms=next_ms, activity=activity, failure=failure)

    async def admitted(self, job: Row, *, before: Row | None = None) -> Row:
        """The job as it is stored, checked. Raises InvalidScheduleError and its subclasses, and ServerTooOldError."""
        try:
            found = self._admit(job, before)
        except UnknownCalendarError:
            # It may have been put a moment ago, by another process.
            await self._fresh.catch_up()
            found = self._admit(job, before)
        await self._timing.check(found)
        return found

    def _admit(self, job: Row, before: Row | None) -> Row:
        return admit(
            job,
            before,
            now_ms=self._clock.now_ms(),
            min_interval_ns=self._min_interval_ns,
            calendars=self._engine.table.calendars(),
        )

    async def _edit(self, identity: str, change: Callable[[Row], Row], *, resolve: bool = True) -> None:
        entry = self._engine.table.get(job_id(identity))
        old = entry.row if entry is not None else await self._store.fetch_job(identity)
        for _ in range(_TRIES):
            if old is None:
                raise _unknown(identity)
            new = change(old)
            if resolve:
                new = await self.admitted(new, before=old)
            try:
                await self._store.put_job(successor(old, new, self._engine.mark), old.revision)
            except WrongRevisionError:
                old = await self._store.fetch_job(identity)
                continue
            await self._timing.keep(old, new)
            return
        raise WrongRevisionError(f"job {identity!r} was changed by others {_TRIES} times in a row; try again")


def admit(
    job: Row,
    before: Row | None = None,
    *,
    now_ms: Ms,
    min_interval_ns: int,
    calendars: Mapping[str, CalendarSpec],
) -> Row:
    """The job as it is stored, checked; ``before``: what it replaces. Raises InvalidScheduleError and subclasses."""
    if job.schedule is None:
        raise ValidationError(f"job {job.id!r} has no schedule")
    for name in calendars_of(job.schedule):
        if name not in calendars:
            raise UnknownCalendarError(f"job {job.id!r}: there is no calendar {name!r:.80}")
    anchor_ms = (before.anchor_ms or None) if before is not None else None
    stored = None if before is None else before.schedule
    given = on_server_grid(job.schedule, now_ms, stored, anchor_ms)
    if given.timer is not None:
        server_timing(given, now_ms)
    spec = resolve_spec(
        given,
        now_ms,
        anchor_ms=anchor_ms,
        seed=job.id,
        calendars=calendars,
        before=stored,
    )
    compile_schedule(
        spec, anchor_ms=anchor_ms or now_ms, seed=job.id, min_interval_ns=min_interval_ns, calendars=calendars
    )
    return msgspec.structs.replace(job, schedule=spec)


def _content(job: Row) -> dict[str, Any]:
    return job_to_json(job)


def _unknown(identity: str) -> JobNotFoundError:
    return JobNotFoundError(f"job not found: there is no job {identity!r:.200}")
