"""Records that did not come by way of the queue, and their deletion.

A record is known by :func:`~natscron.storage.queue.record_id`, so one that is stored once more, after an answer that
was missing, takes the place of itself. A try that the queue has, and that is not over, is never overwritten.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, delete, or_, select, update

from natscron.model import Ms, Run, RunStatus
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import words
from natscron.storage.sql.lists import SLICE, Lists
from natscron.storage.sql.runrows import HELD, OPEN, record_values, storable
from natscron.storage.sql.schema import executions as e

__all__ = ["DELETED_MAX", "OVER_ROWS", "Records"]

log = logging.getLogger("natscron.storage")

DELETED_MAX: Final = 1_000
"""Records that one transaction deletes."""

_ANY: Final = Run(job="", status=RunStatus.COMPLETED, run_id="")
OVER_ROWS: Final = or_(e.c.handler.is_(None), e.c.status.not_in(words((*OPEN, HELD))))
"""What the queue does not have any more, or never had."""


class Records:
    """The statements."""

    def __init__(self, database: Database) -> None:
        self._database = database
        lists = Lists(database)
        these = lists.among(e.c.execution_id, "ids")
        self._known = select(e.c.execution_id).where(these)
        self._insert = database.insert_ignore(e)
        self._overwrite = (
            update(e)
            .where(e.c.execution_id == bindparam("the_id"), OVER_ROWS)
            .values({name: bindparam(name) for name in record_values(_ANY, 0) if name != "execution_id"})
        )
        self._up_to = (
            select(e.c.execution_id)
            .where(e.c.job_id == bindparam("job"), e.c.recorded_ms <= bindparam("before"), OVER_ROWS)
            .limit(DELETED_MAX)
        )
        self._delete = delete(e).where(these, OVER_ROWS)

    async def save(self, connection: AnyConnection, runs: Sequence[Run]) -> None:
        """Write records, in the place of those that are there; of several of one try the last one."""
        now = await self._database.now_ms(connection)
        rows = _rows(runs, now)
        known = await self._those_known(connection, list(rows))
        new = [row for key, row in rows.items() if key not in known]
        if new:
            await connection.execute(self._insert, new)
        old = [{"the_id": row.pop("execution_id"), **row} for key, row in rows.items() if key in known]
        if old:
            await connection.execute(self._overwrite, old)

    async def take(self, connection: AnyConnection, runs: Sequence[Run], *, since_ms: Ms, dry_run: bool) -> list[bool]:
        """Write records that are not there, and not older than ``since_ms``; for each whether it was."""
        # Without queue_ms: nobody who follows new records is told.
        rows = {key: {**row, "queue_ms": None} for key, row in _rows(runs, 0).items()}
        known = await self._those_known(connection, list(rows))
        new = {key: row for key, row in rows.items() if key not in known and row["recorded_ms"] >= since_ms}
        if new and not dry_run:
            await connection.execute(self._insert, list(new.values()))
        stored: list[bool] = []
        for run in runs:
            key = record_values(run, 0)["execution_id"]
            stored.append(new.pop(key, None) is not None)
        return stored

    async def delete(self, connection: AnyConnection, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records of runs that are over, up to an instant, inclusive; how many, at most a thousand."""
        ids = list((await connection.execute(self._up_to, {"job": job_id, "before": before_ms})).scalars())
        return await self.delete_these(connection, ids)

    async def delete_these(self, connection: AnyConnection, ids: Sequence[str]) -> int:
        """Delete those of these records that are over; how many."""
        deleted = 0
        for begin in range(0, len(ids), SLICE):
            deleted += (await connection.execute(self._delete, {"ids": list(ids[begin : begin + SLICE])})).rowcount
        return deleted

    async def _those_known(self, connection: AnyConnection, ids: Sequence[str]) -> set[str]:
        known: set[str] = set()
        for begin in range(0, len(ids), SLICE):
            known.update((await connection.execute(self._known, {"ids": list(ids[begin : begin + SLICE])})).scalars())
        return known


def _rows(runs: Sequence[Run], now_ms: Ms) -> dict[str, dict[str, Any]]:
    """Rows by key; a record with an id that no row can have is left out."""
    rows: dict[str, dict[str, Any]] = {}
    for run in runs:
        row = record_values(run, now_ms)
        if storable(row["execution_id"]) and storable(run.job):
            rows[row["execution_id"]] = row
        else:
            log.warning("a record has an id that no row can have", extra={"run": row["execution_id"][:64]})
    return rows
