"""A run in the bucket of runs, as long as it is not over and a little longer. Pure: states, and the steps between them.

One row per run, under ``<job key>.<run id>``; every step is a compare-and-set on its sequence. *held* waits for another
run of its job, *pending* may be claimed at ``not_before_ms``, *running* belongs to ``worker``, *over* tells everybody
how it ended and goes by itself.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from natscron.codec import key_of
from natscron.errors import MalformedInputError
from natscron.model import Claim, Delivery, Ending, Ms, Overlap, QueuedRun, Reason, Run, RunStatus, Trigger
from natscron.wire.publisher import safe_token

__all__ = ["RowState", "RunRow", "decode_run_row", "encode_run_row", "row_key"]


class RowState(StrEnum):
    """Where a run stands."""

    HELD = "held"
    PENDING = "pending"
    RUNNING = "running"
    OVER = "over"


class RunRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """``status`` and ``finished_ms`` of one that is over. ``cancel``: why its worker is to end it.

    ``by_leader``: held by somebody else than the leader, who alone may let it go. ``mark``: of the write that ended the
    try before, so that whoever wrote it knows it again.
    """

    run_id: str
    job: str
    state: RowState
    generation: int = 0
    scheduled_at_ms: Ms = 0
    due_ms: Ms = 0
    trigger: Trigger = Trigger.SCHEDULE
    handler: str = ""
    overlap: Overlap = Overlap.SKIP
    concurrency: int = 0
    priority: int = 0
    payload: Any = msgspec.UNSET
    attempt: int = 1
    not_before_ms: Ms = 0
    reason: str | None = None
    worker: str = ""
    instance: str = ""
    started_ms: Ms = 0
    cancel: str = ""
    by_leader: bool = False
    mark: str = ""
    status: RunStatus | None = None
    finished_ms: Ms = 0

    @classmethod
    def of(cls, run: QueuedRun, state: RowState = RowState.PENDING) -> "RunRow":
        """A run that is queued for the first time."""
        return cls(
            run_id=run.run_id,
            job=run.job,
            state=state,
            generation=run.generation,
            scheduled_at_ms=run.scheduled_at_ms,
            due_ms=run.due_ms,
            trigger=run.trigger,
            handler=run.handler,
            overlap=run.overlap,
            concurrency=run.concurrency,
            priority=run.priority,
            payload=run.payload,
            not_before_ms=run.due_ms,
            reason=Reason.OVERLAP_WAIT if state is RowState.HELD else None,
        )

    @property
    def capacity(self) -> int:
        """How many runs of the job may go at once when this one is among them; 0: any number."""
        return self.concurrency or (0 if self.overlap is Overlap.ALLOW else 1)

    @property
    def going(self) -> bool:
        """It counts as a run of its job that goes."""
        return self.state is RowState.PENDING or self.state is RowState.RUNNING

    def claimed(self, worker: str, instance: str, now_ms: Ms) -> "RunRow":
        """A worker has it."""
        return msgspec.structs.replace(
            self, state=RowState.RUNNING, worker=worker, instance=instance, started_ms=now_ms, reason=None
        )

    def given_back(self) -> "RunRow":
        """As if it had never been claimed."""
        return msgspec.structs.replace(self, state=RowState.PENDING, worker="", instance="", started_ms=0, reason=None)

    def let_go(self) -> "RunRow":
        """It waits for no other any more."""
        return msgspec.structs.replace(self, state=RowState.PENDING, reason=None, by_leader=False)

    def to_end(self, reason: str) -> "RunRow":
        """Its worker is to end it."""
        return msgspec.structs.replace(self, cancel=reason)

    def tried_again(self, at_ms: Ms, reason: str | None) -> "RunRow":
        """The next try, at ``at_ms``."""
        return msgspec.structs.replace(
            self.given_back(), attempt=self.attempt + 1, not_before_ms=at_ms, reason=reason, cancel=""
        )

    def over(self, status: RunStatus, now_ms: Ms, started_ms: Ms = 0) -> "RunRow":
        """What is left of it: enough to know it again, and for what the job's runs are doing."""
        return RunRow(
            run_id=self.run_id,
            job=self.job,
            state=RowState.OVER,
            generation=self.generation,
            attempt=self.attempt,
            worker=self.worker,
            started_ms=started_ms,
            status=status,
            finished_ms=now_ms,
        )

    def as_claim(self, last_completed_ms: Ms | None) -> Claim:
        """As its worker sees it."""
        return Claim(
            run_id=self.run_id,
            job=self.job,
            generation=self.generation,
            scheduled_at_ms=self.scheduled_at_ms,
            due_ms=self.due_ms,
            trigger=self.trigger,
            attempt=self.attempt,
            handler=self.handler,
            payload=self.payload,
            worker=self.worker,
            started_ms=self.started_ms,
            last_completed_ms=last_completed_ms,
        )

    def as_run(self, reason: str | None = None) -> Run:
        """As the history shows it while it is not over."""
        running = self.state is RowState.RUNNING
        started = self.started_ms or None
        return Run(
            job=self.job,
            status=RunStatus.RUNNING if running else RunStatus.PENDING,
            run_id=self.run_id,
            scheduled_at_ms=self.scheduled_at_ms,
            started_at_ms=started,
            reason=reason or self.reason,
            attempt=self.attempt,
            trigger=self.trigger,
            delivery=Delivery.HANDLER,
            lateness_ms=None if started is None else started - self.due_ms,
            instance=self.instance,
        )

    def ended(self, ending: Ending) -> Run:
        """The record of a try that a worker had."""
        started = ending.started_ms or None
        return Run(
            job=self.job,
            status=ending.status,
            run_id=self.run_id,
            scheduled_at_ms=self.scheduled_at_ms,
            started_at_ms=started,
            finished_at_ms=ending.finished_ms,
            reason=ending.reason,
            attempt=self.attempt,
            trigger=self.trigger,
            delivery=Delivery.HANDLER,
            lateness_ms=None if started is None else started - self.due_ms,
            duration_ms=None if started is None else ending.finished_ms - started,
            instance=self.instance,
            error=ending.error,
            result=ending.result,
        )

    def left_out(self, reason: str, error: str, now_ms: Ms) -> Run:
        """The record of a try that never began."""
        return Run(
            job=self.job,
            status=RunStatus.SKIPPED,
            run_id=self.run_id,
            scheduled_at_ms=self.scheduled_at_ms,
            finished_at_ms=now_ms,
            reason=reason,
            attempt=self.attempt,
            trigger=self.trigger,
            delivery=Delivery.HANDLER,
            error=error,
        )


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(RunRow)


def row_key(row: "RunRow | QueuedRun") -> str:
    """The key of a run's row: its job's key, so that one job's runs are one filter, and one token for its id."""
    return f"{key_of(row.job)}.{safe_token(row.run_id)}"


def encode_run_row(row: RunRow) -> bytes:
    """The row as compact JSON."""
    return _encoder.encode(row)


def decode_run_row(data: bytes) -> RunRow:
    """The row. Raises MalformedInputError."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedInputError(f"unreadable run: {error}") from None
