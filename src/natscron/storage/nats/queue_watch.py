"""Whom to tell of the run queue: many changes of one turn of the loop wake once."""

import asyncio
from collections.abc import Awaitable, Callable

from natscron.model import Run
from natscron.storage.queue import QueueSink

__all__ = ["QueueWatch", "Sinks"]


class QueueWatch:
    """One sink's watch. It reads nothing itself: the view it is fed from survives reconnects."""

    def __init__(
        self, sink: QueueSink, ready: Callable[[], Awaitable[None]], leave: Callable[["QueueWatch"], None]
    ) -> None:
        self.sink = sink
        self._ready = ready
        self._leave = leave

    async def ready(self) -> None:
        """Wait until the queue was read once."""
        await self._ready()

    def renew(self) -> None:
        """Have it looked at again."""
        self.sink.wake()

    async def close(self) -> None:
        """Stop; nothing is told afterwards. Idempotent."""
        self._leave(self)


class Sinks:
    """All sinks of one storage."""

    def __init__(self) -> None:
        self._watches: dict[QueueWatch, None] = {}
        self._waking = False
        self._cancelling = False

    def watch(self, sink: QueueSink, ready: Callable[[], Awaitable[None]]) -> QueueWatch:
        """Tell ``sink`` from now on; it is woken at once."""
        watch = QueueWatch(sink, ready, self._left)
        self._watches[watch] = None
        self.wake()
        return watch

    def close(self) -> None:
        """Tell nobody any more."""
        self._watches.clear()

    def _left(self, watch: QueueWatch) -> None:
        self._watches.pop(watch, None)

    def wake(self) -> None:
        """Runs may have become claimable."""
        if self._watches and not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        for watch in tuple(self._watches):
            if watch in self._watches:
                watch.sink.wake()

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        if self._watches and not self._cancelling:
            self._cancelling = True
            asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        self._cancelling = False
        for watch in tuple(self._watches):
            watch.sink.cancel()

    def left_out(self, run: Run) -> None:
        """A run that was queued here was left out."""
        for watch in tuple(self._watches):
            watch.sink.left_out(run)
