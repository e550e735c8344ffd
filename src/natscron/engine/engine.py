"""Every instance's engine: hot copies of what is stored, a candidate for the lease, and what goes on beside.

The store is authoritative; watches keep the copies. The candidate is :mod:`natscron.engine.leadership`. Beside it an
instance announces itself every few seconds, and the leader removes what is finished. An instance that cannot reach the
store does nothing but try again; a task of its own that ends by a defect is shown in :attr:`Engine.failed`, and its
owner must stop.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import msgspec

from natscron.clock import Clock
from natscron.codec import successor
from natscron.engine.asking import Asking
from natscron.engine.calendars import uses_zones
from natscron.engine.failing import is_paused
from natscron.engine.history import HistoryWriter
from natscron.engine.lastruns import LastRuns
from natscron.engine.leadership import Leadership
from natscron.engine.options import EngineOptions
from natscron.engine.table import Entry, JobTable
from natscron.engine.target import Target
from natscron.engine.upcoming import next_due
from natscron.errors import (
    JobNotFoundError,
    NatscronError,
    StorageError,
    StorageUncertainError,
    WrongRevisionError,
)
from natscron.model import (
    SERVICE_JOB,
    Holder,
    Job,
    JobState,
    LeaseRecord,
    Mark,
    Ms,
    Node,
    OpenRow,
    OpenState,
    Overlap,
    Reason,
    Report,
    Run,
    RunStatus,
)
from natscron.schedule import reload_zones
from natscron.storage.protocol import Storage, Watch
from natscron.storage.timers import TimerStore

log = logging.getLogger("natscron.engine")

_NODE_EVERY_S: Final = 5.0
_NODE_GONE_S: Final = 15.0
_SWEEP_EVERY_S: Final = 60.0
_ZONES_EVERY_S: Final = 82_800.0
_STOP_IDLE_S: Final = 2.0
_PAUSE_TRIES: Final = 5
_SLICE: Final = 256
"""Jobs dealt with before others may run: some milliseconds."""
_NOTE_MAX: Final = 4_096
_ERROR_SHOWN: Final = 256


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance knows of itself and the others. ``blocked``: why it may not lead."""

    is_leader: bool
    leader: str | None
    epoch: int
    mark_ms: Ms | None
    instances: list[str]
    jobs: int
    lateness_p50_ms: float | None
    lateness_p99_ms: float | None
    started_at_ms: Ms
    blocked: str | None
    warnings: list[str]


