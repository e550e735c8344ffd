"""Runs that are on their way: sent with an answer expected, waiting for a retry, or taken over from another leader.

States of a flight: *running* (an answer is awaited until the try's deadline) and *retry* (to be sent again at an
instant). It ends by an answer that is final, by its last try's failure, or by the job's removal. Whatever ends it, or
delays it, becomes a run record.

* ``request``: each try has the job's timeout; the retry policy decides whether another follows.
* ``jetstream``: the job's timeout bounds all tries together; a try without an acknowledgement for
  :data:`ACK_WAIT_MS`, and every refusal that may pass, is sent again under the same id.

A flight whose slot the mark is about to pass is laid down as an open row first. A successor that finds the row sends a
``jetstream`` run again (the stream knows its id), and treats a ``request`` as running until its deadline; if the
history has no end of it then, its outcome is unknown and the retry policy decides. Nothing here is unbounded: every
flight has a deadline, and rows are laid down :data:`ROWS_MAX` at a time, behind which the mark waits.
"""

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from natscron.engine.target import Outcome, Target
from natscron.model import (
    DEFAULT_TIMEOUT_MS,
    Delivery,
    Job,
    Ms,
    OpenRow,
    OpenState,
    Reason,
    Run,
    RunStatus,
    Trigger,
)
from natscron.policy.retry import delay_ms, next_attempt_ms
from natscron.storage.protocol import Reply

ACK_WAIT_MS: Final[Ms] = 5_000
ROWS_MAX: Final = 5_000
DOUBT_MS: Final[Ms] = 2_000
"""After an inherited request's deadline: time for the leader before us to have recorded its end."""
_ENDED_KEPT: Final = 10_000


class Flight:
    """One run on its way. Mutable; owned by :class:`Flights`."""

    __slots__ = (
        "attempt",
        "deadline_ms",
        "delivery",
        "due_ms",
        "error",
        "inherited",
        "job",
        "next_at_ms",
        "payload",
        "reason",
        "row",
        "run_id",
        "scheduled_ms",
        "started_ms",
        "state",
        "trigger",
        "version",
    )

    def __init__(  # noqa: PLR0913 - a record; all its fields are needed at once
        self, *, run_id: str, job: Job, delivery: Delivery, scheduled_ms: Ms, due_ms: Ms, trigger: Trigger
    ) -> None:
        self.run_id = run_id
        self.job = job
        self.delivery = delivery
        self.scheduled_ms = scheduled_ms
        self.due_ms = due_ms
        self.trigger = trigger
        self.attempt = 1
        self.state = OpenState.PENDING
        self.started_ms: Ms = 0
        self.next_at_ms: Ms = 0
        self.deadline_ms: Ms = 0
        self.payload: Any = msgspec.UNSET
        self.reason: str | None = None
        self.error: str | None = None
        self.row: OpenRow | None = None
        self.inherited = False
        self.version = 0

    @property
    def token(self) -> str:
        """What replies to the present try come back under."""
        return f"{self.run_id}.{self.attempt}"

    def as_row(self, epoch: int) -> OpenRow:
        """The flight as an open row of the leadership ``epoch``."""
        return OpenRow(
            epoch=epoch,
            run_id=self.run_id,
            job_id=self.job.id,
            generation=self.job.generation,
            scheduled_at_ms=self.scheduled_ms,
            state=self.state,
            trigger=self.trigger,
            delivery=self.delivery,
            attempt=self.attempt,
            next_at_ms=self.next_at_ms,
            deadline_ms=self.deadline_ms,
            payload=self.payload,
        )


class Expired(NamedTuple):
    """``again``: to be sent now. ``doubtful``: sent by a leader before us, which may have recorded their end."""

    again: list[Flight]
    doubtful: list[Flight]


