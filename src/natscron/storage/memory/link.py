"""A leader's own connection to a cluster."""

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from natscron.errors import (
    LeadershipLostError,
    LimitExceededError,
    WrongRevisionError,
)
from natscron.model import Lease, LeaseRecord, NoteRef, OpenRow, QueuedRun, Run
from natscron.storage.memory.cluster import MemoryCluster
from natscron.storage.protocol import (
    LeaderLink,
    OnReply,
    Outgoing,
    Staged,
    StateSnapshot,
)

MAX_PAYLOAD: Final = 1024 * 1024
_RUN_SIZE: Final = 128
"""What a queued run counts as; its payload is the job's own, or was bounded when it was asked for."""

T = TypeVar("T")


class MemoryLink(LeaderLink):
    """A leader's link to a cluster: a queue of writes that arrive one after the other."""

    def __init__(
        self,
        cluster: MemoryCluster,
        on_reply: OnReply,
        latency_s: float,
        on_left_out: Callable[[Run], None] = lambda _run: None,
    ) -> None:
        self.broken = asyncio.Event()
        self.latency_s = latency_s
        self._cluster = cluster
        self._on_reply = on_reply
        self._on_left_out = on_left_out
        self._writes: deque[Callable[[], object]] = deque()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._moving = False
        # Written bytes travel without the writer; answers arrive on its behalf.
        self._context = contextvars.copy_context()

    @property
    def max_payload(self) -> int:
        """1 MiB, as a NATS server has by default."""
        return MAX_PAYLOAD

    def stage(self, message: Outgoing | QueuedRun) -> Staged:
        """Keep the message, or the queued run, as it is."""
        if isinstance(message, QueuedRun):
            return Staged(message, _RUN_SIZE)
        size = len(message.body) + sum(len(k) + len(v) + 4 for k, v in message.headers)
        if size > MAX_PAYLOAD:
            raise LimitExceededError(f"message of {size} bytes is over the maximum payload of {MAX_PAYLOAD}")
        return Staged(message, size)

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Queue messages, rows, note; the future resolves when the last of them arrived.

        Queued runs, rows and note are one write.
        """
        self._ensure_whole()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if staged and isinstance(staged[0].data, QueuedRun):
            self._write(partial(self._enter, note, [one.data for one in staged], run_ids, rows))
            staged, run_ids, rows = (), (), ()
        for one in staged:
            self._write(lambda message=one.data: self._deliver(message))  # type: ignore[misc]
        for row in rows:
            self._write(lambda row=row: self._cluster.put_open(row))  # type: ignore[misc]
        if run_ids:
            self._write(lambda: self._cluster.put_note(note, run_ids))
        self._waiting[future] = None
        future.add_done_callback(lambda answered: self._waiting.pop(answered, None))
        self._write(lambda: None if future.done() else future.set_result(None))
        return future

    def _enter(self, note: NoteRef, runs: Sequence[QueuedRun], run_ids: Sequence[str], rows: Sequence[OpenRow]) -> None:
        for run in runs:
            record = self._cluster.queue.enter(run)
            if record is not None:
                self._on_left_out(record)
        for row in rows:
            self._cluster.put_open(row)
        if run_ids:
            self._cluster.put_note(note, run_ids)

    async def drain(self) -> None:
        """One loop turn."""
        await asyncio.sleep(0)
        self._ensure_whole()

    async def save_rows(self, rows: Sequence[OpenRow]) -> None:
        """Write rows."""

        def save() -> None:
            for row in rows:
                self._cluster.put_open(row)

        await self._ordered(save)

    async def delete_rows(self, run_ids: Sequence[str]) -> None:
        """Delete rows."""

        def delete() -> None:
            for run_id in run_ids:
                self._cluster.delete_open(run_id)

        await self._ordered(delete)

    async def read_lease(self) -> LeaseRecord | None:
        """The lease as it is."""
        return await self._ordered(lambda: self._cluster.lease)

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """Compare-and-set."""

        def write() -> int:
            current = self._cluster.lease.revision if self._cluster.lease is not None else 0
            if current != expected_revision:
                raise WrongRevisionError(f"the lease is at revision {current}, not {expected_revision}")
            return self._cluster.put_lease(lease)

        return await self._ordered(write)

    async def read_state(self, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes and rows below the barrier."""

        def read() -> StateSnapshot:
            notes = sorted(n for n, (_, seq) in self._cluster.notes.items() if n > after and seq < barrier)
            rows = tuple(row for row, seq in self._cluster.rows.values() if seq < barrier)
            return StateSnapshot(tuple(self._cluster.notes[n][0] for n in notes), rows)

        return await self._ordered(read)

    async def purge_notes(self, upto: NoteRef) -> None:
        """Remove covered notes."""

        def purge() -> None:
            for ref in [r for r in self._cluster.notes if r <= upto]:
                del self._cluster.notes[ref]

        await self._ordered(purge)

    async def jobs_seq(self) -> int:
        """The jobs' last sequence."""
        return await self._ordered(lambda: self._cluster.jobs_seq)

    def abort(self) -> None:
        """Throw away what has not arrived."""
        self._writes.clear()
        self.broken.set()
        for future in tuple(self._waiting):
            if not future.done():
                future.set_exception(LeadershipLostError("the link was cut"))
                # Whoever waits gets it; nobody waiting is no error.
                future.exception()

    async def close(self) -> None:
        """Let what is queued arrive, then cut."""
        if self._writes and not self.broken.is_set():
            with contextlib.suppress(LeadershipLostError):
                await self._ordered(lambda: None)
        self.abort()

    def _ensure_whole(self) -> None:
        if self.broken.is_set():
            raise LeadershipLostError("the link was cut")

    def _write(self, write: Callable[[], object]) -> None:
        self._writes.append(write)
        if not self._moving:
            self._moving = True
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if self.latency_s:
            loop.call_later(self.latency_s, self._arrive, context=contextvars.Context())
        else:
            loop.call_soon(self._arrive, context=contextvars.Context())

    def _arrive(self) -> None:
        """Everything queued arrives in order; a cut between two arrivals is made by :meth:`abort`."""
        self._moving = False
        if not self._cluster.up:
            self.abort()
        while self._writes:
            self._writes.popleft()()

    async def _ordered(self, fn: "Callable[[], T]") -> "T":
        """Run ``fn`` at the cluster after everything queued before, and bring its result back."""
        self._ensure_whole()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[done] = None
        done.add_done_callback(lambda answered: self._waiting.pop(answered, None))
        result: list[T] = []
        failure: list[Exception] = []

        def arrive() -> None:
            try:
                result.append(fn())
            except WrongRevisionError as error:
                failure.append(error)
            if not done.done():
                done.set_result(None)

        self._write(arrive)
        await done
        if failure:
            raise failure[0]
        return result[0]

    def _deliver(self, message: Outgoing) -> None:
        reply = self._cluster.on_message(message)
        if reply is not None and message.token:
            asyncio.get_running_loop().call_soon(
                lambda: None if self.broken.is_set() else self._on_reply(reply), context=self._context
            )
