"""The leader's side of the run queue: what it queues, and the journal behind it.

Who is authoritative: the bucket of runs. A run is queued by creating its row under its id, over the leader's own
connection, so a run that is there already (another leader queued it, or it is over) is refused by the store. The
overlap policy is asked at once, from what the view shows of the job, in which what is on its way counts already; a run
that is left out is stored too, as one that is over, so that nobody queues it later.

A note is written when all runs of its commit, and those of the commits before, are known to be stored. So a note that
is there proves that its runs are, as if both were one transaction; and of runs without a note a successor finds the
rows when it queues them again.

Failures: a stream between two leaders drops what it is sent without a word, so what has no answer is sent again
(:mod:`natscron.storage.nats.creating`). A refusal for another reason (no room, say) fails the commit, and with it the
leadership.

A takeover: the view must have seen all that was stored before (:data:`BEHIND_S` at most). A row of a run that is over
goes by itself after a while; if the mark is older than that, what the log knows of since is asked for as well.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from natscron.errors import (
    LeadershipLostError,
    LimitExceededError,
    MalformedInputError,
    StorageUncertainError,
)
from natscron.ids import is_ulid, ulid_time_ms
from natscron.model import SERVER_LAG_MS, Lease, Ms, NoteRef, OpenRow, QueuedRun, Reason, Run, RunStatus
from natscron.policy import overlap
from natscron.policy.overlap import Verdict
from natscron.storage.nats.creating import Answers, Batch, Entry
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.link import NatsLeaderLink
from natscron.storage.nats.runrow import RowState, RunRow, encode_run_row, row_key
from natscron.storage.nats.steps import REPLACED, Steps
from natscron.storage.protocol import Outgoing, Staged, StateSnapshot
from natscron.wire.leader_link import LeaderConnection

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

__all__ = ["QueueLink"]

logger = logging.getLogger("natscron.storage")

BEHIND_S: Final = 5.0
_ROOM: Final = 128
"""Bytes of a row's headers."""
_LEFT_OUT: Final = {
    Verdict.SKIP: (Reason.OVERLAP_SKIP, "the job's previous run was still going"),
    Verdict.DROP: (Reason.BUFFER_FULL, "the job's previous run was still going and no more runs may wait"),
}


