"""The journal: messages first, their note last, in one write.

A NATS server handles one connection in order and a killed process leaves a prefix of what it wrote, so a note that is
stored proves that the messages before it went out. A chunk has at most :data:`CHUNK_RUNS` runs and about
:data:`CHUNK_BYTES` bytes; a crash leaves at most one chunk whose messages went out without their note.

Trust is checked before each chunk, and so is that no note waits for its answer longer than a lease.
Notes without an answer bound how much may have to be sent twice: at most
:data:`UNACKED_MAX` of them, and none older than :data:`UNACKED_AGE_S` while another chunk goes out; past that the
journal waits. A note that is refused ends the leadership: what the store holds is then found out by the next one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from natscron.engine.planner import Cursor
from natscron.engine.storetime import StoreClock
from natscron.engine.trust import Trust, read
from natscron.errors import LeadershipLostError
from natscron.model import Delivery, Ms, NoteRef, OpenRow, Trigger
from natscron.storage.protocol import LeaderLink, Staged

CHUNK_RUNS: Final = 256
CHUNK_BYTES: Final = 64 * 1024
UNACKED_MAX: Final = 256
UNACKED_AGE_S: Final = 0.25


class Ready(msgspec.Struct, frozen=True, gc=False):
    """One scheduled run, encoded."""

    due_ms: Ms
    slot_ms: Ms
    cursor: Cursor
    trigger: Trigger
    run_id: str
    delivery: Delivery
    staged: Staged
    # What sending asks of the job: at the instant of a burst, each look at 10,000 jobs costs milliseconds.
    job_id: str
    guarded: bool
    """The overlap policy has to be asked."""
    tracked: bool
    """Its worker reports how it ended."""


class Chunk(msgspec.Struct, frozen=True):
    """What went out in one write, and when (wall, ms)."""

    n: int
    runs: Sequence[Ready]
    sent_ms: Ms
    sent_trust_s: float
    stored: "asyncio.Future[None]"


class Journal:
    """Commits chunks over one link under one epoch."""

    def __init__(
        self, link: LeaderLink, epoch: int, trust: Trust, clock: StoreClock, on_stored: Callable[[Chunk], None]
    ) -> None:
        self.last_n = 0
        """The number of the last note handed over."""
        self.stored_n = 0
        """Every note up to this one is stored."""
        self._link = link
        self._epoch = epoch
        self._trust = trust
        self._clock = clock
        self._on_stored = on_stored
        self._unacked: deque[Chunk] = deque()
        self._progress = asyncio.Event()
        self.failed: BaseException | None = None

    def ensure_trusted(self) -> None:
        """Raise LeadershipLostError, with the link cut, unless the lease is trusted now."""
        if self.failed is not None:
            raise LeadershipLostError(f"the journal could not be written: {self.failed}") from self.failed
        if self._unacked and self._clock.trust_s() - self._unacked[0].sent_trust_s > self._trust.lease_s:
            # Renewals may go on while one note's answer is lost: then the mark would stand still for ever.
            self._link.abort()
            raise LeadershipLostError(f"note {self._unacked[0].n} got no answer within the lease")
        if not self._trust.holds(read(self._clock.host)):
            self._link.abort()
            raise LeadershipLostError("the trust in the lease ended before it was renewed")

    async def commit(self, runs: Sequence[Ready], sent: Callable[[Chunk], None] = lambda _: None) -> None:
        """Hand over one chunk and its note; returns when the socket took it, not when it is stored.

        ``sent`` is called as soon as the chunk is handed over: an answer may come while the socket is still busy.
        """
        await self._gate()
        self.ensure_trusted()
        self.last_n += 1
        stored = self._link.commit(
            NoteRef(self._epoch, self.last_n), [r.staged for r in runs], [r.run_id for r in runs]
        )
        chunk = Chunk(self.last_n, runs, self._clock.now_ms(), self._clock.trust_s(), stored)
        self._unacked.append(chunk)
        stored.add_done_callback(self._answered)
        sent(chunk)
        await self._link.drain()

    async def commit_rows(self, staged: Sequence[Staged], rows: Sequence[OpenRow]) -> "asyncio.Future[None]":
        """Hand over messages whose record is their open rows (retries, triggers), rows last."""
        self.ensure_trusted()
        stored = self._link.commit(NoteRef(self._epoch, 0), staged, (), rows)
        stored.add_done_callback(self._row_answered)
        await self._link.drain()
        return stored

    async def settle(self, timeout_s: float) -> None:
        """Wait until all notes are stored, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._unacked and self.failed is None:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return

    async def _gate(self) -> None:
        while self._unacked and self.failed is None:
            age = self._clock.trust_s() - self._unacked[0].sent_trust_s
            if len(self._unacked) < UNACKED_MAX and age < UNACKED_AGE_S:
                return
            self._progress.clear()
            remaining = self._trust.remaining_s(read(self._clock.host))
            try:
                async with asyncio.timeout(remaining):
                    await self._progress.wait()
            except TimeoutError:
                self.ensure_trusted()

    def _row_answered(self, stored: "asyncio.Future[None]") -> None:
        if not stored.cancelled() and (error := stored.exception()) is not None:
            self._fail(error)

    def _answered(self, stored: "asyncio.Future[None]") -> None:
        if stored.cancelled():
            return
        if (error := stored.exception()) is not None:
            self._fail(error)
            return
        # Answers come in order; should one overtake, the mark waits for those before it.
        while self._unacked and (head := self._unacked[0]).stored.done():
            if head.stored.cancelled() or head.stored.exception() is not None:
                return
            self._unacked.popleft()
            self.stored_n = head.n
            self._on_stored(head)
        self._progress.set()

    def _fail(self, error: BaseException) -> None:
        if self.failed is None:
            self.failed = error
            self._link.abort()
        self._progress.set()
