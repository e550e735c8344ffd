"""The run queue in a SQL database.

Who is authoritative: the rows of ``scheduler_executions``, one per try, and the database's clock. States, as ``status``
says: *pending* (may be claimed), *later* (from ``queue_ms`` on), *held* (until another run of the job has ended),
*running* (``worker`` has it), and the final ones. A try changes hands or ends in one transaction, in which its row is
locked and says whose it is; whoever comes with another worker's name, or twice, changes nothing.

What belongs together is one transaction: a try's end, the next try, and what of the job is let go for it. Why nothing
stalls and nothing overlaps is said in :mod:`~natscron.storage.sql.lines`, what a claim does in
:mod:`~natscron.storage.sql.claiming`. Conflicts are repeated by :meth:`Database.run`.

Failures. A process that dies leaves transactions that never were, and running tries, which are lost once its lease is
over. An answer that is missing (StorageUncertainError, or a caller cancelled while it waited): ending and giving back
may be repeated, and change nothing the second time; what a claim took is named by the next announcement. The database
away: every call fails, and whoever calls tries again.

A leader's link queues runs within its own fenced transaction (:meth:`Queue.enter`), and tells once it is committed
(:meth:`Queue.entered`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from natscron.model import Activity, Claim, Claimed, Ending, Ms, QueuedRun, Run, WorkerInfo
from natscron.storage.queue import QueueSink
from natscron.storage.sql.claiming import Claiming
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.ending import Changed, Endings
from natscron.storage.sql.entering import Entering
from natscron.storage.sql.lines import Lines
from natscron.storage.sql.records import DELETED_MAX, Records
from natscron.storage.sql.runrows import execution_id, storable
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.sinks import Look, QueueWatch, Sinks
from natscron.storage.sql.upkeep import Upkeep

__all__ = ["Queue"]


class Queue:
    """The RunQueue role. Its calls raise StorageUnavailableError and StorageUncertainError."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        lines = Lines(database)
        self._entering = Entering(database, lines)
        self._claiming = Claiming(database)
        self._endings = Endings(database, lines)
        self._upkeep = Upkeep(database, lines)
        self._records = Records(database)
        self._sinks = Sinks(signals, self._look)
        self._workers: dict[str, WorkerInfo] = {}
        """This process's own."""
        self._doomed = False

    async def close(self) -> None:
        """Tell nobody any more. Idempotent."""
        await self._sinks.close()

    # The leader's side.

    async def enter(self, connection: AnyConnection, runs: Sequence[QueuedRun], now_ms: Ms) -> list[Run]:
        """Queue runs, as part of a leader's transaction; the records of those left out by their overlap policy.

        One whose id is there already changes nothing. Repeatable: a transaction that is rolled back leaves nothing.
        """
        left_out, placed, doomed = await self._entering.enter(connection, runs, now_ms)
        if placed or doomed:
            await self._signals.notify(connection, Topic.QUEUE)
        self._doomed |= doomed
        return left_out

    def entered(self, left_out: Sequence[Run]) -> None:
        """What :meth:`enter` did is committed."""
        self._sinks.wake()
        if self._doomed:
            self._doomed = False
            self._sinks.cancel()
        for run in left_out:
            self._sinks.left_out(run)
        self._signals.ring(Topic.RUNS)

    # The workers' side.

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """Take runs that are due. See :meth:`RunQueue.claim <natscron.storage.queue.RunQueue.claim>`."""
        info = self._workers.get(worker)
        instance = worker if info is None else info.instance

        async def work(connection: AnyConnection) -> Claimed:
            return await self._claiming.claim(connection, worker, instance, handlers=handlers, limit=limit)

        return await self._database.run(work)

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """End tries. See :meth:`RunQueue.finish <natscron.storage.queue.RunQueue.finish>`."""
        if not endings:
            return []
        stored: list[bool] = await self._change(lambda connection: self._endings.finish(connection, worker, endings))
        if any(stored):
            self._signals.ring(Topic.RUNS)
        return stored

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed runs claimable again."""
        ids = [execution_id(claim.run_id, claim.attempt) for claim in claims]
        if ids:
            await self._change(lambda connection: self._endings.give_back(connection, worker, ids))

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """Announce a worker; the tries that belong to it, each with the reason for cancelling it, or ""."""
        self._workers[worker.id] = worker
        return await self._database.run(lambda connection: self._upkeep.beat(connection, worker))

    async def retire(self, worker: str) -> None:
        """Take a worker's announcement back. Idempotent."""
        self._workers.pop(worker, None)
        await self._database.run(lambda connection: self._upkeep.retire(connection, worker))

    async def workers(self) -> Sequence[WorkerInfo]:
        """Those that are alive."""
        return await self._database.read(self._upkeep.workers)

    async def lost(self, limit: int) -> Sequence[Claim]:
        """Running tries whose worker is not alive; :meth:`finish` in that worker's name ends them."""
        return await self._database.read(lambda connection: self._upkeep.lost(connection, limit))

    async def mark_unhandled(self) -> int:
        """Show ``no_handler`` on due runs whose handler no live worker has; how many there are now."""

        async def ripen(connection: AnyConnection) -> int:
            return await self._claiming.promote(connection, await self._database.now_ms(connection))

        async def look(connection: AnyConnection) -> tuple[int, list[str], list[str]] | None:
            """None: a run has become due that is not shown so yet."""
            next_ms = await self._upkeep.next_ms(connection)
            if next_ms is not None and next_ms <= await self._database.now_ms(connection):
                return None
            return await self._upkeep.unhandled(connection)

        seen = await self._database.read(look)
        if seen is None:
            await self._database.run(ripen)
            seen = await self._database.read(self._upkeep.unhandled)
        found, mark, unmark = seen
        if mark or unmark:
            await self._database.run(lambda connection: self._upkeep.mark(connection, mark, unmark))
        return found

    # The callers' side.

    async def drop_runs(self, job_id: str, generation: int) -> int:
        """The job was removed: end what waits of it; how many of its runs still go on."""
        if not storable(job_id):
            return 0
        going: int = await self._change(lambda connection: self._endings.drop(connection, job_id, generation))
        self._signals.ring(Topic.RUNS)
        return going

    async def redrive(self, run_id: str) -> bool:
        """Queue another try of a run that failed for good; False if its newest try is none such."""
        if not storable(run_id):
            return False
        queued: bool = await self._change(lambda connection: self._endings.redrive(connection, run_id))
        return queued

    async def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """What the runs of these jobs are doing; jobs without any are left out."""
        ids = [job_id for job_id in dict.fromkeys(job_ids) if storable(job_id)]
        if not ids:
            return {}
        return await self._database.read(lambda connection: self._upkeep.activity(connection, ids))

    async def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records of runs that are over, with a time at or before; how many. In several transactions."""
        deleted = 0
        while storable(job_id):
            gone = await self._database.run(lambda connection: self._records.delete(connection, job_id, before_ms))
            deleted += gone
            if gone < DELETED_MAX:
                break
        return deleted

    def watch_queue(self, sink: QueueSink) -> QueueWatch:
        """Follow the queue."""
        return self._sinks.watch(sink)

    async def heal(self) -> None:
        """Housekeeping: let go what is held for nothing, forget dead workers."""

        async def work(connection: AnyConnection) -> Changed:
            return Changed(result=None, claimable=await self._upkeep.heal(connection) > 0)

        await self._change(work)

    # Common.

    async def _change(self, work: Callable[[AnyConnection], Awaitable[Changed]]) -> Any:  # noqa: ANN401 - its result
        """A transaction after which runs may be claimable."""

        async def told(connection: AnyConnection) -> Changed:
            changed = await work(connection)
            if changed.claimable:
                await self._signals.notify(connection, Topic.QUEUE)
            return changed

        changed = await self._database.run(told)
        if changed.claimable:
            self._sinks.wake()
        return changed.result

    async def _look(self) -> Look:
        workers = tuple(self._workers)
        handlers = {name for info in self._workers.values() for name in info.handlers}

        async def work(connection: AnyConnection) -> Look:
            upkeep = self._upkeep
            return Look(
                claimable=await upkeep.claimable(connection, handlers),
                next_ms=await upkeep.next_ms(connection),
                doomed=frozenset(await upkeep.doomed(connection, workers)),
            )

        return await self._database.read(work)
