"""How tries end, are given back, and are tried again.

Each of these locks the jobs first whose runs it may end (see :mod:`natscron.storage.sql.lines`), then the rows of the
tries themselves, and looks at what they say only then: whether a try is still its worker's, and whether it was to end
in favour of another, in which case no further try follows.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Integer, String, bindparam, case, func, insert, select, update

from natscron.model import Ending, Ms, Reason, RunStatus
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.entering import REPLACED
from natscron.storage.sql.lines import Lines, word, words
from natscron.storage.sql.lists import SLICE, Lists
from natscron.storage.sql.runrows import (
    HELD,
    LATER,
    PENDING,
    RANKS,
    RUNNING,
    WAITING,
    cancelled_values,
    capacity_of,
    clean,
    ended_values,
    execution_id,
    storable,
)
from natscron.storage.sql.schema import executions as e

__all__ = ["Changed", "Endings"]

_REDRIVABLE: Final = frozenset({RunStatus.FAILED.value, RunStatus.DEAD.value})
_AS_BEFORE: Final = (
    "job_id",
    "run_id",
    "generation",
    "scheduled_ms",
    "due_ms",
    "run_trigger",
    "delivery",
    "handler",
    "overlap",
    "concurrency",
    "priority",
    "payload",
)
"""What a further try has from the one before."""


class Changed(NamedTuple):
    """What a transaction came to."""

    result: Any
    claimable: bool
    """Runs may be claimed that could not be, or an instant is known that was not."""


class Endings:
    """The statements."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines
        lists = Lists(database)
        these = lists.among(e.c.execution_id, "ids")
        mine = (these, e.c.status == word(RUNNING), e.c.worker == bindparam("worker"))
        self._jobs_of = select(e.c.job_id).where(*mine).distinct()
        self._mine = (
            select(e.c.execution_id, e.c.job_id, e.c.due_ms, e.c.cancel_reason)
            .where(*mine)
            .order_by(e.c.execution_id)
            .with_for_update()
        )
        self._end = (
            update(e)
            .where(e.c.execution_id == bindparam("the_id"))
            .values({name: bindparam(name) for name in ended_values(_ANY, 0, 0) if name != "the_id"})
        )
        never_begun = {
            "worker": None,
            "instance": None,
            "started_ms": None,
            "start_time": None,
            "lateness_ms": None,
            "recorded_ms": e.c.scheduled_ms,
        }
        self._give_back = update(e).where(these).values(status=word(PENDING), rank_order=-e.c.priority, **never_begun)
        cancelled: dict[str, Any] = {name: bindparam(name) for name in cancelled_values(0, "", "")}
        self._end_unbegun = update(e).where(these).values(**cancelled, **never_begun)
        waits = e.c.status.in_(words(WAITING))
        self._waiting_of = select(e.c.execution_id).where(
            e.c.job_id == bindparam("job"), e.c.generation == bindparam("of_generation"), waits
        )
        # By their keys, as those that are replaced are locked.
        self._drop = update(e).where(these, waits).values(cancelled)
        self._running = select(func.count()).where(
            e.c.job_id == bindparam("job"),
            e.c.generation == bindparam("of_generation"),
            e.c.status == word(RUNNING),
        )
        self._again = self._further_try()
        self._newest = (
            select(
                e.c.execution_id,
                e.c.job_id,
                e.c.attempt,
                e.c.status,
                e.c.handler,
                e.c.generation,
                e.c.overlap,
                e.c.concurrency,
            )
            .where(e.c.run_id == bindparam("run"))
            .order_by(e.c.attempt.desc())
            .limit(1)
        )
        self._newest_locked = self._newest.with_for_update()

    @staticmethod
    def _further_try() -> Any:  # noqa: ANN401 - an INSERT from a SELECT
        values = {
            **{name: e.c[name] for name in _AS_BEFORE},
            "execution_id": bindparam("new_id", type_=String),
            "attempt": bindparam("new_attempt", type_=Integer),
            "status": bindparam("new_status", type_=String),
            "reason": bindparam("new_reason", type_=String),
            "rank_order": case(
                (bindparam("due", type_=Integer) == 1, -e.c.priority), else_=bindparam("rank", type_=Integer)
            ),
            "queue_ms": bindparam("at", type_=BigInteger),
            "recorded_ms": e.c.scheduled_ms,
        }
        return insert(e).from_select(
            list(values), select(*values.values()).where(e.c.execution_id == bindparam("old_id"))
        )

    async def finish(self, connection: AnyConnection, worker: str, endings: Sequence[Ending]) -> Changed:
        """See :meth:`RunQueue.finish <natscron.storage.queue.RunQueue.finish>`; a list of bools."""
        now = await self._database.now_ms(connection)
        stored = [False] * len(endings)
        first: dict[str, int] = {}
        for number, ending in enumerate(endings):
            first.setdefault(execution_id(ending.run_id, ending.attempt), number)
        rows = await self._locked(connection, worker, list(first))
        values, again, over = [], [], set()
        # In the order of the endings, which is that in which their next tries are claimed.
        for row in sorted(rows, key=lambda row: first[row.execution_id]):
            ending = endings[first[row.execution_id]]
            stored[first[row.execution_id]] = True
            values.append(ended_values(ending, row.due_ms, now))
            if ending.retry_in_ms is None or row.cancel_reason is not None:
                over.add(row.job_id)
            else:
                reason = clean(ending.retry_reason, 64)
                again.append(_next_try(ending.run_id, ending.attempt, reason, now, ending.retry_in_ms))
        if values:
            await connection.execute(self._end, values)
        if again:
            await connection.execute(self._again, again)
        released = await self._lines.release(connection, sorted(over), now)
        return Changed(result=stored, claimable=bool(again or released))

    async def give_back(self, connection: AnyConnection, worker: str, ids: Sequence[str]) -> Changed:
        """Make these running tries of a worker claimable again; what was to end in favour of another is over."""
        now = await self._database.now_ms(connection)
        rows = await self._locked(connection, worker, ids)
        back = [row.execution_id for row in rows if row.cancel_reason is None]
        over = [row for row in rows if row.cancel_reason is not None]
        if back:
            await connection.execute(self._give_back, {"ids": back})
        for reason in {row.cancel_reason for row in over}:
            mine = [row.execution_id for row in over if row.cancel_reason == reason]
            await connection.execute(self._end_unbegun, {"ids": mine, **cancelled_values(now, reason, REPLACED)})
        released = await self._lines.release(connection, sorted({row.job_id for row in over}), now)
        return Changed(result=None, claimable=bool(back or released))

    async def _locked(self, connection: AnyConnection, worker: str, ids: Sequence[str]) -> Sequence[Any]:
        """The tries among these that are the worker's; they and their jobs are locked."""
        given = {"ids": [one for one in ids if storable(one)], "worker": worker}
        if not given["ids"]:
            return ()
        if self._database.name != "sqlite":
            jobs = (await connection.execute(self._jobs_of, given)).scalars()
            await self._lines.lock(connection, jobs)
        return (await connection.execute(self._mine, given)).all()

    async def drop(self, connection: AnyConnection, job_id: str, generation: int) -> Changed:
        """End what waits of a removed job; how many of its runs still go on."""
        now = await self._database.now_ms(connection)
        await self._lines.lock(connection, [job_id])
        given = {"job": job_id, "of_generation": generation}
        values = cancelled_values(now, Reason.JOB_REMOVED.value, "its job was removed")
        waiting = sorted((await connection.execute(self._waiting_of, given)).scalars())
        dropped = 0
        for begin in range(0, len(waiting), SLICE):
            some = {"ids": waiting[begin : begin + SLICE], **values}
            dropped += (await connection.execute(self._drop, some)).rowcount
        running = (await connection.execute(self._running, given)).scalar_one()
        released = await self._lines.release(connection, [job_id], now) if dropped else 0
        return Changed(result=running, claimable=released > 0)

    async def redrive(self, connection: AnyConnection, run_id: str) -> Changed:
        """Queue another try of a run whose newest try failed for good; whether it was so."""
        now = await self._database.now_ms(connection)
        row = (await connection.execute(self._newest, {"run": run_id})).first()
        if row is None or not _may_redrive(row):
            return Changed(result=False, claimable=False)
        await self._lines.lock(connection, [row.job_id])
        locked = (await connection.execute(self._newest_locked, {"run": run_id})).first()
        # Whoever had the lock on that try may have queued the next one.
        newest = (await connection.execute(self._newest, {"run": run_id})).first()
        same = newest is not None and locked is not None and newest.execution_id == locked.execution_id
        if newest is None or not same or not _may_redrive(newest):
            return Changed(result=False, claimable=False)
        values = _next_try(run_id, newest.attempt, Reason.REDRIVEN.value, now, 0)
        capacity = capacity_of(newest.overlap, newest.concurrency)
        counts = await self._lines.counts(connection, [newest.job_id])
        held = capacity > 0 and counts[newest.job_id].going >= capacity
        if held:
            values |= {"new_status": HELD, "new_reason": Reason.OVERLAP_WAIT.value, "due": 0, "rank": RANKS[HELD]}
        await connection.execute(self._again, values)
        return Changed(result=True, claimable=not held)


_ANY: Final = Ending(run_id="", attempt=1, status=RunStatus.DEAD, started_ms=0, finished_ms=0)


def _next_try(run_id: str, attempt: int, reason: str | None, now_ms: Ms, wait_ms: Ms) -> dict[str, Any]:
    due = wait_ms <= 0
    return {
        "old_id": execution_id(run_id, attempt),
        "new_id": execution_id(run_id, attempt + 1),
        "new_attempt": attempt + 1,
        "new_status": PENDING if due else LATER,
        "new_reason": reason,
        "due": int(due),
        "rank": RANKS[LATER],
        "at": now_ms + max(wait_ms, 0),
    }


def _may_redrive(row: Any) -> bool:  # noqa: ANN401 - a row of a query
    """It failed for good, and what it was queued with is known."""
    return row.status in _REDRIVABLE and row.handler is not None and row.generation is not None
