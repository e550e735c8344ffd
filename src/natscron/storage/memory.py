"""The reference storage: one process's memory. What it does is what every other storage must do.

A :class:`MemoryCluster` stands for the servers: it holds the rows, gives each write its sequence and timestamp, and
delivers messages. Each :class:`MemoryStorage` is one client of it, so that several instances in one process can share
a cluster, as the simulation does. Nothing survives the process.

A link's writes reach the cluster one after the other, each one loop turn (or ``latency_s``) after the one before;
cutting the link throws away what has not arrived. That is the order and the prefix that a NATS connection gives.
"""

import asyncio
import contextlib
import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from natscron.clock import Clock
from natscron.codec import decode_row, encode_row, id_of, key_of
from natscron.errors import (
    JobAlreadyExistsError,
    JobNotFoundError,
    LeadershipLostError,
    LimitExceededError,
    StorageUnavailableError,
    WrongRevisionError,
)
from natscron.model import Job, Lease, LeaseRecord, Ms, Node, Note, NoteRef, OpenRow, Run, Stamp
from natscron.storage.protocol import (
    Capabilities,
    JobSink,
    LeaderLink,
    OnReply,
    Outgoing,
    Reply,
    RunQuery,
    Staged,
    StateSink,
    StateSnapshot,
    Watch,
)

MAX_PAYLOAD: Final = 1024 * 1024

T = TypeVar("T")
OnMessage = Callable[[Outgoing], Reply | None]


class MemoryCluster:
    """What the servers hold. ``on_message`` receives every message; what it returns is the answer."""

    def __init__(self, clock: Clock, on_message: OnMessage | None = None, runs_per_job: int = 100) -> None:
        self.clock = clock
        self.up = True
        """False: nothing can be reached."""
        self.jobs: dict[str, tuple[bytes | None, Stamp]] = {}
        """Row and stamp by key; None: deleted by that write."""
        self.jobs_seq = 0
        self.state_seq = 0
        self.lease: LeaseRecord | None = None
        self.notes: dict[NoteRef, tuple[Note, int]] = {}
        self.rows: dict[str, tuple[OpenRow, int]] = {}
        self.nodes: dict[tuple[str, str], tuple[Node, Ms]] = {}
        self.runs: dict[str, deque[Run]] = {}
        self.on_message = on_message or (lambda _message: None)
        self._runs_per_job = runs_per_job
        self.job_watches: dict[_JobWatch, None] = {}
        self.state_watches: dict[_StateWatch, None] = {}
        self.run_watches: dict[_RunWatch, None] = {}

    def ensure_up(self) -> None:
        """Raise StorageUnavailableError while the cluster is down."""
        if not self.up:
            raise StorageUnavailableError("the storage is not reachable")

    def put_row(self, key: str, row: bytes | None) -> int:
        """Write a job's row (None: delete); its sequence."""
        self.jobs_seq += 1
        stamp = Stamp(self.clock.now_ms(), self.jobs_seq)
        self.jobs.pop(key, None)
        self.jobs[key] = (row, stamp)
        for watch in tuple(self.job_watches):
            watch.send(key, row, stamp)
        return self.jobs_seq

    def put_lease(self, lease: Lease) -> int:
        """Write the lease; its revision."""
        self.state_seq += 1
        self.lease = LeaseRecord(lease, self.state_seq, self.clock.now_ms())
        record = self.lease
        self._tell(lambda sink: sink.lease(record))
        return self.state_seq

    def put_open(self, row: OpenRow) -> None:
        """Write an open row."""
        self.state_seq += 1
        seq = self.state_seq
        self.rows[row.run_id] = (row, seq)
        self._tell(lambda sink: sink.row(row, seq))

    def delete_open(self, run_id: str) -> None:
        """Delete an open row."""
        if self.rows.pop(run_id, None) is not None:
            self.state_seq += 1
            self._tell(lambda sink: sink.row_gone(run_id))

    def put_note(self, ref: NoteRef, run_ids: Sequence[str]) -> None:
        """Write a journal note."""
        self.state_seq += 1
        self.notes[ref] = (
            Note(ref=ref, run_ids=tuple(run_ids), stored_at_ms=self.clock.now_ms()),
            self.state_seq,
        )

    def put_node(self, node: Node) -> None:
        """Write an announcement."""
        self.state_seq += 1
        now = self.clock.now_ms()
        self.nodes[node.instance, node.nonce] = (node, now)
        self._tell(lambda sink: sink.node(node, now))

    def delete_node(self, node: Node) -> None:
        """Delete an announcement."""
        if self.nodes.pop((node.instance, node.nonce), None) is not None:
            self.state_seq += 1
            self._tell(lambda sink: sink.node_gone(node.instance, node.nonce))

    def put_run(self, run: Run) -> None:
        """Append a history record."""
        self.runs.setdefault(run.job, deque(maxlen=self._runs_per_job)).append(run)
        for watch in tuple(self.run_watches):
            watch.send(run)

    def _tell(self, change: Callable[[StateSink], None]) -> None:
        for watch in tuple(self.state_watches):
            watch.send(change)


