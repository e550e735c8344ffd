"""The parts of one start of a scheduler, put together here and nowhere else.

Who is authoritative: the store; these objects only for what they opened. Start: the storage is initialized, the engine
follows it and stands for leader, the worker begins to claim, the reaper to look. Stop: the engine gives the lease up
and the worker lets its handlers end, at the same time, so that a successor plans on while they do; then everything is
closed, the storage only if it was opened here. A part that fails by a defect is shown in :meth:`Parts.failure`.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Final

from natscron import __version__
from natscron.clock import Clock
from natscron.engine.engine import Engine
from natscron.engine.freshness import Freshness
from natscron.engine.options import EngineOptions
from natscron.engine.table import Entry
from natscron.errors import NatscronError
from natscron.model import SERVICE_JOB, Claim, Delivery, Ending, Job, Ms, Reason, Run, RunStatus
from natscron.policy.failures import counted
from natscron.scheduler.events import Events, Problem
from natscron.scheduler.jobs import Jobs
from natscron.scheduler.options import SchedulerOptions
from natscron.scheduler.runs import Runs
from natscron.scheduler.target import HandlerTarget
from natscron.scheduler.timing import timers_of
from natscron.storage.protocol import Watch  # noqa: TC001 - one import block reads better than two
from natscron.storage.queue import QueueStorage
from natscron.worker.options import SIGNS, WorkerOptions
from natscron.worker.reaper import Reaper
from natscron.worker.registry import Registry
from natscron.worker.worker import Hooks, Worker

__all__ = ["Parts"]

log = logging.getLogger("natscron.scheduler")

_OWN_LEASE_MS: Final[Ms] = 2_000
"""Of a store of this process alone, which is never led by anybody else."""
_TOLD: Final = {RunStatus.COMPLETED: "run_finished", RunStatus.SKIPPED: "run_skipped"}


class Parts:
    """What one start opens."""

    def __init__(
        self, storage: QueueStorage, clock: Clock, options: SchedulerOptions, registry: Registry, events: Events
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._options = options
        self._events = events
        self._tasks: list[asyncio.Task[None]] = []
        self._beside: set[asyncio.Task[None]] = set()
        self._watch: Watch | None = None
        able = storage.capabilities
        lease_ms = options.lease_ms or (able.lease_ms if able.shared else _OWN_LEASE_MS)
        engine_options = EngineOptions(
            namespace=options.name,
            instance=options.instance,
            lease_ms=lease_ms,
            grace_ms=options.grace_ms,
            plan=options.plan,
            calm=options.calm,
            version=__version__,
        )
        self.engine = Engine(storage, HandlerTarget(), clock, engine_options, timers=timers_of(storage))
        self.engine.table.listen(self._job_changed)
        self.engine.history.listener = self._recorded
        self.engine.on_leader = lambda instance: events.emit("leader_changed", instance)
        self.fresh = Freshness(storage, self.engine.table, renew=self.engine.renew_jobs)
        self.jobs = Jobs(storage, self.engine, self.fresh, clock, engine_options.min_interval_ns)
        self.runs = Runs(storage, self.engine, self.fresh)
        self.worker: Worker | None = None
        if options.worker:
            worker_options = WorkerOptions(
                id=f"{options.instance}.{os.urandom(8).hex()}",
                instance=options.instance,
                concurrency=options.concurrency,
                lease_ms=options.worker_lease_ms,
                calm=options.calm,
            )
            hooks = Hooks(self._find_job, self.jobs.snapshot, self._started, self._ended)
            self.worker = Worker(storage, registry, clock, worker_options, hooks)
        self._reaper = Reaper(
            storage,
            clock,
            every_s=options.worker_lease_ms / 1_000 / SIGNS,
            leads=lambda: self.engine.is_leader,
            find_job=self._find_job,
            ended=self._ended,
        )

    async def start(self) -> None:
        """Begin. What was begun when this fails is ended by :meth:`stop`. Raises StorageError."""
        await self._storage.initialize()
        await self.engine.start()
        self._watch = self._storage.watch_queue(self)
        if self.worker is not None:
            await self.worker.start()
        self._tasks.append(asyncio.create_task(self._reaper.run(), name="natscron reaper"))

    async def stop(self, timeout_s: float, *, close: bool) -> None:
        """End everything; handlers get ``timeout_s``. ``close``: the storage too. Never raises."""
        parts = [self.engine.stop(min(timeout_s, 5.0))]
        if self.worker is not None:
            parts.append(self.worker.stop(timeout_s))
        for outcome in await asyncio.gather(*parts, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("stopping was not clean", exc_info=outcome)
        tasks = [*self._tasks, *self._beside]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.fresh.close()
        if self._watch is not None:
            await self._watch.close()
        await self._events.close()
        if close:
            with contextlib.suppress(NatscronError):
                await self._storage.close()

    def cut(self) -> None:
        """End the patience of a stop that goes on: handlers are cancelled now."""
        if self.worker is not None:
            self.worker.cut()

    def failure(self) -> BaseException | None:
        """What ended a part, if anything did."""
        worker = None if self.worker is None else self.worker.failed
        reaper = next((t.exception() for t in self._tasks if t.done() and not t.cancelled()), None)
        return self.engine.failed or worker or reaper

    # QueueSink.

    def wake(self) -> None:
        """Nothing to do here."""

    def cancel(self) -> None:
        """Nothing to do here."""

    def left_out(self, run: Run) -> None:
        """A run was left out by its overlap policy."""
        self._events.emit("run_skipped", run)

    # What the parts tell.

    def _find_job(self, job_id: str) -> Job | None:
        entry = self.engine.table.get(job_id)
        return None if entry is None else entry.job

    def _job_changed(self, job_id: str, entry: Entry | None) -> None:
        if entry is not None and entry.job.invalid is not None:
            self._events.emit("job_invalid", Problem(job_id, entry.job.invalid))

    def _recorded(self, run: Run) -> None:
        if run.job == SERVICE_JOB:
            return
        if run.reason == Reason.INVALID_JOB and run.error:
            self._events.emit("reschedule_failed", Problem(run.job, run.error))
        elif run.status is RunStatus.SKIPPED:
            self._events.emit("run_skipped", run)

    def _started(self, job: Job, claim: Claim, started_ms: Ms) -> None:
        del job
        if self._events.wants("run_started"):
            self._events.emit("run_started", self._run(claim, RunStatus.RUNNING, started_ms))

    def _ended(self, job: Job | None, claim: Claim, ending: Ending) -> None:
        again = ending.retry_in_ms is not None
        event = "run_retrying" if again else _TOLD.get(ending.status, "run_failed")
        wanted = self._events.wants(event)
        limit = 0 if job is None or again else job.pause_after_failures
        if not wanted and not limit:
            return
        run = self._run(claim, ending.status, ending.started_ms, ending)
        if wanted:
            self._events.emit(event, run)
        if job is not None and limit and counted(0, run):
            self._spawn(self._count_failures, job)

    def _spawn(self, work: Callable[[Job], Coroutine[None, None, None]], job: Job) -> None:
        task = asyncio.create_task(work(job), name="natscron failures")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _count_failures(self, job: Job) -> None:
        try:
            found = await self.runs.failures_of(job.id, job.counts_from.at_ms, job.pause_after_failures)
        except (NatscronError, TimeoutError) as error:
            # The next failure counts them all again.
            log.warning("failures cannot be counted now", extra={"job": job.id, "error": str(error)})
            return
        if found[0]:
            self.engine.pause_failing(job, *found)

    def _run(self, claim: Claim, status: RunStatus, started_ms: Ms, ending: Ending | None = None) -> Run:
        return Run(
            job=claim.job,
            status=status,
            run_id=claim.run_id,
            scheduled_at_ms=claim.scheduled_at_ms,
            started_at_ms=started_ms,
            finished_at_ms=None if ending is None else ending.finished_ms,
            reason=None if ending is None else ending.reason,
            attempt=claim.attempt,
            trigger=claim.trigger,
            delivery=Delivery.HANDLER,
            lateness_ms=started_ms - claim.due_ms,
            duration_ms=None if ending is None else ending.finished_ms - started_ms,
            instance=claim.worker.rpartition(".")[0],
            error=None if ending is None else ending.error,
            result=None if ending is None else ending.result,
        )