class Engine:
    """One instance. Start it once; stop is idempotent."""

    def __init__(  # noqa: PLR0913 - what it is wired to
        self,
        storage: Storage,
        target: Target,
        clock: Clock,
        options: EngineOptions,
        *,
        may_lead: Callable[[], str | None] | None = None,
        covered_until: Callable[[], Ms | None] | None = None,
        timers: TimerStore | None = None,
    ) -> None:
        self.table = JobTable(options.min_interval_ns, target.admits)
        self.history = HistoryWriter(storage, at_once=options.calm > 1)
        self.holder = Holder(options.instance, os.urandom(8).hex())
        self.started_at_ms = clock.now_ms()
        self._storage = storage
        self._clock = clock
        self._options = options
        self._nodes: dict[tuple[str, str], tuple[Node, float]] = {}
        self._node_gone_s = _NODE_GONE_S * options.calm
        self._leadership = Leadership(
            store=storage,
            target=target,
            clock=clock,
            options=options,
            table=self.table,
            history=self.history,
            holder=self.holder,
            may_lead=may_lead or (lambda: None),
            covered_until=covered_until or (lambda: None),
            renew_jobs=self.renew_jobs,
            tell=self._service_record,
            on_failing=self.pause_failing,
            timers=timers,
        )
        self._asking = Asking(storage, self.table, self._leadership, options, clock)
        self._pausing: dict[str, asyncio.Task[None]] = {}
        self._last_runs = LastRuns(storage, clock, self._leadership, lambda: self.is_leader)
        self._stopped = False
        self._watches: list[Watch] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.on_leader: Callable[[str | None], None] = lambda _instance: None
        """Called when another instance begins to lead, or nobody does; must not fail."""
        self._last_leader: str | None = None
        self.failed: BaseException | None = None
        """What ended the engine's own tasks, if anything ever does: a defect, and the owner must stop."""

    # Life.

    async def start(self) -> None:
        """Follow the store and become a candidate; returns when the jobs are loaded. Raises StorageError."""
        self.started_at_ms = self._clock.now_ms()
        self.table.listen(self._job_changed)
        self.history.start()
        jobs = self._storage.watch_jobs(self.table)
        state = self._storage.watch_state(self)
        self._watches = [jobs, state]
        await jobs.ready()
        await state.ready()
        self._leadership.loaded(self.started_at_ms)
        self._spawn(self._leadership.run(), "candidate")
        self._spawn(self._announce(), "announce")
        self._spawn(self._housekeeping(), "housekeeping")

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"natscron {name}")
        task.add_done_callback(self._task_done)
        self._tasks.append(task)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed = error
            log.critical("the engine failed", exc_info=error)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Release the lease, then wait for answers on their way, at most ``timeout_s``. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._leadership.stop(timeout_s)
        if self._tasks:
            # Without a term there is nothing to release, and the candidate may be waiting for a store that is away.
            bound = timeout_s + 5 if self.is_leader else _STOP_IDLE_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(bound):
                    await asyncio.gather(self._tasks[0], return_exceptions=True)
        tasks, self._tasks = [*self._tasks, *self._pausing.values()], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(1):
                await self._storage.retract(self._node())
        await self.history.stop(min(timeout_s, 5.0))
        for watch in self._watches:
            await watch.close()
        self._watches = []

    def renew_jobs(self) -> None:
        """Make the watch of the jobs anew: it may be deaf."""
        if self._watches:
            self._watches[0].renew()

    # What can be asked.

    @property
    def is_leader(self) -> bool:
        """Whether this instance leads now."""
        return self._leadership.term is not None

    def status(self) -> EngineStatus:
        """The state of this instance, and of the others as far as it is known here."""
        record = self._leadership.observed.record
        lease = record.lease if record is not None else None
        now = self._clock.trust_s()
        live = {node.instance for node, seen in self._nodes.values() if now - seen < self._node_gone_s}
        warnings = []
        if self.history.dropped:
            warnings.append(f"{self.history.dropped} history records were dropped because they could not be stored")
        if self._twins():
            warnings.append(f"another process uses the instance id {self._options.instance!r}")
        renewal = self._leadership.renewal
        if renewal is not None and abs(renewal.skew_ms) > 1000:  # noqa: PLR2004 - the warned-about second
            warnings.append(f"this host's clock is {renewal.skew_ms} ms off against the store's")
        return EngineStatus(
            is_leader=self.is_leader,
            leader=self._leadership.observed.leader(now, self._options.lease_ms),
            epoch=lease.epoch if lease is not None else 0,
            mark_ms=lease.mark.instant_ms if lease is not None else None,
            instances=sorted(live | {self._options.instance}),
            jobs=len(self.table),
            lateness_p50_ms=self._leadership.lateness.percentile(0.5),
            lateness_p99_ms=self._leadership.lateness.percentile(0.99),
            started_at_ms=self.started_at_ms,
            blocked=self._leadership.blocked,
            warnings=warnings,
        )

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The newest slot that was run, by job, whoever ran it; without those of which none is known. Never fails."""
        return await self._last_runs.of(job_ids)

    def next_run_ms(self, job_id: str) -> Ms | None:
        """The job's next slot; None if there is none. Computed, never stored."""
        entry = self.table.get(job_id)
        return None if entry is None else next_due(entry, self._clock.now_ms())

    def state_of(self, entry: Entry) -> JobState:
        """What the job is doing."""
        job, schedule = entry.job, entry.schedule
        if schedule is None:
            return JobState.INVALID
        mark = self.mark
        following = schedule.dues.next_after_ms(max(mark.instant_ms if mark else 0, job.paused_until_ms or 0))
        # Asked after the search, which may be what fails.
        if schedule.failure is not None:
            return JobState.INVALID
        if is_paused(job, self._clock.now_ms()):
            return JobState.PAUSED
        decided = mark is not None and entry.counts_from.seq <= mark.jobs_seq
        return JobState.DONE if decided and following is None else JobState.ACTIVE

    @property
    def mark(self) -> Mark | None:
        """The newest mark that was seen; None before the first lease."""
        record = self._leadership.observed.record
        return record.lease.mark if record is not None else None

    def record(self, run: Run) -> None:
        """Put a record into the history."""
        self.history.record(run)

    async def trigger(
        self,
        job_id: str,
        payload: Any = msgspec.UNSET,  # noqa: ANN401 - any JSON value
        key: str | None = None,
        overlap: Overlap | None = None,
    ) -> str:
        """Have a job run now, once; works on any instance. The run's id.

        ``key``: an idempotency key; the same key gives the same run, not another one. ``overlap``: its own policy,
        instead of the job's. Raises JobNotFoundError, and LimitExceededError while 10,000 runs are open already.
        """
        return await self._asking.trigger(job_id, payload, key, overlap)

    async def asked_for(self, run_id: str) -> Run | None:
        """A run or backfill as its open row tells of it; None: no row does. Asks the store, on any instance.

        The history may know more. Ask it afterwards: a row goes only when what it tells of is recorded, or queued.
        """
        return await self._asking.asked_for(run_id)

    async def report(self, run_id: str, job_id: str, report: Report) -> None:
        """Hand a worker's word on how a run ended to the leader; for jobs whose workers report.

        Raises JobNotFoundError, and LimitExceededError while too much is open.
        """
        await self._asking.report(run_id, job_id, report)

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self, job_id: str, from_ms: Ms, to_ms: Ms, *, every_ms: Ms, overlap: Overlap | None, key: str | None
    ) -> OpenRow:
        """Begin to run every slot in [from, to], one each ``every_ms`` at the most; the backfill's row.

        ``key``: the same key gives the same backfill. Raises JobNotFoundError, ValidationError for a range that is not
        past or has no slot, and LimitExceededError over 100,000 slots or 100 backfills.
        """
        return await self._asking.backfill(job_id, from_ms, to_ms, every_ms=every_ms, overlap=overlap, key=key)

    def waiting(self, job_id: str) -> Sequence[OpenRow]:
        """The job's runs that wait for the one before to end, as far as this instance has seen them."""
        return [row for row in self._leadership.rows(OpenState.BUFFERED) if row.job_id == job_id]

    def backfills(self) -> Sequence[OpenRow]:
        """Those going on, the oldest first."""
        return self._asking.backfills()

    async def cancel_backfill(self, backfill_id: str) -> None:
        """End one. Raises BackfillNotFoundError."""
        await self._asking.cancel_backfill(backfill_id)

    # The state watch (StateSink).

    def lease(self, record: LeaseRecord) -> None:
        """The lease changed."""
        self._leadership.lease_seen(record)
        holder = record.lease.holder
        leader = None if holder is None else holder.instance
        if leader != self._last_leader:
            self._last_leader = leader
            self.on_leader(leader)

    def row(self, row: OpenRow, revision: int) -> None:
        """An open row was written."""
        self._leadership.row_seen(row, revision)

    def row_gone(self, run_id: str) -> None:
        """An open row was deleted."""
        self._leadership.row_gone(run_id)

    def newer(self, record: str, why: str | None) -> None:
        """The lease or an open row needs a later version of this code, or no longer does."""
        self._leadership.newer_seen(record, why)

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        """An instance announced itself."""
        del stored_at_ms
        key = (node.instance, node.nonce)
        if key not in self._nodes and node.instance == self._options.instance and node.nonce != self.holder.nonce:
            log.warning("another process uses this instance id", extra={"instance": node.instance})
        self._nodes[key] = (node, self._clock.trust_s())

    def node_gone(self, instance: str, nonce: str) -> None:
        """An instance left."""
        self._nodes.pop((instance, nonce), None)

    def _twins(self) -> bool:
        now = self._clock.trust_s()
        return any(
            n.instance == self._options.instance and n.nonce != self.holder.nonce and now - seen < self._node_gone_s
            for n, seen in self._nodes.values()
        )

    def _job_changed(self, job_id: str, entry: Entry | None) -> None:
        if entry is not None and entry.job.invalid is not None:
            log.warning("job is invalid and does not run", extra={"job": job_id, "error": entry.job.invalid})
            if self.is_leader:
                self._service_record(Reason.INVALID_JOB, f"{job_id}: {entry.job.invalid}")
        self._leadership.job_changed(job_id, entry)

    def pause_failing(self, job: Job, failures: int, error: str) -> None:
        """So many of the job's runs failed in a row: pause it, beside what goes on."""
        if job.id not in self._pausing:
            task = asyncio.create_task(self._pause(job, failures, error), name="natscron pause")
            self._pausing[job.id] = task
            task.add_done_callback(lambda _done: self._pausing.pop(job.id, None))

    async def _pause(self, job: Job, failures: int, error: str) -> None:
        """Pause it in the store; tried again by the next failure, or by the next leader, if that fails.

        The record is stored before: whoever dies in between leaves a record too many, never a pause without one.
        """
        said = f"paused after {failures} failures in a row" + (f": {error[:_ERROR_SHOWN]}" if error else "")
        told = False
        for _ in range(_PAUSE_TRIES):
            try:
                old = await self._storage.fetch_job(job.id)
                if old is None or old.generation != job.generation or old.invalid is not None:
                    return
                if is_paused(old, self._clock.now_ms()):
                    return  # by somebody, or by a write of ours whose answer was lost
                if not told:
                    await self._storage.save_runs([self._paused_run(job, said)])
                    told = True
                note = f"{said}; {old.note}" if old.note else said
                new = msgspec.structs.replace(old, paused=True, paused_until_ms=None, note=note[:_NOTE_MAX])
                await self._storage.put_job(successor(old, new, self.mark), old.revision)
            except (WrongRevisionError, StorageUncertainError):
                continue
            except (NatscronError, TimeoutError) as err:
                log.warning("a failing job cannot be paused now", extra={"job": job.id, "error": str(err)})
                return
            log.warning("job paused: it keeps failing", extra={"job": job.id, "failures": failures})
            return

    def _paused_run(self, job: Job, said: str) -> Run:
        now = self._clock.now_ms()
        return Run(
            job=job.id,
            status=RunStatus.SKIPPED,
            finished_at_ms=now,
            reason=Reason.FAILURES_PAUSED,
            error=said,
            instance=self._options.instance,
            from_ms=now,
            to_ms=now,
            count=0,
        )

    def _service_record(self, reason: str, text: str) -> None:
        now = self._clock.now_ms()
        self.history.record(
            Run(
                job=SERVICE_JOB,
                status=RunStatus.COMPLETED,
                scheduled_at_ms=now,
                started_at_ms=now,
                finished_at_ms=now,
                reason=reason,
                result=text,
                instance=self._options.instance,
            )
        )

    # What goes on beside.

    def _node(self) -> Node:
        return Node(
            instance=self._options.instance,
            nonce=self.holder.nonce,
            version=self._options.version,
            started_at_ms=self.started_at_ms,
            status="leading" if self.is_leader else self._leadership.blocked or "standing by",
        )

    async def _announce(self) -> None:
        while True:
            with contextlib.suppress(StorageError, TimeoutError):
                async with asyncio.timeout(_NODE_EVERY_S):
                    await self._storage.announce(self._node())
            now = self._clock.trust_s()
            for key in [k for k, (_, seen) in self._nodes.items() if now - seen > 4 * self._node_gone_s]:
                # It may have been taken back while the one before was.
                gone = self._nodes.pop(key, None)
                if gone is None:
                    continue
                node, _ = gone
                with contextlib.suppress(StorageError, TimeoutError):
                    async with asyncio.timeout(_NODE_EVERY_S):
                        await self._storage.retract(node)
            await asyncio.sleep(_NODE_EVERY_S * self._options.calm)

    async def _housekeeping(self) -> None:
        zones_s = self._clock.trust_s()
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S * self._options.calm)
            if self._clock.trust_s() - zones_s >= _ZONES_EVERY_S:
                zones_s = self._clock.trust_s()
                await self._reload_zones()
            if not self.is_leader:
                continue
            try:
                await self._remove_done()
                await self._storage.sweep()
            except (StorageError, TimeoutError) as error:
                log.debug("housekeeping put off", extra={"error": str(error)})

    async def _reload_zones(self) -> None:
        """Zone rules change a few times a year: forget them daily, and compile anew what lies in a zone."""
        reload_zones()
        calendars = self.table.calendars()
        zoned = [entry.job.id for entry in self.table.entries() if uses_zones(entry.job.schedule, calendars)]
        for begin in range(0, len(zoned), _SLICE):
            self.table.refresh(zoned[begin : begin + _SLICE])
            await asyncio.sleep(0)

    async def _remove_done(self) -> None:
        """Once jobs that finished longer ago than they are kept."""
        limit = self._clock.now_ms() - self._options.keep_done_ms
        for i, entry in enumerate(self.table.entries()):
            if i % 256 == 255:  # noqa: PLR2004 - about 2 ms of work
                await asyncio.sleep(0)
            spec = entry.job.schedule
            if spec is None or spec.at is None or self.state_of(entry) is not JobState.DONE or entry.schedule is None:
                continue
            last = entry.schedule.last_at_or_before_ms(limit)
            if last is not None and entry.job.updated_at_ms < limit:
                with contextlib.suppress(JobNotFoundError, WrongRevisionError):
                    await self._storage.delete_job(entry.job.id, entry.job.revision)
