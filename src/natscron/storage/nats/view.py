"""What this process knows of the run queue: a copy of the bucket of runs, kept by a watch and by our own writes.

Who is authoritative: the bucket. A row counts from the moment its sequence is known, whether the watch brought it or
the acknowledgement of our own write; of two versions the one with the higher sequence counts, so the order in which
they are heard of does not matter. Decisions made here are proposals: each is a compare-and-set on the row's sequence,
and one that was made from an old version is refused and made again.

A watch that is made anew hands over a full set. What is not in it is gone, but only once everything that was stored
until then has been seen: a row may have been written anew while the set was on its way.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from natscron.clock import Clock
from natscron.codec import id_of
from natscron.errors import MalformedInputError, StorageUnavailableError
from natscron.model import Activity, Ms, Run, RunStatus
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.lines import Line, Open
from natscron.storage.nats.roster import Roster
from natscron.storage.nats.runrow import RowState, RunRow, decode_run_row, row_key
from natscron.wire.kv import is_deleted
from natscron.wire.publisher import read_token

__all__ = ["QueueView"]

logger = logging.getLogger("natscron.storage")

_OVER_KEPT: Final = 50_000
_JOBS_KEPT: Final = 100_000
_SAMPLES: Final = 16
_SAMPLED: Final = 8
"""Every eighth message tells something of the store's clock."""
_AHEAD_MS: Final[Ms] = 5
_BEHIND_MS: Final[Ms] = 250
"""Differences between the store's clock and ours that are taken for what a message's way costs."""


class _Last:
    """What is known of a job's runs that are over."""

    __slots__ = ("completed_ms", "finished_ms", "started_ms", "status")

    def __init__(self) -> None:
        self.status: RunStatus | None = None
        self.started_ms: Ms | None = None
        self.finished_ms: Ms | None = None
        self.completed_ms: Ms | None = None


