"""Jobs that the store times: which timers there are to be, and what the leader makes of one that fired.

Who is authoritative: the jobs' rows, and the planner, which has the slots of these jobs like all others, only
:data:`~natscron.model.SERVER_LAG_MS` later than they are. A firing says that a slot's time has come; the slot follows
from the firing, the run's id from the slot, and so both the leader's own look at the slot and a further firing of it
come to a run that is there already. So whatever the store's timers do, each slot has one run:

* A timer fires twice, or its firing is told twice: the second finds the slot decided, or its run known.
* A timer does not fire, or too late (a crash of nats-server forgets firings): the leader runs the slot itself when its
  look at it is due. After a time without any leader that look goes by the job's catch-up policy, as ever.
* A timer that was replaced or taken away fires all the same: it names the write that it was laid down for. If that is
  not what the job counts from, it is dropped, and its timer is taken away. A slot of the time before the edit is still
  in the planner.
* A timer fires while the planner is still at what was due before (a takeover with many jobs): of that the firing says
  nothing, since the policies decide which of it runs.
* The leader dies: firings that were not settled are told to the next one.

A firing is settled when the note of its run is stored, or when the mark has passed its slot's due instant.

:class:`Timed` belongs to a term: its fire task takes from it what is due, and :meth:`Timed.keep` is a task beside. It
lays down what the rows call for and takes away what they do not, when a row changes, when a firing shows that
something is wrong, and every :data:`_LOOK_S`. What the store refuses is tried again; nothing of it ends the leadership,
since the leader's own look needs no timer. A store in which no timer was ever laid is asked for that once.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from natscron.engine.planner import Due, Planner
from natscron.engine.storetime import StoreClock
from natscron.engine.table import Entry, JobTable
from natscron.errors import InvalidScheduleError, NatscronError, ServerTooOldError
from natscron.model import Job, Mark, Ms, Timer, Trigger
from natscron.schedule.servertiming import server_timing
from natscron.storage.timers import Firing, LaidTimer, TimerSink, TimerStore

if TYPE_CHECKING:
    from natscron.engine.journal import Ready
    from natscron.storage.protocol import Watch

__all__ = ["Timed", "timed_by_server", "wanted_timer"]

log = logging.getLogger("natscron.leader")

_LOOK_S: Final = 300.0
_AGAIN_S: Final = 1.0
_AGAIN_MAX_S: Final = 30.0
_SLICE: Final = 1_024
"""Firings dealt with at once."""
_HEARD_MAX: Final = 200_000
"""Firings that wait; past that the oldest is left to the planner."""
_SLOTS: Final = 16
"""More than a job has slots between its due instants and the server's."""
_AHEAD_MS: Final[Ms] = 5_000
"""A slot further in the future than this cannot have been fired by now."""


def timed_by_server(job: Job) -> bool:
    """Whether nats-server times the job."""
    return job.schedule is not None and job.schedule.timer == Timer.SERVER


def wanted_timer(entry: Entry, now_ms: Ms) -> LaidTimer | None:
    """The timer that a job is to have; None: none, for it is paused or over. Raises InvalidScheduleError."""
    job, spec = entry.job, entry.job.schedule
    if spec is None or entry.schedule is None or not timed_by_server(job):
        return None
    if job.paused and job.paused_until_ms is None:
        return None
    if entry.schedule.next_after_ms(now_ms) is None:
        return None
    timing = server_timing(spec, now_ms)
    return LaidTimer(job.id, job.counts_from.seq, timing.text, timing.tz, timing.at_ms)


