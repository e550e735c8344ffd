"""The hot table: every job, compiled, in every instance.

The store is authoritative; a watch hands its rows to :meth:`JobTable.put` in the order of their sequence. ``seq`` says
up to which sequence the table is complete, and a leader's mark names it, so it must never run ahead of what the table
holds, nor may the table hold a revision beyond it while a decision is made. Live changes keep both equal. A watch that
is made anew replays everything: rows that did not change are recognised by their revision, the others are held back
until the replay is complete and then taken over at once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from natscron.errors import InvalidScheduleError
from natscron.model import Job
from natscron.schedule import Schedule, compile_schedule

Listener = Callable[[str, "Entry | None"], None]
Admits = Callable[[Job], str | None]
"""Why a job can never be sent, None if it can: the target's word."""

_WAITERS_MAX: Final = 10_000


class Entry:
    """One row of the table. Read-only. ``schedule`` is None exactly when ``job.invalid`` is set."""

    __slots__ = ("job", "schedule", "warnings")

    def __init__(self, job: Job, schedule: Schedule | None, warnings: tuple[str, ...]) -> None:
        self.job = job
        self.schedule = schedule
        self.warnings = warnings


def compile_entry(job: Job, min_interval_ns: int, admits: Admits = lambda _job: None) -> Entry:
    """Compile a stored job; one that cannot be honoured comes back with ``invalid`` set, and nothing is raised."""
    if job.invalid is None and job.schedule is None:
        job = _with_invalid(job, "the row has no schedule")
    if job.invalid is None and (why := admits(job)) is not None:
        job = _with_invalid(job, why)
    if job.invalid is not None or job.schedule is None:
        return Entry(job, None, ())
    try:
        compiled = compile_schedule(
            job.schedule, anchor_ms=job.anchor_ms, seed=job.id, min_interval_ns=min_interval_ns, lenient=True
        )
    except InvalidScheduleError as error:
        return Entry(_with_invalid(job, str(error)), None, ())
    return Entry(job, compiled.schedule, compiled.warnings)


def _with_invalid(job: Job, why: str) -> Job:
    return msgspec.structs.replace(job, invalid=why)


def _same_write(known: Job, job: Job) -> bool:
    """Sequences begin again when a stream is made anew; the time of the write tells the two apart."""
    return known.revision == job.revision and known.updated_at_ms == job.updated_at_ms


class JobTable:
    """All jobs by id, in the order of their last write (the order in which the Go version lists)."""

    def __init__(self, min_interval_ns: int, admits: Admits = lambda _job: None) -> None:
        self.seq = 0
        self._admits = admits
        self._min_interval_ns = min_interval_ns
        self.newer: set[str] = set()
        """Jobs whose rows need a later version of this code."""
        self._entries: dict[str, Entry] = {}
        self._listeners: list[Listener] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._loaded = False
        self._replay: dict[str, Entry | None] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, job_id: str) -> Entry | None:
        """The job's entry, None if there is no such job."""
        return self._entries.get(job_id)

    def entries(self) -> list[Entry]:
        """All entries, oldest change first."""
        return list(self._entries.values())

    def listen(self, fn: Listener) -> None:
        """Call ``fn(job_id, entry)`` after each change; entry None when the job was deleted."""
        self._listeners.append(fn)

    async def wait_for(self, seq: int, timeout_s: float) -> bool:
        """Wait until the table is complete up to ``seq``; False if it is not within the time."""
        if self.seq >= seq:
            return True
        if len(self._waiters) >= _WAITERS_MAX:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((seq, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return self.seq >= seq
        finally:
            self._waiters = [w for w in self._waiters if w[1] is not future]
        return True

    # The JobSink that the store's watch calls.

    def reset(self) -> None:
        """A replay begins."""
        self._replay = {}

    def put(self, job: Job) -> None:
        """A row, live or replayed."""
        if self._replay is None:
            self._apply(job)
            self.seq = max(self.seq, job.revision)
            return
        known = self._entries.get(job.id)
        if known is not None and _same_write(known.job, job):
            self._replay[job.id] = None
        elif self._loaded:
            self._replay[job.id] = compile_entry(job, self._min_interval_ns, self._admits)
        else:
            self._replay[job.id] = None
            self._apply(job)

    def delete(self, job_id: str, seq: int) -> None:
        """A deletion, live or replayed."""
        if self._replay is not None:
            self._replay.pop(job_id, None)
            return
        self._remove(job_id)
        self.seq = max(self.seq, seq)

    def complete(self, seq: int) -> None:
        """The replay is over, or a live change is in."""
        if self._replay is not None:
            replay, self._replay = self._replay, None
            for job_id in [i for i in self._entries if i not in replay]:
                self._remove(job_id)
            for entry in replay.values():
                if entry is not None:
                    self._take_in(entry)
            # Also backwards: then the stream was made anew, and what was known of the old one is void.
            self._loaded, self.seq = True, seq
        self.seq = max(self.seq, seq)
        if self._waiters:
            for wanted, future in self._waiters:
                if self.seq >= wanted and not future.done():
                    future.set_result(None)

    def _apply(self, job: Job) -> None:
        known = self._entries.get(job.id)
        if known is None or known.job.revision <= job.revision:
            self._take_in(compile_entry(job, self._min_interval_ns, self._admits))

    def _take_in(self, entry: Entry) -> None:
        job = entry.job
        self._entries.pop(job.id, None)
        self._entries[job.id] = entry
        if job.newer:
            self.newer.add(job.id)
        else:
            self.newer.discard(job.id)
        for fn in self._listeners:
            fn(job.id, entry)

    def _remove(self, job_id: str) -> None:
        if self._entries.pop(job_id, None) is not None:
            self.newer.discard(job_id)
            for fn in self._listeners:
                fn(job_id, None)
