"""SQLite in a thread, with one visit to it per statement.

aiosqlite goes to its thread for the cursor, the statement, the rows and the end of the cursor, each a switch of threads
and a turn of the loop: most of what a small transaction takes. Here a cursor does all of that in one visit, and BEGIN
rides on the first statement of its transaction. What SQLAlchemy asks of a cursor is all that it offers.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import aiosqlite

__all__ = ["QuickConnection"]

_ENDING_S: Final = 2.0


class QuickConnection(aiosqlite.Connection):
    """``begin``: a statement to be executed before the next one, once."""

    begin: str | None = None
    _opened: sqlite3.Connection | None = None
    _ending: "asyncio.Future[Any] | None" = None

    @classmethod
    async def open(cls, path: str, **options: Any) -> "QuickConnection":  # noqa: ANN401 - those of sqlite3
        """Open a file. Raises sqlite3.Error."""

        def connect() -> sqlite3.Connection:
            connection._opened = sqlite3.connect(path, **options)
            return connection._opened

        connection = cls(connect, iter_chunk_size=64)
        # As SQLAlchemy has it: a process that ends does not wait for it.
        connection._thread.daemon = True
        try:
            await connection
        except BaseException:
            # aiosqlite has told the thread to end; the loop must not be closed before that is done.
            if connection._ending is not None:
                await asyncio.wait([connection._ending], timeout=_ENDING_S)
            raise
        return connection

    def stop(self) -> "asyncio.Future[Any] | None":
        """End the thread, and what it opened: also where whoever asked for it was cancelled before it was there."""
        self._tx.put_nowait((None, self._close_opened))
        self._ending = super().stop()
        return self._ending

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def cursor(self) -> "_Cursor":  # type: ignore[override]  # what SQLAlchemy enters, and nobody else
        """A cursor; nothing is done yet."""
        return _Cursor(self)

    async def rollback(self) -> None:
        """Roll back; a transaction without a statement has not begun."""
        self.begin = None
        await super().rollback()

    async def commit(self) -> None:
        """Commit; a transaction without a statement has not begun."""
        self.begin = None
        await super().commit()

    async def visit(self, statement: str, parameters: Any, *, many: bool) -> "_Outcome":  # noqa: ANN401 - the driver's
        """Execute a statement and fetch all of its rows."""
        outcome: _Outcome = await self._execute(self._visit, statement, parameters, many)  # type: ignore[no-untyped-call]
        return outcome

    def _visit(self, statement: str, parameters: Any, many: bool) -> "_Outcome":  # noqa: ANN401, FBT001 - in the thread
        connection = self._conn
        begin, self.begin = self.begin, None
        if begin is not None:
            connection.execute(begin)
        cursor = connection.executemany(statement, parameters) if many else connection.execute(statement, parameters)
        rows = cursor.fetchall() if cursor.description else []
        outcome = _Outcome(cursor, rows)
        cursor.close()
        return outcome


class _Outcome:
    """What is left of a statement."""

    def __init__(self, cursor: sqlite3.Cursor, rows: list[Any]) -> None:
        self.description = cursor.description
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        self.rows = rows


class _Cursor:
    """One statement's."""

    arraysize = 1

    def __init__(self, connection: QuickConnection) -> None:
        self._connection = connection
        self._outcome: _Outcome | None = None

    async def __aenter__(self) -> Self:
        return self

    @property
    def description(self) -> Any:  # noqa: ANN401 - the driver's
        """The columns, None if there are none."""
        return None if self._outcome is None else self._outcome.description

    @property
    def rowcount(self) -> int:
        """Rows changed."""
        return -1 if self._outcome is None else self._outcome.rowcount

    @property
    def lastrowid(self) -> int | None:
        """The last row inserted."""
        return None if self._outcome is None else self._outcome.lastrowid

    async def execute(self, statement: str, parameters: Iterable[Any] = ()) -> None:
        """Execute it and fetch its rows."""
        self._outcome = await self._connection.visit(statement, parameters, many=False)

    async def executemany(self, statement: str, parameters: Iterable[Iterable[Any]]) -> None:
        """Execute it for each."""
        self._outcome = await self._connection.visit(statement, parameters, many=True)

    async def fetchall(self) -> Sequence[Any]:
        """All rows."""
        return [] if self._outcome is None else self._outcome.rows

    async def close(self) -> None:
        """It is closed already."""