class Timed:
    """The store's timers, and what fired until it is decided. ``store`` None: it has no timers."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a term that timers touch
        self,
        store: TimerStore | None,
        planner: Planner,
        table: JobTable,
        run_id: Callable[[Job, Ms], str],
        clock: StoreClock,
        ring: Callable[[], None],
    ) -> None:
        self._planner = planner
        self._table = table
        self._run_id = run_id
        self._clock = clock
        self._ring = ring
        self._keeper = None if store is None else _Keeper(store, table, clock, self)
        self._heard: deque[Firing] = deque(maxlen=_HEARD_MAX)
        self._took: dict[str, Ms] = {}
        """Runs that were handed over, and when their slots are due."""
        self._open: deque[tuple[int, Ms, int]] = deque()
        """For each batch: the note that has its runs, the due instant that the mark must pass, its last firing."""
        self._batch: tuple[Ms, int] | None = None

    async def keep(self) -> None:
        """Keep the store's timers as the rows call for, until cancelled."""
        if self._keeper is not None:
            await self._keeper.run()

    def job_changed(self, job_id: str, entry: Entry | None) -> None:
        """A row changed."""
        if self._keeper is not None:
            self._keeper.look_at(job_id, entry)

    def fired(self, firing: Firing) -> None:
        """A timer fired."""
        self._heard.append(firing)
        self._ring()

    def has_run(self, at: "Due | Ready") -> bool:
        """Whether a slot that the planner has come to was fired before; if not, its job's timer is looked at."""
        job = at.cursor.entry.job
        if self._keeper is None or not timed_by_server(job):
            return False
        if self._run_id(job, at.slot_ms) in self._took:
            return True
        if at.trigger is Trigger.SCHEDULE and at.due_ms <= self._clock.now_ms():
            log.debug("the leader runs a slot that was not fired", extra={"job": job.id})
            self._keeper.look_at(job.id, at.cursor.entry)
        return False

    def unfired(self, runs: "list[Ready]") -> "list[Ready]":
        """Those whose slots were not fired before."""
        if self._keeper is None or not self._keeper.watches:
            return runs
        return [run for run in runs if run.due_ms == run.slot_ms or not self.has_run(run)]

    def take(self, now: Ms) -> list[Due]:
        """The slots that fired and are to run."""
        if self._took:
            decided = self._planner.decided.instant_ms
            for run_id in [run_id for run_id, due_ms in self._took.items() if due_ms <= decided]:
                del self._took[run_id]
        found: list[Due] = []
        for _ in range(min(len(self._heard), _SLICE)):
            firing = self._heard.popleft()
            until_ms, seq = self._batch or (0, 0)
            due_ms = self._judged(firing, now)
            if due_ms <= now:
                # It is not to run, or the planner is at it, by the job's policies.
                until_ms = max(until_ms, due_ms)
            else:
                found += self._new(firing.job, now, due_ms)
            self._batch = until_ms, max(seq, firing.seq)
        return found

    def _new(self, job_id: str, now: Ms, until_ms: Ms) -> list[Due]:
        """The job's slots up to one that fired: it stands for those before it that the planner is not at yet."""
        found: list[Due] = []
        for due in self._planner.undecided(job_id, now, until_ms, _SLOTS):
            run_id = self._run_id(due.cursor.entry.job, due.slot_ms)
            if run_id not in self._took:
                self._took[run_id] = due.due_ms
                found.append(Due(due.slot_ms, due.slot_ms, due.cursor))
        return found

    def _judged(self, firing: Firing, now: Ms) -> Ms:
        """When the slot that fired is due to the leader; 0: no slot of the job."""
        entry = self._table.get(firing.job)
        if entry is None or entry.schedule is None or entry.job.counts_from.seq != firing.since:
            log.info("a timer fired that its job no longer calls for", extra={"job": firing.job})
            if self._keeper is not None:
                self._keeper.stale(firing.job, firing.since)
            return 0
        schedule = entry.schedule
        at_ms = firing.at_ms if firing.next_ms is None else firing.next_ms - 1
        slot = None if at_ms is None else schedule.last_at_or_before_ms(at_ms)
        if slot is None:
            return 0  # an interval fires before its start, too
        if slot > now + _AHEAD_MS:
            log.warning("a timer fired for a slot that is far from due", extra={"job": firing.job, "slot_ms": slot})
            return 0
        return schedule.dues.due_of(slot)

    def handed(self, n: int) -> None:
        """What was taken is on its way, by the note ``n`` at the latest."""
        if self._batch is not None:
            self._open.append((n, *self._batch))
            self._batch = None

    def confirmed(self, stored_n: int, mark: Mark) -> None:
        """All notes up to ``stored_n`` are stored, and the mark may stand at ``mark``."""
        settled = 0
        while self._open and self._open[0][0] <= stored_n and self._open[0][1] <= mark.instant_ms:
            settled = max(settled, self._open.popleft()[2])
        if settled and self._keeper is not None:
            self._keeper.settled(settled)


