"""The library's face: a scheduler inside a program, whose jobs call the program's functions."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Unpack

from natscron.errors import ValidationError
from natscron.model import Overlap, Run, RunStatus, ScheduleSpec
from natscron.scheduler.life import Life
from natscron.scheduler.policies import Policies
from natscron.scheduler.snapshot import Job, JobStatus
from natscron.scheduler.submitting import insert_of
from natscron.scheduler.values import Duration, instant_ms

__all__ = ["Scheduler"]


class Scheduler(Life):
    """Plans jobs and runs their handlers. Use it as an async context manager, or start and stop it.

    ``storage``: a URL (``memory://``, ``sqlite:///jobs.db``, ``postgresql://...``, ``mysql://...``, ``mariadb://...``)
    or a storage object, which is then not closed. ``handler``: the global one, called for jobs that name none. Each
    handler is a function of one argument, a :class:`JobEvent`; async ones run in the loop, others in threads.

    In memory (``memory://``) a scheduler is one process: two processes have two sets of jobs, and both fire. Processes
    that shall share jobs need a database. A process that was forked has a stopped scheduler, which can be started.

    ``worker`` False: this process runs nothing; ``plan`` False: it never leads. ``name``: the same in all processes of
    one scheduler. ``instance``: this process, for people (default host and pid). ``concurrency``: handlers at once
    here. ``lease``: how long a leader may be silent (default 10 s where other processes share the storage).
    ``worker_lease``: the same for workers (default 8 s), whose runs are taken over at the latest a sixth of it later.
    ``grace``: slots younger than this always run. ``stop_timeout``: how long a stop lets handlers go on. ``strict``: a
    job asked for before the start that cannot be stored makes the start fail. ``timer``: who says when a job is due
    that does not say it itself, ``leader`` or ``server`` (nats-server; on ``nats://`` alone). Raises ConfigError for an
    option that cannot work.
    """

    # Jobs.

    async def add_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Store a job that is not there. Before the start it is kept, and stored at the start.

        Raises EmptyJobIDError, InvalidScheduleError, ValidationError, JobAlreadyExistsError.
        """
        job = self._new_job(id, schedule, policies)
        self._forget_parent()
        if self._parts is None:
            self._pending.add(job)
        else:
            await self._running_parts().jobs.add(job)

    async def submit_job(
        self,
        id: str,  # noqa: A002 - the field's name
        schedule: ScheduleSpec,
        *,
        connection: Any = None,  # noqa: ANN401 - SQLAlchemy's, which not everybody has
        **policies: Unpack[Policies],
    ) -> None:
        """:meth:`add_job` under the name that the Go module gives it, and for the caller's own SQL transaction.

        ``connection``: SQLAlchemy's ``AsyncConnection`` to the storage's database. The job is there for everybody when
        its transaction is committed, and never if it is not; nothing is kept until the start. Raises as
        :meth:`add_job`, and ValidationError for a storage that is no SQL database.
        """
        if connection is None:
            await self.add_job(id, schedule, **policies)
            return
        insert = insert_of(self._storage)
        await insert(connection, await self._admitted(self._new_job(id, schedule, policies)))

    async def ensure_job(self, id: str, schedule: ScheduleSpec, **policies: Unpack[Policies]) -> bool:  # noqa: A002 - the field's name
        """Have a job as given; whether that changed anything (False before the start, where it is kept).

        An unchanged job is left alone, a changed one updated, metadata and policies too; what people set at run time
        (paused, skipped) stays. Any number of processes may call it at once.
        """
        job = self._new_job(id, schedule, policies)
        self._forget_parent()
        if self._parts is None:
            self._pending.ensure(job)
            return False
        return await self._running_parts().jobs.ensure(job)

    async def update_job_schedule(self, id: str, schedule: ScheduleSpec) -> None:  # noqa: A002 - the field's name
        """Change a job's schedule and nothing else. Raises JobNotFoundError and InvalidScheduleError."""
        await self._running_parts().jobs.reschedule(id, schedule)

    async def update_job(self, id: str, schedule: ScheduleSpec | None = None, **policies: Unpack[Policies]) -> None:  # noqa: A002 - the field's name
        """Change what is given; None resets a policy. Raises JobNotFoundError and ValidationError."""
        await self._running_parts().jobs.update(id, policies, schedule)

    async def remove_job(self, id: str, *, wait: bool = True) -> None:  # noqa: A002 - the field's name
        """Remove a job; its history stays. ``wait``: until its handlers have ended, but for the one that calls this.

        Raises JobNotFoundError.
        """
        await self._running_parts().jobs.remove(id, wait=wait)

    async def get_job(self, id: str) -> Job:  # noqa: A002 - the field's name
        """One job. Raises JobNotFoundError."""
        return await self._running_parts().jobs.get(id)

    async def list_jobs(self, status: JobStatus | str | None = None) -> list[Job]:
        """All jobs, or those with a status; oldest change first."""
        try:
            wanted = None if status is None else JobStatus(status)
        except ValueError:
            raise ValidationError(f"status must be one of {', '.join(JobStatus)}; got {status!r:.80}") from None
        return await self._running_parts().jobs.all(wanted)

    async def pause(self, id: str, *, until: dt.datetime | None = None) -> None:  # noqa: A002 - the field's name
        """Let a job's schedule rest, for ever or until an instant; triggers go on. Raises JobNotFoundError."""
        until_ms = None if until is None else instant_ms(until, "until")
        await self._running_parts().jobs.rest(id, paused=True, until_ms=until_ms)

    async def resume(self, id: str) -> None:  # noqa: A002 - the field's name
        """Let a paused job go on; slots of the pause are not made up for. Raises JobNotFoundError."""
        await self._running_parts().jobs.rest(id, paused=False, until_ms=None)

    # Runs.

    async def trigger(
        self,
        id: str,  # noqa: A002 - the field's name
        payload: Any = None,  # noqa: ANN401 - any JSON value
        *,
        key: str | None = None,
        overlap: Overlap | str | None = None,
    ) -> str:
        """Have a job run now, once; the run's id. Works in any process, also while nobody leads.

        ``payload``: instead of the job's. ``key``: the same key gives the same run. ``overlap``: instead of the job's.
        Raises JobNotFoundError, and LimitExceededError while 10,000 are asked for already.
        """
        return await self._running_parts().runs.trigger(id, payload, key, overlap)

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self,
        id: str,  # noqa: A002 - the field's name
        since: dt.datetime,
        until: dt.datetime,
        *,
        every: Duration = "100ms",
        overlap: Overlap | str | None = Overlap.BUFFER_ALL,
        key: str | None = None,
    ) -> str:
        """Run every slot from ``since`` to ``until``, both inclusive and past; the backfill's id.

        ``every``: at most one slot is queued in this time. ``overlap``: instead of the job's; None: the job's. Raises
        JobNotFoundError, ValidationError, and LimitExceededError over 100,000 slots.
        """
        return await self._running_parts().runs.backfill(id, since, until, every=every, overlap=overlap, key=key)

    async def list_runs(  # noqa: PLR0913 - what a query is
        self,
        job_id: str | None = None,
        *,
        status: RunStatus | str | None = None,
        since: dt.datetime | None = None,
        until: dt.datetime | None = None,
        sort_by: str | None = None,
        descending: bool = True,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[Run]:
        """Records of runs, one for each try, the newest first. ``since`` is inclusive, ``until`` exclusive, by start.

        ``sort_by``: ``start_time``, ``end_time`` or ``duration``. ``limit``: 1 to 10,000. Raises ValidationError.
        """
        return await self._running_parts().runs.find(
            job_id,
            status=status,
            since=since,
            until=until,
            sort_by=sort_by,
            descending=descending,
            limit=limit,
            offset=offset,
        )

    async def get_run(self, run_id: str) -> Run:
        """The newest try of a run, from the moment :meth:`trigger` returned its id. Raises RunNotFoundError.

        As long as nobody has queued it, it is ``pending`` and not in :meth:`list_runs`. Of a backfill, by its id: it is
        ``running`` until all its slots are handed out, then there is a record.
        """
        return await self._running_parts().runs.get(run_id)

    async def delete_runs(self, job_id: str, before: dt.datetime) -> int:
        """Delete a job's records of runs that started at or before an instant; how many."""
        return await self._running_parts().runs.delete(job_id, before)

    async def redrive(self, run_id: str) -> None:
        """Try a run again that failed for good. Raises RunNotFoundError, and ValidationError if it did not fail."""
        await self._running_parts().runs.redrive(run_id)
