"""SQLite in a thread, with one visit to it per transaction.

aiosqlite goes to its thread for the cursor, the statement, the rows and the end of the cursor, each a switch of threads
and a turn of the loop: most of what a small transaction takes. Here a cursor does all of that in one visit, BEGIN rides
on the first statement of its transaction, and :meth:`QuickConnection.within` has a whole transaction done in the
thread: a coroutine that awaits nothing but this connection never waits there, so it runs to its end in one step. What
SQLAlchemy asks of a cursor is all that it offers.

Whoever is cancelled while its transaction is in the thread waits until that has ended, since nobody else may use the
connection until then; whether it was still committed is for the caller to decide (see
:mod:`natscron.storage.sql.database`). Cancelled a second time, it goes, and leaves the connection *busy*: to be thrown
away. The thread itself waits for nothing but SQLite: at BEGIN, for ``busy_timeout`` at the most.
"""

import asyncio
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Self, TypeVar

import aiosqlite

__all__ = ["QuickConnection"]

T = TypeVar("T")

_ENDING_S: Final = 2.0


class QuickConnection(aiosqlite.Connection):
    """``begin``: a statement to be executed before the next one, once."""

    begin: str | None = None
    busy = False
    """A transaction is in the thread."""
    plans: "OrderedDict[Any, Any]"
    """What :class:`~natscron.storage.sql.direct.Direct` keeps of the statements that came."""
    _opened: sqlite3.Connection | None = None
    _ending: "asyncio.Future[Any] | None" = None

    @classmethod
    async def open(cls, path: str, **options: Any) -> "QuickConnection":  # noqa: ANN401 - those of sqlite3
        """Open a file. Raises sqlite3.Error."""

        def connect() -> sqlite3.Connection:
            connection._opened = sqlite3.connect(path, **options)
            return connection._opened

        connection = cls(connect, iter_chunk_size=64)
        connection.plans = OrderedDict()
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

    async def within(self, work: Callable[[], Coroutine[Any, Any, T]], give_up: Callable[[], None]) -> T:
        """Have a coroutine run in the thread, which may await this connection alone; one at a time.

        ``give_up`` is called, in the event loop, when the caller is cancelled meanwhile; then the coroutine's end is
        waited for. Raises what the coroutine raises, RuntimeError if it awaits anything else.
        """
        if not self._running:
            raise OSError("the connection to SQLite is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.busy = True
        future.add_done_callback(self._rest)
        self._tx.put_nowait((future, partial(_run, work)))
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            give_up()
            await asyncio.wait([future])
            raise
        return future.result()

    def _rest(self, future: "asyncio.Future[Any]") -> None:
        self.busy = False
        future.exception()  # marks it retrieved: the caller may have been cancelled

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - aiosqlite's
        """Go to the thread, unless this is the thread."""
        if threading.get_ident() == self._thread.ident:
            return fn(*args, **kwargs)
        return await super()._execute(fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    async def visit(self, statement: str, parameters: Any, *, many: bool) -> "_Outcome":  # noqa: ANN401 - the driver's
        """Execute a statement and fetch all of its rows."""
        outcome: _Outcome = await self._execute(self._visit, statement, parameters, many)
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


def _run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that has nothing to wait for."""
    coroutine = work()
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction on SQLite awaited something else than its connection")


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
