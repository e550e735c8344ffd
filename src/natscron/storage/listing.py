"""What a storage holds, read once: its jobs and calendars, its records, and the lease with what lies beside it.

A store has no list of jobs: whoever needs all of them follows them until the first full set is there, and stops.
Reading writes nothing. A watch waits for ever for a store that is away; who reads once does not: a watch that hands
over nothing for :data:`SILENCE_S` is given up.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Final

import msgspec

from natscron.errors import StorageUnavailableError
from natscron.model import Calendar, Job, LeaseRecord, Ms, Node, OpenRow, Run
from natscron.storage.protocol import ExecutionStore, JobStore, LeaseStore, RunQuery, Watch, recorded_ms

__all__ = ["PAGE", "SILENCE_S", "Holdings", "State", "list_jobs", "list_records", "read_state"]

PAGE: Final = 1_000
SILENCE_S: Final = 30.0


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs and calendars, each in the order of their last writes, up to the write ``seq``."""

    jobs: tuple[Job, ...]
    calendars: tuple[Calendar, ...]
    seq: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The lease (None: there never was one), the open rows, and the instances that are announced.

    ``newer``: why the lease needs a later version of this code; None: it does not.
    """

    lease: LeaseRecord | None
    rows: tuple[OpenRow, ...]
    nodes: tuple[Node, ...]
    newer: str | None = None


async def list_jobs(store: JobStore) -> Holdings:
    """All jobs, also those that cannot be read, and calendars. Raises StorageUnavailableError."""
    sink = _Jobs()
    await _fill(store.watch_jobs(sink), sink, "jobs")
    return Holdings(jobs=tuple(sink.jobs.values()), calendars=tuple(sink.calendars.values()), seq=sink.seq)


async def read_state(store: LeaseStore) -> State:
    """The lease, the open rows and the instances. Raises StorageUnavailableError."""
    sink = _State()
    await _fill(store.watch_state(sink), sink, "lease")
    rows, nodes = tuple(sink.rows.values()), tuple(sink.nodes.values())
    return State(lease=sink.record, rows=rows, nodes=nodes, newer=sink.newer_lease)


async def list_records(store: ExecutionStore, job_id: str | None) -> AsyncGenerator[Sequence[Run], None]:
    """All records of a job, or of all jobs (None), the oldest first and each once, in pages of at most :data:`PAGE`.

    Each page begins at the instant at which the one before ended: counting from the first takes longer and longer.
    """
    since_ms: Ms | None = None
    seen: Collection[Run] = ()
    offset = 0
    while True:
        query = RunQuery(job=job_id, since_ms=since_ms, descending=False, limit=PAGE, offset=offset)
        page = await store.list_runs(query)
        fresh = [run for run in page if run not in seen]
        if fresh:
            yield fresh
        elif len(page) < PAGE:
            # Only then: a store leaves out of a page what it cannot read.
            return
        last_ms = recorded_ms(page[-1])
        if last_ms == since_ms:
            # More than a page at one instant.
            offset += PAGE
            continue
        since_ms, offset = last_ms, 0
        seen = {run for run in page if recorded_ms(run) == last_ms}


async def _fill(watch: Watch, sink: "_Hearing", what: str) -> None:
    ready = asyncio.ensure_future(watch.ready())
    try:
        while not ready.done():
            heard = sink.heard
            await asyncio.wait([ready], timeout=SILENCE_S)
            if not ready.done() and sink.heard == heard:
                raise StorageUnavailableError(f"the storage did not hand over its {what} within {SILENCE_S:g}s")
        await ready
    finally:
        ready.cancel()
        try:
            await asyncio.wait([ready])
        finally:
            await watch.close()


class _Hearing:
    heard = 0
    """Counts calls: how one that is slow is told from one that is silent."""


class _Jobs(_Hearing):
    """A JobSink."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.calendars: dict[str, Calendar] = {}
        self.seq = 0

    def reset(self) -> None:
        self.heard += 1
        self.jobs.clear()
        self.calendars.clear()

    def put(self, job: Job) -> None:
        self.heard += 1
        self.jobs.pop(job.id, None)
        self.jobs[job.id] = job

    def delete(self, job_id: str, seq: int) -> None:
        del seq
        self.heard += 1
        self.jobs.pop(job_id, None)

    def put_calendar(self, calendar: Calendar) -> None:
        self.heard += 1
        self.calendars.pop(calendar.name, None)
        self.calendars[calendar.name] = calendar

    def delete_calendar(self, name: str, seq: int) -> None:
        del seq
        self.heard += 1
        self.calendars.pop(name, None)

    def complete(self, seq: int) -> None:
        self.heard += 1
        self.seq = seq


class _State(_Hearing):
    """A StateSink."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.rows: dict[str, OpenRow] = {}
        self.nodes: dict[tuple[str, str], Node] = {}
        self.newer_lease: str | None = None

    def lease(self, record: LeaseRecord) -> None:
        self.heard += 1
        self.record = record

    def row(self, row: OpenRow, revision: int) -> None:
        del revision
        self.heard += 1
        self.rows[row.run_id] = row

    def row_gone(self, run_id: str) -> None:
        self.heard += 1
        self.rows.pop(run_id, None)

    def newer(self, record: str, why: str | None) -> None:
        self.heard += 1
        if "lease" in record:  # how a store calls its records is its own affair
            self.newer_lease = why

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        del stored_at_ms
        self.heard += 1
        self.nodes[node.instance, node.nonce] = node

    def node_gone(self, instance: str, nonce: str) -> None:
        self.heard += 1
        self.nodes.pop((instance, nonce), None)
