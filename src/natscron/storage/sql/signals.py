"""Who is told at once that the run queue changed: workers of this process, and through NOTIFY those of others.

How it is used. One :class:`Signals` per storage. Whoever changes the queue in a transaction calls :meth:`announce` in
it (a NOTIFY on PostgreSQL, nothing elsewhere) and, once it is committed, :meth:`wake`, :meth:`cancel` or
:meth:`entered`. :class:`~natscron.storage.sql.queue.Queue` does both for its own transactions. A leader's link does
this around :meth:`Queue.enter <natscron.storage.sql.queue.Queue.enter>`::

    async with database.transaction() as connection:
        ...  # the fence
        left_out = await queue.enter(connection, runs, await database.now_ms(connection))
    signals.entered(left_out)

Whoever listens for other processes has two ways. On PostgreSQL: ``LISTEN`` on :data:`CHANNEL`, and hand every payload
to :meth:`heard`, which does what there is to do about runs and returns what it was about (None: nothing to do, it was
our own or not ours). After a reconnect, :meth:`wake` and :meth:`cancel`, for what was missed. Elsewhere: call
:meth:`Queue.look <natscron.storage.sql.queue.Queue.look>` now and then, as soon as something was committed at best.

Nothing hangs on a signal: a worker looks by itself every few seconds, and asks what to cancel with each announcement.
"""

import asyncio
import contextvars
import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from natscron.model import Run
from natscron.storage.queue import QueueSink

__all__ = ["CHANNEL", "Kind", "QueueWatch", "Signals"]

CHANNEL: Final = "natscron"
"""The channel of LISTEN and NOTIFY. Channels belong to a database: schedulers in two schemas of one wake each other,
for nothing."""


class Kind(StrEnum):
    """What a notice is about."""

    QUEUE = "queue"
    """Runs may have become claimable, or will be at an instant that is new."""
    CANCEL = "cancel"
    """Runs that are going are to be cancelled."""
    JOBS = "jobs"
    """A job or a calendar was written."""
    STATE = "state"
    """The lease, an open row or a node was written."""


class Signals:
    """One storage's own. Its methods are called in the event loop."""

    def __init__(self) -> None:
        self.ended: set[asyncio.Event] = set()
        """Set when this process stored records: for those who follow the history."""
        self._origin = secrets.token_hex(8)
        self._watches: dict[QueueWatch, None] = {}
        self._doomed = False

    # For others.

    async def announce(self, connection: AsyncConnection, *kinds: Kind) -> None:
        """Tell other processes, when the transaction commits and only then. Does nothing where there is no NOTIFY."""
        if connection.dialect.name == "postgresql":
            for kind in kinds:
                await connection.execute(select(func.pg_notify(CHANNEL, f"{kind.value} {self._origin}")))

    def heard(self, payload: str) -> Kind | None:
        """Take a notice's payload: what it is about; None if it came from here, or is none of ours."""
        word, _, origin = payload.partition(" ")
        if origin == self._origin or word not in _KINDS:
            return None
        kind = Kind(word)
        if kind is Kind.QUEUE:
            self.wake()
        elif kind is Kind.CANCEL:
            self.cancel()
        return kind

    # For this process.

    def wake(self) -> None:
        """Runs may have become claimable."""
        for watch in tuple(self._watches):
            watch.wake()

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        for watch in tuple(self._watches):
            watch.cancel()

    def doom(self) -> None:
        """The transaction that is going on marks runs for cancelling; :meth:`entered` tells once it is committed."""
        self._doomed = True

    def entered(self, left_out: Sequence[Run]) -> None:
        """Runs that this process queued are committed; these of them were left out."""
        self.wake()
        if self._doomed:
            self._doomed = False
            self.cancel()
        for run in left_out:
            for watch in tuple(self._watches):
                watch.left_out(run)
        if left_out:
            self.stored()

    def stored(self) -> None:
        """Records were stored by this process."""
        for event in self.ended:
            event.set()

    def watch(self, sink: QueueSink) -> "QueueWatch":
        """Tell ``sink``, beginning with a wake."""
        watch = QueueWatch(self, sink)
        self._watches[watch] = None
        watch.wake()
        return watch

    def forget(self, watch: "QueueWatch") -> None:
        """Tell it no more."""
        self._watches.pop(watch, None)

    def close(self) -> None:
        """Tell nobody any more. Idempotent."""
        for watch in tuple(self._watches):
            watch.end()


_KINDS: Final = frozenset(kind.value for kind in Kind)


class QueueWatch:
    """Hands over in order, each thing a loop turn after it happened; many wakes of one turn are one."""

    def __init__(self, signals: Signals, sink: QueueSink) -> None:
        self._signals = signals
        self._sink = sink
        self._closed = False
        self._told: set[str] = set()
        # The sink is called on behalf of whoever watches, not of whoever wrote.
        self._context = contextvars.copy_context()

    async def ready(self) -> None:
        """There is no full set to wait for."""

    def renew(self) -> None:
        """Look at everything again."""
        self.wake()
        self.cancel()

    async def close(self) -> None:
        """Stop. Idempotent."""
        self.end()

    def end(self) -> None:
        """Stop, without waiting."""
        self._closed = True
        self._signals.forget(self)

    def wake(self) -> None:
        """Runs may have become claimable."""
        self._once("wake")

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        self._once("cancel")

    def left_out(self, run: Run) -> None:
        """A run that this process queued was left out."""
        asyncio.get_running_loop().call_soon(self._hand_over_left_out, run, context=self._context)

    def _once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            asyncio.get_running_loop().call_soon(self._hand_over, what, context=self._context)

    def _hand_over(self, what: str) -> None:
        self._told.discard(what)
        if not self._closed:
            (self._sink.wake if what == "wake" else self._sink.cancel)()

    def _hand_over_left_out(self, run: Run) -> None:
        if not self._closed:
            self._sink.left_out(run)
