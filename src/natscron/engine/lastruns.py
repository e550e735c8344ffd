"""When jobs ran last, the same whichever instance is asked.

Who is authoritative: the leader for what it ran itself, the history for everything before and elsewhere. So an instance
that leads answers from memory what it ran since it began to; every other answer is the newer of the history's newest
record and of what this instance ran when it led. The history is written a moment later than runs happen, and it may be
off or away: then what is known here is all there is, and nobody waits for longer than :data:`_PATIENCE_S`. A history
that does not answer at all is left alone for :data:`_PAUSE_S`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from natscron.clock import Clock
from natscron.errors import StorageError, StorageUncertainError
from natscron.model import Ms
from natscron.storage.protocol import ExecutionStore

__all__ = ["LastRuns"]

log = logging.getLogger("natscron.history")

_PATIENCE_S: Final = 1.5
_PAUSE_S: Final = 10.0


class Memory(Protocol):
    """What this instance ran itself, by job."""

    @property
    def last_run(self) -> Mapping[str, Ms]:
        """Since it began to lead, newest slots."""
        ...

    @property
    def ran_before(self) -> Mapping[str, Ms]:
        """When it led before; others may have led in between."""
        ...


class LastRuns:
    """Answers for :class:`~natscron.engine.engine.Engine`; ``own`` is what this instance ran."""

    def __init__(self, store: ExecutionStore, clock: Clock, own: Memory, is_leader: Callable[[], bool]) -> None:
        self._store = store
        self._clock = clock
        self._own = own
        self._is_leader = is_leader
        self._not_before_s = float("-inf")

    async def of(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The newest slot that was run, by job; without those of which none is known. Never fails."""
        now, before = self._own.last_run, self._own.ran_before
        known = {job_id: before[job_id] for job_id in job_ids if job_id in before}
        known |= {job_id: now[job_id] for job_id in job_ids if job_id in now}
        asked = [job_id for job_id in job_ids if job_id not in now] if self._is_leader() else list(job_ids)
        if not asked or self._clock.trust_s() < self._not_before_s:
            return known
        try:
            async with asyncio.timeout(_PATIENCE_S):
                stored = await self._store.last_runs(asked)
        except (TimeoutError, StorageUncertainError) as error:
            self._not_before_s = self._clock.trust_s() + _PAUSE_S
            log.warning(
                "the history does not answer; last runs are left out", extra={"error": str(error) or "too slow"}
            )
        except StorageError as error:
            log.debug("the history cannot be read; last runs are left out", extra={"error": str(error)})
        else:
            for job_id, slot_ms in stored.items():
                known[job_id] = max(slot_ms, known.get(job_id, slot_ms))
        return known
