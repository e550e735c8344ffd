"""Workers and their lost runs, runs that nobody can execute, and what the runs of jobs are doing.

A worker is alive for its lease after each announcement, by the database's clock. Its row outlives it by a day, so that
a process which was merely suspended finds its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import bindparam, case, delete, func, or_, select, update

from natscron.model import Activity, Claim, Ms, Reason, RunStatus, WorkerInfo
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import Lines, rank, words
from natscron.storage.sql.lists import SLICE, Lists
from natscron.storage.sql.newest import Newest
from natscron.storage.sql.runrows import CLAIM_COLUMNS, HELD, LATER, OPEN, RANK_MAX, RUNNING, claim_of
from natscron.storage.sql.schema import executions as e
from natscron.storage.sql.schema import workers

__all__ = ["Upkeep"]

_DEAD_MS: Final[Ms] = 86_400_000
_HEALED_MAX: Final = 1_000
_ENDED: Final = (RunStatus.COMPLETED.value, RunStatus.FAILED.value, RunStatus.DEAD.value)
"""What a job's newest run that is over may be; one that was left out is none."""

_decoder: Final = msgspec.json.Decoder(WorkerInfo)


class Upkeep:
    """The statements."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines
        lists = Lists(database)
        self._newest = Newest(database, _ENDED)
        alive = workers.c.seen_ms + workers.c.lease_ms >= bindparam("now")
        self._alive = select(workers.c.data).where(alive)
        self._refresh = (
            update(workers)
            .where(workers.c.id == bindparam("worker"))
            .values(data=bindparam("info"), lease_ms=bindparam("lease"), seen_ms=bindparam("now"))
        )
        self._announce = database.insert_ignore(workers)
        self._retire = delete(workers).where(workers.c.id == bindparam("worker"))
        self._bury = delete(workers).where(workers.c.seen_ms + workers.c.lease_ms < bindparam("before"))
        self._owned = select(e.c.run_id, e.c.attempt, e.c.cancel_reason).where(
            e.c.rank_order == rank(RUNNING), e.c.worker == bindparam("worker")
        )
        self._running = select(e.c.rank_order).where(e.c.rank_order == rank(RUNNING)).limit(1)
        self._lost = (
            select(*CLAIM_COLUMNS, e.c.worker, e.c.started_ms)
            .select_from(e.outerjoin(workers, workers.c.id == e.c.worker))
            .where(
                e.c.rank_order == rank(RUNNING),
                or_(workers.c.id.is_(None), workers.c.seen_ms + workers.c.lease_ms < bindparam("now")),
            )
            .limit(bindparam("most"))
        )
        marked = e.c.reason == Reason.NO_HANDLER.value
        waits = e.c.rank_order <= RANK_MAX
        self._waiting = (
            select(e.c.handler, func.count().label("runs"), func.sum(case((marked, 1), else_=0)).label("marked"))
            .where(waits)
            .group_by(e.c.handler)
        )
        self._mark = (
            update(e)
            .where(waits, lists.among(e.c.handler, "handlers"), or_(e.c.reason.is_(None), ~marked))
            .values(reason=Reason.NO_HANDLER.value)
        )
        self._unmark = update(e).where(waits, lists.among(e.c.handler, "handlers"), marked).values(reason=None)
        self._stands = (
            select(e.c.job_id, e.c.status, func.count())
            .where(
                lists.among(e.c.job_id, "ids"),
                e.c.status.in_(words((*OPEN, HELD))),
                e.c.handler.is_not(None),
            )
            .group_by(e.c.job_id, e.c.status)
        )
        self._jobs_with_held = (
            select(e.c.job_id)
            .where(e.c.rank_order == rank(HELD), e.c.job_id > bindparam("after"))
            .distinct()
            .order_by(e.c.job_id)
            .limit(_HEALED_MAX)
        )
        self._healed = ""
        """Where the next healing goes on."""
        self._claimable = select(e.c.execution_id).where(waits, lists.among(e.c.handler, "handlers")).limit(1)
        self._next = select(func.min(e.c.queue_ms)).where(e.c.rank_order == rank(LATER))
        self._doomed = select(e.c.execution_id).where(
            e.c.rank_order == rank(RUNNING), e.c.cancel_reason.is_not(None), lists.among(e.c.worker, "workers")
        )

    # Workers.

    async def beat(self, connection: AnyConnection, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """See :meth:`RunQueue.beat <natscron.storage.queue.RunQueue.beat>`."""
        now = await self._database.now_ms(connection)
        values = {
            "worker": worker.id,
            "info": msgspec.json.encode(worker),
            "lease": worker.lease_ms,
            "now": now,
        }
        if not (await connection.execute(self._refresh, values)).rowcount:
            row = {"id": worker.id, "data": values["info"], "lease_ms": worker.lease_ms, "seen_ms": now}
            await connection.execute(self._announce, row)
        owned = (await connection.execute(self._owned, {"worker": worker.id})).all()
        return {(row.run_id, row.attempt): row.cancel_reason or "" for row in owned}

    async def retire(self, connection: AnyConnection, worker: str) -> None:
        """Take an announcement back."""
        await connection.execute(self._retire, {"worker": worker})

    async def workers(self, connection: AnyConnection) -> list[WorkerInfo]:
        """Those that are alive."""
        now = await self._database.now_ms(connection)
        rows = (await connection.execute(self._alive, {"now": now})).scalars()
        return [_decoder.decode(data) for data in rows]

    async def lost(self, connection: AnyConnection, limit: int) -> list[Claim]:
        """See :meth:`RunQueue.lost <natscron.storage.queue.RunQueue.lost>`."""
        if (await connection.execute(self._running)).first() is None:
            return []
        now = await self._database.now_ms(connection)
        rows = (await connection.execute(self._lost, {"now": now, "most": limit})).all()
        return [claim_of(row, row.worker, row.started_ms, None) for row in rows]

    # Handlers.

    async def unhandled(self, connection: AnyConnection) -> tuple[int, list[str], list[str]]:
        """How many due runs nobody has a handler for, the handlers to be marked, and those to be unmarked."""
        rows = (await connection.execute(self._waiting)).all()
        if not rows:
            return 0, [], []
        known = {name for info in await self.workers(connection) for name in info.handlers}
        missing = [row for row in rows if row.handler not in known]
        mark = [row.handler for row in missing if row.marked < row.runs]
        unmark = [row.handler for row in rows if row.handler in known and row.marked]
        return sum(row.runs for row in missing), mark, unmark

    async def mark(self, connection: AnyConnection, mark: Sequence[str], unmark: Sequence[str]) -> None:
        """Show it, or show it no more."""
        if mark:
            await connection.execute(self._mark, {"handlers": mark})
        if unmark:
            await connection.execute(self._unmark, {"handlers": unmark})

    # Looks.

    async def next_ms(self, connection: AnyConnection) -> Ms | None:
        """When the next run is due of those that are not."""
        found: Ms | None = (await connection.execute(self._next)).scalar_one()
        return found

    async def claimable(self, connection: AnyConnection, handlers: Iterable[str]) -> bool:
        """Whether a run waits for one of these handlers."""
        names = list(handlers)
        return bool(names) and (await connection.execute(self._claimable, {"handlers": names})).first() is not None

    async def doomed(self, connection: AnyConnection, mine: Iterable[str]) -> set[str]:
        """The tries of these workers that are to be cancelled."""
        names = list(mine)
        if not names:
            return set()
        return set((await connection.execute(self._doomed, {"workers": names})).scalars())

    async def activity(self, connection: AnyConnection, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """See :meth:`RunQueue.activity <natscron.storage.queue.RunQueue.activity>`."""
        found: dict[str, Activity] = {}
        for begin in range(0, len(job_ids), SLICE):
            ids = list(job_ids[begin : begin + SLICE])
            running: dict[str, int] = {}
            waiting: dict[str, int] = {}
            for job_id, status, runs in (await connection.execute(self._stands, {"ids": ids})).all():
                into = running if status == RUNNING else waiting
                into[job_id] = into.get(job_id, 0) + runs
            newest = await self._newest.of(connection, ids)
            for job_id in ids:
                row = newest.get(job_id)
                if row is None and job_id not in running and job_id not in waiting:
                    continue
                found[job_id] = Activity(
                    running=running.get(job_id, 0),
                    waiting=waiting.get(job_id, 0),
                    status=None if row is None else RunStatus(row.status),
                    started_ms=None if row is None else row.started_ms,
                    finished_ms=None if row is None else row.finished_ms,
                )
        return found

    # Housekeeping.

    async def heal(self, connection: AnyConnection) -> int:
        """Let go what is held although there is room for it, of the next thousand jobs that have any; how many runs.

        And forget workers that died long ago.
        """
        now = await self._database.now_ms(connection)
        await connection.execute(self._bury, {"before": now - _DEAD_MS})
        found = list((await connection.execute(self._jobs_with_held, {"after": self._healed})).scalars())
        self._healed = found[-1] if len(found) == _HEALED_MAX else ""
        jobs = await self._lines.lock(connection, found)
        return await self._lines.release(connection, jobs, now)
