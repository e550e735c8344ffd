"""SQLite's connections: one that writes, a few that read.

Who is authoritative: the file. There is one writer at a time over all processes; within this process writers queue for
the one connection in the order in which they came, which SQLite itself, where everybody sleeps and tries again, would
not give. A transaction begins as BEGIN IMMEDIATE, so that it waits at its beginning (``busy_timeout``, by SQLite) and
never in its middle. Readers have connections of their own: in WAL mode they see the last commit and wait for nobody.

All of them are taken out of the engine's pool for good, so that what is set on them stays, also where the engine is
the caller's. One that fails in an unexpected way is thrown away, and the next user opens another.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["SqliteConnections"]

log = logging.getLogger("natscron.storage")

_READERS: Final = 4


class SqliteConnections:
    """``synchronous``: ``normal`` (a loss of power may take the last transactions) or ``full``."""

    def __init__(self, engine: AsyncEngine, *, synchronous: str, busy_timeout_ms: int) -> None:
        self._engine = engine
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._writing = asyncio.Lock()
        self._reading = asyncio.Semaphore(_READERS)
        self._writer: AsyncConnection | None = None
        self._readers: list[AsyncConnection] = []
        self._closed = False

    async def open(self, *, reading: bool = False) -> AsyncConnection:
        """A connection outside of the pool, in autocommit mode; whoever asks for it closes it."""
        connection = await self._engine.connect()
        try:
            # Else the driver would begin transactions by itself, as deferred ones.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.run_sync(lambda sync: sync.detach())
            await connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(self._busy_timeout_ms)}")
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode = WAL")).scalar_one()
            if mode != "wal":
                log.warning("SQLite refuses WAL for this file: readers and writers wait for each other")
            level = "FULL" if self._synchronous == "full" else "NORMAL"
            await connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            if reading:
                await connection.exec_driver_sql("PRAGMA query_only = ON")
            await connection.commit()
        except BaseException:
            await connection.close()
            raise
        return connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """The connection that writes, for one user at a time; what was not committed is rolled back."""
        async with self._writing:
            if self._writer is None or self._writer.closed or self._writer.invalidated:
                self._writer = await self.open()
            try:
                yield self._writer
            except BaseException:
                writer, self._writer = self._writer, None
                if await _mended(writer):
                    self._writer = writer
                raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that reads one state of the database."""
        async with self._reading:
            reader = self._readers.pop() if self._readers else await self.open(reading=True)
            try:
                await reader.exec_driver_sql("BEGIN")
                yield reader
            finally:
                if await _mended(reader):
                    self._readers.append(reader)
                if self._closed:
                    await self._close_readers()

    async def close(self) -> None:
        """Close all of them; one that is in use when its user is done."""
        self._closed = True
        async with self._writing:
            writer, self._writer = self._writer, None
            if writer is not None:
                await writer.close()
        await self._close_readers()

    async def _close_readers(self) -> None:
        while self._readers:
            await self._readers.pop().close()


async def _mended(connection: AsyncConnection) -> bool:
    """End what transaction there is; False if the connection is of no more use, and closed."""
    try:
        if not connection.closed and not connection.invalidated:
            await connection.rollback()
            return True
    except Exception as error:  # noqa: BLE001 - whatever it is, the connection is thrown away for it
        log.debug("a connection is given up", extra={"error": type(error).__name__})
        await connection.invalidate()
    await connection.close()
    return False
