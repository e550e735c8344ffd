"""The library's storage on NATS: jobs, lease and journal as the service has them, and the run queue.

Who is authoritative: nats-server. Besides the shared connection, each leader link is one of its own. ``initialize``
makes what is missing, begins to follow the run queue and returns when all of it was read; ``close`` ends what
``initialize`` opened.

The queue is one bucket: a row per run that is not over, stepped by compare-and-set, and followed by every process. So
all see the same queue within milliseconds, priorities, handlers and overlap are decided where all is known, and no
process is needed for the others to go on. nats-server 2.11 is needed for rows that go by themselves.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from natscron.clock import Clock
from natscron.errors import StorageNotInitializedError, StorageUnavailableError, StorageUncertainError
from natscron.model import Activity, Claim, Claimed, Ending, Ms, Run, RunStatus, WorkerInfo
from natscron.storage.forks import keep_forever
from natscron.storage.nats.claims import Before
from natscron.storage.nats.creating import Answers
from natscron.storage.nats.dead import DeadLetters
from natscron.storage.nats.gorows import decode_library_row
from natscron.storage.nats.history import NatsHistory
from natscron.storage.nats.jobs import NatsJobs
from natscron.storage.nats.library_history import LibraryHistory
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.library_provision import check_version, provision_library
from natscron.storage.nats.queue import NatsQueue
from natscron.storage.nats.queue_link import BEHIND_S, QueueLink
from natscron.storage.nats.queue_watch import QueueWatch, Sinks
from natscron.storage.nats.records import Records
from natscron.storage.nats.state import NatsState
from natscron.storage.nats.steps import Steps
from natscron.storage.nats.storage import NatsStorage
from natscron.storage.nats.timers import NatsTimers
from natscron.storage.nats.view import QueueView
from natscron.storage.protocol import Capabilities, LeaderLink, OnReply, RunQuery
from natscron.storage.queue import QueueSink
from natscron.storage.timers import LaidTimer, TimerSink
from natscron.wire.connection import Connection
from natscron.wire.consumer import Watch
from natscron.wire.kv import last_seq
from natscron.wire.leader_link import LeaderConnection
from natscron.wire.options import ConnectOptions
from natscron.wire.window import PublishWindow

__all__ = ["NATSStorage"]

_REDRIVABLE: Final = frozenset({RunStatus.FAILED, RunStatus.DEAD})
_LEASE_MS: Final[Ms] = 3_000
"""Everybody sees within milliseconds when it is released; one that is renewed costs a message a second."""
_LOOKED_UP: Final = 20_000
"""Jobs whose last ends are looked up in one call."""
_FULL_S: Final = 60.0
"""How long the first full set of the queue may take."""


class NATSStorage(NatsStorage):
    """``servers``: a URL (``nats:// tls:// ws:// wss://``, or a comma list of such), options, or a connection."""

    def __init__(
        self,
        servers: str | ConnectOptions | Connection = "nats://localhost:4222",
        options: LibraryOptions | None = None,
        *,
        clock: Clock | None = None,
        connect_timeout_s: float | None = 30.0,
    ) -> None:
        where = ConnectOptions(url=servers) if isinstance(servers, str) else servers
        self.library = options or LibraryOptions()
        super().__init__(where, self.library, clock=clock, connect_timeout_s=connect_timeout_s)
        self._opening = asyncio.Lock()
        self._sinks = Sinks()
        self._log: LibraryHistory | None = None
        self._own_window: PublishWindow | None = None
        self._parts: _Parts | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Durable, shared, publishes, has a run queue, and the server can time jobs."""
        return Capabilities(durable=True, shared=True, subjects=True, queue=True, timers=True, lease_ms=_LEASE_MS)

    def in_child(self) -> "NATSStorage":
        """In a process that was forked: a storage of the same servers. What the parent opened stays the parent's."""
        if isinstance(self._given, Connection):
            raise StorageUnavailableError("a connection that was handed in cannot be used in a forked process")
        keep_forever(self)
        return NATSStorage(self._given, self.library, clock=self._clock, connect_timeout_s=self._connect_timeout_s)

    async def initialize(self) -> None:
        """Connect, provision, and read the queue. Idempotent; after a failure it may be called again.

        Raises StorageUnavailableError naming the phase that took too long, ServerTooOldError, and ConfigError for what
        waiting does not mend.
        """
        async with self._opening:
            await super().initialize()
            if self._parts is None:
                await self._open_queue(self.connection)

    def _make_jobs(self, connection: Connection, window: PublishWindow) -> NatsJobs:
        return LibraryJobs(connection, self.library, window, self._clock)

    def _make_history(self, connection: Connection, window: PublishWindow) -> LibraryHistory:
        check_version(connection)
        self._log = LibraryHistory(connection, self.library, window)
        self._own_window = window
        return self._log

    async def _open_queue(self, connection: Connection) -> None:
        assert self._log is not None  # noqa: S101 - made with the other roles
        assert self._own_window is not None  # noqa: S101 - same
        self.warnings += tuple(await provision_library(connection, self.library))
        view = QueueView(self.library, self._clock)
        records, dead = Records(self._log), DeadLetters(connection, self.library)
        steps = Steps(connection, self.library, self._own_window, view, records=records)
        born = await last_seq(connection, self.library.jobs_stream)
        queue = NatsQueue(steps, dead, self._clock, Before(born, partial(self._look_up, view, self._log)))
        steps.leads = lambda: any(not link.broken.is_set() for link in self._links)
        view.on_wake, view.on_cancel = self._sinks.wake, self._sinks.cancel
        view.on_doubt = partial(self._doubt, steps)
        watch = Watch(connection, self.library.runs_stream, [self.library.runs_prefix + ">"], view)
        view.on_stale = watch.renew
        try:
            async with asyncio.timeout(_FULL_S):
                await watch.ready()
        except BaseException as error:
            await watch.close()
            if isinstance(error, TimeoutError):
                raise StorageUnavailableError(f"waited {_FULL_S:g} s for this: the run queue is read") from None
            raise
        timers = NatsTimers(connection, self.library, self._own_window)
        self._parts = _Parts(view, queue, self._log, records, dead, watch, timers)

    async def close(self) -> None:
        """Release everything it opened. Idempotent, also before ``initialize``."""
        parts, self._parts = self._parts, None
        self._sinks.close()
        if parts is not None:
            await parts.watch.close()
            await parts.records.close()
            await parts.queue.steps.close()
        await super().close()

    async def _look_up(self, view: QueueView, history: LibraryHistory, jobs: Sequence[str]) -> None:
        """Learn how the last runs of these jobs ended, of which nothing was seen since the queue was opened."""
        if not jobs:
            return
        ends = await history.last_ends(jobs[:_LOOKED_UP])
        for job in jobs[:_LOOKED_UP]:
            if (run := ends.get(job)) is not None:
                view.saw_end(job, run.status, run.started_at_ms, run.finished_at_ms)
            else:
                view.saw_none(job)

    def _doubt(self, steps: Steps) -> None:
        steps.spawn(self._settle(steps.view), "settle")

    async def _settle(self, view: QueueView) -> None:
        """All that was stored by now is seen: what a full set lacked is gone."""
        await self._up_to_date(view)
        view.settle()

    async def _up_to_date(self, view: QueueView) -> None:
        """Wait until the view has seen all that is stored by now. Raises StorageUnavailableError."""
        seq = await last_seq(self.connection, self.library.runs_stream)
        await view.reached(seq, BEHIND_S)

    # The leader's side.

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """Open a leader's own connection. Raises StorageUnavailableError, also while the view of it is behind."""
        parts = self._whole

        answers = Answers(on_reply)
        opened = await LeaderConnection.open(self.connection.known_dial(), answers.take)
        try:
            seq = await last_seq(opened, self.library.runs_stream)
            await parts.view.reached(seq, BEHIND_S)
        except BaseException:
            opened.abort()
            raise
        link = QueueLink(
            opened,
            answers,
            self.library,
            parts.queue.steps,
            on_left_out=self._sinks.left_out,
            ended_since=parts.history.ended_since,
        )
        self._links = [whole for whole in self._links if not whole.broken.is_set()] + [link]
        for job in list(parts.view.held):
            parts.view.on_room(job)
        return link

    # ExecutionStore.

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records, and the runs that are not over.

        Who asks for one run may know of it from elsewhere: then the view is first brought up to what is stored by now.
        """
        parts = self._whole
        if query.run_id is not None:
            await self._up_to_date(parts.view)
        return await parts.history.list_runs(query, parts.view.open_runs(query.job, parts.queue.unhandled()))

    # RunQueue.

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """Take runs that are due."""
        return await self._whole.queue.claim(worker, handlers, limit)

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """End tries."""
        return await self._whole.queue.finish(worker, endings)

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed runs claimable again."""
        await self._whole.queue.give_back(worker, claims)

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """Announce a worker."""
        return await self._whole.queue.beat(worker)

    async def retire(self, worker: str) -> None:
        """Take a worker's announcement back."""
        await self._whole.queue.retire(worker)

    async def workers(self) -> Sequence[WorkerInfo]:
        """Those that are alive."""
        return self._whole.view.roster.alive()

    async def lost(self, limit: int) -> Sequence[Claim]:
        """Tries whose worker is not alive."""
        return self._whole.queue.lost(limit)

    async def mark_unhandled(self) -> int:
        """Show which due runs no live worker has a handler for."""
        view = self._whole.view
        return view.mark_unhandled(view.now_ms())

    async def drop_runs(self, job_id: str, generation: int) -> int:
        """End what waits of a removed job."""
        return await self._whole.queue.drop_runs(job_id, generation)

    async def redrive(self, run_id: str) -> bool:
        """Queue another try."""
        parts = self._whole
        return await parts.queue.redrive(run_id, parts.history.newest_try)

    async def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """What the runs of these jobs are doing; jobs without any are left out."""
        parts = self._whole
        with contextlib.suppress(StorageUncertainError):  # then of these only what was seen is known
            await self._look_up(parts.view, parts.history, [job for job in job_ids if not parts.view.ends_known(job)])
        return parts.view.activity(job_ids)

    async def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records up to an instant."""
        parts = self._whole
        gone = await parts.history.delete_runs(job_id, before_ms)
        for run in gone:
            if run.status in _REDRIVABLE and run.run_id is not None:
                await parts.dead.remove(run.run_id)
        if gone:
            parts.view.forget_ends(job_id)
        return len(gone)

    async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
        """Take over records from another store."""
        parts = self._whole
        stored = await parts.history.import_runs(runs, parts.view.open_runs(None, lambda _one: None), dry_run=dry_run)
        if not dry_run:
            await parts.queue.over_elsewhere([run for run, new in zip(runs, stored, strict=True) if new])
        return stored

    def watch_queue(self, sink: QueueSink) -> QueueWatch:
        """Follow the run queue."""
        return self._sinks.watch(sink, self._whole.watch.ready)

    # TimerStore.

    async def check_timers(self, *, recurring: bool) -> None:
        """Make what timers need. Raises ServerTooOldError and ConfigError."""
        await self._whole.timers.check_timers(recurring=recurring)

    async def has_timers(self) -> bool:
        """Whether a timer was ever laid here."""
        return await self._whole.timers.has_timers()

    async def lay_timer(self, timer: LaidTimer) -> None:
        """Have this timer, and none of the job's earlier ones."""
        await self._whole.timers.lay_timer(timer)

    async def take_timers(self, job: str, since: int | None = None) -> None:
        """Take a job's timers away."""
        await self._whole.timers.take_timers(job, since)

    async def read_timers(self) -> Sequence[LaidTimer]:
        """All timers."""
        return await self._whole.timers.read_timers()

    async def settle_firings(self, seq: int) -> None:
        """Forget firings that are decided."""
        await self._whole.timers.settle_firings(seq)

    def watch_firings(self, sink: TimerSink) -> Watch:
        """Follow the firings."""
        return self._kept(self._whole.timers.watch_firings(sink))

    @property
    def _whole(self) -> "_Parts":
        if self._parts is None:
            raise StorageNotInitializedError("the storage is not initialized, or closed")
        return self._parts

    def _ready(self) -> tuple[NatsJobs, NatsState, NatsHistory]:
        if self._roles is None:
            raise StorageNotInitializedError("the storage is not initialized, or closed")
        return self._roles


class LibraryJobs(NatsJobs):
    """Jobs, those of the Go library too."""

    decode = staticmethod(decode_library_row)


class _Parts(msgspec.Struct, frozen=True):
    """What one initialization opens for the queue."""

    view: QueueView
    queue: NatsQueue
    history: LibraryHistory
    records: Records
    dead: DeadLetters
    watch: Watch
    timers: NatsTimers