class QueueLink(NatsLeaderLink):
    """See :class:`natscron.storage.protocol.LeaderLink`."""

    def __init__(  # noqa: PLR0913 - the parts of a storage that queuing needs
        self,
        connection: LeaderConnection,
        answers: Answers,
        options: LibraryOptions,
        steps: Steps,
        *,
        on_left_out: Callable[[Run], None],
        ended_since: Callable[[Ms], Awaitable[Sequence[str]]],
    ) -> None:
        super().__init__(connection, options)
        self._library = options
        self._answers = answers
        self._prefix = options.runs_prefix
        self._gone: asyncio.Future[bool] = asyncio.ensure_future(connection.broken.wait())
        self._view = steps.view
        self._steps = steps
        self._on_left_out = on_left_out
        self._ended_since = ended_since
        self._noted: asyncio.Future[None] | None = None
        """Done when the note of the last commit was handed over."""
        self._commits: set[asyncio.Task[None]] = set()
        self._mark_ms: Ms | None = None

    def stage(self, message: Outgoing | QueuedRun) -> Staged:
        """Encode for :meth:`commit`. Raises LimitExceededError and MalformedInputError."""
        if not isinstance(message, QueuedRun):
            return super().stage(message)
        row = RunRow.of(message)
        try:
            raw = encode_run_row(row)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise MalformedInputError(f"the run cannot be stored: {error}") from None
        if len(raw) + _ROOM > self.max_payload:
            raise LimitExceededError(f"the run has {len(raw)} bytes; the server takes {self.max_payload} at most")
        return Staged((message, row, raw), len(raw))

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Queue runs; then, when these are stored, the rows and the note. Messages go out as without a queue."""
        queued = bool(staged) and isinstance(staged[0].data, tuple)
        if self.broken.is_set():
            raise LeadershipLostError("the leader's connection ended")
        if not queued and (staged or self._noted is None or self._noted.done()):
            return super().commit(note, staged, run_ids, rows)
        batch = Batch(self._connection, self._answers, self._view)
        if queued:
            for item in staged:
                if (entry := self._decided(*item.data)) is not None:
                    batch.add(entry)
        batch.send()
        before, self._noted = self._noted, asyncio.get_running_loop().create_future()
        write = partial(super().commit, note, (), run_ids, rows)
        task = asyncio.create_task(self._commit(batch, before, self._noted, write), name="natscron commit")
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        # The caller gets a future of its own: whoever cancels it stops nothing.
        whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task.add_done_callback(partial(_hand_on, whole))
        return whole

    def _decided(self, run: QueuedRun, row: RunRow, raw: bytes) -> Entry | None:
        view = self._view
        if view.knows(run.run_id):
            return None
        going, held = view.going.get(run.job, {}), view.held.get(run.job, {})
        verdict = overlap.enter(run, running=len(going), waiting=len(held))
        if verdict is Verdict.START:
            one = view.enter(row)
            entry = self._entry(row, raw, one.key)
            entry.one = one
            return entry
        if verdict in _LEFT_OUT:
            now = view.now_ms()
            over = row.over(RunStatus.SKIPPED, now)
            entry = self._entry(over, encode_run_row(over), row_key(over))
            entry.record = row.left_out(*_LEFT_OUT[verdict], now)
            view.over[run.run_id] = 0
            return entry
        waits = RunRow.of(run, RowState.HELD)
        replaces = [*held, *going] if verdict is Verdict.REPLACE else ()
        one = view.enter(waits)
        entry = self._entry(waits, encode_run_row(waits), one.key)
        entry.one, entry.replaces = one, replaces
        return entry

    def _entry(self, row: RunRow, raw: bytes, key: str) -> Entry:
        return Entry(row, raw, self._prefix + key, self._steps.headers(row, 0))

    async def _commit(
        self,
        batch: Batch,
        before: "asyncio.Future[None] | None",
        noted: "asyncio.Future[None]",
        write: Callable[[], "asyncio.Future[None]"],
    ) -> None:
        try:
            await batch.stored(self._gone)
            await self._follow_up(batch.entries)
            if before is not None:
                await asyncio.wait([before])
            if self.broken.is_set():
                raise LeadershipLostError("the leader's connection ended")
            future = write()
        finally:
            if not noted.done():
                noted.set_result(None)
        await future

    async def _follow_up(self, entries: Sequence[Entry]) -> None:
        """What else follows from what was decided, now that it is stored."""
        for entry in entries:
            if entry.there:  # another leader's, or our own, whose answer was lost
                await self._steps.refresh(entry.row)
                if self._view.over.get(entry.row.run_id) is None:
                    entry.record = None
        records = [entry.record for entry in entries if entry.record is not None]
        if records:
            await self._steps.records.save(records)
            for record in records:
                self._on_left_out(record)
        for entry in entries:
            if entry.replaces:
                await self._replace(entry.row.job, entry.replaces)
        for job in {entry.row.job for entry in entries if entry.row.state is RowState.HELD}:
            await self._steps.release(job)

    async def _replace(self, job: str, run_ids: Sequence[str]) -> None:
        """End these in favour of a newer one: what has not begun is dropped, the workers of what has are told."""
        left = list(run_ids)
        while left and not self.broken.is_set():
            for run_id in left:
                one = self._view.rows.get(run_id)
                if one is None or one.row.job != job or one.busy or not one.seq:
                    continue
                if one.row.state is not RowState.RUNNING:
                    await self._steps.drop(one, Reason.REPLACED, REPLACED, self._publish)
                elif not one.row.cancel:
                    await self._steps.step(one, one.row.to_end(Reason.REPLACED), self._publish)
            left = [run_id for run_id in left if self._still(run_id)]
            if left:
                await asyncio.sleep(0.005)

    def _still(self, run_id: str) -> bool:
        one = self._view.rows.get(run_id)
        return one is not None and not (one.row.state is RowState.RUNNING and one.row.cancel)

    async def _publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> "asyncio.Future[PubAck]":
        return self._connection.publish_acked(subject, data, headers)

    # The takeover.

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """Compare-and-set; see the class above."""
        revision = await super().write_lease(lease, expected_revision)
        self._mark_ms = lease.mark.instant_ms
        return revision

    async def read_state(self, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes and open rows; and what ended since the mark is known from then on."""
        snapshot = await super().read_state(after, barrier)
        asked = [row.scheduled_at_ms for row in snapshot.rows]
        mark_ms = self._mark_ms or 0
        # A slot that the server fired has its run before it is due to the leader.
        since = min([*asked, max(mark_ms - SERVER_LAG_MS, 0)])
        if since and self._view.now_ms() - since > self._library.over_ttl_ms // 2:
            for run_id in await self._ended_since(since):
                if not self._view.knows(run_id):
                    self._view.over[run_id] = 0
        first, last = mark_ms - SERVER_LAG_MS, self._view.now_ms()
        queued = (*self._view.rows, *self._view.over)
        known = tuple(run_id for run_id in queued if is_ulid(run_id) and first < ulid_time_ms(run_id) <= last)
        return msgspec.structs.replace(snapshot, known=known)


def _hand_on(whole: "asyncio.Future[None]", task: "asyncio.Task[Any]") -> None:
    if whole.done():
        return
    if task.cancelled():
        whole.set_exception(StorageUncertainError("the storage was closed"))
    elif (error := task.exception()) is not None:
        whole.set_exception(error)
    else:
        whole.set_result(None)
        return
    whole.exception()  # marks it retrieved: the leader may have stopped waiting
