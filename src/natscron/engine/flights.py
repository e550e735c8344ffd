"""Runs that are on their way: sent with an answer expected, waiting for their turn, or taken over from another leader.

States of a flight: *pending* (to be sent for the first time), *buffered* (due while another run of its job was going),
*running* (an answer is awaited until a deadline) and *retry* (to be sent again at an instant). It ends by an answer
that is final, by its last try's failure, by a newer run that takes its place, or by the job's removal. Whatever ends
it, or delays it, becomes a run record.

* ``request``: each try has the job's timeout; the retry policy decides whether another follows.
* ``jetstream``: the job's timeout bounds all tries together; a try without an acknowledgement for
  :data:`ACK_WAIT_MS`, and every refusal that may pass, is sent again under the same id.
* A job whose workers *report* is going until the report, whatever the delivery, or until its timeout from when the
  message was sent (``core``) or stored (``jetstream``); then the retry policy decides, and a try that follows is a new
  message, which no stream may take for the old one.

What is going and what waits is known per job, and :mod:`natscron.policy.overlap` decides with it: about a run that is
due, and again about each that waits whenever one ends. After a takeover nothing is let go until the runs of the
leader before us are all known (:meth:`Flights.release_all`).

A flight whose slot the mark is about to pass is laid down as an open row first. A successor that finds the row sends a
``jetstream`` run again (the stream knows its id), and treats a ``request`` as running until its deadline; if the
history has no end of it then, its outcome is unknown and the retry policy decides. Nothing here is unbounded: every
flight has a deadline, what waits is bounded per job, and rows are laid down :data:`ROWS_MAX` at a time, behind which
the mark waits.
"""

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from natscron.engine.flight import Flight
from natscron.engine.target import Outcome, Target
from natscron.model import (
    ANSWERED,
    DEFAULT_TIMEOUT_MS,
    Delivery,
    Job,
    Ms,
    OpenRow,
    OpenState,
    Overlap,
    Reason,
    Report,
    Run,
    RunStatus,
)
from natscron.policy import overlap
from natscron.policy.overlap import Verdict
from natscron.policy.retry import applies, delay_ms, next_attempt_ms
from natscron.storage.protocol import Reply

__all__ = ["ACK_WAIT_MS", "DOUBT_MS", "ROWS_MAX", "Expired", "Flight", "Flights"]

ACK_WAIT_MS: Final[Ms] = 5_000
ROWS_MAX: Final = 5_000
DOUBT_MS: Final[Ms] = 2_000
"""After an inherited request's deadline: time for the leader before us to have recorded its end."""
_ENDED_KEPT: Final = 10_000
_STALE_MAX: Final = 1_000
_LOOK_MS: Final[Ms] = 50

_NOT_SENT: Final = {
    Verdict.SKIP: (Reason.OVERLAP_SKIP, "the job's previous run was still going"),
    Verdict.DROP: (Reason.BUFFER_FULL, "the job's previous run was still going and no more runs may wait"),
}
_REPLACED: Final = "a newer run took its place (overlap cancel_other)"
_REMOVED: Final = Outcome(
    RunStatus.FAILED, Reason.JOB_REMOVED, "the job was removed, or became invalid, before the run could be sent"
)


class Expired(NamedTuple):
    """``again``: to be sent now. ``doubtful``: sent by a leader before us, which may have recorded their end."""

    again: list[Flight]
    doubtful: list[Flight]


