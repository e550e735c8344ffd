"""Word that something was written, here or by another process.

Who is authoritative: the tables. A signal carries nothing; whoever gets one looks, and one too many does no harm. One
too few is made up for by a slow look. Per database:

* SQLite: ``PRAGMA data_version``, asked every ``poll_s`` on the connection that writes, more seldom while nothing
  happens, says whether any other has committed, of this process or of another.
* PostgreSQL: NOTIFY in the writing transaction, LISTEN on a connection of our own. That connection is opened anew with
  growing pauses when it is lost, with all topics rung, since word was missed; and all are rung every few seconds in
  case a proxy swallows notifications.
* MySQL, and PostgreSQL by another driver: every ``poll_s`` one statement reads the counters, and whether any run waits,
  is to be cancelled, or is due at another instant than before; more seldom while jobs and runs rest. Who follows
  records looks by himself.

What this process writes is rung at once (:meth:`Signals.ring`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, NoReturn

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from natscron.errors import StorageError
from natscron.storage.sql import numbers
from natscron.storage.sql.apart import Apart
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.failures import DATABASE_ERRORS
from natscron.storage.sql.lines import rank
from natscron.storage.sql.runrows import LATER, RANK_MAX, RUNNING
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.schema import jobs, meta

__all__ = ["CHANNEL", "Signals", "Topic"]

log = logging.getLogger("natscron.storage")

CHANNEL: Final = "natscron"
_SLOW_S: Final = 5.0
_RETRY_S: Final = 0.1
_RETRY_MAX_S: Final = 5.0
_ANSWER_S: Final = 5.0
_QUIET: Final = 8
"""Polls that found nothing new of jobs and runs, after which they come more seldom,"""
_CALM: Final = {"sqlite": 2, "postgresql": 4, "mysql": 4}
"""namely at so many times the distance."""
_DEFAULT_POLL_S: Final = {"sqlite": 0.1, "postgresql": 0.25, "mysql": 0.25}


class Topic(StrEnum):
    """What was written to."""

    JOBS = "jobs"
    STATE = "state"
    QUEUE = "queue"
    RUNS = "runs"


class Signals:
    """One process's ear. ``poll_s`` None: 100 ms on SQLite, else 250 ms."""

    def __init__(self, database: Database, poll_s: float | None = None) -> None:
        self._database = database
        self._poll_s = _DEFAULT_POLL_S[database.name] if poll_s is None else poll_s
        self._listeners: dict[Topic, dict[object, Callable[[], None]]] = {topic: {} for topic in Topic}
        self._task: asyncio.Task[None] | None = None

    def listen(self, topic: Topic, fn: Callable[[], None]) -> Callable[[], None]:
        """Call ``fn``, in the event loop, when the topic may have been written to. Returns what ends that."""
        key = object()
        self._listeners[topic][key] = fn

        def leave() -> None:
            self._listeners[topic].pop(key, None)

        return leave

    def ring(self, *topics: Topic) -> None:
        """These may have been written to."""
        for topic in topics:
            for fn in tuple(self._listeners[topic].values()):
                fn()

    async def notify(self, connection: AnyConnection, *topics: Topic) -> None:
        """Part of a transaction: other processes hear of it when it is committed. Nothing where they ask anyway."""
        if self._database.name == "postgresql":
            for topic in topics:
                await connection.execute(_NOTIFY, {"topic": topic.value})

    def start(self) -> None:
        """Begin to listen to other processes."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="natscron signals")

    async def close(self) -> None:
        """Stop. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        delay = _RETRY_S
        while True:
            try:
                if self._database.name == "sqlite":
                    await self._database.data_version()
                    delay = _RETRY_S
                    await self._ask_version()
                apart = await self._database.connect_apart(autocommit=True)
                try:
                    delay = _RETRY_S
                    await self._follow(apart)
                finally:
                    await apart.close()
            except (StorageError, *DATABASE_ERRORS) as error:
                log.warning("cannot follow the database", extra={"error": str(error)[:200], "retry_s": delay})
            except Exception:
                log.exception("following the database failed")
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY_MAX_S)

    async def _follow(self, apart: Apart) -> None:
        """Until the connection is lost: then it raises, or returns."""
        if hasattr(apart.driver, "add_listener"):
            await self._hear(apart.driver)
        else:
            await self._ask_counters(apart.connection)

    async def _ask_version(self) -> NoReturn:
        before = None
        quiet = 0
        while True:
            version = await self._database.data_version()
            quiet += 1
            if version != before:
                before, quiet = version, 0
                self.ring(*Topic)
            await self._pause(quiet)

    async def _pause(self, quiet: int) -> None:
        """Until the next poll; ``quiet``: how many found nothing new."""
        await asyncio.sleep(self._poll_s if quiet < _QUIET else self._poll_s * _CALM[self._database.name])

    async def _ask_counters(self, connection: AsyncConnection) -> None:
        # Compiled once, and past SQLAlchemy's execution: these would be most of what a poll costs.
        query = str(_COUNTERS.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        before: dict[str, int] = {}
        quiet = 0
        while True:
            async with asyncio.timeout(_ANSWER_S):
                found = {name: int(number) for name, number in await connection.run_sync(_rows_of, query)}
            changed = {name for name, _ in found.items() ^ before.items()}
            before = found
            topics = {topic for topic, names in _TOLD_BY.items() if not changed.isdisjoint(names)}
            if found[_WAITING] or found[_DOOMED]:
                topics.add(Topic.QUEUE)
            self.ring(*topics)
            # The lease changes the state also while nothing happens.
            quiet = quiet + 1 if topics <= {Topic.STATE} else 0
            await self._pause(quiet)

    async def _hear(self, driver: Any) -> None:  # noqa: ANN401 - asyncpg has no types
        ended = asyncio.Event()

        def heard(_connection: Any, _process: int, _channel: str, payload: str) -> None:  # noqa: ANN401 - see above
            with contextlib.suppress(ValueError):
                self.ring(Topic(payload))

        driver.add_termination_listener(lambda _connection: ended.set())
        await driver.add_listener(CHANNEL, heard)
        while not ended.is_set():
            self.ring(*Topic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SLOW_S):
                    await ended.wait()
            if not ended.is_set():
                # A connection that a firewall has forgotten gives no sign of it.
                await driver.execute("SELECT 1", timeout=_ANSWER_S)


_NOTIFY: Final = text(f"SELECT pg_notify('{CHANNEL}', :topic)")
_UNNUMBERED: Final = "=unnumbered"
_WAITING: Final = "=waiting"
_DOOMED: Final = "=doomed"
_NEXT: Final = "=next"


def _rows_of(connection: Connection, query: str) -> Sequence[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(query)
        return cursor.fetchall()
    finally:
        cursor.close()


def _any(name: str, *where: ColumnElement[bool]) -> Select[str, int]:
    """1 if there is such a run, else 0."""
    return select(literal(name), func.count()).select_from(select(e.c.rank_order).where(*where).limit(1).subquery())


_COUNTERS: Final = select(meta.c.name, meta.c.number).union_all(
    select(literal(_UNNUMBERED), func.count()).select_from(jobs).where(jobs.c.revision == 0),
    _any(_WAITING, e.c.rank_order <= RANK_MAX),
    _any(_DOOMED, e.c.rank_order == rank(RUNNING), e.c.cancel_reason.is_not(None)),
    select(literal(_NEXT), func.coalesce(func.min(e.c.queue_ms), 0)).where(e.c.rank_order == rank(LATER)),
)
_TOLD_BY: Final = {
    Topic.JOBS: {numbers.JOBS, numbers.SWEPT, _UNNUMBERED},
    Topic.STATE: {numbers.STATE, numbers.GONE},
    Topic.QUEUE: {_NEXT},
}
"""Which topics a change of a number rings. Runs that wait, or are to be cancelled, ring as long as there are any."""
