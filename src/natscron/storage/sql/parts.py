"""What one initialization of a SQL storage opens, put together here and nowhere else."""

import logging
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from natscron.clock import Clock
from natscron.model import Ms
from natscron.storage.sql import numbers
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.history import History
from natscron.storage.sql.jobs import SqlJobs
from natscron.storage.sql.link import SqlLink
from natscron.storage.sql.options import SQLOptions
from natscron.storage.sql.queue import Queue
from natscron.storage.sql.signals import Signals
from natscron.storage.sql.state import SqlState, Statements
from natscron.storage.sql.upgrade import check_reader, upgrade
from natscron.storage.sql.watch_jobs import JobFollower
from natscron.storage.sql.watch_state import StateFollower

__all__ = ["Parts"]

log = logging.getLogger("natscron.storage")

_ADOPTED_FIRST: Final = 10_000
"""Records of the Go library taken up at a start."""
REMOVED_MS: Final[Ms] = 3_600_000
"""How long it is known what was deleted."""


class Parts:
    """``own``: the engine is disposed of at the end."""

    def __init__(self, engine: AsyncEngine, options: SQLOptions, clock: Clock, where: str, *, own: bool) -> None:
        self._engine = engine
        self._own = own
        self.database = Database(
            engine,
            clock,
            where=where,
            borrowed=not own,
            synchronous=options.synchronous,
            busy_timeout_ms=options.busy_timeout_ms,
        )
        self.signals = Signals(self.database, options.poll_s)
        self.jobs = SqlJobs(self.database, self.signals)
        self._statements = Statements(self.database, self.signals)
        self.state = SqlState(self.database, self.signals, self._statements)
        self.history = History(
            self.database, self.signals, runs_per_job=options.runs_per_job, runs_max_age_ms=options.runs_max_age_ms
        )
        self.queue = Queue(self.database, self.signals)
        self.job_follower = JobFollower(self.database, self.signals, self.jobs)
        self.state_follower = StateFollower(self.database, self.signals)
        self._links: list[SqlLink] = []

    async def open(self) -> None:
        """Connect and upgrade. Raises StorageError."""
        await upgrade(self.database)
        # A bounded part, so that a long history does not hold up the start; the rest comes with the sweeps.
        await self.history.adopt_first(_ADOPTED_FIRST)
        self.signals.start()

    async def close(self) -> None:
        """End everything; writes that wait are done first."""
        for link in self._links:
            link.abort()
        for link in self._links:
            await link.close()
        await self.job_follower.close()
        await self.state_follower.close()
        await self.jobs.close()
        await self.queue.close()
        await self.history.close()
        await self.signals.close()
        await self.database.close()
        if self._own:
            await self._engine.dispose()

    async def open_link(self) -> SqlLink:
        """A leader's link. Raises StorageUnavailableError."""
        link = SqlLink(self.database, self.signals, self._statements, self.jobs, self.queue)
        self._links = [whole for whole in self._links if not whole.broken.is_set()] + [link]
        return await link.open()

    async def check(self) -> None:
        """Raise StorageUnavailableError unless the database answers, SchemaTooNewError if it was changed meanwhile."""
        check_reader(await self.database.read(lambda connection: numbers.read(connection, numbers.READER)))

    async def sweep(self) -> None:
        """Housekeeping. Raises StorageError."""

        async def work(connection: AnyConnection) -> int:
            now = await self.database.now_ms(connection)
            await self._statements.sweep(connection, now)
            return now

        now = await self.database.run(work)
        await self.jobs.sweep(now - REMOVED_MS)
        await self.queue.heal()
        await self.history.retain()
