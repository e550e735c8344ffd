"""Tells workers of this process what happened to the run queue.

What this process does itself is told at once. What others do is looked for when
:mod:`natscron.storage.sql.signals` rings, which may be for nothing: one task looks, in one read, and wakes workers if
there is something for their handlers, or an instant to wait for that is new, and has them ask what to cancel if a try
of theirs is marked that they were not told of. Nothing hangs on it: a worker looks by itself every few seconds, and
asks what to cancel with each announcement. So a look that fails is logged and left for the next ring.
"""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from natscron.errors import StorageError
from natscron.model import Ms, Run
from natscron.storage.queue import QueueSink
from natscron.storage.sql.signals import Signals, Topic

__all__ = ["Look", "QueueWatch", "Sinks"]

log = logging.getLogger("natscron.storage")

_PAUSE_S: Final = 0.02
"""Between two looks, however often it rings."""


class Look(NamedTuple):
    """What a look found."""

    claimable: bool
    next_ms: Ms | None
    """When the next run is due of those that are not."""
    doomed: frozenset[str]
    """Tries of this process's workers that are to be cancelled."""


class Sinks:
    """``look`` reads the queue; StorageError is no harm."""

    def __init__(self, signals: Signals, look: Callable[[], Awaitable[Look]]) -> None:
        self._look = look
        self._watches: dict[QueueWatch, None] = {}
        self._rung = asyncio.Event()
        self._leave = signals.listen(Topic.QUEUE, self._rung.set)
        self._task: asyncio.Task[None] | None = None
        self._next_ms: Ms | None = None
        self._doomed: frozenset[str] = frozenset()

    def watch(self, sink: QueueSink) -> "QueueWatch":
        """Tell ``sink``, beginning with a wake."""
        watch = QueueWatch(self, sink)
        self._watches[watch] = None
        watch.wake()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="natscron queue watch")
        return watch

    def leave(self, watch: "QueueWatch") -> None:
        """Tell it no more."""
        self._watches.pop(watch, None)

    def wake(self) -> None:
        """Runs may have become claimable."""
        for watch in tuple(self._watches):
            watch.wake()

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        for watch in tuple(self._watches):
            watch.cancel()

    def left_out(self, run: Run) -> None:
        """A run that this process queued was left out."""
        for watch in tuple(self._watches):
            watch.left_out(run)

    async def close(self) -> None:
        """Tell nobody any more. Idempotent."""
        self._leave()
        for watch in tuple(self._watches):
            await watch.close()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            if self._watches:
                try:
                    self._tell(await self._look())
                except StorageError as error:
                    log.debug("the queue cannot be looked at", extra={"error": str(error)})
                except Exception:
                    log.exception("looking at the queue failed")
            await asyncio.sleep(_PAUSE_S)

    def _tell(self, found: Look) -> None:
        if found.claimable or (found.next_ms is not None and found.next_ms != self._next_ms):
            self.wake()
        self._next_ms = found.next_ms
        if found.doomed - self._doomed:
            self.cancel()
        self._doomed = found.doomed


class QueueWatch:
    """Hands over in order, each thing a loop turn after it happened; many wakes of one turn are one."""

    def __init__(self, sinks: Sinks, sink: QueueSink) -> None:
        self._sinks = sinks
        self._sink = sink
        self._closed = False
        self._told: set[str] = set()
        # The sink is called on behalf of whoever watches, not of whoever wrote.
        self._context = contextvars.copy_context()

    async def ready(self) -> None:
        """There is no full set to wait for."""

    def renew(self) -> None:
        """Have the sink look at everything again."""
        self.wake()
        self.cancel()

    async def close(self) -> None:
        """Stop. Idempotent."""
        self._closed = True
        self._sinks.leave(self)

    def wake(self) -> None:
        """Runs may have become claimable."""
        self._once("wake")

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        self._once("cancel")

    def left_out(self, run: Run) -> None:
        """A run that this process queued was left out."""
        self._soon(lambda: self._sink.left_out(run))

    def _once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._soon(lambda: self._hand_over(what))

    def _hand_over(self, what: str) -> None:
        self._told.discard(what)
        (self._sink.wake if what == "wake" else self._sink.cancel)()

    def _soon(self, fn: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(lambda: None if self._closed else fn(), context=self._context)
