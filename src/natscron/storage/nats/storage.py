"""The NATS storage: its roles over one shared connection.

Who is authoritative: nats-server. ``initialize`` connects (or uses what it was handed), makes the buckets and the
stream, and opens the window for writes; ``close`` ends only what ``initialize`` opened. Each leader link is a
connection of its own, made with the same servers and credentials.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence

from natscron.clock import Clock, SystemClock
from natscron.errors import StorageUnavailableError
from natscron.model import Calendar, Job, Ms, Node, OpenRow, Run
from natscron.storage.nats.history import NatsHistory
from natscron.storage.nats.jobs import NatsJobs
from natscron.storage.nats.link import NatsLeaderLink, open_link
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.provision import provision
from natscron.storage.nats.state import NatsState
from natscron.storage.protocol import Capabilities, JobSink, LeaderLink, OnReply, RunQuery, StateSink
from natscron.wire.connection import Connection, OnEvent
from natscron.wire.consumer import Watch
from natscron.wire.options import ConnectOptions
from natscron.wire.window import PublishWindow

__all__ = ["NatsStorage"]

logger = logging.getLogger("natscron.storage")


class NatsStorage:
    """Jobs, lease, journal and history in NATS JetStream. Needs nats-server 2.11 or newer."""

    def __init__(
        self,
        connection: Connection | ConnectOptions,
        options: NatsStorageOptions | None = None,
        *,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
        connect_timeout_s: float | None = None,
    ) -> None:
        """A :class:`Connection` is used and left open; with options, one is opened and closed again.

        ``connect_timeout_s`` None: try for ever.
        """
        self.options = options or NatsStorageOptions()
        self.warnings: tuple[str, ...] = ()
        """What provisioning found that somebody should know."""
        self._given = connection
        self._on_event = on_event
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or SystemClock()
        self._connection: Connection | None = None
        self._window: PublishWindow | None = None
        self._roles: tuple[NatsJobs, NatsState, NatsHistory] | None = None
        self._starting = asyncio.Lock()
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._links: list[NatsLeaderLink] = []
        """Those still running; the connection holds each until it is closed."""

    @property
    def capabilities(self) -> Capabilities:
        """Durable, shared, and it can publish messages."""
        return Capabilities(durable=True, shared=True, subjects=True)

    @property
    def connection(self) -> Connection:
        """The shared connection. Raises StorageUnavailableError before ``initialize`` and after ``close``."""
        if self._connection is None:
            raise StorageUnavailableError("the storage is not initialized, or closed")
        return self._connection

    async def initialize(self) -> None:
        """Connect and provision. Idempotent; after a failure it may be called again.

        Raises StorageUnavailableError naming the phase that took too long, ConfigError for what waiting does not mend.
        """
        async with self._starting:
            if self._roles is not None:
                return
            if self._connection is None:
                if isinstance(self._given, Connection):
                    self._connection = self._given
                else:
                    self._connection = await Connection.connect(
                        self._given, on_event=self._on_event, timeout_s=self._connect_timeout_s
                    )
            warnings = await provision(self._connection, self.options)
            self.warnings = tuple(warnings)
            for warning in warnings:
                logger.warning("%s", warning)
            window = PublishWindow(self._connection)
            self._window = window
            self._roles = (
                self._make_jobs(self._connection, window),
                NatsState(self._connection, self.options, window),
                self._make_history(self._connection, window),
            )

    def _make_jobs(self, connection: Connection, window: PublishWindow) -> NatsJobs:
        return NatsJobs(connection, self.options, window, self._clock)

    def _make_history(self, connection: Connection, window: PublishWindow) -> NatsHistory:
        return NatsHistory(connection, self.options, window)

    async def close(self) -> None:
        """Release everything it opened. Idempotent, also before ``initialize``."""
        roles, self._roles = self._roles, None
        window, self._window = self._window, None
        connection, self._connection = self._connection, None
        for watch in list(self._watches):
            await watch.close()
        # A leader closes its own; what is still open has nobody any more who would.
        links, self._links = self._links, []
        for link in links:
            link.abort()
        if roles is not None:
            roles[2].close()
        if window is not None:
            await window.close()
        if connection is not None and connection is not self._given:
            await connection.close()

    async def health_check(self) -> None:
        """Raise StorageUnavailableError unless the jobs' stream answers."""
        await self._jobs.last_jobs_seq()

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist; its revision. Raises JobAlreadyExistsError."""
        return await self._jobs.create_job(job)

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        return await self._jobs.put_job(job, expected_revision)

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError and WrongRevisionError."""
        await self._jobs.delete_job(job_id, expected_revision)

    async def fetch_job(self, job_id: str) -> Job | None:
        """The job from the stream's leader."""
        return await self._jobs.fetch_job(job_id)

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        return await self._jobs.put_calendar(calendar, expected_revision)

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete. Raises CalendarNotFoundError and WrongRevisionError."""
        await self._jobs.delete_calendar(name, expected_revision)

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The calendar from the stream's leader."""
        return await self._jobs.fetch_calendar(name)

    async def last_jobs_seq(self) -> int:
        """The sequence of the last write to the jobs, deletes included."""
        return await self._jobs.last_jobs_seq()

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        return self._kept(self._jobs.watch_jobs(sink))

    def watch_calendars(self, sink: JobSink) -> Watch:
        """Follow the calendars alone, for what is to be done with them before the jobs are read."""
        return self._kept(self._jobs.watch_calendars(sink))

    async def sweep(self) -> None:
        """Purge the marks of jobs and calendars deleted more than an hour ago, at most 1,000 a call."""
        await self._jobs.sweep_tombstones()

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """Open a leader's own connection. Raises StorageUnavailableError."""
        link = await open_link(self.connection, self.options, on_reply)
        self._links = [whole for whole in self._links if not whole.broken.is_set()] + [link]
        return link

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow the lease, open rows and nodes."""
        return self._kept(self._state.watch_state(sink))

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row; False if one under that run id exists already."""
        return await self._state.submit_row(row)

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row under that run id, from the stream's leader; None: there is none."""
        return await self._state.fetch_row(run_id)

    async def announce(self, node: Node) -> None:
        """Write or refresh this instance's announcement."""
        await self._state.announce(node)

    async def retract(self, node: Node) -> None:
        """Take the announcement back."""
        await self._state.retract(node)

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records; returns when they are stored."""
        await self._history.save_runs(runs)

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records."""
        return await self._history.list_runs(query)

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slot of each job's newest run; jobs without one are left out."""
        return await self._history.last_runs(job_ids)

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        return self._kept(self._history.follow_runs(job, fn))

    def _kept(self, watch: Watch) -> Watch:
        self._watches.add(watch)
        return watch

    @property
    def _jobs(self) -> NatsJobs:
        return self._ready()[0]

    @property
    def _state(self) -> NatsState:
        return self._ready()[1]

    @property
    def _history(self) -> NatsHistory:
        return self._ready()[2]

    def _ready(self) -> tuple[NatsJobs, NatsState, NatsHistory]:
        if self._roles is None:
            raise StorageUnavailableError("the storage is not initialized, or closed")
        return self._roles
