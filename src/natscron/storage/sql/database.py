"""One database: its connections, transactions, clock and failures.

Who is authoritative: the database. A *write transaction* is READ COMMITTED, so that after waiting for a row it sees
what the one before wrote; on SQLite it is BEGIN IMMEDIATE on the one connection that writes
(:mod:`natscron.storage.sql.sqlite`). A *read* sees one state of the database from its first statement to its last.

On SQLite a transaction that is given as a function (:meth:`Database.run`, :meth:`~Database.read`,
:meth:`~Database.write`, :meth:`~Database.look`) runs in SQLite's thread, whole
(:class:`~natscron.storage.sql.direct.Direct`): it awaits nothing but its connection, and touches nothing that the event
loop may change meanwhile. One that is cancelled, or out of time, before its COMMIT is rolled back; one that has come to
its COMMIT is committed.

What fails before COMMIT was sent has written nothing (StorageUnavailableError); a COMMIT whose answer is missing may
have happened (StorageUncertainError). Deadlocks, lost races and a pooled connection that had died are tried again by
:meth:`Database.run`, at most :data:`ATTEMPTS` times and with growing pauses. A transaction, its waiting included,
takes at most :data:`BOUND_S`: a network that swallows packets looks like an answer that never comes.
"""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Connection, Insert, Table, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from natscron.clock import Clock
from natscron.errors import StorageUnavailableError
from natscron.storage.sql.apart import Apart
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.direct import Direct
from natscron.storage.sql.failures import DATABASE_ERRORS, as_storage_error, is_disconnect, is_transient
from natscron.storage.sql.sqlite import SqliteConnections

__all__ = ["ATTEMPTS", "BOUND_S", "LEVEL", "Database", "Work", "now_ms_of"]

log = logging.getLogger("natscron.storage")

T = TypeVar("T")
Work: TypeAlias = Callable[[AnyConnection], Coroutine[Any, Any, T]]
"""What is done within a transaction."""

ATTEMPTS: Final = 5
BOUND_S: Final = 60.0
_PAUSE_S: Final = 0.01
_MEND_S: Final = 5.0
_NAMES: Final = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
_NOW: Final = {
    # Not now(), which is when the transaction began.
    "postgresql": text("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"),
    # UTC_TIMESTAMP is when the statement began, and knows no summer time.
    "mysql": text("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000"),
}
LEVEL: Final = "READ COMMITTED"
_SNAPSHOT: Final = "REPEATABLE READ"


