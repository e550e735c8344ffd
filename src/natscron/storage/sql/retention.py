"""Which records are deleted: those over an age, and of each job those beyond the newest so many.

The second kind is found by following the records by their time, from the oldest on: each job that comes up is looked at
once, and has what is too many deleted. A sweep goes on where the last one ended, :data:`_READ_MAX` records at most;
what a job has too many meanwhile is what it recorded since. A new process begins at the oldest record.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, func, select

from natscron.model import Ms
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lists import SLICE, Lists, forced
from natscron.storage.sql.records import DELETED_MAX, OVER_ROWS, Records
from natscron.storage.sql.schema import executions as e

__all__ = ["Retention"]

_READ_MAX: Final = 100_000
_DELETED_MAX: Final = 200_000
"""Records that one sweep reads, and deletes."""


class Retention:
    """``runs_per_job``: how many records of each job are kept. ``max_age_ms``: for how long."""

    def __init__(self, database: Database, records: Records, *, runs_per_job: int, max_age_ms: Ms) -> None:
        self._database = database
        self._records = records
        self._max_age_ms = max_age_ms
        self._after: Ms = -(2**62)
        """Up to which time of records the jobs were looked at."""
        lists = Lists(database)
        listed = lists.listed()
        self._given = lists.given
        aged = select(e.c.execution_id).where(e.c.recorded_ms < bindparam("before"), OVER_ROWS)
        self._all_aged = select(func.count()).select_from(aged.subquery())
        self._aged = forced(aged, e, "recorded").order_by(e.c.recorded_ms).limit(DELETED_MAX)
        stretch = (
            select(e.c.job_id, e.c.recorded_ms)
            .where(e.c.recorded_ms > bindparam("after"))
            .order_by(e.c.recorded_ms)
            .limit(_READ_MAX)
        ).subquery()
        self._stretch = select(stretch.c.job_id, func.max(stretch.c.recorded_ms).label("upto")).group_by(
            stretch.c.job_id
        )
        inner = e.alias("inner_e")
        mine = select(inner.c.recorded_ms).where(inner.c.job_id == listed.c.id, inner.c.recorded_ms.is_not(None))
        too_many = (
            forced(mine, inner, "job_recorded")
            .order_by(inner.c.recorded_ms.desc())
            .limit(1)
            .offset(runs_per_job)
            .scalar_subquery()
        )
        self._cuts = select(listed.c.id, too_many.label("cut"))

    async def kept_since(self, connection: AnyConnection) -> Ms:
        """The time of the oldest record that is kept."""
        return await self._database.now_ms(connection) - self._max_age_ms

    async def doomed(self) -> int:
        """How many records the next sweeps will delete for their age."""
        return await self._database.read(self._count_aged)

    async def _count_aged(self, connection: AnyConnection) -> int:
        before = await self.kept_since(connection)
        return int((await connection.execute(self._all_aged, {"before": before})).scalar_one())

    async def sweep(self) -> None:
        """Delete what is too old, and what is too many of the jobs whose turn it is. Raises StorageError."""
        left = _DELETED_MAX
        while left > 0:
            gone = await self._database.run(self._delete_aged)
            left -= gone
            if gone < DELETED_MAX:
                break
        jobs, upto = await self._database.read(self._read_jobs)
        for begin in range(0, len(jobs), SLICE):
            cuts = await self._database.read(lambda c, ids=jobs[begin : begin + SLICE]: self._read_cuts(c, ids))  # type: ignore[misc]
            for job_id, cut in cuts:
                while left > 0:
                    gone = await self._database.run(
                        lambda c, job_id=job_id, cut=cut: self._records.delete(c, job_id, cut)  # type: ignore[misc]
                    )
                    left -= gone
                    if gone < DELETED_MAX:
                        break
            if left <= 0:
                return
        self._after = upto

    async def _delete_aged(self, connection: AnyConnection) -> int:
        before = await self.kept_since(connection)
        ids = list((await connection.execute(self._aged, {"before": before})).scalars())
        return await self._records.delete_these(connection, ids)

    async def _read_jobs(self, connection: AnyConnection) -> tuple[list[str], Ms]:
        rows = (await connection.execute(self._stretch, {"after": self._after})).all()
        return [row.job_id for row in rows], max((row.upto for row in rows), default=self._after)

    async def _read_cuts(self, connection: AnyConnection, job_ids: Sequence[str]) -> list[tuple[str, Ms]]:
        rows = (await connection.execute(self._cuts, self._given(job_ids))).all()
        return [(row.id, row.cut) for row in rows if row.cut is not None]
