"""What the checks share: sinks that can be waited for, and a job."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, S101

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from natscron.model import Calendar, Job, LeaseRecord, Ms, Node, OpenRow, Run, ScheduleSpec
from natscron.storage.protocol import Reply

WAIT_S: Final = 15.0
"""How long a watch may take to hand over what was written."""


class Changing:
    """Something that is told of changes, and can be waited for."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until ``done()``; TimeoutError after :data:`WAIT_S`."""
        async with asyncio.timeout(WAIT_S):
            while not done():
                self._changed.clear()
                await self._changed.wait()


class Jobs(Changing):
    """A job sink that keeps what a table would."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.calendars: dict[str, Calendar] = {}
        self.order: list[str] = []
        """Ids and names in the order in which they came, ``-`` before those deleted."""
        self.seq = -1
        self._fresh: tuple[set[str], set[str]] | None = None

    def reset(self) -> None:
        self._fresh = (set(), set())

    def put(self, job: Job) -> None:
        self.order.append(job.id)
        self.jobs[job.id] = job
        if self._fresh is not None:
            self._fresh[0].add(job.id)

    def delete(self, job_id: str, seq: int) -> None:
        del seq
        self.order.append("-" + job_id)
        self.jobs.pop(job_id, None)

    def put_calendar(self, calendar: Calendar) -> None:
        self.order.append(calendar.name)
        self.calendars[calendar.name] = calendar
        if self._fresh is not None:
            self._fresh[1].add(calendar.name)

    def delete_calendar(self, name: str, seq: int) -> None:
        del seq
        self.order.append("-" + name)
        self.calendars.pop(name, None)

    def complete(self, seq: int) -> None:
        if self._fresh is not None:
            jobs, calendars = self._fresh
            self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in jobs}
            self.calendars = {name: one for name, one in self.calendars.items() if name in calendars}
            self._fresh = None
        assert seq >= self.seq, "the sequence went back"
        self.seq = seq
        self._changed.set()


class State(Changing):
    """A state sink that keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[LeaseRecord] = []
        self.rows: dict[str, OpenRow] = {}
        self.nodes: dict[tuple[str, str], Node] = {}

    def lease(self, record: LeaseRecord) -> None:
        self.leases.append(record)
        self._changed.set()

    def row(self, row: OpenRow, revision: int) -> None:
        del revision
        self.rows[row.run_id] = row
        self._changed.set()

    def row_gone(self, run_id: str) -> None:
        self.rows.pop(run_id, None)
        self._changed.set()

    def newer(self, record: str, why: str | None) -> None:
        """Records of later versions are no part of the checks."""

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        del stored_at_ms
        self.nodes[node.instance, node.nonce] = node
        self._changed.set()

    def node_gone(self, instance: str, nonce: str) -> None:
        self.nodes.pop((instance, nonce), None)
        self._changed.set()


class Runs(Changing):
    """Keeps followed records."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Run] = []

    def __call__(self, run: Run) -> None:
        self.runs.append(run)
        self._changed.set()


async def fails(error: type[Exception], attempt: Awaitable[object]) -> None:
    """``attempt`` must raise ``error``."""
    try:
        await attempt
    except error:
        return
    raise AssertionError(f"expected {error.__name__}")


EVERY: Final = ScheduleSpec(every="30s")


def ignore(_reply: Reply) -> None:
    """Take a reply and do nothing."""
    return


def a_job(job_id: str = "jobs.a", **labels: str) -> Job:
    """A job with these labels."""
    return Job(id=job_id, schedule=EVERY, labels=labels)
