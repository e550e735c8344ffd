"""The fourth role of a store of the library: the run queue, from which workers take the runs that handlers execute."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from natscron.codec import encode_run
from natscron.ids import keyed_run_id
from natscron.model import Activity, Claim, Claimed, Ending, Ms, Run, WorkerInfo
from natscron.storage.protocol import Storage, Watch, recorded_ms

__all__ = ["QueueSink", "QueueStorage", "RunQueue", "record_id"]


def record_id(run: Run) -> str:
    """What a record is known by in every store: its run id, with ``.2`` and so on behind it for further tries.

    A record that is about no run, such as one of a range of slots, is known by all that it says.
    """
    if run.run_id is None:
        return keyed_run_id(recorded_ms(run), "record", encode_run(run).decode())
    return run.run_id if run.attempt == 1 else f"{run.run_id}.{run.attempt}"


class QueueSink(Protocol):
    """Receives what a worker's process should know of the run queue at once. Called in the event loop."""

    def wake(self) -> None:
        """Runs may have become claimable. May be called without cause."""
        ...

    def cancel(self) -> None:
        """Runs may have to be cancelled: :meth:`RunQueue.beat` tells which. May be called without cause."""
        ...

    def left_out(self, run: Run) -> None:
        """A run that this process queued was left out by its overlap policy, and is recorded so."""
        ...


class RunQueue(Protocol):
    """Runs that handlers execute: queued by the leader (:meth:`LeaderLink.commit`), claimed and ended by workers.

    Who is authoritative: the store, and its clock. A try belongs to the worker that claimed it until it is ended or
    given back; whoever ends it must name that worker, so a worker that was taken for dead ends nothing any more.

    Runs of one job go by its overlap policy: when one is over, the oldest that wait become due, as many as the
    capacity of those that wait leaves room for, in the same transaction.
    """

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """Take up to ``limit`` runs that are due and whose handler is among ``handlers``.

        Those of higher priority first, then by due instant. Each becomes *running*, started now by the store's clock.
        """
        ...

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """End tries; for each whether it still belonged to ``worker`` (else nothing was written of it).

        With ``retry_in_ms`` the next try is queued in the same transaction, and the run goes on counting as going.
        """
        ...

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed runs claimable again, as if they had never been; for those whose handler did not begin.

        Of the claims only run id and attempt count: of one whose answer was lost, :meth:`beat` told its worker no more.
        """
        ...

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """Announce a worker.

        Returns the tries that belong to it, by (run id, attempt), each with the reason for cancelling it, or "".
        """
        ...

    async def retire(self, worker: str) -> None:
        """Take a worker's announcement back. Idempotent."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """Those that are alive."""
        ...

    async def lost(self, limit: int) -> Sequence[Claim]:
        """Running tries whose worker is not alive; :meth:`finish` in that worker's name ends them."""
        ...

    async def mark_unhandled(self) -> int:
        """Show ``no_handler`` on due runs whose handler no live worker has; how many there are now."""
        ...

    async def drop_runs(self, job_id: str, generation: int) -> int:
        """The job was removed: end what waits of it, with that reason; how many of its runs still go on."""
        ...

    async def redrive(self, run_id: str) -> bool:
        """Queue another try of a run that failed for good; False if its newest try is none such."""
        ...

    async def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """What the runs of these jobs are doing; jobs without any are left out."""
        ...

    async def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records of runs that are over, with a time (:func:`recorded_ms`) at or before; how many."""
        ...

    # SQL: one transaction. Which of the record_id()s are an execution_id already (one SELECT ... IN), then the others
    # by INSERT that leaves alone what came meanwhile, with generation NULL, which redrive takes for "not queued here".
    async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
        """Take over records of runs that are over, at most 1,000, from another store; for each whether it was stored.

        Not stored is what is here already, by :func:`record_id` and whatever that try is doing here, which stays as it
        is; and what the store would not keep. From then on the run counts as one that was here: queued under its id
        once more, it changes nothing. But it cannot be redriven: what it was queued with stays behind. Followers of new
        records are not told. ``dry_run``: nothing is stored, and it is told what would be.
        """
        ...

    def watch_queue(self, sink: QueueSink) -> Watch:
        """Follow the queue."""
        ...


class QueueStorage(Storage, RunQueue, Protocol):
    """A storage of the library: all roles."""
