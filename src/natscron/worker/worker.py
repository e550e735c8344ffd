"""Takes runs from the run queue and has their handlers run.

Who is authoritative: the store. A try is this worker's from the claim until its ending is stored, as long as the worker
is alive in the store's eyes: it announces itself every sixth of its lease, and sooner after a failure. Whoever finds it
silent for a whole lease ends its tries in its name; what it reports of them afterwards is refused.

States of a try here: *going* (a task runs the handler), *ending* (over, its ending not stored yet), gone. Three tasks:
*claim* takes as many runs as there is room for, whenever the queue may have some; *store* hands endings over
(:mod:`natscron.worker.outbox`); *beat* announces the worker and cancels what is to be cancelled.

Failures. The store away: no claims, handlers go on, endings are kept (at most twice the concurrency, past which nothing
more is claimed even if it could be). Not heard from the store for a whole lease: the handlers are cancelled at that
instant, for from then on somebody else may be given their runs; a handler in a thread cannot be, and is said so in the
log. Their endings
are handed over all the same: nobody else may have been there to take the runs. A claim whose answer was lost: the runs
are this worker's and nobody runs them; an announcement names them, and they are given back. A handler that ends the
process: the lease runs out, and another worker gets the run as a further attempt.

A stop: no more claims; handlers get the time given to end; then they are cancelled, and their runs are tried again by
others at once. One in a thread that does not end keeps its run until the lease is over, so that no second one begins
beside it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from natscron.clock import Clock
from natscron.errors import StorageError
from natscron.model import Claim, Ending, Job, Ms, Reason, WorkerInfo
from natscron.storage.protocol import Watch  # noqa: TC001 - one import block reads better than two
from natscron.storage.queue import QueueStorage
from natscron.worker.calls import CURRENT, Call, Called, call
from natscron.worker.endings import completed, failed, interrupted, removed
from natscron.worker.event import JobEvent
from natscron.worker.options import SIGNS, WorkerOptions
from natscron.worker.outbox import Outbox
from natscron.worker.registry import Registry
from natscron.worker.threads import Threads

__all__ = ["Hooks", "Worker"]

log = logging.getLogger("natscron.worker")

_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 2.0
_LOOK_S: Final = 5.0
"""The queue is looked at so often even if nobody says that there is anything."""
_CANCELLED_S: Final = 5.0
"""How long a cancelled handler may take to end, at a stop."""
_LAST_S: Final = 0.1
"""The same when it is cancelled once more, and nothing of it will be stored."""


class Hooks(msgspec.Struct, frozen=True):
    """What a worker asks and whom it tells; none of these may raise."""

    find_job: Callable[[str], Job | None]
    """The job as this process knows it, without waiting."""
    snapshot: Callable[[Job], Any]
    started: Callable[[Job, Claim, Ms], None]
    ended: Callable[[Job | None, Claim, Ending], None]
    """Called once the ending is stored."""


class _Going:
    """A try whose handler runs."""

    __slots__ = ("call", "claim", "lost", "reason", "task")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.task: asyncio.Task[None] | None = None
        self.call: Call | None = None
        self.reason = ""
        """Why it was cancelled; "" if it was not by us."""
        self.lost = False
        """It is not ours any more."""


class Worker:
    """One process's worker. Start it once; stop is idempotent."""

    def __init__(
        self, storage: QueueStorage, registry: Registry, clock: Clock, options: WorkerOptions, hooks: Hooks
    ) -> None:
        self._store = storage
        self._registry = registry
        self._clock = clock
        self._options = options
        self._hooks = hooks
        self._going: dict[tuple[str, int], _Going] = {}
        self._room = asyncio.Event()
        self._outbox = Outbox(storage, options.id, hooks.ended, self._room.set)
        self._look = asyncio.Event()
        self._ended = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._claiming = False
        self._claims = 0
        """Claims that were begun: tells whether one fell into an announcement."""
        self._astray: set[tuple[str, int]] = set()
        """What the store took for this worker's at the last announcement, and was not here."""
        self._left = False
        self._stopping = asyncio.Event()
        self._offset_ms = 0
        """What the store's clock is ahead of ours."""
        self._heard_s = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._watch: Watch | None = None
        self._pool: Threads | None = None
        self._patience: asyncio.Timeout | None = None
        self._hurried = False
        self.failed: BaseException | None = None
        """What ended one of the worker's own tasks, if anything ever does: a defect, and the owner must stop."""

    # Life.

    async def start(self) -> None:
        """Announce the worker and begin to claim. Raises StorageError."""
        await self._store.beat(self._info())
        self._heard_s = self._clock.trust_s()
        self._watch = self._store.watch_queue(self)
        self._registry.on_change = self._registered
        for work, name in ((self._claim(), "claim"), (self._outbox.run(), "store"), (self._beat(), "beat")):
            task = asyncio.create_task(work, name=f"natscron worker {name}")
            task.add_done_callback(self._task_done)
            self._tasks.append(task)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed = error
            log.critical("the worker failed", exc_info=error)

    async def stop(self, timeout_s: float) -> None:
        """Claim nothing more, let handlers end within ``timeout_s``, cancel the rest, and store what ended."""
        self._stopping.set()
        self._look.set()
        self._room.set()
        if not self._tasks:
            return
        claim, store, beat = self._tasks
        self._tasks = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried else timeout_s) as self._patience:
                await asyncio.wait([claim])
                await self._all_ended()
        claim.cancel()
        for going in self._going.values():
            self._cancel(going, Reason.WORKER_STOPPED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCELLED_S):
                await self._all_ended(but_threads=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCELLED_S):
                await self._outbox.emptied()
        for task in (store, beat):
            task.cancel()
        await asyncio.gather(claim, store, beat, return_exceptions=True)
        await self._leave()

    def cut(self) -> None:
        """End the patience of a stop that goes on, or is about to begin."""
        self._hurried = True
        if self._patience is not None and self._patience.when() is not None and not self._patience.expired():
            with contextlib.suppress(RuntimeError):  # it is over already
                self._patience.reschedule(asyncio.get_running_loop().time())

    async def _leave(self) -> None:
        self._registry.on_change = None
        if self._watch is not None:
            await self._watch.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._left = True
        if self._going or self._outbox:
            # Their runs are taken over when the lease has run out, not before: the handlers may still be going.
            log.warning(
                "stopping with handlers that did not end",
                extra={"runs": [going.claim.run_id for going in self._going.values()], "unstored": len(self._outbox)},
            )
            tasks = [going.task for going in self._going.values() if going.task is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_LAST_S)
            return
        with contextlib.suppress(StorageError, TimeoutError):
            async with asyncio.timeout(1):
                await self._store.retire(self._options.id)

    async def _all_ended(self, *, but_threads: bool = False) -> None:
        while any(not but_threads or going.call is None or not going.call.threaded for going in self._going.values()):
            self._ended.clear()
            await self._ended.wait()

    @property
    def going(self) -> int:
        """How many handlers run here."""
        return len(self._going)

    def going_of(self, job_id: str) -> int:
        """How many handlers of a job run here."""
        return sum(going.claim.job == job_id for going in self._going.values())

    # QueueSink.

    def wake(self) -> None:
        """Runs may have become claimable."""
        self._look.set()

    def cancel(self) -> None:
        """Runs may have to be cancelled."""
        self._beat_now.set()

    def left_out(self, run: object) -> None:
        """Nothing to do here with a run that was left out."""

    # Claiming.

    def _registered(self) -> None:
        """There may be runs that wait for this handler."""
        self._look.set()
        self._beat_now.set()

    def _info(self) -> WorkerInfo:
        options = self._options
        return WorkerInfo(
            id=options.id,
            instance=options.instance,
            lease_ms=options.lease_ms,
            handlers=self._registry.names,
            concurrency=options.concurrency,
        )

    async def _claim(self) -> None:
        delay = _RETRY_FIRST_S
        while not self._stopping.is_set():
            free = self._free()
            names = self._registry.names
            if free <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._look.clear()
            if not names:
                await self._look.wait()
                continue
            before_ms = self._clock.now_ms()
            self._claiming, self._claims = True, self._claims + 1
            try:
                claimed = await self._store.claim(self._options.id, names, free)
            except (StorageError, TimeoutError) as error:
                self._claiming = False
                log.warning("no runs can be claimed now", extra={"error": str(error), "retry_s": delay})
                await self._pause(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
                continue
            delay = _RETRY_FIRST_S
            self._set_offset(before_ms, claimed.now_ms)
            if self._stopping.is_set():
                await self._give_back(claimed.runs)
                return
            for claim in claimed.runs:
                self._begin(claim, claimed.now_ms)
            self._claiming = False
            if len(claimed.runs) == free:
                await asyncio.sleep(0)
                continue
            wait_s = _LOOK_S * self._options.calm
            if claimed.next_ms is not None:
                wait_s = min(max((claimed.next_ms - claimed.now_ms) / 1000, 0.0), wait_s)
            await self._pause(wait_s)

    async def _give_back(self, claims: Sequence[Claim]) -> None:
        """None of these has begun; should it fail, they are taken over when the lease is over."""
        if claims:
            with contextlib.suppress(StorageError, TimeoutError):
                await self._store.give_back(self._options.id, claims)

    def _free(self) -> int:
        concurrency = self._options.concurrency
        return min(concurrency - len(self._going), 2 * concurrency - len(self._outbox))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look.wait()

    def _set_offset(self, before_ms: Ms, store_ms: Ms) -> None:
        now = self._clock.now_ms()
        # Within the call's own length the two clocks cannot be told apart.
        self._offset_ms = 0 if before_ms <= store_ms <= now + 1 else store_ms - now

    def _now_ms(self) -> Ms:
        return self._clock.now_ms() + self._offset_ms

    def _begin(self, claim: Claim, now_ms: Ms) -> None:
        going = _Going(claim)
        self._going[claim.run_id, claim.attempt] = going
        started_ms = max(self._now_ms(), now_ms)
        going.task = asyncio.create_task(self._run(going, started_ms), name=f"natscron run {claim.job}")
        going.task.add_done_callback(lambda _done: self._never_began(going, started_ms))

    def _never_began(self, going: _Going, started_ms: Ms) -> None:
        """A task that was cancelled before its first step leaves nothing behind it."""
        claim = going.claim
        if self._going.get((claim.run_id, claim.attempt)) is going:
            self._over(going, None, self._interrupted(going, None, started_ms))

    def _over(self, going: _Going, job: Job | None, ending: Ending) -> None:
        del self._going[going.claim.run_id, going.claim.attempt]
        # Of one that was lost too: the store knows whether anybody has taken it over.
        self._outbox.put(job, going.claim, ending)
        self._ended.set()
        self._room.set()

    # Running.

    async def _run(self, going: _Going, started_ms: Ms) -> None:
        claim = going.claim
        job: Job | None = None
        try:
            job = await self._job_of(claim)
            if job is None:
                ending = removed(claim, (started_ms, self._now_ms()))
            else:
                ending = await self._called(going, job, started_ms)
        except asyncio.CancelledError:
            # Before the handler began, or by whoever ends the loop.
            ending = self._interrupted(going, job, started_ms)
        except Exception as error:
            log.exception("a run could not be begun", extra={"run": claim.run_id, "job": claim.job})
            ending = failed(claim, job, Called(Reason.INVALID_JOB, str(error)), (started_ms, self._now_ms()))
        if going.call is not None and not self._left:
            # The ending of a handler that was cut off in its thread is told when the thread has ended.
            await going.call.over()
        self._over(going, job, ending)

    async def _job_of(self, claim: Claim) -> Job | None:
        job = self._hooks.find_job(claim.job)
        if job is not None and job.generation == claim.generation:
            return job
        delay = _RETRY_FIRST_S
        while True:
            try:
                job = await self._store.fetch_job(claim.job)
            except StorageError as error:
                log.warning("a run waits for its job", extra={"run": claim.run_id, "error": str(error)})
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
            else:
                return job if job is not None and job.generation == claim.generation else None

    async def _called(self, going: _Going, job: Job, started_ms: Ms) -> Ending:
        claim = going.claim
        found = self._registry.find(claim.handler)
        if found is None:
            text = f"no handler {claim.handler!r} is registered here" if claim.handler else "no handler is set"
            return failed(claim, job, Called(Reason.NO_HANDLER, text), (started_ms, self._now_ms()))
        self._hooks.started(job, claim, started_ms)
        event = JobEvent(claim, job, started_ms, self._hooks.snapshot)
        handler, is_async = found
        going.call = None if is_async else Call()
        token = CURRENT.set(claim.job)
        try:
            outcome = await call(handler, event, timeout_ms=job.timeout_ms, threaded=going.call, pool=self._threads)
        finally:
            CURRENT.reset(token)
        if going.call is not None and going.call.threaded:
            log.warning("a handler went over its timeout, and its thread cannot be ended", extra={"run": claim.run_id})
        if outcome.interrupted:
            return self._interrupted(going, job, started_ms)
        took = (started_ms, self._now_ms())
        if outcome.reason is None:
            return completed(claim, outcome, took)
        error = (outcome.error or "").rsplit("\n", 1)[-1]
        log.warning(
            "a handler failed",
            extra={
                "job": claim.job,
                "run": claim.run_id,
                "attempt": claim.attempt,
                "reason": outcome.reason,
                "error": error,
            },
        )
        return failed(claim, job, outcome, took)

    def _threads(self) -> Threads:
        if self._pool is None:
            self._pool = Threads(self._options.concurrency)
        return self._pool

    def _interrupted(self, going: _Going, job: Job | None, started_ms: Ms) -> Ending:
        return interrupted(going.claim, job, going.reason or Reason.CANCELLED, (started_ms, self._now_ms()))

    def _cancel(self, going: _Going, reason: str) -> None:
        if going.reason or going.task is None:
            return
        going.reason = reason
        if going.call is not None and going.call.threaded:
            log.warning(
                "a handler in a thread cannot be cancelled", extra={"run": going.claim.run_id, "reason": reason}
            )
            return
        going.task.cancel()

    # Announcing.

    async def _beat(self) -> None:
        lease_s = self._options.lease_ms / 1_000
        pause_s = every_s = lease_s / SIGNS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._beat_now.wait()
            self._beat_now.clear()
            before = dict(self._going)
            claims = None if self._claiming else self._claims
            begun_s = self._clock.trust_s()
            left_s = self._heard_s + lease_s - begun_s
            try:
                async with asyncio.timeout(min(left_s, 2 * every_s) if left_s > 0 else 2 * every_s):
                    owned = await self._store.beat(self._info())
            except (StorageError, TimeoutError) as error:
                log.warning("the worker cannot announce itself", extra={"error": str(error)})
                left_s = self._heard_s + lease_s - self._clock.trust_s()
                pause_s = min(every_s / 4, left_s) if left_s > 0 else every_s / 4
                if left_s <= 0:
                    self._lose(before)
                continue
            self._heard_s, pause_s = begun_s, every_s
            self._compare(before, owned)
            if claims == self._claims:
                await self._give_up(owned)

    def _compare(self, before: Mapping[tuple[str, int], _Going], owned: Mapping[tuple[str, int], str]) -> None:
        """Cancel what is to be cancelled, and what was claimed before the announcement and is not ours any more."""
        self._lose({key: going for key, going in before.items() if key not in owned})
        for key, reason in owned.items():
            going = self._going.get(key)
            if reason and going is not None:
                self._cancel(going, reason)

    async def _give_up(self, owned: Mapping[tuple[str, int], str]) -> None:
        """Give back what is ours and not here, and was so before: the answer to its claim was lost.

        Seen once it may be one that ended a moment ago, for a store may answer from a copy that is behind.
        """
        before, self._astray = self._astray, set(owned) - set(self._going) - self._outbox.keys()
        lost = [
            Claim(run_id=run_id, job="", generation=0, scheduled_at_ms=0, due_ms=0, attempt=attempt)
            for run_id, attempt in self._astray & before
        ]
        if lost:
            log.warning("claimed runs never arrived here: they are given back", extra={"runs": len(lost)})
            await self._give_back(lost)

    def _lose(self, lost: Mapping[tuple[str, int], _Going]) -> None:
        for key, going in lost.items():
            if self._going.get(key) is going and not going.lost:
                going.lost = True
                log.error("a run is not this worker's any more", extra={"run": going.claim.run_id})
                self._cancel(going, Reason.WORKER_LOST)
