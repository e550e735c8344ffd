"""Single steps of the run queue: each a compare-and-set on a run's row, made from what the view shows.

Who is authoritative: the bucket of runs. A step that is refused was made from an old version of the row: the row is
read from the stream's leader, and the caller looks again whether the step still makes sense. A step without an answer
may have been stored: it is reported as uncertain, and the watch tells in the end.

What waits for another run of its job is let go by whoever ended that, and by the leader when it sees room, the oldest
first, as many as there is room for. Only the leader adds to what goes, so room that somebody sees is there: two who let
the same run go are told apart by its sequence, and an older one goes before a younger. What others put into the line (a
run that is redriven) waits for the leader.

Time-outs: a write's answer :data:`~natscron.wire.window.DEFAULT_TIMEOUT_S`; reads as the wire has them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from natscron.errors import StorageError
from natscron.model import RunStatus
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.lines import Open
from natscron.storage.nats.records import Records
from natscron.storage.nats.runrow import RowState, RunRow, decode_run_row, encode_run_row, row_key
from natscron.storage.nats.state import TTL
from natscron.storage.nats.view import QueueView
from natscron.wire.connection import Connection
from natscron.wire.kv import cas_headers, get_last, is_deleted, is_wrong_sequence
from natscron.wire.window import PublishWindow

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

__all__ = ["REPLACED", "Put", "Steps", "belongs"]

logger = logging.getLogger("natscron.storage")

REPLACED: Final = "a newer run took its place (overlap cancel_other)"

_ATTEMPTS: Final = 60
_AGAIN_S: Final = 0.5
"""After half a minute another leader has begun, which looks at everything that is held."""

Put = Callable[[str, bytes, Mapping[str, str]], Awaitable["asyncio.Future[PubAck]"]]
_T = TypeVar("_T")


class Steps:
    """See the module's prose."""

    def __init__(
        self,
        connection: Connection,
        options: LibraryOptions,
        window: PublishWindow,
        view: QueueView,
        *,
        records: Records,
    ) -> None:
        self.leads: Callable[[], bool] = lambda: False
        """Whether this process has a leader's link."""
        self.connection = connection
        self.options = options
        self.window = window
        self.view = view
        self.records = records
        self._over_ttl = {TTL: f"{max(options.over_ttl_ms // 1_000, 1)}s"}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releasing: dict[str, asyncio.Task[None]] = {}
        view.on_room = self._room

    async def close(self) -> None:
        """End what goes on beside."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, _T], name: str, *, awaited: bool = False) -> "asyncio.Task[_T]":
        """Do it beside; its failure is logged unless it is ``awaited``."""
        task = asyncio.create_task(work, name=f"natscron {name}")
        self._tasks.add(task)
        task.add_done_callback(self._awaited if awaited else self._spawned)
        return task

    def _awaited(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it retrieved: the caller may have been cancelled

    def _spawned(self, task: "asyncio.Task[Any]") -> None:
        self._awaited(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.log(logging.WARNING if isinstance(error, StorageError) else logging.ERROR, "run queue: %s", error)

    async def whole(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do it to its end, also when the caller is cancelled."""
        return await asyncio.shield(self.spawn(work, "queue step", awaited=True))

    def subject(self, row: RunRow) -> str:
        """Where a run's row lies."""
        return self.options.runs_prefix + row_key(row)

    def headers(self, row: RunRow, expected: int) -> dict[str, str]:
        """Those of a write of ``row`` over the version ``expected``."""
        return cas_headers(expected, self._over_ttl if row.state is RowState.OVER else None)

    async def put(self, one: Open, row: RunRow, put: Put | None = None) -> "asyncio.Future[PubAck]":
        """Send ``row`` off, over the version ``one``. ``put``: how; on the shared connection unless given."""
        write = put or self.window.publish
        return await write(self.options.runs_prefix + one.key, encode_run_row(row), self.headers(row, one.seq))

    async def step(self, one: Open, row: RunRow, put: Put | None = None) -> bool:
        """Write ``row`` over ``one``; False if that was not the newest version any more. Raises StorageError."""
        one.busy = True
        try:
            ack = await asyncio.shield(await self.put(one, row, put))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the row is free again
            try:
                if not is_wrong_sequence(error):
                    raise
                await self.refresh(one.row)
            except BaseException:
                self.view.free(one)
                raise
            return False
        self.view.apply(row, ack.seq)
        return True

    async def refresh(self, row: RunRow) -> Open | None:
        """The newest version of a run's row, from the stream's leader; None if it is over. Raises StorageError."""
        found = await get_last(self.connection, self.options.runs_stream, self.subject(row))
        if found is None or is_deleted(found.headers):
            known = self.view.rows.get(row.run_id)
            if known is not None and known.seq:
                self.view.vanished(row.run_id, known.seq + 1)
        else:
            self.view.apply(decode_run_row(found.data), found.seq)
        one = self.view.rows.get(row.run_id)
        if one is not None and one.seq and found is not None and one.seq == found.seq:
            one.busy = False
        return one

    async def tells(self, row: RunRow) -> bool:
        """Whether the newest version of a run's row follows from the ending that ``row`` is of, by the stream's leader.

        True also if it is gone: it was over, and we had it last. Raises StorageError.
        """
        found = await get_last(self.connection, self.options.runs_stream, self.subject(row))
        return found is None or is_deleted(found.headers) or decode_run_row(found.data).mark == row.mark

    async def drop(self, one: Open, reason: str, error: str, put: Put | None = None) -> bool:
        """End a run that never began; False if its row is another by now. Raises StorageError."""
        now = self.view.now_ms()
        job = one.row.job
        if not await self.step(one, one.row.over(RunStatus.SKIPPED, now), put):
            return False
        await self.records.save([one.row.left_out(reason, error, now)])
        if job in self.view.held:
            await self.release(job)
        return True

    def _room(self, job: str) -> None:
        """A run ended, or one is held: the leader sees to what waits."""
        if job in self.view.held and job not in self._releasing and self.leads():
            self.spawn(self._see_to(job), "release")

    async def _see_to(self, job: str) -> None:
        """Let go what may go, also if the store is away for a while."""
        for _ in range(_ATTEMPTS):
            try:
                await self.release(job)
            except StorageError as error:
                logger.warning("what waits of job %s cannot be let go now: %s", job, error)
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def release(self, job: str) -> None:
        """Let go what is held, the oldest first, as many as there is room for. Raises StorageError."""
        before = self._releasing.get(job)
        if before is not None:
            await asyncio.wait([before])
        task = self._releasing.get(job)
        if task is None:
            task = self._releasing[job] = self.spawn(self._release(job), "release", awaited=True)
            task.add_done_callback(lambda done: self._released(job, done))
        await asyncio.shield(task)

    def _released(self, job: str, task: "asyncio.Task[None]") -> None:
        if self._releasing.get(job) is task:
            del self._releasing[job]

    async def _release(self, job: str) -> None:
        while line := self.view.held_of(job):
            one = line[0]
            capacity = one.row.capacity
            full = capacity and len(self.view.going.get(job, ())) >= capacity
            if full or one.busy or not one.seq or (one.row.by_leader and not self.leads()):
                return
            await self.step(one, one.row.let_go())


def belongs(one: Open, worker: str, attempt: int) -> bool:
    """Whether a try is this worker's."""
    row = one.row
    return row.state is RowState.RUNNING and row.worker == worker and row.attempt == attempt
