"""Watches: one task per process and topic looks, and hands over to all of them.

Who is authoritative: the tables. A look reads one state of the database, so that what it finds up to a number is all
there is up to that number. Looks are woken by :mod:`natscron.storage.sql.signals`, and follow one another: what is
written during a look is in the next. What a look finds is handed over in the order of its numbers without a pause in
between, except to a watch that begins, or that fell so far behind that what was deleted is forgotten: it is handed
everything anew, in slices.

While the database is away a look is repeated with growing pauses up to :data:`RETRY_MAX_S`; nobody is told anything
meanwhile. A sink that raises is a defect, which is logged, and the others go on.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from natscron.errors import StorageError
from natscron.storage.sql.database import Database
from natscron.storage.sql.signals import Signals, Topic

__all__ = ["RETRY_MAX_S", "Follower", "SqlWatch"]

log = logging.getLogger("natscron.storage")

RETRY_MAX_S: Final = 5.0
_RETRY_S: Final = 0.1
_PAUSE_S: Final = 0.005

Sink = TypeVar("Sink")


class SqlWatch(Generic[Sink]):
    """One watch. ``at``: up to which number its sink was told; None: it begins anew."""

    def __init__(self, sink: Sink, wake: Callable[[], None], leave: "Callable[[SqlWatch[Sink]], None]") -> None:
        self.sink = sink
        self.at: int | None = None
        self.turn = 0
        """Counts renewals: what was read before one is not handed over after it."""
        self.closed = False
        self._wake = wake
        self._leave = leave
        self._ready = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the first full set was handed over."""
        await self._ready.wait()

    def renew(self) -> None:
        """Have everything handed over anew."""
        self.at = None
        self.turn += 1
        self._wake()

    async def close(self) -> None:
        """Stop; nothing is called afterwards. Idempotent."""
        self.closed = True
        self._leave(self)

    def tell(self, turn: int, fn: Callable[[Sink], None]) -> bool:
        """Call the sink, unless the watch was closed or renewed meanwhile; whether it was called."""
        if self.closed or turn != self.turn:
            return False
        try:
            fn(self.sink)
        except Exception:
            log.exception("a watch could not take what it was told")
        return True

    def told(self, turn: int, number: int) -> None:
        """Everything up to ``number`` was handed over."""
        if not self.closed and turn == self.turn:
            self.at = number
            self._ready.set()


class Follower(Generic[Sink]):
    """Looks for all watches of one kind. Subclasses say how."""

    topic: Topic

    def __init__(self, database: Database, signals: Signals) -> None:
        self.database = database
        self._watches: dict[SqlWatch[Sink], None] = {}
        self._woken = asyncio.Event()
        self._leave_signals = signals.listen(self.topic, self._woken.set)
        self._task: asyncio.Task[None] | None = None

    def watch(self, sink: Sink) -> SqlWatch[Sink]:
        """Follow."""
        watch = SqlWatch(sink, self._woken.set, self._left)
        self._watches[watch] = None
        self._woken.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"natscron {self.topic.value} watch")
        return watch

    async def close(self) -> None:
        """Close every watch. Idempotent."""
        self._leave_signals()
        for watch in list(self._watches):
            await watch.close()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self, watches: Sequence[SqlWatch[Sink]]) -> None:
        """Read what is new and hand it over. Raises StorageError."""
        raise NotImplementedError

    def _left(self, watch: SqlWatch[Sink]) -> None:
        self._watches.pop(watch, None)

    async def _run(self) -> None:
        delay = _RETRY_S
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                if self._watches:
                    await self.look(list(self._watches))
                delay = _RETRY_S
                # Where much is written, one look for several writes.
                await asyncio.sleep(_PAUSE_S)
            except Exception as error:
                level = logging.WARNING if isinstance(error, StorageError) else logging.ERROR
                log.log(
                    level,
                    "cannot look for changes",
                    extra={"topic": self.topic.value, "error": str(error), "retry_s": delay},
                    exc_info=level == logging.ERROR,
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX_S)
                self._woken.set()
