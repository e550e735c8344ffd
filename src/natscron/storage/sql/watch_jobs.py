"""The watch over jobs and calendars.

Changes are found by their numbers: rows with a higher one, and what ``scheduler_removed`` says was deleted by one. A
watch that is behind the number up to which deletions are forgotten, or ahead of the counter (the database is another,
restored one), is handed everything anew; so is one that more than :data:`LIVE_MAX` changes wait for, since these would
have to be handed over without a pause.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import LargeBinary, bindparam, cast, func, literal, null, select

from natscron.model import Calendar, Job
from natscron.storage.protocol import JobSink
from natscron.storage.sql import numbers
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.jobs import SqlJobs
from natscron.storage.sql.rows import CALENDAR_COLUMNS, GO_COLUMNS, JOB_COLUMNS, calendar_of, job_of
from natscron.storage.sql.schema import calendars, jobs, meta, removed
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.watch import Follower, SqlWatch
from natscron.storage.sql.writes import Kind

__all__ = ["JobFollower"]

LIVE_MAX: Final = 2_000
_PAGE: Final = 1_000
_SLICE: Final = 256
"""Rows handed over before others may run: some milliseconds."""
_ROUNDS: Final = 3
_LOOK_S: Final = 600.0
"""The most that a look may take: a full set of millions of jobs."""

JobWatch = SqlWatch[JobSink]


_ANY_STRANGER: Final = select(jobs.c.id).where(jobs.c.revision == 0).limit(1).subquery()


class JobFollower(Follower[JobSink]):
    """Looks for all job watches."""

    topic = Topic.JOBS

    def __init__(self, database: Database, signals: Signals, store: SqlJobs) -> None:
        super().__init__(database, signals)
        self._store = store

    async def look(self, watches: Sequence[JobWatch]) -> None:
        """Read what is new and hand it over. Raises StorageError."""
        for _ in range(_ROUNDS):
            async with self.database.reading(_LOOK_S) as connection:
                found: dict[str, int] = {row[0]: row[1] for row in await connection.execute(_COUNTERS)}
                if not found[_STRANGERS]:
                    await self._look(connection, watches, found[numbers.JOBS], found[numbers.SWEPT])
                    return
            await self._store.adopt()

    async def _look(self, connection: AnyConnection, watches: Sequence[JobWatch], number: int, swept: int) -> None:
        turns = {watch: watch.turn for watch in watches}
        live = [watch for watch in watches if watch.at is not None and swept <= watch.at <= number]
        behind = [watch for watch in live if watch.at != number]
        if behind:
            changes = await self._changes(connection, min(watch.at or 0 for watch in behind), number)
            if changes is None:
                live = []
            else:
                for watch in behind:
                    _tell(watch, turns[watch], changes, number)
        fresh = [watch for watch in watches if watch not in live]
        if fresh:
            await self._replay(connection, fresh, turns, number)

    async def _changes(self, connection: AnyConnection, after: int, upto: int) -> "list[Any] | None":
        """What was written by the numbers in (after, upto], in their order; None: too much."""
        rows = (await connection.execute(_CHANGES, {"after": after, "upto": upto, "most": LIVE_MAX + 1})).all()
        if len(rows) > LIVE_MAX:
            return None
        go = await _go_rows(connection, [row for row in rows if row.kind == Kind.JOB.value])
        return [_Change(row, go.get(row.id)) for row in rows]

    async def _replay(
        self, connection: AnyConnection, watches: Sequence[JobWatch], turns: dict[JobWatch, int], number: int
    ) -> None:
        for watch in watches:
            watch.tell(turns[watch], lambda sink: sink.reset())
        after = 0
        while page := (await connection.execute(_PAGE_OF_JOBS, {"after": after, "most": _PAGE})).all():
            after = page[-1].revision
            go = await _go_rows(connection, page)
            for begin in range(0, len(page), _SLICE):
                found = [job_of(row, go.get(row.id)) for row in page[begin : begin + _SLICE]]
                for watch in watches:
                    watch.tell(turns[watch], lambda sink, found=found: _put_all(sink, found))  # type: ignore[misc]
                await asyncio.sleep(0)
        rows = await connection.execute(select(*CALENDAR_COLUMNS).order_by(calendars.c.revision))
        kept = [calendar_of(row) for row in rows]
        for watch in watches:
            watch.tell(turns[watch], lambda sink: _put_calendars(sink, kept))
            watch.tell(turns[watch], lambda sink: sink.complete(number))
            watch.told(turns[watch], number)


class _Change:
    """One write: what the row is now, or that it is gone."""

    def __init__(self, row: Any, go_row: Any) -> None:  # noqa: ANN401 - rows of queries
        self.number: int = row.revision
        self._row = row
        self._job: Job | None = job_of(row, go_row) if row.kind == Kind.JOB.value else None

    def tell(self, sink: JobSink) -> None:
        """Hand it over."""
        row = self._row
        if self._job is not None:
            sink.put(self._job)
        elif row.kind == Kind.CALENDAR.value:
            sink.put_calendar(calendar_of(_Named(row)))
        elif row.kind == _GONE + Kind.JOB.value:
            sink.delete(row.id, row.revision)
        else:
            sink.delete_calendar(row.id, row.revision)


class _Named:
    """A row of changes as one of calendars."""

    def __init__(self, row: Any) -> None:  # noqa: ANN401 - a row of a query
        self.name, self.row_data, self.revision, self.stored_ms = row.id, row.row_data, row.revision, row.stored_ms


_GONE: Final = "-"
_STRANGERS: Final = "strangers"
_COUNTERS: Final = (
    select(meta.c.name, meta.c.number)
    .where(meta.c.name.in_([numbers.JOBS, numbers.SWEPT]))
    .union_all(
        # Any at all: there may be many, and one is enough to know.
        select(literal(_STRANGERS), select(func.count()).select_from(_ANY_STRANGER).scalar_subquery())
    )
)
_CHANGES: Final = (
    select(literal(Kind.JOB.value).label("kind"), *JOB_COLUMNS)
    .where(jobs.c.revision > bindparam("after"), jobs.c.revision <= bindparam("upto"))
    .union_all(
        select(literal(Kind.CALENDAR.value), *CALENDAR_COLUMNS).where(
            calendars.c.revision > bindparam("after"), calendars.c.revision <= bindparam("upto")
        ),
        select(
            literal(_GONE).concat(removed.c.kind),
            removed.c.id,
            cast(null(), LargeBinary),
            removed.c.revision,
            removed.c.stored_ms,
        ).where(removed.c.revision > bindparam("after"), removed.c.revision <= bindparam("upto")),
    )
    .order_by("revision")
    .limit(bindparam("most"))
)
_PAGE_OF_JOBS: Final = (
    select(*JOB_COLUMNS).where(jobs.c.revision > bindparam("after")).order_by(jobs.c.revision).limit(bindparam("most"))
)


async def _go_rows(connection: AnyConnection, rows: Sequence[Any]) -> dict[str, Any]:
    """The Go library's columns of those rows that have no others, by id."""
    ids = [row.id for row in rows if row.row_data is None]
    if not ids:
        return {}
    return {row.id: row for row in await connection.execute(GO_COLUMNS.where(jobs.c.id.in_(ids)))}


def _tell(watch: JobWatch, turn: int, changes: Sequence[_Change], number: int) -> None:
    at = watch.at or 0
    for change in changes:
        if change.number > at:
            watch.tell(turn, change.tell)
    watch.tell(turn, lambda sink: sink.complete(number))
    watch.told(turn, number)


def _put_all(sink: JobSink, found: Sequence[Job]) -> None:
    for job in found:
        sink.put(job)


def _put_calendars(sink: JobSink, found: Sequence[Calendar]) -> None:
    for calendar in found:
        sink.put_calendar(calendar)