class _Keeper:
    """Keeps the store's timers, as long as this instance leads."""

    def __init__(self, store: TimerStore, table: JobTable, clock: StoreClock, sink: TimerSink) -> None:
        self._store = store
        self._table = table
        self._clock = clock
        self._sink = sink
        self._changed: dict[str, None] = {}
        self._stale: dict[tuple[str, int], None] = {}
        self._settled = 0
        self._poke = asyncio.Event()
        self._watch: Watch | None = None
        self._told: dict[str, str] = {}
        """Jobs that have no timer, and why."""

    @property
    def watches(self) -> bool:
        """Whether there may be timers."""
        return self._watch is not None

    def look_at(self, job_id: str, entry: Entry | None) -> None:
        """A row changed, or its timer may be missing."""
        if self._watch is not None or (entry is not None and timed_by_server(entry.job)):
            self._changed[job_id] = None
            self._poke.set()

    def stale(self, job: str, since: int) -> None:
        """A timer fired that should not be there: its job, and the write that it was laid down for."""
        self._stale[job, since] = None
        self._poke.set()

    def settled(self, seq: int) -> None:
        """All firings up to this one are decided."""
        self._settled = seq
        self._poke.set()

    async def run(self) -> None:
        """Until cancelled."""
        again_s = _AGAIN_S
        try:
            while True:
                try:
                    await self._keep()
                except (NatscronError, TimeoutError) as error:
                    log.warning(
                        "the store's timers cannot be kept now", extra={"error": str(error), "retry_s": again_s}
                    )
                    await asyncio.sleep(again_s)
                    again_s = min(again_s * 2, _AGAIN_MAX_S)
                else:
                    again_s = _AGAIN_S
        finally:
            if self._watch is not None:
                await self._watch.close()

    async def _keep(self) -> None:
        while not any(timed_by_server(entry.job) for entry in self._table.entries()):
            if await self._has_timers():
                break
            # Nothing is here that could fire, or would have to be taken away.
            self._changed.clear()
            await self._poked(None)
        await self._store.check_timers(recurring=False)
        if self._watch is None:
            self._watch = self._store.watch_firings(self._sink)
        while True:
            await self._compare()
            looked_s = self._clock.trust_s()
            while self._clock.trust_s() - looked_s < _LOOK_S:
                await self._poked(_LOOK_S)
                await self._tidy()

    async def _has_timers(self) -> bool:
        try:
            return await self._store.has_timers()
        except NatscronError as error:
            # Nobody asked for timers: who may not even look has none.
            log.debug("whether there are timers is not known", extra={"error": str(error)})
            return False

    async def _poked(self, longest_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._poke.wait()
        self._poke.clear()

    async def _compare(self) -> None:
        """Have all timers that the rows call for, and no other."""
        there = {(timer.job, timer.since): timer for timer in await self._store.read_timers()}
        self._changed.clear()
        for i, entry in enumerate(self._table.entries()):
            if i % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            timer = self._wanted(entry)
            if timer is None:
                continue
            found = there.pop((timer.job, timer.since), None)
            if found == timer:
                continue
            if found is not None:
                await self._store.take_timers(timer.job, timer.since)
            await self._lay(timer)
        for job, since in there:
            now = self._table.get(job)
            timer = None if now is None else self._wanted(now)
            if timer is None or timer.since != since:
                await self._store.take_timers(job, since)

    async def _tidy(self) -> None:
        """What came up since."""
        while self._changed:
            job_id = next(iter(self._changed))
            entry = self._table.get(job_id)
            timer = None if entry is None else self._wanted(entry)
            if timer is None:
                await self._store.take_timers(job_id)
            else:
                await self._lay(timer)
            self._changed.pop(job_id, None)
        while self._stale:
            job, since = next(iter(self._stale))
            await self._store.take_timers(job, since)
            self._stale.pop((job, since), None)
        settled, self._settled = self._settled, 0
        if settled:
            await self._store.settle_firings(settled)

    def _wanted(self, entry: Entry) -> LaidTimer | None:
        try:
            return wanted_timer(entry, self._clock.now_ms())
        except InvalidScheduleError as error:
            self._tell(entry.job.id, error)
            return None

    async def _lay(self, timer: LaidTimer) -> None:
        try:
            await self._store.lay_timer(timer)
        except (InvalidScheduleError, ServerTooOldError) as error:
            # One that cannot be stops no other.
            self._tell(timer.job, error)
        else:
            self._told.pop(timer.job, None)

    def _tell(self, job: str, error: Exception) -> None:
        why = str(error)
        if self._told.get(job) != why:
            self._told[job] = why
            log.warning("a job has no timer: the leader times it", extra={"job": job, "error": why})
