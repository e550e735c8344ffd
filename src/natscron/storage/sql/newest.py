"""Each job's newest record among some statuses: one look into an index per job and status."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ScalarSelect, Subquery, select

from natscron.model import Ms
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import word
from natscron.storage.sql.lists import Lists, forced
from natscron.storage.sql.schema import executions as e

__all__ = ["Newest"]


class Newest:
    """``statuses``: words of the column."""

    def __init__(self, database: Database, statuses: Sequence[str]) -> None:
        lists = Lists(database)
        listed = lists.listed()
        self._given = lists.given
        self._keys = select(*(_newest(listed, status).label(f"k{n}") for n, status in enumerate(statuses)))
        self._keys = self._keys.select_from(listed)
        self._rows = select(
            e.c.job_id, e.c.status, e.c.scheduled_ms, e.c.started_ms, e.c.finished_ms, e.c.recorded_ms
        ).where(lists.among(e.c.execution_id, "ids"))

    async def of(self, connection: AnyConnection, job_ids: Sequence[str]) -> Mapping[str, Any]:
        """Rows by job; the newest by its start, and of two with one start the one that ended last."""
        keys = [key for row in (await connection.execute(self._keys, self._given(job_ids))).all() for key in row if key]
        found: dict[str, Any] = {}
        if keys:
            for row in (await connection.execute(self._rows, {"ids": keys})).all():
                known = found.get(row.job_id)
                if known is None or _age(known) < _age(row):
                    found[row.job_id] = row
        return found


def _newest(listed: Subquery, status: str) -> ScalarSelect[str]:
    inner = e.alias(f"newest_{status}")
    mine = select(inner.c.execution_id).where(inner.c.job_id == listed.c.id, inner.c.status == word(status))
    return forced(mine, inner, "job_status").order_by(inner.c.recorded_ms.desc()).limit(1).scalar_subquery()


def _age(row: Any) -> tuple[Ms, Ms]:  # noqa: ANN401 - a row of a query
    return row.recorded_ms or 0, row.finished_ms or 0
