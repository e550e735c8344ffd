"""Rows of ``scheduler_executions`` as records and claims, and back. Pure.

A row of the Go library shows its own ``execution_id`` as the run id: it is what it can be asked for by, and what says
that a record was there before when it is copied to another storage. Words of its that we have not are told as
:data:`_GO_WORDS` says; its row keeps them.
"""

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement

from natscron.model import Claim, Delivery, Ending, Ms, Overlap, QueuedRun, Reason, Run, RunStatus, Trigger
from natscron.storage.protocol import recorded_ms
from natscron.storage.queue import record_id
from natscron.storage.sql.schema import executions as e

__all__ = [
    "CLAIM_COLUMNS",
    "HELD",
    "LATER",
    "OPEN",
    "OTHER_RANK",
    "OVER",
    "PENDING",
    "RANKS",
    "RANK_MAX",
    "RECORD_COLUMNS",
    "RUNNING",
    "WAITING",
    "cancelled_values",
    "capacity_of",
    "claim_of",
    "clean",
    "ended_values",
    "execution_id",
    "left_out_values",
    "moment",
    "queued_values",
    "record_values",
    "run_of",
    "storable",
    "words_of",
]

log = logging.getLogger("natscron.storage")

PENDING: Final = "pending"
LATER: Final = "later"
HELD: Final = "held"
RUNNING: Final = "running"
WAITING: Final = (PENDING, LATER, HELD)
OPEN: Final = (PENDING, LATER, RUNNING)
"""What counts as going."""
OVER: Final = tuple(word.value for word in RunStatus if word not in {RunStatus.PENDING, RunStatus.RUNNING})

_GO_WORDS: Final = {"rescheduling_failed": RunStatus.FAILED, "disabled": RunStatus.SKIPPED}
_OUR_WORDS: Final = {LATER: RunStatus.PENDING, HELD: RunStatus.PENDING}
_STATUS: Final[dict[str, RunStatus]] = {**{word.value: word for word in RunStatus}, **_GO_WORDS, **_OUR_WORDS}

RANK_MAX: Final = 500
"""The rank of what is pending is at most this, and minus this at least."""
OTHER_RANK: Final = 3_000
"""Of what is neither the queue's nor over: a row of the Go library that is to be taken up, a plain record."""
RANKS: Final[Mapping[str, int]] = {
    LATER: 1_000,
    HELD: 1_001,
    RUNNING: 1_002,
    **{word: 2_000 + number for number, word in enumerate(OVER)},
    # Of the Go library.
    "rescheduling_failed": 2_000 + OVER.index(RunStatus.FAILED.value),
    "disabled": 2_000 + OVER.index(RunStatus.SKIPPED.value),
}
"""``rank_order`` of each status but pending."""

_ID_MAX: Final = 255
_REASON_MAX: Final = 64
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NS: Final = 1_000_000

RECORD_COLUMNS: Final[Sequence[ColumnElement[Any]]] = (
    e.c.execution_id,
    e.c.job_id,
    e.c.status,
    e.c.run_id,
    e.c.scheduled_ms,
    e.c.started_ms,
    e.c.finished_ms,
    e.c.reason,
    e.c.attempt,
    e.c.run_trigger,
    e.c.delivery,
    e.c.lateness_ms,
    e.c.duration,
    e.c.instance,
    e.c.error,
    e.c.result,
    e.c.from_ms,
    e.c.to_ms,
    e.c.slots,
    e.c.recorded_ms,
)
CLAIM_COLUMNS: Final[Sequence[ColumnElement[Any]]] = (
    e.c.execution_id,
    e.c.run_id,
    e.c.job_id,
    e.c.generation,
    e.c.scheduled_ms,
    e.c.due_ms,
    e.c.run_trigger,
    e.c.attempt,
    e.c.handler,
    e.c.payload,
)


def execution_id(run_id: str, attempt: int) -> str:
    """The key of a try."""
    return run_id if attempt == 1 else f"{run_id}.{attempt}"


def storable(text: str) -> bool:
    """Whether a row can have it as an id; PostgreSQL refuses even to be asked for what it cannot hold."""
    if len(text) > _ID_MAX or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str | None, most: int | None = None) -> str | None:
    """A text that every database holds: NUL and lone surrogates are replaced, and what is over ``most`` is cut off."""
    if not text:
        return text
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    if "\0" in text:
        text = text.replace("\0", "\N{SYMBOL FOR NULL}")
    return text if most is None else text[:most]


def words_of(status: RunStatus) -> list[str]:
    """The words in the column that are told as this status."""
    return [word for word, told in _STATUS.items() if told is status]


def run_of(row: Any) -> Run | None:  # noqa: ANN401 - a row of a query
    """The record of a row of :data:`RECORD_COLUMNS`; None if a later version wrote what we cannot read."""
    try:
        return Run(
            job=row.job_id or "",
            status=_STATUS[row.status],
            run_id=row.run_id,
            scheduled_at_ms=row.scheduled_ms,
            started_at_ms=row.started_ms,
            finished_at_ms=row.finished_ms,
            reason=row.reason,
            attempt=row.attempt,
            trigger=Trigger.SCHEDULE if row.run_trigger is None else Trigger(row.run_trigger),
            delivery=None if row.delivery is None else Delivery(row.delivery),
            lateness_ms=row.lateness_ms,
            duration_ms=None if row.duration is None else row.duration // _NS,
            instance=row.instance or "",
            # The Go library writes "" for none.
            error=row.error or None,
            result=row.result,
            from_ms=row.from_ms,
            to_ms=row.to_ms,
            count=row.slots,
        )
    except (KeyError, ValueError) as error:
        log.debug("a record is left out", extra={"execution": row.execution_id, "error": repr(error)})
        return None


