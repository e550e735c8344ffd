"""SQLite's connections: one that writes, a few that read.

Who is authoritative: the file. There is one writer at a time over all processes; within this process writers queue for
the one connection in the order in which they came, which SQLite itself, where everybody sleeps and tries again, would
not give. A transaction begins as BEGIN IMMEDIATE, so that it waits at its beginning (``busy_timeout``, by SQLite) and
never in its middle. Readers have connections of their own: in WAL mode they see the last commit and wait for nobody.

All of them are taken out of the engine's pool, so that what is set on them stays, also where the engine is the
caller's. One that fails in an unexpected way is thrown away, and the next user opens another.

A process must not fork while one is open: SQLite in the child would believe the parent's locks to be its own. So
:meth:`SqliteConnections.still` waits for the transactions, closes all, and keeps others from opening any.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from natscron.storage.sql.apart import Apart
from natscron.storage.sql.quick import QuickConnection

__all__ = ["SqliteConnections"]

log = logging.getLogger("natscron.storage")

_READERS: Final = 4
_WAL_TRIES: Final = 100
_WAL_PAUSE_S: Final = 0.02


class SqliteConnections:
    """``synchronous``: ``normal`` (a loss of power may take the last transactions) or ``full``."""

    def __init__(self, engine: AsyncEngine, *, synchronous: str, busy_timeout_ms: int) -> None:
        self._engine = engine
        self._synchronous = synchronous
        self._busy_timeout_ms = busy_timeout_ms
        self._writing = asyncio.Lock()
        self._reading = asyncio.Semaphore(_READERS)
        self._writer: Apart | None = None
        self._writers = 0
        self._readers: list[Apart] = []
        self._closed = False

    async def open(self, *, reading: bool = False) -> Apart:
        """A connection in autocommit mode; whoever asks for it closes it."""
        # Else the driver would begin transactions by itself, as deferred ones.
        apart = await Apart.open(self._engine, isolation_level="AUTOCOMMIT")
        connection = apart.connection
        try:
            await connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(self._busy_timeout_ms)}")
            await _use_wal(connection)
            level = "FULL" if self._synchronous == "full" else "NORMAL"
            await connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            if reading:
                await connection.exec_driver_sql("PRAGMA query_only = ON")
            await connection.commit()
        except BaseException:
            await apart.close()
            raise
        return apart

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction on the connection that writes, for one at a time; rolled back when an exception ends it."""
        async with self._writing:
            writer = await self._open_writer()
            try:
                await _begin(writer, "BEGIN IMMEDIATE")
                yield writer.connection
            except BaseException:
                if not await _mended(writer):
                    self._writer = None
                raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that reads one state of the database."""
        async with self._reading:
            reader = self._readers.pop() if self._readers else await self.open(reading=True)
            try:
                await _begin(reader, "BEGIN")
                yield reader.connection
            finally:
                if await _mended(reader):
                    self._readers.append(reader)
                if self._closed:
                    await self._close_readers()

    async def data_version(self) -> tuple[int, int]:
        """Another one than before if anybody else may have committed meanwhile: asked on the connection that writes."""
        async with self._writing:
            writer = await self._open_writer()
            try:
                return self._writers, await _data_version(writer)
            except BaseException:
                self._writer = None
                await writer.close()
                raise

    async def _open_writer(self) -> Apart:
        if self._writer is None or not self._writer.usable:
            self._writer = await self.open()
            self._writers += 1
        return self._writer

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts no connection is open."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._writing)
            for _ in range(_READERS):
                await stack.enter_async_context(self._reading)
            await self._close_writer()
            await self._close_readers()
            yield

    async def close(self) -> None:
        """Close all of them; one that is in use when its user is done."""
        self._closed = True
        async with self._writing:
            await self._close_writer()
        await self._close_readers()

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()

    async def _close_readers(self) -> None:
        while self._readers:
            await self._readers.pop().close()


async def _begin(apart: Apart, statement: str) -> None:
    if isinstance(apart.driver, QuickConnection):
        apart.driver.begin = statement
    else:
        await apart.connection.exec_driver_sql(statement)


async def _data_version(apart: Apart) -> int:
    if isinstance(apart.driver, QuickConnection):
        # Asked ten times a second: past SQLAlchemy it costs a tenth.
        [row] = (await apart.driver.visit("PRAGMA data_version", (), many=False)).rows
        return int(row[0])
    return int((await apart.connection.exec_driver_sql("PRAGMA data_version")).scalar_one())


async def _use_wal(connection: AsyncConnection) -> None:
    """Have readers and writers not wait for each other; the file keeps it."""
    for _ in range(_WAL_TRIES):
        if (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal":
            return
        try:
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode = WAL")).scalar_one()
        except OperationalError:
            # Others do the same at this moment, and SQLite does not wait for that.
            await asyncio.sleep(_WAL_PAUSE_S)
            continue
        if mode == "wal":
            return
        break
    log.warning("SQLite refuses WAL for this file: readers and writers wait for each other")


async def _mended(apart: Apart) -> bool:
    """End what transaction there is; False if the connection is of no more use, and closed."""
    if isinstance(apart.driver, QuickConnection) and apart.driver.busy:
        apart.cut()
    try:
        if apart.usable:
            await apart.connection.rollback()
            return True
    except Exception as error:  # noqa: BLE001 - whatever it is, the connection is thrown away for it
        log.debug("a connection is given up", extra={"error": type(error).__name__})
    except BaseException:
        apart.cut()
        await apart.close()
        raise
    await apart.close()
    return False
