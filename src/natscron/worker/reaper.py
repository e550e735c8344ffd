"""Takes the runs of dead workers up, and shows which runs no live worker has a handler for.

Every process takes runs up, so that none waits for a new leader when the dead worker led as well; several at once do no
harm, because each ending names the worker that it ends a try for, and only the first of them is stored. The leader
shows what nobody has a handler for. They look every sixth of the lease that workers have, the leader for handlers at
every third such look; so a run is taken over at the latest a lease and a sixth after its worker's last sign of life.
The store away: the next look finds the same.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Final

from natscron.clock import Clock
from natscron.errors import NatscronError
from natscron.model import Claim, Ending, Job
from natscron.storage.queue import QueueStorage
from natscron.worker.endings import lost

__all__ = ["Reaper"]

log = logging.getLogger("natscron.worker")

_BATCH: Final = 500
_MARKED_EVERY: Final = 3


class Reaper:
    """One process's reaper; run :meth:`run` as a task."""

    def __init__(  # noqa: PLR0913 - what it asks and whom it tells
        self,
        storage: QueueStorage,
        clock: Clock,
        *,
        every_s: float,
        leads: Callable[[], bool],
        find_job: Callable[[str], Job | None],
        ended: Callable[[Job | None, Claim, Ending], None],
    ) -> None:
        self._store = storage
        self._clock = clock
        self._every_s = every_s
        self._leads = leads
        self._find_job = find_job
        self._ended = ended
        self._unhandled = 0

    async def run(self) -> None:
        """Look, for ever."""
        for looks in count():
            await asyncio.sleep(self._every_s)
            try:
                while await self._reap():
                    pass
                if looks % _MARKED_EVERY == 0 and self._leads():
                    await self._mark()
            except (NatscronError, TimeoutError) as error:
                log.warning("lost runs cannot be looked for now", extra={"error": str(error)})

    async def _reap(self) -> bool:
        """Take up a batch; whether there may be more."""
        claims = await self._store.lost(_BATCH)
        taken = 0
        by_worker: defaultdict[str, list[Claim]] = defaultdict(list)
        for claim in claims:
            by_worker[claim.worker].append(claim)
        for worker, mine in by_worker.items():
            log.warning("a worker is lost: its runs are taken over", extra={"worker": worker, "runs": len(mine)})
            jobs = [self._job_of(claim) for claim in mine]
            now_ms = self._clock.now_ms()
            endings = [lost(claim, job, now_ms) for claim, job in zip(mine, jobs, strict=True)]
            stored = await self._store.finish(worker, endings)
            taken += sum(stored)
            for job, claim, ending, done in zip(jobs, mine, endings, stored, strict=True):
                if done:
                    self._ended(job, claim, ending)
        # What was taken up by somebody else meanwhile has its turn at the next look, should it be lost again.
        return len(claims) == _BATCH and taken > 0

    def _job_of(self, claim: Claim) -> Job | None:
        job = self._find_job(claim.job)
        return job if job is not None and job.generation == claim.generation else None

    async def _mark(self) -> None:
        unhandled = await self._store.mark_unhandled()
        if unhandled and not self._unhandled:
            log.warning("runs wait for a process that has their handler", extra={"runs": unhandled})
        self._unhandled = unhandled