def capacity_of(overlap: str, concurrency: int) -> int:
    """:attr:`QueuedRun.capacity` of a row's columns."""
    return concurrency or (0 if overlap == Overlap.ALLOW.value else 1)


def claim_of(row: Any, worker: str, started_ms: Ms, last_completed_ms: Ms | None) -> Claim:  # noqa: ANN401 - a row of a query
    """The claim of a row of :data:`CLAIM_COLUMNS`."""
    return Claim(
        run_id=row.run_id,
        job=row.job_id,
        generation=row.generation,
        scheduled_at_ms=row.scheduled_ms,
        due_ms=row.due_ms,
        trigger=Trigger(row.run_trigger),
        attempt=row.attempt,
        handler=row.handler,
        payload=_payload(row),
        worker=worker,
        started_ms=started_ms,
        last_completed_ms=last_completed_ms,
    )


def _payload(row: Any) -> Any:  # noqa: ANN401 - a row; any JSON value
    if row.payload is None:
        return msgspec.UNSET
    try:
        return msgspec.json.decode(row.payload)
    except msgspec.DecodeError:
        # Nothing but a damaged row can bring this about, and it must not keep all others from being claimed.
        log.exception("a run's payload cannot be read; its job's is used", extra={"execution": row.execution_id})
        return msgspec.UNSET


def moment(ms: Ms | None) -> dt.datetime | None:
    """An instant for a column of the Go library."""
    return None if ms is None else _EPOCH + dt.timedelta(milliseconds=ms)


def queued_values(run: QueuedRun, now_ms: Ms, *, held: bool) -> dict[str, Any]:
    """The row of a run that waits; ``held``: for another one to end."""
    due = run.due_ms <= now_ms
    status = HELD if held else PENDING if due else LATER
    return {
        **_common(run),
        "status": status,
        "reason": Reason.OVERLAP_WAIT.value if held else None,
        "rank_order": RANKS.get(status, -_priority(run)),
        "queue_ms": run.due_ms,
    }


def left_out_values(run: QueuedRun, now_ms: Ms, reason: Reason, error: str) -> dict[str, Any]:
    """The row of a run that was left out."""
    return {**_common(run), "payload": None, **cancelled_values(now_ms, reason.value, error)}


def cancelled_values(now_ms: Ms, reason: str, error: str) -> dict[str, Any]:
    """What becomes of a try that ends before its handler began."""
    return {
        "status": RunStatus.SKIPPED.value,
        "reason": reason,
        "error": error,
        "finished_ms": now_ms,
        "end_time": moment(now_ms),
        "rank_order": RANKS[RunStatus.SKIPPED.value],
        "queue_ms": now_ms,
    }


def _priority(run: QueuedRun) -> int:
    return max(min(run.priority, RANK_MAX), -RANK_MAX)


def _common(run: QueuedRun) -> dict[str, Any]:
    return {
        "execution_id": run.run_id,
        "job_id": run.job,
        "run_id": run.run_id,
        "attempt": 1,
        "generation": run.generation,
        "scheduled_ms": run.scheduled_at_ms,
        "due_ms": run.due_ms,
        "recorded_ms": run.scheduled_at_ms,
        "run_trigger": run.trigger.value,
        "delivery": Delivery.HANDLER.value,
        "handler": run.handler,
        "overlap": run.overlap.value,
        "concurrency": run.concurrency,
        "priority": _priority(run),
        "payload": None if run.payload is msgspec.UNSET else msgspec.json.encode(run.payload),
    }


def ended_values(ending: Ending, due_ms: Ms, now_ms: Ms) -> dict[str, Any]:
    """What becomes of a try that was running. ``the_id`` is its key."""
    return {
        "the_id": execution_id(ending.run_id, ending.attempt),
        "status": ending.status.value,
        "rank_order": RANKS[ending.status.value],
        "reason": clean(ending.reason, _REASON_MAX),
        "error": clean(ending.error),
        "result": clean(ending.result),
        "started_ms": ending.started_ms,
        "finished_ms": ending.finished_ms,
        "recorded_ms": ending.started_ms,
        "start_time": moment(ending.started_ms),
        "end_time": moment(ending.finished_ms),
        "duration": (ending.finished_ms - ending.started_ms) * _NS,
        "lateness_ms": ending.started_ms - due_ms,
        "queue_ms": now_ms,
    }


def record_values(run: Run, now_ms: Ms) -> dict[str, Any]:
    """The row of a record that did not come by way of the queue, stored at ``now_ms``."""
    return {
        "execution_id": record_id(run),
        "job_id": run.job,
        "status": run.status.value,
        "rank_order": RANKS[run.status.value] if run.status.value in OVER else OTHER_RANK,
        "run_id": run.run_id,
        "attempt": run.attempt,
        "scheduled_ms": run.scheduled_at_ms,
        "started_ms": run.started_at_ms,
        "finished_ms": run.finished_at_ms,
        "recorded_ms": recorded_ms(run),
        "start_time": moment(run.started_at_ms),
        "end_time": moment(run.finished_at_ms),
        "duration": None if run.duration_ms is None else run.duration_ms * _NS,
        "reason": clean(run.reason, _REASON_MAX),
        "error": clean(run.error),
        "result": clean(run.result),
        "run_trigger": run.trigger.value,
        "delivery": None if run.delivery is None else run.delivery.value,
        "lateness_ms": run.lateness_ms,
        "instance": clean(run.instance, _ID_MAX),
        "from_ms": run.from_ms,
        "to_ms": run.to_ms,
        "slots": run.count,
        "queue_ms": now_ms,
    }
