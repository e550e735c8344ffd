"""What the checks of the run queue share: one who queues runs as a leader does, and takes them as a worker does."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: S101

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from natscron.model import (
    Claim,
    Claimed,
    Ending,
    Holder,
    Lease,
    Mark,
    Ms,
    NoteRef,
    Overlap,
    QueuedRun,
    Run,
    RunStatus,
    WorkerInfo,
)
from natscron.storage.protocol import LeaderLink, RunQuery
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.sinks import WAIT_S, Changing, ignore

__all__ = ["JOB", "Driver", "Sink", "ending_of", "later", "worker_info"]

JOB: Final = "jobs.a"
_PAUSE_S: Final = 0.005
_LEASE_MS: Final[Ms] = 60_000


class Sink(Changing):
    """Keeps what a worker's process is told of the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0
        self.cancels = 0
        self.runs: list[Run] = []

    def wake(self) -> None:
        """Count it."""
        self.wakes += 1
        self._changed.set()

    def cancel(self) -> None:
        """Count it."""
        self.cancels += 1
        self._changed.set()

    def left_out(self, run: Run) -> None:
        """Keep it."""
        self.runs.append(run)
        self._changed.set()


class Driver:
    """Leader and worker in one; made by :meth:`begin`."""

    def __init__(self, storage: QueueStorage, link: LeaderLink, epoch: int, now_ms: Ms) -> None:
        self.storage = storage
        self.link = link
        self.epoch = epoch
        self.now_ms = now_ms
        """The store's time at the beginning."""
        self._notes = 0

    @classmethod
    async def begin(cls, storage: QueueStorage) -> "Driver":
        """Take the lease, whoever has it, under the next epoch."""
        claimed = await storage.claim("nobody", ("no-such-handler",), 1)
        link = await storage.open_link(ignore)
        before = await link.read_lease()
        epoch, revision = (1, 0) if before is None else (before.lease.epoch + 1, before.revision)
        mark = Mark(instant_ms=claimed.now_ms)
        await link.write_lease(Lease(epoch=epoch, mark=mark, holder=Holder("host", f"nonce-{epoch}")), revision)
        return cls(storage, link, epoch, claimed.now_ms)

    def run(self, run_id: str = "r1", *, due: Ms = -1_000, **fields: Any) -> QueuedRun:  # noqa: ANN401 - any of its fields
        """A run of :data:`JOB` that is due ``due`` ms after the beginning, whose overlap is ALLOW unless given."""
        given: dict[str, Any] = {
            "job": JOB,
            "generation": 1,
            "overlap": Overlap.ALLOW,
            "scheduled_at_ms": self.now_ms + due,
        } | fields
        return QueuedRun(run_id=run_id, due_ms=self.now_ms + due, **given)

    async def queue(self, *runs: QueuedRun) -> None:
        """Commit them together."""
        self._notes += 1
        staged = [self.link.stage(run) for run in runs]
        await self.link.commit(NoteRef(self.epoch, self._notes), staged, [run.run_id for run in runs])

    async def claim(self, *handlers: str, worker: str = "w", limit: int = 1_000) -> Claimed:
        """Claim for ``worker``, from the global handler's runs if none is named."""
        return await self.storage.claim(worker, handlers or ("",), limit)

    async def take(self, *run_ids: str, worker: str = "w") -> list[Claim]:
        """Claim, and expect exactly these, in any order; returned in the order named."""
        found = {claim.run_id: claim for claim in (await self.claim(worker=worker)).runs}
        assert set(found) == set(run_ids), f"claimed {sorted(found)}, not {sorted(run_ids)}"
        return [found[run_id] for run_id in run_ids]

    async def end(self, claim: Claim, status: RunStatus = RunStatus.COMPLETED, **fields: Any) -> bool:  # noqa: ANN401 - any of an ending's fields
        """End a try in its claimant's name; whether it was stored."""
        [stored] = await self.storage.finish(claim.worker, [ending_of(claim, status, **fields)])
        return stored

    async def record(self, run_id: str, attempt: int = 1) -> Run:
        """The record of a try; it must be there, and once."""
        found = [run for run in await self.tries(run_id) if run.attempt == attempt]
        assert len(found) == 1, f"{len(found)} records of {run_id}, attempt {attempt}"
        return found[0]

    async def tries(self, run_id: str) -> Sequence[Run]:
        """All records of a run, the first try first."""
        return sorted(await self.storage.list_runs(RunQuery(run_id=run_id)), key=lambda run: run.attempt)

    async def reason(self, run_id: str, attempt: int = 1) -> tuple[RunStatus, str | None]:
        """Status and reason of a try."""
        run = await self.record(run_id, attempt)
        return run.status, run.reason

    async def owned(self, worker: str = "w") -> dict[tuple[str, int], str]:
        """What a worker owns, as its announcement is told."""
        return dict(await self.storage.beat(worker_info(worker)))


def ending_of(claim: Claim, status: RunStatus = RunStatus.COMPLETED, **fields: Any) -> Ending:  # noqa: ANN401 - any of its fields
    """An ending of a try that took 5 ms."""
    given: dict[str, Any] = {"started_ms": claim.started_ms, "finished_ms": claim.started_ms + 5} | fields
    return Ending(run_id=claim.run_id, attempt=claim.attempt, status=status, **given)


def worker_info(worker: str = "w", *handlers: str, lease_ms: Ms = _LEASE_MS) -> WorkerInfo:
    """A worker that has the global handler unless others are named."""
    return WorkerInfo(
        id=worker, instance=f"{worker}-host", lease_ms=lease_ms, handlers=handlers or ("",), concurrency=3
    )


async def later(done: Callable[[], Any]) -> None:
    """Ask until it is so, for what nothing signals: the store's clock. ``done`` gives an awaitable of a truth value."""
    async with asyncio.timeout(WAIT_S):
        while not await done():  # noqa: ASYNC110 - nothing tells that time has passed
            await asyncio.sleep(_PAUSE_S)