class Flights:
    """All flights of one leadership."""

    def __init__(
        self,
        target: Target,
        record: Callable[[Run], None],
        find_job: Callable[[str], Job | None],
        *,
        instance: str,
        epoch: int,
    ) -> None:
        self.closed_rows: list[str] = []
        """Run ids whose open rows can be deleted; the leader empties it."""
        self._target = target
        self._record = record
        self._find_job = find_job
        self._instance = instance
        self._epoch = epoch
        self._moved = asyncio.Event()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._by_id: dict[str, Flight] = {}
        self._per_job: dict[str, int] = {}
        self._timers: list[tuple[Ms, int, Flight, int]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def knows(self, run_id: str) -> bool:
        """Whether the run is on its way or ended lately: a row of it that is seen again says nothing new."""
        return run_id in self._by_id or run_id in self._ended

    def on_its_way(self, run_id: str) -> bool:
        """Whether the run is on its way."""
        return run_id in self._by_id

    def busy(self, job_id: str) -> bool:
        """Whether a run of the job is on its way."""
        return self._per_job.get(job_id, 0) > 0

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
            while not ended.done() and any(
                f.state is OpenState.RUNNING and not f.inherited for f in self._by_id.values()
            ):
                self._moved.clear()
                moved = asyncio.ensure_future(self._moved.wait())
                try:
                    await asyncio.wait([moved, ended], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    moved.cancel()
        finally:
            ended.cancel()

    def sent(self, flight: Flight, now_ms: Ms) -> None:
        """The present try was handed over at ``now_ms``."""
        if flight.run_id not in self._by_id:
            self._by_id[flight.run_id] = flight
            self._per_job[flight.job.id] = self._per_job.get(flight.job.id, 0) + 1
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

    def taken_over(self, flight: Flight, at_ms: Ms) -> None:
        """Another leader's run: nothing to do before ``at_ms`` (its deadline, its next try, or now)."""
        flight.inherited = True
        self._by_id[flight.run_id] = flight
        self._per_job[flight.job.id] = self._per_job.get(flight.job.id, 0) + 1
        self._timer(flight, at_ms)

    def settled_elsewhere(self, run_id: str) -> None:
        """Its row was deleted by the leader before us, which had its answer."""
        flight = self._by_id.get(run_id)
        if flight is not None and flight.row is not None and flight.state is OpenState.RUNNING:
            flight.row = None
            self._close(flight)

    def on_reply(self, reply: Reply, now_ms: Ms) -> None:
        """An answer came."""
        run_id, _, attempt = reply.token.rpartition(".")
        flight = self._by_id.get(run_id)
        if flight is None or flight.state is not OpenState.RUNNING:
            return
        if flight.delivery is Delivery.REQUEST and str(flight.attempt) != attempt:
            return  # an earlier try's answer, after its timeout was recorded
        self._judged(flight, self._target.judge(flight.delivery, reply), now_ms)

    def expire(self, now_ms: Ms, limit: int) -> Expired:
        """Deal with tries that timed out; what is to be sent (again) now, and what another leader may have finished.

        At most ``limit`` flights at a time.
        """
        again: list[Flight] = []
        doubtful: list[Flight] = []
        while len(again) + len(doubtful) < limit and (at := self.next_ms()) is not None and at <= now_ms:
            flight = heapq.heappop(self._timers)[2]
            flight.version += 1
            if flight.state is OpenState.RUNNING:
                if flight.inherited:
                    doubtful.append(flight)
                else:
                    self._judged(
                        flight,
                        Outcome(RunStatus.FAILED, Reason.TIMEOUT, "no answer within the timeout", retry=True),
                        now_ms,
                    )
                continue
            job = self._find_job(flight.job.id)
            if job is None or job.generation != flight.job.generation or job.invalid is not None:
                self._finish(
                    flight,
                    Outcome(RunStatus.FAILED, Reason.JOB_REMOVED, "the job was removed before the run could be sent"),
                    now_ms,
                )
                continue
            flight.job = job
            again.append(flight)
        return Expired(again, doubtful)

    def settle(self, flight: Flight, *, finished: bool, now_ms: Ms) -> None:
        """A doubtful flight: ``finished`` if the leader before us recorded its end; else its outcome is unknown."""
        if flight.run_id not in self._by_id:
            return
        if finished:
            self._close(flight)
            return
        text = "the leader that sent it is gone and no answer is known; it may have run"
        self._judged(flight, Outcome(RunStatus.FAILED, Reason.OUTCOME_UNKNOWN, text, retry=True), now_ms)

    def refuse(self, flight: Flight, reason: str, error: str, now_ms: Ms) -> None:
        """The run cannot be sent at all."""
        self._finish(flight, Outcome(RunStatus.FAILED, reason, error), now_ms)

    def delivered(self, flight: Flight, now_ms: Ms) -> None:
        """A core message whose record is its row reached the server."""
        self._finish(flight, Outcome(RunStatus.SENT), now_ms)

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
                self.closed_rows.append(row.run_id)
            else:
                flight.row = row

    def _judged(self, flight: Flight, outcome: Outcome, now_ms: Ms) -> None:
        if outcome.retry:
            at = self._next_try(flight, now_ms)
            if at is not None:
                self._record(self._run(flight, outcome, now_ms, RunStatus.PENDING))
                flight.reason, flight.error = outcome.reason, outcome.error
                flight.state = OpenState.RETRY
                flight.attempt += 1
                flight.next_at_ms = at
                self._timer(flight, at)
                self._moved.set()
                return
        self._finish(flight, outcome, now_ms)

    @staticmethod
    def _next_try(flight: Flight, now_ms: Ms) -> Ms | None:
        retry = flight.job.retry
        if flight.delivery is Delivery.JETSTREAM:
            at = now_ms + delay_ms(retry, flight.attempt, flight.run_id)
            return at if at < flight.deadline_ms else None
        return next_attempt_ms(retry, flight.attempt, now_ms, flight.run_id)

    def _finish(self, flight: Flight, outcome: Outcome, now_ms: Ms) -> None:
        self._record(self._run(flight, outcome, now_ms, outcome.status))
        self._close(flight)

    def _close(self, flight: Flight) -> None:
        flight.version += 1
        if self._by_id.pop(flight.run_id, None) is None:
            return
        self._ended[flight.run_id] = None
        if len(self._ended) > _ENDED_KEPT:
            self._ended.popitem(last=False)
        left = self._per_job[flight.job.id] - 1
        if left:
            self._per_job[flight.job.id] = left
        else:
            del self._per_job[flight.job.id]
        if flight.row is not None:
            self.closed_rows.append(flight.run_id)
        self._moved.set()

    def _run(self, flight: Flight, outcome: Outcome, now_ms: Ms, status: RunStatus) -> Run:
        started = flight.started_ms or None
        return Run(
            job=flight.job.id,
            status=status,
            run_id=flight.run_id,
            scheduled_at_ms=flight.scheduled_ms,
            started_at_ms=started,
            finished_at_ms=now_ms,
            reason=outcome.reason,
            attempt=flight.attempt,
            trigger=flight.trigger,
            delivery=flight.delivery,
            lateness_ms=None if started is None else started - flight.scheduled_ms,
            duration_ms=None if started is None else now_ms - started,
            instance=self._instance,
            error=outcome.error,
            result=outcome.result,
        )

    def _timer(self, flight: Flight, at_ms: Ms) -> None:
        flight.version += 1
        self._order += 1
        heapq.heappush(self._timers, (at_ms, self._order, flight, flight.version))
