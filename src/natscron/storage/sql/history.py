"""The history in a SQL database: reads of ``scheduler_executions``, and what of it is kept.

Who is authoritative: the rows. A read sees one state of the database. Records of the Go library are taken up
(:meth:`History.adopt`) before they are shown: their columns of instants are told in ours, by which the history is
sorted; what the Go library wrote stays as it is.

What is kept: the newest records of each job, and none over an age. :meth:`History.retain` deletes the others, in
transactions of at most a thousand records. It follows the records by their time, so that a job comes up once for
records that came since it last did, and a million records that may stay cost nothing.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, bindparam, select, update

from natscron.errors import ValidationError
from natscron.model import Delivery, Ms, Run, RunStatus
from natscron.storage.protocol import RunQuery
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.following import RunFollower
from natscron.storage.sql.gorows import instant_ms
from natscron.storage.sql.newest import Newest
from natscron.storage.sql.queries import statement_of
from natscron.storage.sql.records import Records
from natscron.storage.sql.retention import Retention
from natscron.storage.sql.runrows import OTHER_RANK, OVER, RANKS, RUNNING, run_of, storable
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.watch import SqlWatch  # noqa: TC001 - one import block reads better than two

__all__ = ["History"]

log = logging.getLogger("natscron.storage")

_LIMIT_MAX: Final = 10_000
_CHUNK: Final = 500
_ADOPTED_MAX: Final = 1_000
_NS: Final = 1_000_000
_RUN_WORDS: Final = tuple(word for word in OVER if word != RunStatus.SKIPPED.value)


class History:
    """The ExecutionStore role. ``runs_per_job`` and ``runs_max_age_ms``: what is kept."""

    def __init__(self, database: Database, signals: Signals, *, runs_per_job: int, runs_max_age_ms: Ms) -> None:
        self._database = database
        self._signals = signals
        self._records = Records(database)
        self._newest = Newest(database, _RUN_WORDS)
        self._max_age_ms = runs_max_age_ms
        self._retention = Retention(database, self._records, runs_per_job=runs_per_job, max_age_ms=runs_max_age_ms)
        self._follower = RunFollower(database, signals)
        self._foreign = (
            select(e.c.execution_id, e.c.start_time, e.c.end_time, e.c.duration, e.c.status)
            .where(e.c.recorded_ms.is_(None))
            .limit(bindparam("most"))
        )
        self._adopt = (
            update(e)
            .where(e.c.execution_id == bindparam("the_id"), e.c.recorded_ms.is_(None))
            .values(
                run_id=e.c.execution_id,
                delivery=Delivery.HANDLER.value,
                started_ms=bindparam("started"),
                finished_ms=bindparam("finished"),
                recorded_ms=bindparam("recorded"),
                rank_order=bindparam("rank"),
            )
        )

    async def close(self) -> None:
        """Follow no more. Idempotent."""
        await self._follower.close()

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records; returns when they are stored. May be repeated: a record takes the place of itself."""
        for begin in range(0, len(runs), _CHUNK):
            chunk = runs[begin : begin + _CHUNK]
            await self._database.run(lambda connection, chunk=chunk: self._records.save(connection, chunk))  # type: ignore[misc]
        if runs:
            self._signals.ring(Topic.RUNS)

    async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
        """See :meth:`RunQueue.import_runs <natscron.storage.queue.RunQueue.import_runs>`."""

        async def work(connection: AnyConnection) -> list[bool]:
            since = await self._retention.kept_since(connection)
            return await self._records.take(connection, runs, since_ms=since, dry_run=dry_run)

        return await (self._database.read(work) if dry_run else self._database.run(work))

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records. Raises ValidationError for a limit that is not 1 to 10,000, or a negative offset."""
        if not 1 <= query.limit <= _LIMIT_MAX or query.offset < 0:
            raise ValidationError(f"limit must be 1 to {_LIMIT_MAX} and offset not negative; got {query.limit}")
        if not all(storable(text) for text in (query.job, query.run_id) if text is not None):
            return []
        statement = statement_of(query, self._database.name)
        rows = await self._database.read(lambda connection: _all(connection, statement))
        return [run for row in rows if (run := run_of(row)) is not None]

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slot of each job's newest run; jobs without one are left out."""
        ids = [job_id for job_id in dict.fromkeys(job_ids) if storable(job_id)]

        async def work(connection: AnyConnection) -> dict[str, Ms]:
            found: dict[str, Ms] = {}
            for begin in range(0, len(ids), _CHUNK):
                newest = await self._newest.of(connection, ids[begin : begin + _CHUNK])
                found |= {job: row.scheduled_ms for job, row in newest.items() if row.scheduled_ms is not None}
            return found

        return await self._database.read(work) if ids else {}

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> "SqlWatch[Any]":
        """Call ``fn`` with each new record, live, within a second of what other processes store."""
        return self._follower.follow(job, fn)

    async def retain(self) -> None:
        """Housekeeping: take up what the Go library wrote, and delete what need not be kept; a part of it, if much."""
        await self.adopt(_ADOPTED_MAX * 10)
        await self._retention.sweep()

    async def adopt_first(self, limit: int) -> None:
        """:meth:`adopt` at a start, and say how much of what was taken up will be deleted because it is too old."""
        if await self.adopt(limit) and (doomed := await self._retention.doomed()):
            log.warning(
                "the Go library's history has records that are older than what is kept here, and they will be deleted "
                "within minutes: to keep them, stop and open the database with SQLOptions(runs_max_age_ms=...)",
                extra={"records": doomed, "kept_days": self._max_age_ms // 86_400_000},
            )

    async def adopt(self, limit: int) -> int:
        """Take up records of the Go library; how many, at most ``limit``, a thousand in one transaction."""
        adopted = 0
        while adopted < limit:
            most = min(limit - adopted, _ADOPTED_MAX)
            found = await self._database.run(lambda connection, most=most: self._take_up(connection, most))  # type: ignore[misc]
            adopted += found
            if found < most:
                break
        return adopted

    async def _take_up(self, connection: AnyConnection, most: int) -> int:
        now = await self._database.now_ms(connection)
        rows = (await connection.execute(self._foreign, {"most": most})).all()
        values = []
        for row in rows:
            started, finished = instant_ms(row.start_time), instant_ms(row.end_time)
            if finished is None and started is not None and row.duration:
                finished = started + row.duration // _NS
            # Without any instant it is taken for new, not for one that is too old to be kept.
            recorded = started or finished or now
            rank = OTHER_RANK if row.status == RUNNING else RANKS.get(row.status, OTHER_RANK)
            values.append(
                {
                    "the_id": row.execution_id,
                    "started": started,
                    "finished": finished,
                    "recorded": recorded,
                    "rank": rank,
                }
            )
        if values:
            await connection.execute(self._adopt, values)
        return len(rows)


async def _all(connection: AnyConnection, statement: Select[Any]) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
    return rows
