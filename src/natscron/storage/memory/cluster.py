"""What the servers hold, and the watches that they feed."""

import asyncio
import contextvars
import itertools
from collections import deque
from collections.abc import Callable, Sequence

from natscron.clock import Clock
from natscron.codec import decode_row, id_of
from natscron.codec.calendar import calendar_name_of, decode_calendar
from natscron.errors import (
    StorageUnavailableError,
)
from natscron.model import Lease, LeaseRecord, Ms, Node, Note, NoteRef, OpenRow, Run, Stamp
from natscron.storage.memory.queue import MemoryQueue
from natscron.storage.protocol import (
    JobSink,
    Outgoing,
    Reply,
    StateSink,
    recorded_ms,
)
from natscron.storage.queue import QueueSink, record_id

OnMessage = Callable[[Outgoing], Reply | None]


class MemoryCluster:
    """What the servers hold. ``on_message`` receives every message; what it returns is the answer.

    ``runs_per_job`` records are kept of each job, and ``runs_max`` of all together; over that the job whose last record
    is the oldest loses all of its own.
    """

    def __init__(
        self,
        clock: Clock,
        on_message: OnMessage | None = None,
        runs_per_job: int = 100,
        runs_max: int = 1_000_000,
    ) -> None:
        self.clock = clock
        self.up = True
        """False: nothing can be reached."""
        self.jobs: dict[str, tuple[bytes | None, Stamp]] = {}
        """Row and stamp by key, jobs' and calendars'; None: deleted by that write."""
        self.jobs_seq = 0
        self.state_seq = 0
        self.lease: LeaseRecord | None = None
        self.notes: dict[NoteRef, tuple[Note, int]] = {}
        self.rows: dict[str, tuple[OpenRow, int]] = {}
        self.nodes: dict[tuple[str, str], tuple[Node, Ms]] = {}
        self.runs: dict[str, deque[Run]] = {}
        """By job, those with the oldest last record first."""
        self.queue = MemoryQueue(clock, self.put_run)
        self.on_message = on_message or (lambda _message: None)
        self._runs_per_job = runs_per_job
        self._runs_max = runs_max
        self._runs_kept = 0
        self.job_watches: dict[JobWatch, None] = {}
        self.state_watches: dict[StateWatch, None] = {}
        self.run_watches: dict[RunWatch, None] = {}

    def copy_of_rows(self) -> "MemoryCluster":
        """Another cluster that begins with the same jobs and calendars."""
        other = MemoryCluster(self.clock, self.on_message, self._runs_per_job, self._runs_max)
        other.jobs, other.jobs_seq = dict(self.jobs), self.jobs_seq
        return other

    def ensure_up(self) -> None:
        """Raise StorageUnavailableError while the cluster is down."""
        if not self.up:
            raise StorageUnavailableError("the storage is not reachable")

    def put_row(self, key: str, row: bytes | None) -> int:
        """Write a job's or a calendar's row (None: delete); its sequence."""
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
        kept = self.runs.pop(run.job, None)
        if kept is None:
            kept = deque(maxlen=self._runs_per_job)
        self.runs[run.job] = kept
        self._runs_kept += len(kept) < self._runs_per_job
        kept.append(run)
        while self._runs_kept > self._runs_max and len(self.runs) > 1:
            oldest = next(iter(self.runs))
            self._runs_kept -= len(self.runs.pop(oldest))
            self.queue.forget(oldest)
        for watch in tuple(self.run_watches):
            watch.send(run)

    def import_runs(self, runs: Sequence[Run], *, dry_run: bool) -> list[bool]:
        """Take over records of another store, those that there is room for; for each whether it is new and stored."""
        new: dict[str, dict[str, Run]] = {}
        known: dict[str, set[str]] = {}
        for run in runs:
            if run.job not in known:
                here = itertools.chain(self.runs.get(run.job, ()), self.queue.open_runs(run.job))
                known[run.job] = {record_id(one) for one in here}
            if (name := record_id(run)) not in known[run.job]:
                new.setdefault(run.job, {}).setdefault(name, run)
        stored: set[int] = set()
        for job_id, records in new.items():
            before = self.runs.get(job_id, ())
            # Nobody else's records make room for them, and of the job's own the newest stay.
            room = min(self._runs_per_job, len(before) + max(0, self._runs_max - self._runs_kept))
            kept = sorted([*before, *records.values()], key=recorded_ms)[-room:] if room else []
            added = {id(run) for run in kept} & {id(run) for run in records.values()}
            stored |= added
            if added and not dry_run:
                self._runs_kept += len(kept) - len(before)
                self.runs[job_id] = deque(kept, maxlen=self._runs_per_job)
                for run in kept:
                    if id(run) in added:
                        self.queue.imported(run)
        return [id(run) in stored for run in runs]

    def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records up to an instant, inclusive; how many."""
        runs = self.runs.get(job_id)
        if runs is None:
            return 0
        left = [run for run in runs if recorded_ms(run) > before_ms]
        gone = len(runs) - len(left)
        self._runs_kept -= gone
        runs.clear()
        runs.extend(left)
        if not left:
            del self.runs[job_id]
            self.queue.forget(job_id)
        return gone

    def _tell(self, change: Callable[[StateSink], None]) -> None:
        for watch in tuple(self.state_watches):
            watch.send(change)


class MemoryWatch:
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

    @property
    def closed(self) -> bool:
        """Nothing is handed over any more."""
        return self._closed

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


class JobWatch(MemoryWatch):
    """Follows the jobs."""

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
        """Tell of a write."""

        def hand_over() -> None:
            self._hand_over(key, row, stamp)
            self._sink.complete(stamp.seq)

        self._later(hand_over)

    def _hand_over(self, key: str, row: bytes | None, stamp: Stamp) -> None:
        name = calendar_name_of(key)
        if name is not None:
            if row is None:
                self._sink.delete_calendar(name, stamp.seq)
            else:
                self._sink.put_calendar(decode_calendar(key, row, stamp))
        elif row is None:
            self._sink.delete(id_of(key), stamp.seq)
        else:
            self._sink.put(decode_row(key, row, stamp))


class StateWatch(MemoryWatch):
    """Follows lease, open rows and nodes."""

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
        """Tell of a change."""
        self._later(lambda: change(self._sink))


class RunWatch(MemoryWatch):
    """Follows new records."""

    def __init__(self, cluster: MemoryCluster, job: str | None, fn: Callable[[Run], None]) -> None:
        super().__init__(cluster)
        self._job = job
        self._fn = fn

    def _replay(self) -> None:
        self._cluster.run_watches[self] = None

    def _leave(self) -> None:
        self._cluster.run_watches.pop(self, None)

    def send(self, run: Run) -> None:
        """Tell of a record."""
        if self._job in (None, run.job):
            self._later(lambda: self._fn(run))


class QueueWatch(MemoryWatch):
    """Follows the run queue; many changes of one loop turn wake once."""

    def __init__(self, cluster: MemoryCluster, sink: QueueSink) -> None:
        super().__init__(cluster)
        self._sink = sink
        self._told = False

    def _replay(self) -> None:
        self._cluster.queue.watches[self] = None
        # What was to be told when the watch fell silent, or was renewed, never will be.
        self._told = False
        self._sink.wake()

    def _leave(self) -> None:
        self._cluster.queue.watches.pop(self, None)

    def wake(self) -> None:
        """Runs may have become claimable."""
        if not self._told:
            self._told = True
            self._later(self._hand_over)

    def _hand_over(self) -> None:
        self._told = False
        self._sink.wake()

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        self._later(self._sink.cancel)

    def left_out(self, run: Run) -> None:
        """A run was left out by the client whose watch this is."""
        self._later(lambda: self._sink.left_out(run))
