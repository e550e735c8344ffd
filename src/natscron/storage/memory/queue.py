"""The run queue of a memory cluster: what every other run queue must do.

Everything happens at once, in the event loop; "the same transaction" is one call. A job's tries are counted while they
are pending or running, and those that are held wait in a line per job.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from natscron.clock import Clock
from natscron.model import (
    Activity,
    Claim,
    Claimed,
    Delivery,
    Ending,
    Ms,
    OpenState,
    QueuedRun,
    Reason,
    Run,
    RunStatus,
    WorkerInfo,
)
from natscron.policy import overlap
from natscron.policy.overlap import Verdict
from natscron.storage.queue import QueueSink  # noqa: TC001 - one import block reads better than two

__all__ = ["MemoryQueue"]

_ENDED_KEPT: Final = 10_000
"""Run ids that are remembered after their end, in case they are queued once more."""
_LEFT_OUT: Final = {
    Verdict.SKIP: (Reason.OVERLAP_SKIP, "the job's previous run was still going"),
    Verdict.DROP: (Reason.BUFFER_FULL, "the job's previous run was still going and no more runs may wait"),
}
_REPLACED: Final = "a newer run took its place (overlap cancel_other)"
_REDRIVABLE: Final = frozenset({RunStatus.FAILED, RunStatus.DEAD})


class _Try:
    """One try of one run, as long as it is not over."""

    __slots__ = ("attempt", "cancel", "not_before", "order", "reason", "run", "started", "state", "worker")

    def __init__(self, run: QueuedRun, attempt: int, not_before: Ms, order: int, reason: str | None) -> None:
        self.run = run
        self.attempt = attempt
        self.not_before = not_before
        self.order = order
        self.reason = reason
        self.state = OpenState.PENDING
        self.worker = ""
        self.started: Ms = 0
        self.cancel = ""

    def __lt__(self, other: "_Try") -> bool:
        return (-self.run.priority, self.not_before, self.order) < (
            -other.run.priority,
            other.not_before,
            other.order,
        )

    def claim(self, last_completed_ms: Ms | None) -> Claim:
        """As its worker sees it."""
        run = self.run
        return Claim(
            run_id=run.run_id,
            job=run.job,
            generation=run.generation,
            scheduled_at_ms=run.scheduled_at_ms,
            due_ms=run.due_ms,
            trigger=run.trigger,
            attempt=self.attempt,
            handler=run.handler,
            payload=run.payload,
            worker=self.worker,
            started_ms=self.started,
            last_completed_ms=last_completed_ms,
        )

    def record(self, status: RunStatus, **ending: "str | int | None") -> Run:
        """As the history shows it."""
        run, started = self.run, self.started or None
        finished = ending.get("finished_at_ms")
        return Run(
            job=run.job,
            status=status,
            run_id=run.run_id,
            scheduled_at_ms=run.scheduled_at_ms,
            started_at_ms=started,
            attempt=self.attempt,
            trigger=run.trigger,
            delivery=Delivery.HANDLER,
            lateness_ms=None if started is None else started - run.due_ms,
            duration_ms=None if started is None or not isinstance(finished, int) else finished - started,
            instance=self.worker,
            **{"reason": self.reason, **ending},  # type: ignore[arg-type]
        )


class MemoryQueue:
    """All tries that are not over, and the workers. ``put_run`` takes what is over into the history."""

    def __init__(self, clock: Clock, put_run: Callable[[Run], None]) -> None:
        self.watches: dict[QueueSink, None] = {}
        """Whom to tell of changes."""
        self._clock = clock
        self._put_run = put_run
        self._tries: dict[str, _Try] = {}
        """The newest try of each run that is not over, by run id."""
        self._over: OrderedDict[str, tuple[QueuedRun, int, RunStatus]] = OrderedDict()
        self._due: dict[str, list[_Try]] = {}
        """Heaps by handler."""
        self._later: list[tuple[Ms, int, _Try]] = []
        self._going: dict[str, dict[str, _Try]] = {}
        """Pending and running tries by job."""
        self._held: dict[str, deque[_Try]] = {}
        self._newest: dict[str, Run] = {}
        self._completed: dict[str, Ms] = {}
        self._owned: dict[str, dict[str, _Try]] = {}
        """Running tries by worker."""
        self._workers: dict[str, tuple[WorkerInfo, Ms]] = {}
        self._order = 0

    # The leader's side.

    def enter(self, run: QueuedRun) -> Run | None:
        """Queue a run; the record if it was left out."""
        if run.run_id in self._tries or run.run_id in self._over:
            return None
        going, held = self._going.get(run.job, {}), self._held.get(run.job, ())
        verdict = overlap.enter(run, running=len(going), waiting=len(held))
        one = self._new(run, 1, run.due_ms, None)
        if verdict in _LEFT_OUT:
            reason, error = _LEFT_OUT[verdict]
            return self._end(one, RunStatus.SKIPPED, reason=reason, error=error, finished_at_ms=self._clock.now_ms())
        if verdict is Verdict.REPLACE:
            self._drop_held(run.job, Reason.REPLACED, _REPLACED)
            for other in list(going.values()):
                self._replace(other)
        self._tries[run.run_id] = one
        if verdict is Verdict.START or (verdict is Verdict.REPLACE and not self._going.get(run.job)):
            self._place(one)
        else:
            one.state, one.reason = OpenState.BUFFERED, Reason.OVERLAP_WAIT
            self._held.setdefault(run.job, deque()).append(one)
        return None

    def _new(self, run: QueuedRun, attempt: int, not_before: Ms, reason: str | None) -> _Try:
        self._order += 1
        return _Try(run, attempt, not_before, self._order, reason)

    def _place(self, one: _Try) -> None:
        """It becomes claimable at its instant, and counts as going."""
        one.state = OpenState.PENDING
        self._tries[one.run.run_id] = one
        self._going.setdefault(one.run.job, {})[one.run.run_id] = one
        if one.not_before > self._clock.now_ms():
            heapq.heappush(self._later, (one.not_before, one.order, one))
        else:
            heapq.heappush(self._due.setdefault(one.run.handler, []), one)
        self.wake()

    def wake(self) -> None:
        """Tell whoever follows the queue."""
        for watch in tuple(self.watches):
            watch.wake()

    # The workers' side.

    def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        now = self._clock.now_ms()
        later = self._later
        while later and later[0][0] <= now:
            one = heapq.heappop(later)[2]
            if one.state is OpenState.PENDING and self._tries.get(one.run.run_id) is one:
                heapq.heappush(self._due.setdefault(one.run.handler, []), one)
        heaps = [self._due[name] for name in handlers if name in self._due]
        owned = self._owned.setdefault(worker, {})
        claims: list[Claim] = []
        while len(claims) < limit:
            heaps = [heap for heap in heaps if heap]
            if not heaps:
                break
            one = heapq.heappop(heaps[0] if len(heaps) == 1 else min(heaps, key=lambda heap: heap[0]))
            if one.state is not OpenState.PENDING or self._tries.get(one.run.run_id) is not one:
                continue
            one.state, one.worker, one.started, one.reason = OpenState.RUNNING, worker, now, None
            owned[one.run.run_id] = one
            claims.append(one.claim(self._completed.get(one.run.job)))
        for name in handlers:
            if not self._due.get(name, True):
                del self._due[name]
        following = None
        if len(claims) < limit:
            known = set(handlers)
            following = min((at for at, _, one in later if one.run.handler in known), default=None)
        return Claimed(tuple(claims), following, now)

    def finish(self, worker: str, endings: Sequence[Ending]) -> list[bool]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        return [self._finish(worker, ending) for ending in endings]

    def _finish(self, worker: str, ending: Ending) -> bool:
        one = self._tries.get(ending.run_id)
        if one is None or one.attempt != ending.attempt or one.state is not OpenState.RUNNING or one.worker != worker:
            return False
        one.started = ending.started_ms
        again = ending.retry_in_ms is not None
        self._end(
            one,
            ending.status,
            going_on=again,
            reason=ending.reason,
            error=ending.error,
            result=ending.result,
            finished_at_ms=ending.finished_ms,
        )
        if ending.retry_in_ms is not None:
            at = self._clock.now_ms() + ending.retry_in_ms
            self._place(self._new(one.run, one.attempt + 1, at, ending.retry_reason))
        return True

    def _end(self, one: _Try, status: RunStatus, *, going_on: bool = False, **ending: "str | int | None") -> Run:
        """The try is over, and with it the run unless it is ``going_on``."""
        run, job_id = one.run, one.run.job
        record = one.record(status, **ending)
        one.state = OpenState.RETRY  # whatever heap it lies in, it is not pending any more
        self._owned.get(one.worker, {}).pop(run.run_id, None)
        if status is not RunStatus.SKIPPED:
            self._newest[job_id] = record
        if status is RunStatus.COMPLETED:
            self._completed[job_id] = record.finished_at_ms or 0
        self._put_run(record)
        if going_on:
            return record
        self._tries.pop(run.run_id, None)
        self._over[run.run_id] = (run, one.attempt, status)
        if len(self._over) > _ENDED_KEPT:
            self._over.popitem(last=False)
        going = self._going.get(job_id)
        if going is not None and going.pop(run.run_id, None) is not None:
            if not going:
                del self._going[job_id]
            self._release(job_id)
        return record

    def _release(self, job_id: str) -> None:
        """One ended: the oldest that wait become due, as many as there is room for."""
        line = self._held.get(job_id)
        while line:
            capacity = line[0].run.capacity
            if capacity and len(self._going.get(job_id, ())) >= capacity:
                break
            one = line.popleft()
            one.reason = None
            self._place(one)
        if line is not None and not line:
            del self._held[job_id]

    def _drop_held(self, job_id: str, reason: Reason, error: str) -> None:
        for one in self._held.pop(job_id, ()):
            self._drop(one, reason, error)

    def _drop(self, one: _Try, reason: Reason, error: str) -> None:
        self._end(one, RunStatus.SKIPPED, reason=reason, error=error, finished_at_ms=self._clock.now_ms())

    def _replace(self, one: _Try) -> None:
        """End it if it has not begun, else have its worker end it."""
        if one.state is not OpenState.RUNNING:
            self._drop(one, Reason.REPLACED, _REPLACED)
            return
        one.cancel = Reason.REPLACED
        for watch in tuple(self.watches):
            watch.cancel()

    def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        for claim in claims:
            one = self._owned.get(worker, {}).get(claim.run_id)
            if one is None or one.attempt != claim.attempt:
                continue
            del self._owned[worker][claim.run_id]
            if one.cancel:
                self._end(one, RunStatus.SKIPPED, reason=one.cancel, finished_at_ms=self._clock.now_ms())
                continue
            one.worker, one.started = "", 0
            self._place(one)

    def beat(self, worker: WorkerInfo) -> dict[tuple[str, int], str]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        self._workers[worker.id] = (worker, self._clock.now_ms())
        return {(run_id, one.attempt): one.cancel for run_id, one in self._owned.get(worker.id, {}).items()}

    def retire(self, worker: str) -> None:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        self._workers.pop(worker, None)
        if not self._owned.get(worker, True):
            del self._owned[worker]

    def workers(self) -> list[WorkerInfo]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        now = self._clock.now_ms()
        for gone in [key for key, (info, seen) in self._workers.items() if now - seen > info.lease_ms]:
            self.retire(gone)
        return [info for info, _ in self._workers.values()]

    def lost(self, limit: int) -> list[Claim]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        alive = {info.id for info in self.workers()}
        found: list[Claim] = []
        for worker, owned in self._owned.items():
            if worker not in alive:
                found.extend(one.claim(None) for one in owned.values())
        return found[:limit]

    def mark_unhandled(self) -> int:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        known = {name for info in self.workers() for name in info.handlers}
        found = 0
        for name, heap in self._due.items():
            for one in heap:
                if one.state is not OpenState.PENDING:
                    continue
                found += name not in known
                if name not in known:
                    one.reason = Reason.NO_HANDLER
                elif one.reason == Reason.NO_HANDLER:
                    one.reason = None
        return found

    # The callers' side.

    def drop_runs(self, job_id: str, generation: int) -> int:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        line = self._held.pop(job_id, deque())
        kept = deque(one for one in line if one.run.generation != generation)
        if kept:
            self._held[job_id] = kept
        running = 0
        for one in [*line, *self._going.get(job_id, {}).values()]:
            if one.run.generation != generation:
                continue
            if one.state is OpenState.RUNNING:
                running += 1
            else:
                self._drop(one, Reason.JOB_REMOVED, "its job was removed")
        return running

    def redrive(self, run_id: str) -> bool:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        run, attempt, status = self._over.get(run_id, (None, 0, RunStatus.COMPLETED))
        if run is None or status not in _REDRIVABLE:
            return False
        del self._over[run_id]
        self._place(self._new(run, attempt + 1, self._clock.now_ms(), Reason.REDRIVEN))
        return True

    def activity(self, job_ids: Sequence[str]) -> Mapping[str, Activity]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        found: dict[str, Activity] = {}
        for job_id in job_ids:
            going, newest = self._going.get(job_id, {}), self._newest.get(job_id)
            if not going and newest is None and job_id not in self._held:
                continue
            running = sum(one.state is OpenState.RUNNING for one in going.values())
            found[job_id] = Activity(
                running=running,
                waiting=len(going) - running + len(self._held.get(job_id, ())),
                status=None if newest is None else newest.status,
                started_ms=None if newest is None else newest.started_at_ms,
                finished_ms=None if newest is None else newest.finished_at_ms,
            )
        return found

    def open_runs(self, job_id: str | None) -> Iterator[Run]:
        """The records of the tries that are not over."""
        for one in self._tries.values():
            if job_id in {None, one.run.job}:
                yield one.record(RunStatus.RUNNING if one.state is OpenState.RUNNING else RunStatus.PENDING)

    def forget(self, job_id: str) -> None:
        """Drop what is kept of a job that is gone, or of which no record is left."""
        self._newest.pop(job_id, None)
        self._completed.pop(job_id, None)
