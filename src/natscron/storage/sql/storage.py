"""The SQL storage: its roles over one database.

Who is authoritative: the database. ``initialize`` connects, brings the tables up to date and begins to follow them;
``close`` ends what ``initialize`` began, and the engine if it is its own. Both may be called again and again, in any
order; what is asked for in between raises StorageNotInitializedError, after what is wrong with its arguments.

After a fork each process makes its own: nothing is opened before ``initialize``.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from natscron.clock import Clock, SystemClock
from natscron.codec.calendar import encode_calendar
from natscron.errors import ConfigError, StorageNotInitializedError
from natscron.model import Activity, Calendar, Claim, Claimed, Ending, Job, Ms, Node, OpenRow, Run, WorkerInfo
from natscron.storage.forks import keep_forever
from natscron.storage.protocol import Capabilities, JobSink, LeaderLink, OnReply, RunQuery, StateSink, Watch
from natscron.storage.queue import QueueSink
from natscron.storage.sql.address import Address, borrowed, repooled, where_of
from natscron.storage.sql.options import SQLOptions
from natscron.storage.sql.parts import Parts
from natscron.storage.sql.rows import check_id, check_name
from natscron.storage.sql.submit import submit

__all__ = ["SQLStorage"]

T = TypeVar("T")


class SQLStorage:
    """Jobs, lease, run queue and history in SQLite, PostgreSQL, MySQL or MariaDB.

    ``target``: a URL (``sqlite:///FILE``, ``postgresql://``, ``mysql://``, ``mariadb://``), or an async engine of the
    caller's, which is used and never closed. ``options`` see :class:`SQLOptions`. Raises ConfigError.
    """

    def __init__(
        self, target: str | AsyncEngine, options: SQLOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        self.options = options or SQLOptions()
        self._clock = clock or SystemClock()
        self._address: Address | None = None
        self._engine: AsyncEngine | None = None
        if isinstance(target, AsyncEngine):
            self._engine = borrowed(target)
            self._where = where_of(target.url)
        else:
            self._address = Address.parse(target)
            self._where = self._address.where
        self._parts: Parts | None = None
        self._still = False
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"SQLStorage({self._where!r})"

    @property
    def capabilities(self) -> Capabilities:
        """Durable, shared, with a run queue; it publishes no messages."""
        return Capabilities(durable=True, shared=True, subjects=False, queue=True)

    async def initialize(self) -> None:
        """Connect, and make or change the tables. Idempotent; after a failure it may be called again.

        Raises StorageUnavailableError, and SchemaTooNewError for tables that a later version changed.
        """
        async with self._changing:
            if self._parts is not None:
                return
            engine = self._engine or (self._address or Address.parse("")).engine(self.options.pool_size)
            parts = Parts(engine, self.options, self._clock, self._where, own=self._engine is None)
            try:
                await parts.open()
            except BaseException:
                await parts.close()
                raise
            self._parts = parts

    async def close(self) -> None:
        """Release everything it opened; never what the caller handed in. Idempotent, also before ``initialize``."""
        async with self._changing:
            parts, self._parts = self._parts, None
            if parts is not None:
                await parts.close()

    def in_child(self) -> "SQLStorage":
        """In a process that was forked: a storage for the same database, with nothing that this one opened.

        What a caller's engine has in its pool stays there unused. Raises ConfigError where SQLite was open and not
        :meth:`still`.
        """
        keep_forever(self)
        if self._parts is not None and self._parts.database.name == "sqlite" and not self._still:
            raise ConfigError(
                f"{self._where}: this process was forked off while SQLite was in use there, and cannot open the file: "
                "start the scheduler after the fork, or fork in a thread that is not the event loop's"
            )
        target: str | AsyncEngine = ""
        if self._engine is not None:
            target = repooled(self._engine)
        elif self._address is not None:
            target = self._address.url.render_as_string(hide_password=False)
        return SQLStorage(target, self.options, clock=self._clock)

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts the process may fork, and the child may use :meth:`in_child`. May be nested."""
        if self._still:
            yield
            return
        async with self._parts.database.still() if self._parts is not None else contextlib.nullcontext():
            self._still = True
            try:
                yield
            finally:
                self._still = False

    async def health_check(self) -> None:
        """Raise StorageUnavailableError unless the database answers, SchemaTooNewError if it was changed meanwhile."""
        await self._ready.check()

    async def sweep(self) -> None:
        """Forget deletions older than an hour, instances and workers that died, and what the history need not keep."""
        await self._ready.sweep()

    # JobStore

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist; its revision. Raises JobAlreadyExistsError."""
        check_id(job.id)
        return await self._ready.jobs.create_job(job)

    async def insert_job(self, connection: AsyncConnection | Connection, job: Job) -> None:
        """Insert a job within the caller's own transaction on the same database, of which it becomes a part.

        The tables have to be there, the storage need not be initialized. Raises JobAlreadyExistsError, after which the
        transaction can go on, and the database's errors as they are. A synchronous connection blocks the loop.
        """
        if isinstance(connection, AsyncConnection):
            await connection.run_sync(submit, job, self._clock)
        else:
            submit(connection, job, self._clock)

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        check_id(job.id)
        return await self._ready.jobs.put_job(job, expected_revision)

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError and WrongRevisionError."""
        check_id(job_id)
        await self._ready.jobs.delete_job(job_id, expected_revision)

    async def fetch_job(self, job_id: str) -> Job | None:
        """The stored job."""
        check_id(job_id)
        return await self._ready.jobs.fetch_job(job_id)

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        encode_calendar(calendar)
        return await self._ready.jobs.put_calendar(calendar, expected_revision)

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete. Raises CalendarNotFoundError and WrongRevisionError."""
        check_name(name)
        await self._ready.jobs.delete_calendar(name, expected_revision)

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The stored calendar."""
        check_name(name)
        return await self._ready.jobs.fetch_calendar(name)

    async def last_jobs_seq(self) -> int:
        """The number of the last write to jobs and calendars, deletes included."""
        return await self._ready.jobs.last_jobs_seq()

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        return self._ready.job_follower.watch(sink)

    # LeaseStore

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """Open a leader's link. Raises StorageUnavailableError."""
        del on_reply  # nobody replies to what goes into a run queue
        return await self._ready.open_link()

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow the lease, open rows and nodes."""
        return self._ready.state_follower.watch(sink)

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row; False if one under that run id exists already."""
        return await self._ready.state.submit_row(row)

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row under that run id; None: there is none."""
        return await self._ready.state.fetch_row(run_id)

    async def announce(self, node: Node) -> None:
        """Write or refresh this instance's announcement; to be repeated within a minute."""
        await self._ready.state.announce(node)

    async def retract(self, node: Node) -> None:
        """Take the announcement back."""
        await self._ready.state.retract(node)

    # ExecutionStore

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records; returns when they are stored."""
        await self._ready.history.save_runs(runs)

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records."""
        return await self._ready.history.list_runs(query)

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slot of each job's newest run; jobs without one are left out."""
        return await self._ready.history.last_runs(job_ids)

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        return self._ready.history.follow_runs(job, fn)

    # RunQueue

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """Take runs that are due."""
        return await self._ready.queue.claim(worker, handlers, limit)

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """End tries; for each whether it still belonged to ``worker``."""
        return await self._ready.queue.finish(worker, endings)

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed runs claimable again."""
        await self._ready.queue.give_back(worker, claims)

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """Announce a worker; the tries that belong to it."""
        return await self._ready.queue.beat(worker)

    async def retire(self, worker: str) -> None:
        """Take a worker's announcement back."""
        await self._ready.queue.retire(worker)

    async def workers(self) -> Sequence[WorkerInfo]:
        """Those that are alive."""
        return await self._ready.queue.workers()

    async def lost(self, limit: int) -> Sequence[Claim]:
        """Running tries whose worker is not alive."""
        return await self._ready.queue.lost(limit)

    async def mark_unhandled(self) -> int:
        """Show which due runs no live worker has a handler for; how many."""
        return await self._ready.queue.mark_unhandled()

    async def drop_runs(self, job_id: str, generation: int) -> int:
        """End what waits of a removed job; how many of its runs still go on."""
        return await self._ready.queue.drop_runs(job_id, generation)

    async def redrive(self, run_id: str) -> bool:
        """Queue another try of a run that failed for good."""
        return await self._ready.queue.redrive(run_id)

    async def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """What the runs of these jobs are doing."""
        return await self._ready.queue.activity(job_ids)

    async def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records up to an instant, inclusive; how many."""
        check_id(job_id)
        return await self._ready.queue.delete_runs(job_id, before_ms)

    async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
        """Take over records of runs that are over, from another store; for each whether it was stored."""
        return await self._ready.history.import_runs(runs, dry_run=dry_run)

    def watch_queue(self, sink: QueueSink) -> Watch:
        """Follow the run queue."""
        return self._ready.queue.watch_queue(sink)

    @property
    def _ready(self) -> Parts:
        if self._parts is None:
            raise StorageNotInitializedError("the storage is not initialized, or closed")
        return self._parts
