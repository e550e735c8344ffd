"""One run on its way, as the leader holds it."""

from typing import Any

import msgspec

from natscron.engine.target import Outcome
from natscron.model import Delivery, Job, Ms, OpenRow, OpenState, Overlap, Run, RunStatus, Trigger

__all__ = ["Flight"]

_BY_MARK = frozenset({Trigger.SCHEDULE, Trigger.CATCHUP})
_READER = 2
"""The first reader version that knows what waits, what is stored, and policies of a run's own."""


class Flight:
    """One run on its way. Mutable; owned by :class:`~natscron.engine.flights.Flights`."""

    __slots__ = (
        "attempt",
        "deadline_ms",
        "delivery",
        "due_ms",
        "going",
        "inherited",
        "job",
        "message",
        "next_at_ms",
        "overlap",
        "payload",
        "replaces",
        "row",
        "run_id",
        "scheduled_ms",
        "started_ms",
        "state",
        "stored",
        "told",
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
        self.message = 1
        self.state = OpenState.PENDING
        self.going = False
        """It counts as a run of its job that is going on: decided to start, and not over."""
        self.stored = False
        self.told = False
        """The present try's end came as its worker's own word."""
        self.started_ms: Ms = 0
        self.next_at_ms: Ms = 0
        self.deadline_ms: Ms = 0
        self.payload: Any = msgspec.UNSET
        self.overlap: Overlap | None = None
        self.replaces = ""
        self.row: OpenRow | None = None
        self.inherited = False
        self.version = 0

    @classmethod
    def of_row(cls, row: OpenRow, job: Job) -> "Flight":
        """The flight that a row stands for; ``job`` of the row's generation."""
        flight = cls(
            run_id=row.run_id,
            job=job,
            delivery=row.delivery,
            scheduled_ms=row.scheduled_at_ms,
            due_ms=row.scheduled_at_ms,
            trigger=row.trigger,
        )
        flight.state, flight.attempt, flight.payload, flight.row = row.state, row.attempt, row.payload, row
        flight.deadline_ms, flight.next_at_ms = row.deadline_ms, row.next_at_ms
        flight.message, flight.stored, flight.overlap = row.message, row.stored, row.overlap
        flight.inherited = True
        return flight

    @property
    def token(self) -> str:
        """What replies to the present try come back under."""
        return f"{self.run_id}.{self.attempt}"

    @property
    def policy(self) -> Overlap:
        """Its own overlap policy, or the job's; ALLOW where nobody tells when a run ends."""
        if not self.job.reports and self.job.delivery is not Delivery.REQUEST:
            return Overlap.ALLOW
        return self.overlap or self.job.overlap

    @property
    def decided_ms(self) -> Ms:
        """A mark from here on has it decided; 0 where that has nothing to do with the mark."""
        return self.due_ms if self.trigger in _BY_MARK else 0

    def as_row(self, epoch: int) -> OpenRow:
        """The flight as an open row of the leadership ``epoch``."""
        # Let go, or in another's place, and not sent yet: whoever takes it up decides about it again.
        state = OpenState.BUFFERED if self.going and self.state is OpenState.PENDING else self.state
        later = state is OpenState.BUFFERED or self.overlap is not None or self.stored or self.message > 1
        return OpenRow(
            epoch=epoch,
            run_id=self.run_id,
            job_id=self.job.id,
            generation=self.job.generation,
            scheduled_at_ms=self.scheduled_ms,
            state=state,
            trigger=self.trigger,
            delivery=self.delivery,
            attempt=self.attempt,
            next_at_ms=self.next_at_ms,
            deadline_ms=self.deadline_ms,
            payload=self.payload,
            overlap=self.overlap,
            message=self.message,
            stored=self.stored,
            reader=_READER if later else 1,
        )

    def as_run(self, outcome: Outcome, now_ms: Ms, instance: str, status: RunStatus) -> Run:
        """The record of the present try."""
        started = self.started_ms or None
        over = outcome.status is not RunStatus.RUNNING
        return Run(
            job=self.job.id,
            status=status,
            run_id=self.run_id,
            scheduled_at_ms=self.scheduled_ms,
            started_at_ms=started,
            finished_at_ms=now_ms if over else None,
            reason=outcome.reason,
            attempt=self.attempt,
            trigger=self.trigger,
            delivery=self.delivery,
            lateness_ms=None if started is None else started - self.due_ms,
            duration_ms=None if started is None or not over else now_ms - started,
            instance=instance,
            error=outcome.error,
            result=outcome.result,
        )
