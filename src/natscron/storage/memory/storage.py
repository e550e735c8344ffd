"""One client of a cluster."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from natscron.clock import SystemClock
from natscron.codec import decode_row, encode_row, key_of
from natscron.codec.calendar import calendar_key, decode_calendar, encode_calendar
from natscron.errors import (
    CalendarNotFoundError,
    JobAlreadyExistsError,
    JobNotFoundError,
    WrongRevisionError,
)
from natscron.model import (
    SERVICE_JOB,
    Activity,
    Calendar,
    Claim,
    Claimed,
    Ending,
    Job,
    Ms,
    Node,
    OpenRow,
    Run,
    Stamp,
    WorkerInfo,
)
from natscron.storage.memory.cluster import JobWatch, MemoryCluster, MemoryWatch, QueueWatch, RunWatch, StateWatch
from natscron.storage.memory.link import MemoryLink
from natscron.storage.protocol import (
    Capabilities,
    JobSink,
    LeaderLink,
    OnReply,
    RunOrder,
    RunQuery,
    StateSink,
    Watch,
    recorded_ms,
    slot_of,
)
from natscron.storage.queue import QueueSink


class MemoryStorage:
    """One client of a :class:`MemoryCluster` (default: a cluster of its own)."""

    def __init__(self, cluster: MemoryCluster | None = None, latency_s: float = 0.0) -> None:
        self.cluster = cluster or MemoryCluster(SystemClock())
        self.latency_s = latency_s
        self.links: list[MemoryLink] = []
        """The links that were opened and are whole, for tests that cut them."""
        self.watches: list[MemoryWatch] = []

    @property
    def capabilities(self) -> Capabilities:
        """Not durable, not shared between processes; publishes, and has a run queue."""
        return Capabilities(durable=False, shared=False, subjects=True, queue=True)

    async def initialize(self) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """Cut every link, close every watch."""
        for watch in self.watches:
            await watch.close()
        for link in self.links:
            link.abort()

    def in_child(self) -> "MemoryStorage":
        """In a process that was forked: a storage with a copy of the jobs and calendars, and nothing else.

        What is done to one copy from then on, the other does not learn of: both fire.
        """
        return MemoryStorage(self.cluster.copy_of_rows(), self.latency_s)

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
        if self._row(key_of(job.id)) is not None:
            raise JobAlreadyExistsError(f"job with subject {job.id} already exists")
        return self.cluster.put_row(key_of(job.id), encode_row(job))

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job."""
        await self._turn()
        key = key_of(job.id)
        self._expect(key, f"job {job.id!r}", expected_revision)
        return self.cluster.put_row(key, encode_row(job))

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete a job."""
        await self._turn()
        key = key_of(job_id)
        if self._row(key) is None:
            raise JobNotFoundError(f"job {job_id!r} not found")
        self._expect(key, f"job {job_id!r}", expected_revision)
        self.cluster.put_row(key, None)

    async def fetch_job(self, job_id: str) -> Job | None:
        """The stored job."""
        await self._turn()
        found = self._row(key_of(job_id))
        return None if found is None else decode_row(key_of(job_id), *found)

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar."""
        await self._turn()
        key, row = calendar_key(calendar.name), encode_calendar(calendar)
        self._expect(key, f"calendar {calendar.name!r}", expected_revision)
        return self.cluster.put_row(key, row)

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete a calendar."""
        await self._turn()
        key = calendar_key(name)
        if self._row(key) is None:
            raise CalendarNotFoundError(f"calendar {name!r} not found")
        self._expect(key, f"calendar {name!r}", expected_revision)
        self.cluster.put_row(key, None)

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The stored calendar."""
        await self._turn()
        key = calendar_key(name)
        found = self._row(key)
        return None if found is None else decode_calendar(key, *found)

    def _row(self, key: str) -> tuple[bytes, Stamp] | None:
        row, stamp = self.cluster.jobs.get(key, (None, Stamp()))
        return None if row is None else (row, stamp)

    def _expect(self, key: str, what: str, revision: int | None) -> None:
        found = self._row(key)
        current = 0 if found is None else found[1].seq
        if revision is not None and revision != current:
            raise WrongRevisionError(f"{what} is at revision {current}, not {revision}: read it again")

    async def last_jobs_seq(self) -> int:
        """The jobs' last sequence."""
        await self._turn()
        return self.cluster.jobs_seq

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        return self._watch(JobWatch(self.cluster, sink))

    # LeaseStore

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """A link."""
        await self._turn()
        link = MemoryLink(self.cluster, on_reply, self.latency_s, self._left_out)
        self.links = [whole for whole in self.links if not whole.broken.is_set()] + [link]
        return link

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow lease, rows and nodes."""
        return self._watch(StateWatch(self.cluster, sink))

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row."""
        await self._turn()
        if row.run_id in self.cluster.rows:
            return False
        self.cluster.put_open(row)
        return True

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row."""
        await self._turn()
        found = self.cluster.rows.get(run_id)
        return None if found is None else found[0]

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
        runs = itertools.chain(itertools.chain.from_iterable(jobs), self.cluster.queue.open_runs(query.job))
        found = [run for run in runs if _matches(run, query)]
        found.sort(key=_ORDERS[query.order], reverse=query.descending)
        return found[query.offset : query.offset + query.limit]

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slots of the newest runs."""
        await self._turn()
        found: dict[str, Ms] = {}
        for job_id in job_ids:
            slots = (slot_of(run) for run in reversed(self.cluster.runs.get(job_id, ())))
            if (slot := next((one for one in slots if one is not None), None)) is not None:
                found[job_id] = slot
        return found

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Follow new records."""
        return self._watch(RunWatch(self.cluster, job, fn))

    # RunQueue

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """Take runs that are due."""
        await self._turn()
        return self.cluster.queue.claim(worker, handlers, limit)

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """End tries."""
        await self._turn()
        return self.cluster.queue.finish(worker, endings)

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """Make claimed runs claimable again."""
        await self._turn()
        self.cluster.queue.give_back(worker, claims)

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """Announce a worker."""
        await self._turn()
        return self.cluster.queue.beat(worker)

    async def retire(self, worker: str) -> None:
        """Take a worker's announcement back."""
        await self._turn()
        self.cluster.queue.retire(worker)

    async def workers(self) -> Sequence[WorkerInfo]:
        """Those that are alive."""
        await self._turn()
        return self.cluster.queue.workers()

    async def lost(self, limit: int) -> Sequence[Claim]:
        """Tries whose worker is not alive."""
        await self._turn()
        return self.cluster.queue.lost(limit)

    async def mark_unhandled(self) -> int:
        """Show which due runs no live worker has a handler for."""
        await self._turn()
        return self.cluster.queue.mark_unhandled()

    async def drop_runs(self, job_id: str, generation: int) -> int:
        """End what waits of a removed job."""
        await self._turn()
        return self.cluster.queue.drop_runs(job_id, generation)

    async def redrive(self, run_id: str) -> bool:
        """Queue another try."""
        await self._turn()
        return self.cluster.queue.redrive(run_id)

    async def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """What the runs of these jobs are doing."""
        await self._turn()
        return self.cluster.queue.activity(job_ids)

    async def delete_runs(self, job_id: str, before_ms: Ms) -> int:
        """Delete a job's records up to an instant."""
        await self._turn()
        return self.cluster.delete_runs(job_id, before_ms)

    async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
        """Take over records from another store."""
        await self._turn()
        return self.cluster.import_runs(runs, dry_run=dry_run)

    def watch_queue(self, sink: QueueSink) -> Watch:
        """Follow the run queue."""
        return self._watch(QueueWatch(self.cluster, sink))

    def _left_out(self, run: Run) -> None:
        for watch in self.watches:
            if isinstance(watch, QueueWatch):
                watch.left_out(run)

    def _watch(self, watch: MemoryWatch) -> MemoryWatch:
        self.watches = [other for other in self.watches if not other.closed] + [watch]
        return watch


_ORDERS: Final[Mapping[RunOrder, Callable[[Run], Ms]]] = {
    RunOrder.RECORDED: recorded_ms,
    RunOrder.START_TIME: lambda run: run.started_at_ms or 0,
    RunOrder.END_TIME: lambda run: run.finished_at_ms or 0,
    RunOrder.DURATION: lambda run: -1 if run.duration_ms is None else run.duration_ms,
}


def _matches(run: Run, query: RunQuery) -> bool:
    at = recorded_ms(run)
    return (
        query.run_id in (None, run.run_id)
        and (query.service or query.job is not None or run.job != SERVICE_JOB)
        and query.status in (None, run.status)
        and (query.since_ms is None or at >= query.since_ms)
        and (query.until_ms is None or at < query.until_ms)
    )