class QueueView:
    """The copy; a :class:`~natscron.wire.consumer.WatchSink`."""

    def __init__(self, options: LibraryOptions, clock: Clock) -> None:
        self.roster = Roster(clock)
        self.rows: dict[str, Open] = {}
        """Runs that are not over."""
        self.going: dict[str, dict[str, Open]] = {}
        self.held: dict[str, dict[str, Open]] = {}
        self.owned: dict[str, dict[str, Open]] = {}
        self.over: OrderedDict[str, int] = OrderedDict()
        """Runs that ended lately, and the sequence of their last row."""
        self.position = 0
        """Everything stored up to this sequence was seen."""
        self.on_wake: Callable[[], None] = lambda: None
        self.on_cancel: Callable[[], None] = lambda: None
        self.on_room: Callable[[str], None] = lambda _job: None
        """A run of this job ended, or one is held."""
        self.on_doubt: Callable[[], None] = lambda: None
        """A full set is there: :meth:`settle` is to be called when all of the store was seen."""
        self.on_stale: Callable[[], None] = lambda: None
        """Everything is to be read once more."""
        self._options = options
        self._clock = clock
        self._cut = len(options.runs_prefix)
        self._lines: dict[str, Line] = {}
        self._last: OrderedDict[str, _Last] = OrderedDict()
        self._offsets: list[Ms] = []
        self.offset_ms: Ms = 0
        """What the store's clock is ahead of ours."""
        self._fresh: set[str] | None = None
        self._doubt: dict[str, int] = {}
        self._reached: list[tuple[int, asyncio.Future[None]]] = []

    # Time.

    def now_ms(self) -> Ms:
        """The store's time, as far as it is known here."""
        return self._clock.now_ms() + self.offset_ms

    def _sample(self, timestamp_ns: int) -> None:
        offsets = self._offsets
        offsets.append(timestamp_ns // 1_000_000 - self._clock.now_ms())
        if len(offsets) >= _SAMPLES:
            # The way to us takes time, never less than none: the largest is the nearest.
            most = max(offsets)
            self.offset_ms = most if most > _AHEAD_MS or most < -_BEHIND_MS else 0
            offsets.clear()

    # WatchSink.

    def on_reset(self) -> None:
        """A full set begins."""
        self._fresh = set()

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        """A row, an announcement, or the end of either."""
        key = subject[self._cut :]
        if self._fresh is None and seq % _SAMPLED == 0:
            self._sample(timestamp_ns)
        if key.startswith("_"):
            if key.startswith("_worker."):
                self.roster.read(id_of(key[8:]), None if is_deleted(headers) else data, seq)
            return
        run_id = read_token(key.rpartition(".")[2])
        if is_deleted(headers):
            self.vanished(run_id, seq)
            return
        if self._fresh is not None:
            self._fresh.add(run_id)
        known = self.rows.get(run_id)
        if (known.seq if known is not None else self.over.get(run_id, 0)) >= seq:
            return  # our own write, which was answered before it came
        try:
            row = decode_run_row(data)
        except MalformedInputError as error:
            logger.warning("run %s cannot be used: %s", key, error)
            return
        self.apply(row, seq)

    def on_complete(self, seq: int) -> None:
        """Everything up to ``seq`` was handed over."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None and seq < self.position:
            self._start_over()
            return
        self.position = max(self.position, seq)
        if fresh is not None:
            self._doubt = {
                run_id: one.seq for run_id, one in self.rows.items() if run_id not in fresh and 0 < one.seq <= seq
            }
            if self._doubt:
                self.on_doubt()
            for job in list(self.held):
                self.on_room(job)
        if self._reached:
            waiting, self._reached = self._reached, []
            for wanted, future in waiting:
                if wanted > self.position:
                    self._reached.append((wanted, future))
                elif not future.done():
                    future.set_result(None)

    def _start_over(self) -> None:
        """The bucket is another than before: it was deleted, and made anew."""
        logger.error("the bucket of runs was made anew: what was known of it is forgotten")
        for one in list(self.rows.values()):
            self._take_out(one)
        self.over.clear()
        self.roster.clear()
        self.position = 0
        self.on_stale()

    async def reached(self, seq: int, timeout_s: float) -> None:
        """Wait until everything stored up to ``seq`` was seen. Raises StorageUnavailableError."""
        if self.position >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reached.append((seq, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise StorageUnavailableError(f"the watch of the run queue is behind after {timeout_s} s") from None

    def settle(self) -> None:
        """All that was stored when the last full set was complete has been seen: what was not in it is gone."""
        doubt, self._doubt = self._doubt, {}
        for run_id, seq in doubt.items():
            if (one := self.rows.get(run_id)) is not None and one.seq == seq:
                self.vanished(run_id, seq + 1)

    # Rows.

    def knows(self, run_id: str) -> bool:
        """Whether the run is here, or ended lately."""
        return run_id in self.rows or run_id in self.over

    def apply(self, row: RunRow, seq: int) -> None:
        """A version of a row that is in the store under ``seq``."""
        run_id = row.run_id
        before = self.rows.get(run_id)
        if before is not None:
            if before.seq >= seq:
                return
            self._take_out(before)
        elif self.over.get(run_id, 0) >= seq:
            return
        if row.state is RowState.OVER:
            self._ended(row, seq)
            if before is not None and before.row.going:
                self.on_room(row.job)
            return
        self.over.pop(run_id, None)
        one = Open(row, seq, self._clock.trust_s(), row_key(row) if before is None else before.key)
        if before is not None and before.row.state is row.state and before.row.attempt == row.attempt:
            one.since_s, one.marked = before.since_s, before.marked
        self._put_in(one)

    def enter(self, row: RunRow) -> Open:
        """A run that is on its way to the store."""
        one = Open(row, 0, self._clock.trust_s(), row_key(row))
        one.busy = True
        self._put_in(one)
        return one

    def withdraw(self, one: Open) -> None:
        """It did not get there."""
        if self.rows.get(one.row.run_id) is one:
            self._take_out(one)

    def free(self, one: Open) -> None:
        """Our write on it came to nothing."""
        one.busy = False
        if one.claimable:
            self._lines.setdefault(one.row.handler, Line()).put(one)
            self.on_wake()

    def _put_in(self, one: Open) -> None:
        row = one.row
        self.rows[row.run_id] = one
        if row.state is RowState.HELD:
            self.held.setdefault(row.job, {})[row.run_id] = one
            self.on_room(row.job)
            return
        self.going.setdefault(row.job, {})[row.run_id] = one
        if row.state is RowState.RUNNING:
            self.owned.setdefault(row.worker, {})[row.run_id] = one
            if row.cancel:
                self.on_cancel()
        elif one.seq:
            self._lines.setdefault(row.handler, Line()).put(one)
            self.on_wake()

    def _take_out(self, one: Open) -> None:
        row = one.row
        one.alive = False
        self.rows.pop(row.run_id, None)
        _forget(self.held if row.state is RowState.HELD else self.going, row.job, row.run_id)
        if row.state is RowState.RUNNING:
            _forget(self.owned, row.worker, row.run_id)

    def _ended(self, row: RunRow, seq: int) -> None:
        self.over[row.run_id] = seq
        self.over.move_to_end(row.run_id)
        if len(self.over) > _OVER_KEPT:
            self.over.popitem(last=False)
        if row.status is not None and row.status is not RunStatus.SKIPPED:
            self.saw_end(row.job, row.status, row.started_ms or None, row.finished_ms or None)

    def saw_end(self, job: str, status: RunStatus, started_ms: Ms | None, finished_ms: Ms | None) -> None:
        """A run of the job is over; what is kept is what was told of the newest."""
        last = self._last_of(job)
        if last.finished_ms is None or (finished_ms or 0) >= last.finished_ms:
            last.status, last.started_ms, last.finished_ms = status, started_ms, finished_ms
        if status is RunStatus.COMPLETED:
            last.completed_ms = max(finished_ms or 0, last.completed_ms or 0)

    def saw_none(self, job: str) -> None:
        """The log knows of no run of the job that is over."""
        self._last_of(job)

    def _last_of(self, job: str) -> _Last:
        last = self._last.get(job)
        if last is None:
            last = self._last[job] = _Last()
            if len(self._last) > _JOBS_KEPT:
                self._last.popitem(last=False)
        return last

    def forget_ends(self, job: str) -> None:
        """Nothing is left of what is over of this job."""
        self._last.pop(job, None)

    def vanished(self, run_id: str, seq: int) -> None:
        """Its row expired, or somebody deleted it."""
        one = self.rows.get(run_id)
        if one is not None and one.seq < seq:
            self._take_out(one)
            self.over[run_id] = seq
            if one.row.going:
                self.on_room(one.row.job)

    # Looks.

    def lines(self, handlers: Iterable[str]) -> list[Line]:
        """The lines of these handlers that hold anything."""
        found = []
        for name in dict.fromkeys(handlers):
            line = self._lines.get(name)
            if line is not None:
                found.append(line)
        return found

    def next_ms(self, handlers: Iterable[str], now_ms: Ms) -> Ms | None:
        """When the next run of these handlers is due of those that are not."""
        instants: list[Ms] = []
        for name in dict.fromkeys(handlers):
            line = self._lines.get(name)
            if line is None:
                continue
            if (at_ms := line.next_ms(now_ms)) is not None:
                instants.append(at_ms)
            elif line.head(now_ms) is None:
                del self._lines[name]
        return min(instants, default=None)

    def held_of(self, job: str) -> list[Open]:
        """What is held of a job, the oldest first; what is on its way to the store last."""
        return sorted(self.held.get(job, {}).values(), key=lambda one: one.seq or 1 << 62)

    def mark_unhandled(self, now_ms: Ms) -> int:
        """Mark due runs whose handler nobody has; how many."""
        known = {name for info in self.roster.alive() for name in info.handlers}
        found = 0
        for name, line in self._lines.items():
            for one in line.all_due(now_ms):
                one.marked = name not in known
                found += one.marked
        return found

    def open_runs(self, job: str | None, unhandled: Callable[[Open], str | None]) -> list[Run]:
        """The records of the tries that are not over."""
        if job is None:
            found: Iterable[Open] = self.rows.values()
        else:
            found = [*self.going.get(job, {}).values(), *self.held.get(job, {}).values()]
        return [one.row.as_run(unhandled(one)) for one in found]

    def activity(self, jobs: Sequence[str]) -> Mapping[str, Activity]:
        """What is known of these jobs' runs; those of which nothing is are left out."""
        found: dict[str, Activity] = {}
        for job in jobs:
            going, held, last = self.going.get(job, {}), self.held.get(job, {}), self._last.get(job)
            if not going and not held and (last is None or last.status is None):
                continue
            running = sum(one.row.state is RowState.RUNNING for one in going.values())
            found[job] = Activity(
                running=running,
                waiting=len(going) - running + len(held),
                status=None if last is None else last.status,
                started_ms=None if last is None else last.started_ms,
                finished_ms=None if last is None else last.finished_ms,
            )
        return found

    def ends_known(self, job: str) -> bool:
        """Whether anything is known of the job's runs that are over."""
        return job in self._last

    def completed_ms(self, job: str) -> Ms | None:
        """When a run of the job last completed, as far as is known here."""
        last = self._last.get(job)
        return None if last is None else last.completed_ms


def _forget(groups: dict[str, dict[str, Open]], name: str, run_id: str) -> None:
    group = groups.get(name)
    if group is not None:
        group.pop(run_id, None)
        if not group:
            del groups[name]
