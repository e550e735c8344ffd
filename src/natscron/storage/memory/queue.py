"""The run queue of a memory cluster: what every other run queue must do.

Everything happens at once, in the event loop; "the same transaction" is one call. A job's tries are counted while they
are pending or running, and those that are held wait in a line per job.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from natscron.clock import Clock
from natscron.model import (
    Activity,
    Claim,
    Claimed,
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
from natscron.storage.memory.tries import Line, Try
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


class MemoryQueue:
    """All tries that are not over, and the workers. ``put_run`` takes what is over into the history."""

    def __init__(self, clock: Clock, put_run: Callable[[Run], None]) -> None:
        self.watches: dict[QueueSink, None] = {}
        """Whom to tell of changes."""
        self._clock = clock
        self._put_run = put_run
        self._tries: dict[str, Try] = {}
        """The newest try of each run that is not over, by run id."""
        self._over: OrderedDict[str, tuple[QueuedRun, int, RunStatus]] = OrderedDict()
        self._lines: dict[str, Line] = {}
        """What waits, by handler."""
        self._going: dict[str, dict[str, Try]] = {}
        """Pending and running tries by job."""
        self._held: dict[str, deque[Try]] = {}
        self._newest: dict[str, Run] = {}
        self._completed: dict[str, Ms] = {}
        self._owned: dict[str, dict[str, Try]] = {}
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
        if verdict is Verdict.START or (verdict is Verdict.REPLACE and not self._going.get(run.job)):
            self._place(one)
        else:
            self._hold(one)
        return None

    def _new(self, run: QueuedRun, attempt: int, not_before: Ms, reason: str | None) -> Try:
        self._order += 1
        return Try(run, attempt, not_before, self._order, reason)

    def _place(self, one: Try) -> None:
        """It becomes claimable at its instant, and counts as going."""
        one.state = OpenState.PENDING
        self._tries[one.run.run_id] = one
        self._going.setdefault(one.run.job, {})[one.run.run_id] = one
        self._lines.setdefault(one.run.handler, Line()).put(one, self._clock.now_ms())
        self.wake()

    def _hold(self, one: Try) -> None:
        """It waits until another of its job has ended."""
        one.state, one.reason = OpenState.BUFFERED, Reason.OVERLAP_WAIT
        self._tries[one.run.run_id] = one
        line = self._held.setdefault(one.run.job, deque())
        place = len(line)
        # The oldest slots go first, whenever they came: a backfill's, or a run that is redriven.
        while place and line[place - 1].run.scheduled_at_ms > one.run.scheduled_at_ms:
            place -= 1
        line.insert(place, one)

    def wake(self) -> None:
        """Tell whoever follows the queue."""
        for watch in tuple(self.watches):
            watch.wake()

    # The workers' side.

    def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        now = self._clock.now_ms()
        lines = {name: self._lines[name] for name in handlers if name in self._lines}
        announced = self._workers.get(worker)
        instance = worker if announced is None else announced[0].instance
        claims: list[Claim] = []
        while len(claims) < limit:
            firsts = [(one, line) for line in lines.values() if (one := line.first(now)) is not None]
            if not firsts:
                break
            one, line = min(firsts, key=lambda found: found[0]) if len(firsts) > 1 else firsts[0]
            line.pop()
            one.begin(worker, instance, now)
            self._owned.setdefault(worker, {})[one.run.run_id] = one
            claims.append(one.claim(self._completed.get(one.run.job)))
        following = None
        if len(claims) < limit:
            instants = (line.next_ms() for line in lines.values())
            following = min((at for at in instants if at is not None), default=None)
        for name, line in lines.items():
            if not line:
                del self._lines[name]
        return Claimed(tuple(claims), following, now)

    def finish(self, worker: str, endings: Sequence[Ending]) -> list[bool]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        return [self._finish(worker, ending) for ending in endings]

    def _finish(self, worker: str, ending: Ending) -> bool:
        one = self._tries.get(ending.run_id)
        if one is None or one.attempt != ending.attempt or one.state is not OpenState.RUNNING or one.worker != worker:
            return False
        one.started = ending.started_ms
        # What was to end in favour of another is not tried again, whatever its worker knew of that.
        wait_ms = None if one.cancel else ending.retry_in_ms
        self._end(
            one,
            ending.status,
            going_on=wait_ms is not None,
            reason=ending.reason,
            error=ending.error,
            result=ending.result,
            finished_at_ms=ending.finished_ms,
        )
        if wait_ms is not None:
            at = self._clock.now_ms() + wait_ms
            self._place(self._new(one.run, one.attempt + 1, at, ending.retry_reason))
        return True

    def _end(self, one: Try, status: RunStatus, *, going_on: bool = False, **ending: "str | int | None") -> Run:
        """The try is over, and with it the run unless it is ``going_on``."""
        run, job_id = one.run, one.run.job
        record = one.record(status, **ending)
        if one.waiting and run.run_id in self._going.get(job_id, ()):
            one.state = OpenState.RETRY  # not pending any more, whatever line it stands in
            self._lines[run.handler].dropped()
        one.state = OpenState.RETRY
        self._disown(one)
        if status is not RunStatus.SKIPPED:
            self._newest[job_id] = record
        if status is RunStatus.COMPLETED:
            self._completed[job_id] = max(record.finished_at_ms or 0, self._completed.get(job_id, 0))
        self._put_run(record)
        if going_on:
            return record
        self._tries.pop(run.run_id, None)
        self._remember(run, one.attempt, status)
        going = self._going.get(job_id)
        if going is not None and going.pop(run.run_id, None) is not None:
            if not going:
                del self._going[job_id]
            self._release(job_id)
        return record

    def _remember(self, run: QueuedRun, attempt: int, status: RunStatus) -> None:
        self._over[run.run_id] = (run, attempt, status)
        if len(self._over) > _ENDED_KEPT:
            self._over.popitem(last=False)

    def _disown(self, one: Try) -> None:
        owned = self._owned.get(one.worker)
        if owned is not None:
            owned.pop(one.run.run_id, None)
            if not owned:
                del self._owned[one.worker]

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

    def _drop(self, one: Try, reason: str, error: str) -> None:
        self._end(one, RunStatus.SKIPPED, reason=reason, error=error, finished_at_ms=self._clock.now_ms())

    def _replace(self, one: Try) -> None:
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
            self._disown(one)
            one.undo()
            if one.cancel:
                self._drop(one, one.cancel, _REPLACED)
            else:
                self._place(one)

    def beat(self, worker: WorkerInfo) -> dict[tuple[str, int], str]:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        self._workers[worker.id] = (worker, self._clock.now_ms())
        return {(run_id, one.attempt): one.cancel for run_id, one in self._owned.get(worker.id, {}).items()}

    def retire(self, worker: str) -> None:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        self._workers.pop(worker, None)

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
        now = self._clock.now_ms()
        found = 0
        for name, line in self._lines.items():
            for one in line.all_due(now):
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
        running, dropped = 0, False
        for one in [*line, *self._going.get(job_id, {}).values()]:
            if one.run.generation != generation:
                continue
            if one.state is OpenState.RUNNING:
                running += 1
            else:
                self._drop(one, Reason.JOB_REMOVED, "its job was removed")
                dropped = True
        if dropped:
            # What was held behind one that is gone may have room.
            self._release(job_id)
        return running

    def redrive(self, run_id: str) -> bool:
        """See :class:`~natscron.storage.protocol.RunQueue`."""
        run, attempt, status = self._over.get(run_id, (None, 0, RunStatus.COMPLETED))
        if run is None or status not in _REDRIVABLE:
            return False
        del self._over[run_id]
        one = self._new(run, attempt + 1, self._clock.now_ms(), Reason.REDRIVEN)
        if run.capacity and len(self._going.get(run.job, ())) >= run.capacity:
            self._hold(one)
        else:
            self._place(one)
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

    def imported(self, run: Run) -> None:
        """The record of a run that was queued, executed and ended in another store."""
        newest = self._newest.get(run.job)
        ended = run.finished_at_ms or 0
        if run.status is not RunStatus.SKIPPED and (newest is None or ended >= (newest.finished_at_ms or 0)):
            self._newest[run.job] = run
        if run.status is RunStatus.COMPLETED:
            self._completed[run.job] = max(ended, self._completed.get(run.job, 0))
        if run.run_id is not None and run.run_id not in self._over:
            slot = run.scheduled_at_ms or 0
            queued = QueuedRun(run_id=run.run_id, job=run.job, generation=0, scheduled_at_ms=slot, due_ms=slot)
            # What it was queued with is not known: nobody can redrive it.
            self._remember(queued, run.attempt, RunStatus.SKIPPED)

    def forget(self, job_id: str) -> None:
        """Drop what is kept of a job that is gone, or of which no record is left."""
        self._newest.pop(job_id, None)
        self._completed.pop(job_id, None)