class Database:
    """A database behind an engine. ``where`` is what errors call it: no password in it.

    ``borrowed``: the engine is the caller's, so its connections may come with any isolation level, also none.
    """

    name: str
    """``sqlite``, ``postgresql`` or ``mysql`` (MariaDB too)."""

    def __init__(  # noqa: PLR0913 - each has a default, and few are given at once
        self,
        engine: AsyncEngine,
        clock: Clock,
        *,
        where: str,
        borrowed: bool = False,
        synchronous: str = "normal",
        busy_timeout_ms: int = 3_000,
    ) -> None:
        self.name = _NAMES[engine.dialect.name]
        self.where = where
        self._clock = clock
        self._sqlite: SqliteConnections | None = None
        self._engine = engine
        self._borrowed = borrowed
        if self.name == "sqlite":
            self._sqlite = SqliteConnections(engine, synchronous=synchronous, busy_timeout_ms=busy_timeout_ms)

    def __repr__(self) -> str:
        return f"Database({self.where})"

    # Transactions.

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: committed at the end, rolled back on any exception, which goes on as it is.

        Errors of the database leave as StorageUnavailableError or StorageUncertainError.
        """
        with self._translated() as phase:
            async with asyncio.timeout(BOUND_S), self._writer() as connection:
                yield connection
                phase.commit()
                await connection.commit()

    @asynccontextmanager
    async def transaction_on(self, connection: AsyncConnection) -> AsyncIterator[AsyncConnection]:
        """:meth:`transaction` on a connection of :meth:`connect_apart`, which has one user at a time (not SQLite)."""
        with self._translated() as phase:
            async with asyncio.timeout(BOUND_S):
                try:
                    yield connection
                    phase.commit()
                    await connection.commit()
                except BaseException:
                    await _rolled_back(connection)
                    raise

    @asynccontextmanager
    async def reading(self, bound_s: float = BOUND_S) -> AsyncIterator[AsyncConnection]:
        """For reads, which all see one state of the database; a write is refused."""
        with self._translated():
            async with asyncio.timeout(bound_s), self._reader() as connection:
                yield connection

    async def write(self, work: Work[T]) -> T:
        """:meth:`transaction` around ``work``."""
        with self._translated() as phase:
            async with asyncio.timeout(BOUND_S), self._writer() as connection:
                direct = Direct.of(connection) if self._sqlite is not None else None
                if direct is not None:
                    return await direct.within(lambda: _committed(direct, work, phase), phase.give_up)
                return await _committed(connection, work, phase)

    async def look(self, work: Work[T]) -> T:
        """:meth:`reading` around ``work``."""
        with self._translated() as phase:
            async with asyncio.timeout(BOUND_S), self._reader() as connection:
                direct = Direct.of(connection) if self._sqlite is not None else None
                if direct is not None:
                    return await direct.within(lambda: work(direct), phase.give_up)
                return await work(connection)

    async def run(self, work: Work[T]) -> T:
        """:meth:`write`, repeated after conflicts: ``work`` must be repeatable."""
        return await self._repeated(self.write, work)

    async def read(self, work: Work[T]) -> T:
        """:meth:`look`, repeated once where a pooled connection had died."""
        return await self._repeated(self.look, work)

    async def _repeated(self, do: Callable[[Work[T]], Awaitable[T]], work: Work[T]) -> T:
        lost = 0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await do(work)
            except StorageUnavailableError as error:
                gone = is_disconnect(error.__cause__)
                lost += gone
                # A pooled connection may have died long ago; if a fresh one dies too, the database is away.
                if attempt == ATTEMPTS or not (is_transient(error.__cause__) or (gone and lost == 1)):
                    raise
                log.debug("a transaction is repeated", extra={"error": str(error), "attempt": attempt})
            # Those that met here must not meet again.
            await asyncio.sleep(_PAUSE_S * 2**attempt * random.random())  # noqa: S311 - keeps no secret
        raise AssertionError  # the last attempt returned or raised

    async def now_ms(self, connection: AnyConnection) -> int:
        """The database's clock, in ms since 1970 UTC, rounded down. SQLite has none: there it is the host's."""
        query = _NOW.get(self.name)
        if query is None:
            return self._clock.now_ms()
        return int((await connection.execute(query)).scalar_one())

    def insert_ignore(self, table: Table) -> Insert:
        """An INSERT into ``table`` that leaves a row alone whose primary key is there. Its rowcount tells nothing."""
        if self.name == "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing()
        if self.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        # INSERT IGNORE would let pass whatever else is wrong with the row, and the driver warns of it.
        key = next(iter(table.primary_key.columns))
        return mysql.insert(table).on_duplicate_key_update({key.name: key})

    # Connections.

    async def connect_apart(self, *, autocommit: bool = False) -> Apart:
        """A connection outside of any pool (not SQLite). Raises StorageUnavailableError.

        ``autocommit``: each statement is a transaction, and nothing has to be rolled back.
        """
        with self._translated():
            async with asyncio.timeout(BOUND_S):
                return await Apart.open(self._engine, isolation_level="AUTOCOMMIT" if autocommit else LEVEL)

    async def data_version(self) -> tuple[int, int]:
        """SQLite: another one than before if another process may have committed. Raises StorageUnavailableError."""
        with self._translated():
            async with asyncio.timeout(BOUND_S):
                assert self._sqlite is not None  # noqa: S101 - nobody else asks
                return await self._sqlite.data_version()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts the process may fork: nothing is open that the child could not bear."""
        async with self._sqlite.still() if self._sqlite is not None else contextlib.nullcontext():
            yield

    async def close(self) -> None:
        """Close what lies outside of the engine's pool; the engine is its owner's."""
        if self._sqlite is not None:
            await self._sqlite.close()

    @asynccontextmanager
    async def _writer(self) -> AsyncIterator[AsyncConnection]:
        if self._sqlite is not None:
            async with self._sqlite.writing() as connection:
                yield connection
            return
        async with self._engine.connect() as connection:
            if self._borrowed:
                await connection.execution_options(isolation_level=LEVEL)
            try:
                yield connection
            except BaseException:
                await _rolled_back(connection)
                raise

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[AsyncConnection]:
        if self._sqlite is not None:
            async with self._sqlite.reading() as connection:
                yield connection
            return
        async with self._engine.connect() as connection:
            if self.name == "postgresql":
                await connection.execution_options(isolation_level=_SNAPSHOT, postgresql_readonly=True)
            elif self._borrowed:
                await connection.execution_options(isolation_level=_SNAPSHOT)
            else:
                # For one transaction; a level of the session would have to be set back.
                await connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {_SNAPSHOT}, READ ONLY")
            try:
                yield connection
            finally:
                await _rolled_back(connection)

    @contextlib.contextmanager
    def _translated(self) -> "Any":  # noqa: ANN401 - an iterator, as the decorator wants it
        phase = _Phase()
        try:
            yield phase
        except DATABASE_ERRORS as error:
            raise as_storage_error(error, self.where, committing=phase.committing) from error


def now_ms_of(connection: Connection, clock: Clock) -> int:
    """:meth:`Database.now_ms` on a synchronous connection."""
    query = _NOW.get(_NAMES[connection.dialect.name])
    return clock.now_ms() if query is None else int(connection.execute(query).scalar_one())


class _Phase:
    """How far a transaction got: what is given up first is not committed, in whatever thread."""

    def __init__(self) -> None:
        self.committing = False
        self._given_up = False
        self._lock = threading.Lock()

    def commit(self) -> None:
        """The COMMIT follows. Raises StorageUnavailableError if it must not."""
        with self._lock:
            if self._given_up:
                raise StorageUnavailableError("the transaction was given up before its end; nothing was written")
            self.committing = True

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._given_up = True


async def _committed(connection: AsyncConnection | Direct, work: Work[T], phase: _Phase) -> T:
    result = await work(connection)
    phase.commit()
    await connection.commit()
    return result


async def _rolled_back(connection: AsyncConnection) -> None:
    """Roll back; a connection that cannot is thrown away."""
    if connection.closed or connection.invalidated:
        return
    try:
        async with asyncio.timeout(_MEND_S):
            await connection.rollback()
    except DATABASE_ERRORS as error:
        log.debug("a connection is given up", extra={"error": type(error).__name__})
        await connection.invalidate()