class _Watch:
    """Hands over in order, each thing a loop turn after it happened. ``deaf`` True: falls silent, as a lost one."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.deaf = False
        self._cluster = cluster
        self._ready = asyncio.Event()
        self._closed = False
        self._turn = 0
        # What the cluster tells runs on this client's behalf, not on that of whoever wrote.
        self._context = contextvars.copy_context()
        self._soon(lambda: self._begin(0))

    async def ready(self) -> None:
        """Wait for the first full set."""
        await self._ready.wait()

    def renew(self) -> None:
        """Begin again."""
        self.deaf = False
        self._turn += 1
        turn = self._turn
        self._soon(lambda: self._begin(turn))

    async def close(self) -> None:
        """Stop."""
        self._closed = True
        self._leave()

    def _later(self, fn: Callable[[], None]) -> None:
        turn = self._turn
        if not self.deaf and not self._closed:
            self._soon(lambda: None if self._closed or turn != self._turn else fn())

    def _soon(self, fn: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(fn, context=self._context)

    def _begin(self, turn: int) -> None:
        if self._closed or turn != self._turn:
            return
        self._replay()
        self._ready.set()

    def _replay(self) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError


class _JobWatch(_Watch):
    def __init__(self, cluster: MemoryCluster, sink: JobSink) -> None:
        super().__init__(cluster)
        self._sink = sink

    def _replay(self) -> None:
        self._cluster.job_watches[self] = None
        self._sink.reset()
        for key, (row, stamp) in list(self._cluster.jobs.items()):
            self._hand_over(key, row, stamp)
        self._sink.complete(self._cluster.jobs_seq)

    def _leave(self) -> None:
        self._cluster.job_watches.pop(self, None)

    def send(self, key: str, row: bytes | None, stamp: Stamp) -> None:
        def hand_over() -> None:
            self._hand_over(key, row, stamp)
            self._sink.complete(stamp.seq)

        self._later(hand_over)

    def _hand_over(self, key: str, row: bytes | None, stamp: Stamp) -> None:
        if row is None:
            self._sink.delete(id_of(key), stamp.seq)
        else:
            self._sink.put(decode_row(key, row, stamp))


class _StateWatch(_Watch):
    def __init__(self, cluster: MemoryCluster, sink: StateSink) -> None:
        super().__init__(cluster)
        self._sink = sink

    def _replay(self) -> None:
        cluster = self._cluster
        cluster.state_watches[self] = None
        for node, seen in list(cluster.nodes.values()):
            self._sink.node(node, seen)
        for row, seq in list(cluster.rows.values()):
            self._sink.row(row, seq)
        if cluster.lease is not None:
            self._sink.lease(cluster.lease)

    def _leave(self) -> None:
        self._cluster.state_watches.pop(self, None)

    def send(self, change: Callable[[StateSink], None]) -> None:
        self._later(lambda: change(self._sink))


class _RunWatch(_Watch):
    def __init__(self, cluster: MemoryCluster, job: str | None, fn: Callable[[Run], None]) -> None:
        super().__init__(cluster)
        self._job = job
        self._fn = fn

    def _replay(self) -> None:
        self._cluster.run_watches[self] = None

    def _leave(self) -> None:
        self._cluster.run_watches.pop(self, None)

    def send(self, run: Run) -> None:
        if self._job in (None, run.job):
            self._later(lambda: self._fn(run))


class MemoryLink(LeaderLink):
    """A leader's link to a cluster: a queue of writes that arrive one after the other."""

    def __init__(self, cluster: MemoryCluster, on_reply: OnReply, latency_s: float) -> None:
        self.broken = asyncio.Event()
        self.latency_s = latency_s
        self._cluster = cluster
        self._on_reply = on_reply
        self._writes: deque[Callable[[], object]] = deque()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._moving = False
        # Written bytes travel without the writer; answers arrive on its behalf.
        self._context = contextvars.copy_context()

    @property
    def max_payload(self) -> int:
        """1 MiB, as a NATS server has by default."""
        return MAX_PAYLOAD

    def stage(self, message: Outgoing) -> Staged:
        """Keep the message as it is."""
        size = len(message.body) + sum(len(k) + len(v) + 4 for k, v in message.headers)
        if size > MAX_PAYLOAD:
            raise LimitExceededError(f"message of {size} bytes is over the maximum payload of {MAX_PAYLOAD}")
        return Staged(message, size)

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Queue messages, rows, note; the future resolves when the last of them arrived."""
        self._ensure_whole()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
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


class MemoryStorage:
    """One client of a :class:`MemoryCluster` (default: a cluster of its own)."""

    def __init__(self, cluster: MemoryCluster, latency_s: float = 0.0) -> None:
        self.cluster = cluster
        self.latency_s = latency_s
        self.links: list[MemoryLink] = []
        """The links that were opened and are whole, for tests that cut them."""
        self.watches: list[_Watch] = []

    @property
    def capabilities(self) -> Capabilities:
        """Not durable, not shared between processes, publishes."""
        return Capabilities(durable=False, shared=False, subjects=True)

    async def initialize(self) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """Cut every link, close every watch."""
        for watch in self.watches:
            await watch.close()
        for link in self.links:
            link.abort()

    async def sweep(self) -> None:
        """Forget deletions: a replay leaves them out, and no sequence is needed for what is not there."""
        for key in [k for k, (row, _) in self.cluster.jobs.items() if row is None]:
            del self.cluster.jobs[key]

    async def health_check(self) -> None:
        """Raise StorageUnavailableError while the cluster is down."""
        self.cluster.ensure_up()

    async def _turn(self) -> None:
        await asyncio.sleep(self.latency_s)
        self.cluster.ensure_up()

    # JobStore

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist."""
        await self._turn()
        row, _ = self.cluster.jobs.get(key_of(job.id), (None, None))
        if row is not None:
            raise JobAlreadyExistsError(f"job with subject {job.id} already exists")
        return self.cluster.put_row(key_of(job.id), encode_row(job))

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job."""
        await self._turn()
        self._expect(job.id, expected_revision)
        return self.cluster.put_row(key_of(job.id), encode_row(job))

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete a job."""
        await self._turn()
        row, _ = self.cluster.jobs.get(key_of(job_id), (None, None))
        if row is None:
            raise JobNotFoundError(f"job {job_id!r} not found")
        self._expect(job_id, expected_revision)
        self.cluster.put_row(key_of(job_id), None)

    def _expect(self, job_id: str, revision: int | None) -> None:
        row, stamp = self.cluster.jobs.get(key_of(job_id), (None, Stamp()))
        current = 0 if row is None else stamp.seq
        if revision is not None and revision != current:
            raise WrongRevisionError(f"job {job_id!r} is at revision {current}, not {revision}: read it again")

    async def fetch_job(self, job_id: str) -> Job | None:
        """The stored job."""
        await self._turn()
        row, stamp = self.cluster.jobs.get(key_of(job_id), (None, Stamp()))
        return None if row is None else decode_row(key_of(job_id), row, stamp)

    async def last_jobs_seq(self) -> int:
        """The jobs' last sequence."""
        await self._turn()
        return self.cluster.jobs_seq

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        return self._watch(_JobWatch(self.cluster, sink))

    # LeaseStore

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """A link."""
        await self._turn()
        link = MemoryLink(self.cluster, on_reply, self.latency_s)
        self.links = [whole for whole in self.links if not whole.broken.is_set()] + [link]
        return link

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow lease, rows and nodes."""
        return self._watch(_StateWatch(self.cluster, sink))

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row."""
        await self._turn()
        if row.run_id in self.cluster.rows:
            return False
        self.cluster.put_open(row)
        return True

    async def announce(self, node: Node) -> None:
        """Announce this instance."""
        await self._turn()
        self.cluster.put_node(node)

    async def retract(self, node: Node) -> None:
        """Take it back."""
        await self._turn()
        self.cluster.delete_node(node)

    # ExecutionStore

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records."""
        await self._turn()
        for run in runs:
            self.cluster.put_run(run)

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records."""
        await self._turn()
        jobs = self.cluster.runs.values() if query.job is None else [self.cluster.runs.get(query.job, ())]
        found = [run for run in itertools.chain.from_iterable(jobs) if _matches(run, query)]
        found.sort(key=_instant, reverse=query.descending)
        return found[query.offset : query.offset + query.limit]

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Follow new records."""
        return self._watch(_RunWatch(self.cluster, job, fn))

    def _watch(self, watch: _Watch) -> _Watch:
        self.watches.append(watch)
        return watch


def _instant(run: Run) -> Ms:
    return run.finished_at_ms or run.started_at_ms or run.scheduled_at_ms or run.to_ms or 0


def _matches(run: Run, query: RunQuery) -> bool:
    at = _instant(run)
    return (
        query.run_id in (None, run.run_id)
        and query.status in (None, run.status)
        and (query.since_ms is None or at >= query.since_ms)
        and (query.until_ms is None or at < query.until_ms)
    )