class Flights:
    """All flights of one leadership."""

    def __init__(  # noqa: PLR0913 - what it asks and whom it tells
        self,
        target: Target,
        record: Callable[[Run], None],
        find_job: Callable[[str], Job | None],
        *,
        instance: str,
        epoch: int,
        wake: Callable[[Ms], None] = lambda _at_ms: None,
    ) -> None:
        self.closed_rows: dict[str, Ms] = {}
        """Open rows that can be deleted as soon as the mark has passed an instant; the leader empties it.

        A scheduled run's row is all that tells a successor of it as long as the mark has not passed its slot.
        """
        self.holding = False
        """Nothing that waits is let go: the runs of the leader before us are not all known yet."""
        self._target = target
        self._record = record
        self._find_job = find_job
        self._instance = instance
        self._epoch = epoch
        self._wake = wake
        self._moved = asyncio.Event()
        self._ended: OrderedDict[str, bool] = OrderedDict()
        """What ended lately, and whether by its worker's own word."""
        self._by_id: dict[str, Flight] = {}
        self._going: dict[str, dict[str, Flight]] = {}
        self._waiting: dict[str, deque[Flight]] = {}
        self._timers: list[tuple[Ms, int, Flight, int]] = []
        self._order = 0
        self._latest_ms: Ms = 0
        """The newest instant that a caller named: what follows from an end happens then."""

    def __len__(self) -> int:
        return len(self._by_id)

    def knows(self, run_id: str) -> bool:
        """Whether the run is on its way or ended lately: a row of it that is seen again says nothing new."""
        return run_id in self._by_id or run_id in self._ended

    def told(self, run_id: str) -> bool:
        """Whether the run's worker has told its end already."""
        return self._ended.get(run_id, False)

    def find(self, run_id: str) -> Flight | None:
        """The run, if it is on its way."""
        return self._by_id.get(run_id)

    def running(self, job_id: str) -> int:
        """How many runs of the job are going."""
        return len(self._going.get(job_id, ()))

    def waiting(self, job_id: str) -> int:
        """How many runs of the job wait for one that is going."""
        return len(self._waiting.get(job_id, ()))

    def next_ms(self) -> Ms | None:
        """When the next flight wants something."""
        timers = self._timers
        while timers and timers[0][3] != timers[0][2].version:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    async def landed(self, cut: asyncio.Event) -> None:
        """Wait until no answer to what was sent is awaited any more, or ``cut`` is set."""
        ended = asyncio.ensure_future(cut.wait())
        try:
            while not ended.done() and any(_awaited(flight) for flight in self._by_id.values()):
                self._moved.clear()
                moved = asyncio.ensure_future(self._moved.wait())
                try:
                    await asyncio.wait([moved, ended], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    moved.cancel()
        finally:
            ended.cancel()

    # What begins.

    def admit(self, flight: Flight, now_ms: Ms) -> bool:
        """Ask the overlap policy about a run that is due; True if it is to be sent now, and counts as going.

        Else it waits from now on, or is recorded as left out.
        """
        self._latest_ms = now_ms
        job_id = flight.job.id
        verdict = overlap.decide(flight.policy, running=self.running(job_id), waiting=self.waiting(job_id))
        if verdict in _NOT_SENT:
            self.leave_out(flight, verdict, now_ms)
            return False
        if verdict is Verdict.BUFFER:
            self.queue(flight)
            return False
        if verdict is Verdict.REPLACE:
            flight.replaces = self._replace(job_id, now_ms)
        self.enter(flight)
        return True

    def queue(self, flight: Flight) -> None:
        """The run waits until those of its job that are going have ended."""
        flight.state = OpenState.BUFFERED
        flight.version += 1
        self._by_id[flight.run_id] = flight
        line = self._waiting.setdefault(flight.job.id, deque())
        line.append(flight)
        if len(line) > 1 and line[-2].scheduled_ms > flight.scheduled_ms:
            self._waiting[flight.job.id] = deque(sorted(line, key=lambda f: f.scheduled_ms))

    def _unqueue(self, flight: Flight) -> None:
        line = deque(other for other in self._waiting.pop(flight.job.id, ()) if other is not flight)
        if line:
            self._waiting[flight.job.id] = line

    def sent(self, flight: Flight, now_ms: Ms) -> None:
        """The present try was handed over at ``now_ms``."""
        self._latest_ms = now_ms
        self.enter(flight)
        inherited = flight.inherited
        flight.state = OpenState.RUNNING
        flight.inherited = False
        flight.started_ms = now_ms
        timeout = flight.job.timeout_ms or DEFAULT_TIMEOUT_MS
        if inherited and flight.deadline_ms:
            # What is left of its time may be nothing; the stream still has to be given the time to answer.
            flight.deadline_ms = max(flight.deadline_ms, now_ms + ACK_WAIT_MS)
        if flight.delivery is Delivery.JETSTREAM:
            flight.deadline_ms = flight.deadline_ms or now_ms + timeout
            self._timer(flight, min(flight.deadline_ms, now_ms + ACK_WAIT_MS))
        else:
            flight.deadline_ms = now_ms + timeout
            self._timer(flight, flight.deadline_ms)

    def send_at(self, flight: Flight, at_ms: Ms) -> None:
        """To be sent, or to be asked about if it does not count as going yet, at ``at_ms``."""
        self._by_id[flight.run_id] = flight
        self._timer(flight, at_ms)

    def taken_over(self, flight: Flight, at_ms: Ms) -> None:
        """Another leader's run: nothing to do before ``at_ms`` (its deadline, its next try, or now)."""
        flight.inherited = True
        if flight.state is OpenState.PENDING:
            self._by_id[flight.run_id] = flight
        else:
            self.enter(flight)
        self._timer(flight, at_ms)

    def enter(self, flight: Flight) -> None:
        """It counts as going from now on."""
        self._by_id[flight.run_id] = flight
        flight.going = True
        self._going.setdefault(flight.job.id, {})[flight.run_id] = flight

    # What is heard.

    def settled_elsewhere(self, run_id: str) -> None:
        """Its row was deleted by the leader before us, which had its answer."""
        flight = self._by_id.get(run_id)
        if flight is not None and flight.row is not None and flight.state is OpenState.RUNNING:
            flight.row = None
            self._close(flight)

    def on_reply(self, reply: Reply, now_ms: Ms) -> None:
        """An answer came."""
        self._latest_ms = now_ms
        run_id, _, attempt = reply.token.rpartition(".")
        flight = self._by_id.get(run_id)
        if flight is None or flight.state is not OpenState.RUNNING:
            return
        if flight.delivery is Delivery.REQUEST and str(flight.attempt) != attempt:
            return  # an earlier try's answer, after its timeout was recorded
        if flight.stored or (flight.delivery is Delivery.JETSTREAM and int(attempt) < flight.message):
            return  # a copy's acknowledgement; what is awaited is the worker's report
        outcome = self._target.judge(flight.delivery, reply)
        if flight.job.reports and outcome.status is RunStatus.STORED:
            flight.stored = True
            self.underway(flight, now_ms)
            return
        self._judged(flight, outcome, now_ms)

    def underway(self, flight: Flight, now_ms: Ms) -> None:
        """A message whose worker reports is out: from now on its timeout runs."""
        flight.deadline_ms = now_ms + (flight.job.timeout_ms or DEFAULT_TIMEOUT_MS)
        self._record(self.run_of(flight, Outcome(RunStatus.RUNNING), now_ms))
        self._timer(flight, flight.deadline_ms)

    def reported(self, run_id: str, report: Report, now_ms: Ms) -> None:
        """A worker says how a run ended that is on its way."""
        self._latest_ms = now_ms
        flight = self._by_id[run_id]
        if flight.state in {OpenState.PENDING, OpenState.BUFFERED}:
            if not flight.inherited:
                return  # it was not even sent
            # The leader before us sent it, in a write that was cut before the row.
            self._unqueue(flight)
            self.enter(flight)
        done = report.status is RunStatus.COMPLETED
        stream = flight.delivery is Delivery.JETSTREAM
        if not done and report.attempt < (flight.message if stream else flight.attempt):
            return  # the failure of a try that was given up already
        # Whoever reports had the message, whatever became of the stream's acknowledgement.
        flight.stored = stream
        flight.told = True
        flight.started_ms = report.started_at_ms or flight.started_ms
        outcome = Outcome(
            report.status, None if done else Reason.WORKER_ERROR, report.error, report.result, not done, report.code
        )
        # Told by another host's clock, which must not put off what follows.
        self._judged(flight, outcome, max(min(report.finished_at_ms or now_ms, now_ms), flight.started_ms))

    # What is due.

    def expire(self, now_ms: Ms, limit: int) -> Expired:
        """Deal with tries that timed out; what is to be sent (again) now, and what another leader may have finished.

        At most ``limit`` flights at a time.
        """
        self._latest_ms = now_ms
        again: list[Flight] = []
        doubtful: list[Flight] = []
        while len(again) + len(doubtful) < limit and (at := self.next_ms()) is not None and at <= now_ms:
            flight = heapq.heappop(self._timers)[2]
            flight.version += 1
            if flight.state is OpenState.RUNNING:
                if flight.inherited and not flight.job.reports and flight.delivery not in ANSWERED:
                    # Its row follows its message in one write: it went out.
                    self.delivered(flight, now_ms)
                elif flight.inherited and not flight.job.reports:
                    doubtful.append(flight)
                else:
                    text = f"no {'report' if flight.job.reports else 'answer'} within the timeout"
                    self._judged(flight, Outcome(RunStatus.FAILED, Reason.TIMEOUT, text, retry=True), now_ms)
                continue
            job = self._find_job(flight.job.id)
            if job is None or job.generation != flight.job.generation or job.invalid is not None:
                self._finish(flight, _REMOVED, now_ms)
                continue
            flight.job = job
            if not flight.going and self.holding and flight.policy is not Overlap.ALLOW:
                self._timer(flight, now_ms + _LOOK_MS)
            elif flight.going or self.admit(flight, now_ms):
                again.append(flight)
        return Expired(again, doubtful)

    def settle(self, flight: Flight, *, finished: bool, now_ms: Ms) -> None:
        """A doubtful flight: ``finished`` if the leader before us recorded its end; else its outcome is unknown."""
        self._latest_ms = now_ms
        if self._by_id.get(flight.run_id) is not flight or flight.state is not OpenState.RUNNING:
            return
        if finished:
            self._close(flight)
            return
        text = "the leader that sent it is gone and no answer is known; it may have run"
        self._judged(flight, Outcome(RunStatus.FAILED, Reason.OUTCOME_UNKNOWN, text, retry=True), now_ms)

    def refuse(self, flight: Flight, reason: str, error: str, now_ms: Ms) -> None:
        """The run cannot be sent at all."""
        self._latest_ms = now_ms
        self._finish(flight, Outcome(RunStatus.FAILED, reason, error), now_ms)

    def delivered(self, flight: Flight, now_ms: Ms) -> None:
        """A message without an answer, whose record is its row, was handed over."""
        self._latest_ms = now_ms
        if flight.delivery is not Delivery.HANDLER:  # else the run queue has it, and its record with it
            self._record(self.run_of(flight, Outcome(RunStatus.SENT), now_ms))
        self._close(flight)

    def leave_out(self, flight: Flight, verdict: Verdict, now_ms: Ms) -> None:
        """The overlap policy leaves the run out."""
        self._latest_ms = now_ms
        reason, error = _NOT_SENT[verdict]
        self._finish(flight, Outcome(RunStatus.SKIPPED, reason, error), now_ms)

    def release_all(self) -> None:
        """The runs of the leader before us are known: what waits for none of them is let go."""
        self.holding = False
        for job_id in list(self._waiting):
            self._release(job_id)

    # What must survive.

    def rows_before(self, instant_ms: Ms) -> tuple[list[OpenRow], Ms]:
        """Rows to lay down before the mark may pass ``instant_ms``, and how far it may pass with these.

        At most :data:`ROWS_MAX` rows at a time; the mark stays before the first flight that must wait.
        """
        rows: list[OpenRow] = []
        for flight in self._by_id.values():
            if flight.due_ms > instant_ms:
                continue
            row = flight.as_row(self._epoch)
            if row == flight.row:
                continue
            if len(rows) >= ROWS_MAX:
                instant_ms = min(instant_ms, flight.due_ms - 1)
                continue
            rows.append(row)
        return rows, instant_ms

    def rows_saved(self, rows: Iterable[OpenRow]) -> None:
        """These rows are stored; a flight that ended meanwhile has its row deleted again."""
        for row in rows:
            flight = self._by_id.get(row.run_id)
            if flight is None:
                self.closed_rows[row.run_id] = 0
            else:
                flight.row = row

    # What ends.

    def _judged(self, flight: Flight, outcome: Outcome, now_ms: Ms) -> None:
        if outcome.retry:
            at = self._next_try(flight, outcome, now_ms)
            if at is not None:
                self._record(self.run_of(flight, outcome, now_ms, RunStatus.PENDING))
                flight.state = OpenState.RETRY
                flight.attempt += 1
                if flight.stored or (flight.job.reports and flight.delivery is Delivery.CORE):
                    flight.stored, flight.message, flight.deadline_ms = False, flight.attempt, 0
                flight.told = False
                flight.next_at_ms = at
                self._timer(flight, at)
                self._moved.set()
                return
        self._finish(flight, outcome, now_ms)

    @staticmethod
    def _next_try(flight: Flight, outcome: Outcome, now_ms: Ms) -> Ms | None:
        retry = flight.job.retry
        if flight.delivery is Delivery.JETSTREAM and not flight.stored:
            at = now_ms + delay_ms(retry, flight.attempt, flight.run_id)
            return at if at < flight.deadline_ms else None
        if not applies(retry, outcome.reason, outcome.code):
            return None
        return next_attempt_ms(retry, flight.attempt, now_ms, flight.run_id)

    def _finish(self, flight: Flight, outcome: Outcome, now_ms: Ms) -> None:
        self._record(self.run_of(flight, outcome, now_ms, outcome.status))
        self._close(flight)

    def _replace(self, job_id: str, now_ms: Ms) -> str:
        """End what is going or waiting, in favour of a newer run; the id of the newest that was going."""
        for flight in self._waiting.pop(job_id, ()):
            self._finish(flight, Outcome(RunStatus.SKIPPED, Reason.REPLACED, _REPLACED), now_ms)
        going = list(self._going.get(job_id, {}).values())
        for flight in going:
            self._finish(flight, Outcome(RunStatus.FAILED, Reason.REPLACED, _REPLACED), now_ms)
        return going[-1].run_id if going else ""

    def _close(self, flight: Flight) -> None:
        flight.version += 1
        if self._by_id.pop(flight.run_id, None) is not None:
            self._ended[flight.run_id] = flight.told
            if len(self._ended) > _ENDED_KEPT:
                self._ended.popitem(last=False)
        if flight.row is not None:
            self.closed_rows[flight.run_id] = flight.decided_ms
        self._moved.set()
        job_id = flight.job.id
        if not flight.going:
            return
        flight.going = False
        going = self._going.get(job_id, {})
        going.pop(flight.run_id, None)
        if not going:
            self._going.pop(job_id, None)
        if not self.holding:
            self._release(job_id)

    def _release(self, job_id: str) -> None:
        """One ended: ask again about those that wait."""
        line = self._waiting.get(job_id)
        if not line:
            return
        job = self._find_job(job_id)
        for flight in line:
            # Told again when it is sent; here the policy counts.
            flight.job = job if job is not None and job.generation == flight.job.generation else flight.job
        verdicts = overlap.leaving([flight.policy for flight in line], running=self.running(job_id))
        kept: deque[Flight] = deque()
        started: list[tuple[Flight, Verdict]] = []
        for flight, verdict in zip(line, verdicts, strict=True):
            if verdict is Verdict.BUFFER:
                kept.append(flight)
            else:
                started.append((flight, verdict))
        del self._waiting[job_id]
        for flight, verdict in started:
            now_ms = self._latest_ms
            if verdict in _NOT_SENT:
                self.leave_out(flight, verdict, now_ms)
                continue
            if verdict is Verdict.REPLACE:
                flight.replaces = self._replace(job_id, now_ms)
            flight.state = OpenState.PENDING
            self.enter(flight)
            self._timer(flight, now_ms)
        if kept:
            self._waiting[job_id] = kept

    def run_of(self, flight: Flight, outcome: Outcome, now_ms: Ms, status: RunStatus | None = None) -> Run:
        """The record of a flight's present try."""
        return flight.as_run(outcome, now_ms, self._instance, status or outcome.status)

    def _timer(self, flight: Flight, at_ms: Ms) -> None:
        flight.version += 1
        self._order += 1
        if len(self._timers) > 2 * len(self._by_id) + _STALE_MAX:
            # Most runs end long before their timers: what these hold must not stay until then.
            self._timers = [timer for timer in self._timers if timer[3] == timer[2].version]
            heapq.heapify(self._timers)
        heapq.heappush(self._timers, (at_ms, self._order, flight, flight.version))
        self._wake(at_ms)


def _awaited(flight: Flight) -> bool:
    """An answer comes over the link, or not at all."""
    return flight.state is OpenState.RUNNING and not flight.inherited and not flight.job.reports
