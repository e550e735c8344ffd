"""Follows new records: looks for what ended since the last look, while anybody follows.

What ended is found by ``queue_ms``, the database's time at which its end was stored. Transactions become visible in the
order of their commits, not of their times, so a look goes back :data:`OVERLAP_MS` and passes over what it has seen. A
transaction that took longer than that is missed: the history has its records all the same.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, select

from natscron.model import Ms, Run
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import rank
from natscron.storage.sql.lists import SLICE, Lists
from natscron.storage.sql.runrows import OVER, RECORD_COLUMNS, run_of
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.watch import Follower, SqlWatch

__all__ = ["OVERLAP_MS", "RunFollower"]

OVERLAP_MS: Final[Ms] = 10_000
_EVERY_S: Final = 0.5
_SEEN_MAX: Final = 20_000
"""Ends that one look takes in; of more, the newest."""


class _Sink:
    """Whom to tell, and of which job; None: of all."""

    def __init__(self, job: str | None, fn: Callable[[Run], None]) -> None:
        self.job = job
        self.fn = fn

    def take(self, run: Run) -> None:
        """Tell of a record."""
        if self.job in {None, run.job}:
            self.fn(run)


class RunFollower(Follower[_Sink]):
    """One process's; looks when it is rung, and every half second."""

    topic = Topic.RUNS

    def __init__(self, database: Database, signals: Signals) -> None:
        super().__init__(database, signals)
        lists = Lists(database)
        self._since: Ms = 0
        self._seen: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = (
            select(e.c.execution_id, e.c.queue_ms)
            .where(e.c.rank_order.in_([rank(word) for word in OVER]), e.c.queue_ms >= bindparam("since"))
            .order_by(e.c.queue_ms.desc())
            .limit(_SEEN_MAX)
        )
        self._records = (
            select(*RECORD_COLUMNS)
            .where(lists.among(e.c.execution_id, "ids"))
            .order_by(e.c.queue_ms, e.c.finished_ms, e.c.execution_id)
        )

    def follow(self, job: str | None, fn: Callable[[Run], None]) -> SqlWatch[_Sink]:
        """Call ``fn`` with each record that is stored from now on."""
        return self.watch(_Sink(job, fn))

    async def close(self) -> None:
        """Close every watch. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await super().close()

    async def look(self, watches: Sequence[SqlWatch[_Sink]]) -> None:
        """Tell those who follow already of what is new; those who begin are told of what comes after it."""
        turns = [(watch, watch.turn) for watch in watches]
        following = [(watch, watch.turn) for watch in watches if watch.at is not None]
        since = self._since if following else None
        now, ended = await self.database.read(lambda connection: self._read(connection, since))
        new = [key for key, _ in reversed(ended) if key not in self._seen] if following else []
        runs = await self.database.read(lambda connection: self._read_records(connection, new)) if new else []
        self._since, self._seen = now, {key for key, _ in ended}
        for watch, turn in following:
            for run in runs:
                watch.tell(turn, lambda sink, run=run: sink.take(run))  # type: ignore[misc]
        for watch, turn in turns:
            watch.told(turn, now)
        self._again()

    async def _read(self, connection: AnyConnection, since: Ms | None) -> tuple[Ms, Sequence[Any]]:
        """The database's time, and what ended since an instant, None: just now, with all that may become visible."""
        now = await self.database.now_ms(connection)
        since = now if since is None else since
        return now, (await connection.execute(self._ended, {"since": since - OVERLAP_MS})).all()

    async def _read_records(self, connection: AnyConnection, keys: Sequence[str]) -> list[Run]:
        rows: list[Any] = []
        for begin in range(0, len(keys), SLICE):
            rows += (await connection.execute(self._records, {"ids": list(keys[begin : begin + SLICE])})).all()
        return [run for row in rows if (run := run_of(row)) is not None]

    def _again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._watches:
            self._woken.set()
