"""Records of runs that are over, on their way into the log, and the letters about those that failed for good.

Who is authoritative: the log. A record is handed over in the same turn as the row that says its run is over, behind it;
as long as the log takes none (its stream has no leader, say) it is tried again, at growing distances up to
:data:`_RETRY_MAX_S`, for as long as the process lives. At most :data:`_KEPT` records wait so; past that the newest are
dropped, and said to be. A process that is killed loses what waits.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from natscron.errors import StorageError
from natscron.model import Run
from natscron.storage.nats.history import NatsHistory

__all__ = ["Records"]

logger = logging.getLogger("natscron.storage")

_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 2.0
_KEPT: Final = 100_000
_PATIENCE_S: Final = 2.0


class Records:
    """Stores records; see the module's prose."""

    def __init__(self, history: NatsHistory) -> None:
        self._history = history
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def save(self, runs: Sequence[Run]) -> None:
        """Hand them over, and wait until they are stored, but not for ever: what is not by then is tried on beside."""
        if not runs:
            return
        if self._waiting + len(runs) > _KEPT:
            logger.error("the log takes no records: %d are dropped", len(runs))
            return
        task = asyncio.create_task(self._store(runs), name="natscron records")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([task], timeout=_PATIENCE_S)

    async def close(self) -> None:
        """Give up what is not stored."""
        if self._waiting:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _store(self, runs: Sequence[Run]) -> None:
        delay = _RETRY_FIRST_S
        self._waiting += len(runs)
        try:
            while True:
                try:
                    await self._history.save_runs(runs)
                except StorageError as error:
                    logger.warning("records of runs cannot be stored now: %s", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _RETRY_MAX_S)
                else:
                    return
        finally:
            self._waiting -= len(runs)
