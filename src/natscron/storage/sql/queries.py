"""A query of the history as a statement. Pure.

What the caller gave is in its parameters only; columns, order and words are ours. Each statement is such that the
database reads no more of an index than it returns, wherever one is sorted by the query's order: those for a job, for
all jobs and for a job and a status. Where a status is several words in the column, each is read by itself and what is
found is merged. Other orders, and a rare status of all jobs, are read whole and sorted.
"""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, or_, select, union_all

from natscron.model import SERVICE_JOB, RunStatus
from natscron.storage.protocol import RunOrder, RunQuery
from natscron.storage.sql.lines import word, words
from natscron.storage.sql.lists import forced
from natscron.storage.sql.runrows import HELD, OTHER_RANK, RANKS, RECORD_COLUMNS, words_of
from natscron.storage.sql.schema import executions as e

__all__ = ["statement_of"]

_ORDERS: Final[Mapping[RunOrder, str]] = {
    RunOrder.RECORDED: "recorded_ms",
    RunOrder.START_TIME: "started_ms",
    RunOrder.END_TIME: "finished_ms",
    RunOrder.DURATION: "duration",
}


def statement_of(query: RunQuery, database: str) -> Select[Any]:
    """``database``: :attr:`Database.name <natscron.storage.sql.database.Database.name>`."""
    found = words_of(query.status) if query.status is not None else []
    sorted_by_index = query.order is RunOrder.RECORDED
    if sorted_by_index and query.job is not None and len(found) > 1:
        most = query.offset + query.limit
        parts = [
            select(
                _sorted(_filtered(query).where(e.c.status == word(one)), e.c, query, database).limit(most).subquery()
            )
            for one in found
        ]
        merged = union_all(*parts).subquery("merged")
        statement = _sorted(select(merged), merged.c, query, database)
    else:
        statement = _filtered(query)
        walks = sorted_by_index and query.job is None and query.run_id is None
        walks = walks and query.status in {None, RunStatus.COMPLETED}
        if query.status is not None:
            # Where the Go library has been there is an index of the status, which SQLite would rather read, and sort;
            # of an expression there is none.
            status = e.c.status + "" if walks and database == "sqlite" else e.c.status
            statement = statement.where(status.in_(words(found)))
            if query.job is None and query.run_id is None and not walks:
                statement = statement.where(_ranked(query.status))
        if walks:
            statement = forced(statement, e, "recorded")
        statement = _sorted(statement, e.c, query, database)
    return statement.limit(query.limit).offset(query.offset)


def _ranked(status: RunStatus) -> ColumnElement[bool]:
    """By rank, of which there is an index of its own."""
    if status is RunStatus.PENDING:
        return or_(e.c.rank_order <= RANKS[HELD], e.c.rank_order == OTHER_RANK)
    return e.c.rank_order.in_([RANKS[status.value], OTHER_RANK])


def _filtered(query: RunQuery) -> Select[Any]:
    """All but the status."""
    statement = select(*RECORD_COLUMNS).where(e.c.recorded_ms.is_not(None))
    if query.job is not None:
        statement = statement.where(e.c.job_id == query.job)
    elif not query.service:
        statement = statement.where(e.c.job_id != SERVICE_JOB)
    if query.run_id is not None:
        statement = statement.where(e.c.run_id == query.run_id)
    if query.since_ms is not None:
        statement = statement.where(e.c.recorded_ms >= query.since_ms)
    if query.until_ms is not None:
        statement = statement.where(e.c.recorded_ms < query.until_ms)
    return statement


def _sorted(statement: Select[Any], columns: Any, query: RunQuery, database: str) -> Select[Any]:  # noqa: ANN401 - of a table or a subquery
    """What has no value comes first when ascending; ties by time, then by key."""
    values: list[ColumnElement[Any]] = [columns[_ORDERS[query.order]]]
    if query.order is not RunOrder.RECORDED:
        values.append(columns.recorded_ms)
    values.append(columns.execution_id)
    order: list[Any] = [value.desc() if query.descending else value.asc() for value in values]
    if database == "postgresql" and query.order is not RunOrder.RECORDED:
        order[0] = order[0].nulls_last() if query.descending else order[0].nulls_first()
    return statement.order_by(*order)
