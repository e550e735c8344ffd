"""Reads that see every write before them.

Who is authoritative: the jobs stream; its last sequence, read from its leader. A read first learns that sequence and
then waits until the hot table is complete up to it. A lookup that began before the read may miss a write that was
acknowledged in between, so a read joins only a lookup that begins after it: while one is running, all reads that come
in share the next one. At most two lookups are wanted at any time, however many reads there are.

Time-outs: one second for lookup and catching up together; after it the read fails with StorageUnavailableError (503).
A table that is still behind at half of that time may have a deaf watch, which is then made anew, if it can be. A
cancelled read leaves the lookup it shared to the others.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from natscron.engine.table import JobTable
from natscron.errors import StorageUnavailableError

__all__ = ["Freshness"]

_TIMEOUT_S: Final = 1.0


class _Sequenced(Protocol):
    async def last_jobs_seq(self) -> int: ...


class Freshness:
    """Waits until ``table`` has every write that ``store`` had when the wait began; ``renew`` makes its watch anew."""

    def __init__(
        self,
        store: _Sequenced,
        table: JobTable,
        timeout_s: float = _TIMEOUT_S,
        renew: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._table = table
        self._timeout_s = timeout_s
        self._renew = renew
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def catch_up(self) -> None:
        """Return once the table is fresh. Raises StorageUnavailableError when it is not within a second."""
        if self._next is None:
            self._next = asyncio.create_task(self._look_up(self._running))
            self._next.add_done_callback(_retrieve)
        # Shielded: the lookup is shared, one caller's cancellation must not end it for the others.
        await asyncio.shield(self._next)

    async def close(self) -> None:
        """End lookups that are going; reads that wait for them fail."""
        tasks = [task for task in (self._running, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, before: "asyncio.Task[None] | None") -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                seq = await self._store.last_jobs_seq()
        except TimeoutError:
            raise StorageUnavailableError(
                "the jobs stream did not answer within a second, so what is here may be old; try again"
            ) from None
        if self._renew is not None and not await self._table.wait_for(seq, (deadline - loop.time()) / 2):
            self._renew()
        if not await self._table.wait_for(seq, max(0.0, deadline - loop.time())):
            raise StorageUnavailableError(
                f"this instance has not yet seen the jobs up to sequence {seq} (it is at {self._table.seq}); try again"
            )


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Mark a failure as seen: every read that waited for it raises it, and there may be none left."""
    if not task.cancelled():
        task.exception()
