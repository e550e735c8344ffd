"""History, written behind: what happened is recorded without ever delaying what happens next.

Records queue here and one task stores them in batches, a little later than they came. A burst leaves first: while more
than :data:`_BURST` are queued and more keep coming, the task waits, :data:`_QUIET_MAX_S` at most, and what was sent in
one chunk is queued as one item whose records are made when they are stored (:meth:`HistoryWriter.record_later`).
The store refusing or away: the batch is tried again, at growing distances up to :data:`_RETRY_MAX_S`, for as long as
the process lives. The queue is bounded: past :data:`QUEUE_MAX` records the oldest are dropped, counted in
:attr:`HistoryWriter.dropped`, said in the log and in one record of the service's own when the store is back.
A process that is killed loses what is queued; a clean stop stores it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from natscron.errors import StorageError
from natscron.model import SERVICE_JOB, Reason, Run, RunStatus
from natscron.storage.protocol import ExecutionStore, RunQuery

log = logging.getLogger("natscron.history")

QUEUE_MAX: Final = 100_000
_BATCH: Final = 256
_DELAY_S: Final = 0.05
_BURST: Final = 512
_QUIET_S: Final = 0.1
_QUIET_MAX_S: Final = 0.5
_RETRY_FIRST_S: Final = 0.1
_RETRY_MAX_S: Final = 5.0
_OPEN: Final = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class _Later(msgspec.Struct, frozen=True):
    """Records that are not made yet: how many, and how."""

    count: int
    make: Callable[[], Sequence[Run]]


class HistoryWriter:
    """Collects run records and stores them in the background; ``at_once``: without waiting for more."""

    def __init__(self, store: ExecutionStore, *, at_once: bool = False) -> None:
        self.dropped = 0
        self.listener: Callable[[Run], None] = lambda _run: None
        """Called with each record as it is queued, but for those that are made later; must not fail."""
        self._said = 0
        self._store = store
        self._at_once = at_once
        self._queue: deque[Run | _Later] = deque()
        self._queued = 0
        self._storing = 0
        self.recorded = 0
        """How many records were ever queued."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    async def finished(self, job_id: str, run_id: str) -> bool:
        """Whether the stored history has the end of a run."""
        runs = await self._store.list_runs(RunQuery(job=job_id, run_id=run_id, limit=10))
        return any(run.status not in _OPEN for run in runs)

    @property
    def settled(self) -> int:
        """How many of those :attr:`recorded` are stored, or dropped; the oldest first."""
        return self.recorded - self._queued - self._storing

    def start(self) -> None:
        """Begin to store."""
        self._task = asyncio.create_task(self._run(), name="natscron history")

    def record(self, run: Run) -> None:
        """Queue one record."""
        self._queue.append(run)
        self._admitted(1)
        self.listener(run)

    def record_all(self, runs: Sequence[Run]) -> None:
        """Queue several records."""
        self._queue.extend(runs)
        self._admitted(len(runs))

    def record_later(self, count: int, make: Callable[[], Sequence[Run]]) -> None:
        """Queue ``count`` records that ``make`` makes when they are stored; it must not fail."""
        self._queue.append(_Later(count, make))
        self._admitted(count)

    def _admitted(self, count: int) -> None:
        self._queued += count
        self.recorded += count
        if self._queued > QUEUE_MAX:
            if not self.dropped:
                log.error(
                    "history is not being stored fast enough: dropping the oldest records", extra={"queue": QUEUE_MAX}
                )
            while self._queued > QUEUE_MAX:
                gone = _count(self._queue.popleft())
                self._queued -= gone
                self.dropped += gone
        self._idle.clear()
        self._wake.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is stored; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, timeout_s: float) -> None:
        """Store what is queued within the time, then end."""
        if self._task is None:
            return
        if not await self.flush(timeout_s):
            log.warning("history: records not stored at stop", extra={"records": self._queued})
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._at_once:
                await asyncio.sleep(_DELAY_S)
                await self._until_quiet()
            while self._queue:
                batch = self._batch()
                self._storing = len(batch)
                try:
                    await self._store_one(batch)
                except Exception:
                    # Records that cannot be stored at all must not keep those behind them.
                    log.exception("history records dropped", extra={"records": len(batch)})
                    self.dropped += len(batch)
                else:
                    self._say_dropped(batch)
                self._storing = 0
                await asyncio.sleep(0)
            self._idle.set()

    def _say_dropped(self, stored: list[Run]) -> None:
        """The store takes records again: say how many it did not get."""
        lost, self._said = self.dropped - self._said, self.dropped
        if lost:
            at = max((run.finished_at_ms or run.scheduled_at_ms or 0) for run in stored)
            reason = Reason.HISTORY_DROPPED
            self.record(Run(job=SERVICE_JOB, status=RunStatus.FAILED, reason=reason, finished_at_ms=at, count=lost))

    async def _until_quiet(self) -> None:
        waited_s, before = 0.0, 0
        while before != self._queued > _BURST and waited_s < _QUIET_MAX_S:
            before = self._queued
            await asyncio.sleep(_QUIET_S)
            waited_s += _QUIET_S

    def _batch(self) -> list[Run]:
        """The oldest records, :data:`_BATCH` of them and what comes along in one item."""
        batch: list[Run] = []
        while self._queue and len(batch) < _BATCH:
            item = self._queue.popleft()
            self._queued -= _count(item)
            if isinstance(item, _Later):
                batch.extend(item.make())
            else:
                batch.append(item)
        return batch

    async def _store_one(self, batch: list[Run]) -> None:
        delay = _RETRY_FIRST_S
        while True:
            try:
                await self._store.save_runs(batch)
            except StorageError as error:
                log.warning("history not stored, trying again", extra={"error": str(error), "retry_s": delay})
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
            else:
                return


def _count(item: "Run | _Later") -> int:
    return item.count if isinstance(item, _Later) else 1
