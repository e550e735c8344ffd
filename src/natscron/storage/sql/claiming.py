"""Claims: which runs a worker gets.

A run that is pending may be claimed; one that is *later* becomes pending at its instant, in the transaction of whoever
claims first after that. Rows that another claim has are passed over, so workers never wait for each other; whoever
found that there is something due which it could not get is told to come again shortly.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, bindparam, func, select, update

from natscron.model import Claimed, Ms, RunStatus
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import rank, word
from natscron.storage.sql.lists import Lists, forced
from natscron.storage.sql.runrows import CLAIM_COLUMNS, LATER, PENDING, RANK_MAX, RUNNING, claim_of, moment
from natscron.storage.sql.schema import executions as e

__all__ = ["Claiming"]

_PROMOTED_MAX: Final = 1_000
_AGAIN_MS: Final[Ms] = 10
"""After how long a claim is worth while that found all that is due in others' hands."""


class Claiming:
    """The statements."""

    def __init__(self, database: Database) -> None:
        self._database = database
        lists = Lists(database)
        done = e.alias("done")
        last_completed = select(done.c.finished_ms).where(
            done.c.job_id == e.c.job_id, done.c.status == word(RunStatus.COMPLETED.value)
        )
        # By its start, for the sake of the index: of runs that overlapped another one may have ended last.
        last_completed = forced(last_completed, done, "job_status").order_by(done.c.recorded_ms.desc()).limit(1)
        pending = select(
            *CLAIM_COLUMNS, last_completed.correlate(e).scalar_subquery().label("last_completed_ms")
        ).where(e.c.rank_order <= RANK_MAX, lists.among(e.c.handler, "handlers"))
        self._pending = (
            # Had MySQL to sort, it would lock all that is pending, and others would pass over it.
            forced(pending, e, "queue")
            .order_by(e.c.rank_order, e.c.queue_ms)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True, of=e if database.name == "postgresql" else None)
        )
        later = e.c.rank_order == rank(LATER)
        self._next = select(func.min(e.c.queue_ms)).where(later)
        self._next_of = self._next.where(lists.among(e.c.handler, "handlers"))
        self._ripe = (
            select(e.c.execution_id)
            .where(later, e.c.queue_ms <= bindparam("now"))
            .order_by(e.c.queue_ms)
            .limit(_PROMOTED_MAX)
            .with_for_update(skip_locked=True)
        )
        self._promote = (
            update(e).where(lists.among(e.c.execution_id, "ids")).values(status=word(PENDING), rank_order=-e.c.priority)
        )
        at = bindparam("now", type_=BigInteger)
        self._begin = (
            update(e)
            .where(lists.among(e.c.execution_id, "ids"))
            .values(
                status=word(RUNNING),
                rank_order=rank(RUNNING),
                worker=bindparam("worker"),
                instance=bindparam("instance"),
                started_ms=at,
                recorded_ms=at,
                start_time=bindparam("moment"),
                lateness_ms=at - e.c.due_ms,
                reason=None,
            )
        )

    async def promote(self, connection: AnyConnection, now_ms: Ms) -> int:
        """What is later and due becomes pending; how many, at most a thousand."""
        ids = list((await connection.execute(self._ripe, {"now": now_ms})).scalars())
        if ids:
            await connection.execute(self._promote, {"ids": ids})
        return len(ids)

    async def claim(
        self, connection: AnyConnection, worker: str, instance: str, *, handlers: Sequence[str], limit: int
    ) -> Claimed:
        """See :meth:`RunQueue.claim <natscron.storage.queue.RunQueue.claim>`."""
        database = self._database
        now = await database.now_ms(connection)
        names = sorted(set(handlers))
        following = (await connection.execute(self._next)).scalar_one()
        if following is not None and following <= now:
            await self.promote(connection, now)
        rows: Sequence[Any] = ()
        if names and limit > 0:
            rows = (await connection.execute(self._pending, {"handlers": names, "most": limit})).all()
        if rows:
            ids = [row.execution_id for row in rows]
            values = {"ids": ids, "now": now, "moment": moment(now), "worker": worker, "instance": instance}
            await connection.execute(self._begin, values)
        claims = [claim_of(row, worker, now, row.last_completed_ms) for row in rows]
        next_ms = None
        if len(claims) < limit and following is not None and names:
            next_ms = (await connection.execute(self._next_of, {"handlers": names})).scalar_one()
            if next_ms is not None and next_ms <= now:
                next_ms = now + _AGAIN_MS
        return Claimed(tuple(claims), next_ms, now)
