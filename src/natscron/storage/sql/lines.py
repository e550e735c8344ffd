"""What is going and what is held of each job, and letting the held ones go.

Who is authoritative: the rows. A job's runs that are *going* are those that are pending, later or running; *held* ones
wait for one of them to end. Nothing stays held when one ends while there is room for it.

Why nothing stalls, and no job goes over its capacity. What changes the two counts first locks the job's row
(:meth:`Lines.lock`) and counts afterwards, in the same transaction: queuing a run whose policy bounds its job
(:attr:`QueuedRun.capacity` not 0), any ending, a run given back that is over, removal, redriving. A write transaction
is READ COMMITTED, so a count after the lock sees all that the one who had the lock before has committed, and on SQLite
there is one write transaction at a time. So two that end at once, or one that ends while another is queued, do it one
after the other, and the later one sees both. Without the lock go: a run that may go beside any number of others, which
no count holds up; and what moves no count, a claim (pending to running), a run given back (running to pending) and a
failed try that is followed by another, which is one transaction. Locks are taken in the order of ids, before the rows
of runs; a claim has only rows that nobody else has (SKIP LOCKED) and waits for none. What still meets in a deadlock is
repeated.

A removed job has no row to be locked. What is queued for it just then, by a leader that has not heard of the removal,
may be held although nothing is going any more: :meth:`Queue.heal` finds that at the next sweep, as it would find what
somebody made by hand.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, case, func, literal_column, select, update

from natscron.model import Ms
from natscron.policy.overlap import BUFFER_MAX
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lists import SLICE, Lists, forced
from natscron.storage.sql.runrows import HELD, LATER, OPEN, PENDING, RANKS, capacity_of
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.schema import jobs

__all__ = ["Counts", "Lines", "rank", "word", "words"]

_RELEASED_MAX: Final = 1_000
"""Runs of one job that are let go at once."""
_ROUNDS_MAX: Final = 100


def word(text: str) -> Any:  # noqa: ANN401 - a literal of our own
    """A status as a literal: a parameter would hide from the database how rare it is."""
    return literal_column(f"'{text}'")


def rank(text: str) -> Any:  # noqa: ANN401 - a literal of our own
    """A status as its rank, likewise."""
    return literal_column(str(RANKS[text]))


def words(texts: Iterable[str]) -> list[Any]:
    """Several of them."""
    return [word(text) for text in texts]


class Counts(NamedTuple):
    """Of one job. ``held`` is exact up to :data:`BUFFER_MAX`, and that number means as many or more."""

    going: int
    held: int


class Lines:
    """The statements, and what is done with them within a transaction."""

    def __init__(self, database: Database) -> None:
        lists = Lists(database)
        self._lists = lists
        self._locks = database.name != "sqlite"
        listed = lists.listed()
        inner = e.alias("inner_e")

        def of_job(what: ColumnElement[Any]) -> Select[Any]:
            return forced(select(what).where(inner.c.job_id == listed.c.id), inner, "job_status")

        # Rows of the Go library wait for nobody.
        going = of_job(func.count()).where(inner.c.status.in_(words(OPEN)), inner.c.handler.is_not(None))
        held = of_job(inner.c.execution_id).where(inner.c.status == word(HELD)).limit(1)
        full = held.offset(BUFFER_MAX - 1)
        head = held.order_by(inner.c.recorded_ms, inner.c.execution_id)
        self._lock = select(jobs.c.id).where(lists.among(jobs.c.id, "ids")).order_by(jobs.c.id).with_for_update()
        self._counts = select(
            listed.c.id,
            going.scalar_subquery().label("going"),
            held.scalar_subquery().label("held"),
            full.scalar_subquery().label("full"),
        )
        self._held = (
            select(e.c.job_id, func.count())
            .where(lists.among(e.c.job_id, "ids"), e.c.status == word(HELD))
            .group_by(e.c.job_id)
        )
        self._heads = select(listed.c.id, going.scalar_subquery().label("going"), head.scalar_subquery().label("head"))
        self._line = (
            select(e.c.execution_id, e.c.overlap, e.c.concurrency)
            .where(e.c.job_id == bindparam("job"), e.c.status == word(HELD))
            .order_by(e.c.recorded_ms, e.c.execution_id)
            .limit(bindparam("most"))
        )
        self._of_heads = select(e.c.execution_id, e.c.job_id, e.c.overlap, e.c.concurrency).where(
            lists.among(e.c.execution_id, "ids")
        )
        due = e.c.queue_ms <= bindparam("now")
        self._let_go = (
            update(e)
            # Guarded: without a job's row another may have let it go, and a worker have claimed it.
            .where(lists.among(e.c.execution_id, "ids"), e.c.status == word(HELD))
            .values(
                rank_order=case((due, -e.c.priority), else_=rank(LATER)),
                status=case((due, word(PENDING)), else_=word(LATER)),
                reason=None,
            )
        )

    async def lock(self, connection: AnyConnection, job_ids: Iterable[str]) -> list[str]:
        """Be the only one to change what is going and held of these jobs; the ids once each, in order."""
        ids = sorted(set(job_ids))
        if ids and self._locks:
            (await connection.execute(self._lock, {"ids": ids})).all()
        return ids

    async def counts(self, connection: AnyConnection, job_ids: Sequence[str]) -> Mapping[str, Counts]:
        """Of each of these jobs, which are locked."""
        if not job_ids:
            return {}
        rows = (await connection.execute(self._counts, self._lists.given(job_ids))).all()
        found = {row.id: Counts(row.going, 0 if row.held is None else BUFFER_MAX) for row in rows}
        some = [row.id for row in rows if row.held is not None and row.full is None]
        if some:
            for job_id, held in (await connection.execute(self._held, {"ids": some})).all():
                found[job_id] = Counts(found[job_id].going, held)
        return found

    async def release(self, connection: AnyConnection, job_ids: Sequence[str], now_ms: Ms) -> int:
        """Let go what is held of these jobs, which are locked, as much as there is room for; how many runs."""
        released = 0
        for begin in range(0, len(job_ids), SLICE):
            left = list(job_ids[begin : begin + SLICE])
            for _ in range(_ROUNDS_MAX):
                found, left = await self._release(connection, left, now_ms)
                released += found
                if not left:
                    break
        return released

    async def _release(self, connection: AnyConnection, ids: Sequence[str], now_ms: Ms) -> tuple[int, list[str]]:
        """One round: how many runs, and of which jobs; the next that is held there may have a policy of its own."""
        found = (await connection.execute(self._heads, self._lists.given(ids))).all()
        heads = {row.head: row for row in found if row.head is not None}
        if not heads:
            return 0, []
        due: list[str] = []
        jobs: list[str] = []
        for row in (await connection.execute(self._of_heads, {"ids": list(heads)})).all():
            capacity = capacity_of(row.overlap, row.concurrency)
            going = heads[row.execution_id].going
            if capacity and going >= capacity:
                continue
            jobs.append(row.job_id)
            due += [row.execution_id] if capacity == going + 1 else await self._several(connection, row.job_id, going)
        if not due:
            return 0, []
        return (await connection.execute(self._let_go, {"ids": due, "now": now_ms})).rowcount, jobs

    async def _several(self, connection: AnyConnection, job_id: str, going: int) -> list[str]:
        """The oldest that are held, as many as each one's own capacity leaves room for."""
        found: list[str] = []
        rows = (await connection.execute(self._line, {"job": job_id, "most": _RELEASED_MAX})).all()
        for row in rows:
            capacity = capacity_of(row.overlap, row.concurrency)
            if capacity and going + len(found) >= capacity:
                break
            found.append(row.execution_id)
        return found
