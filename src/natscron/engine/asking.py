"""What users ask of the leader, laid down as open rows: any instance can, and it survives having no leader.

A row is created only if there is none under its id, so the same request twice is one. The leader sees it through its
watch, or finds it when it takes over. How many rows may lie there is bounded; past the bound a request is refused.
"""

import asyncio
from typing import Any, Final

from natscron import ids
from natscron.clock import Clock
from natscron.engine.leadership import Leadership
from natscron.engine.options import EngineOptions
from natscron.engine.table import Entry, JobTable
from natscron.errors import BackfillNotFoundError, JobNotFoundError, LimitExceededError, ValidationError
from natscron.model import (
    Backfill,
    Job,
    Ms,
    OpenRow,
    OpenState,
    Overlap,
    Reason,
    Report,
    Run,
    RunStatus,
    Trigger,
)
from natscron.schedule import Schedule
from natscron.storage.protocol import RunQuery, Storage

__all__ = ["BACKFILLS_MAX", "BACKFILL_SLOTS_MAX", "OPEN_MAX", "Asking"]

OPEN_MAX: Final = 10_000
"""Open rows, above which no further run can be triggered by hand."""
REPORTS_MAX: Final = 5 * OPEN_MAX
"""Open rows, above which workers' reports are refused, to be made again."""
BACKFILLS_MAX: Final = 100
"""Backfills that may go on at once."""
BACKFILL_SLOTS_MAX: Final = 100_000
"""Slots of one backfill."""
_READER: Final = 2
_COUNTED: Final = 2_000
"""Slots counted before others may run: some milliseconds."""
_SHOWN: Final = {
    OpenState.PENDING: (RunStatus.PENDING, None),
    OpenState.RETRY: (RunStatus.PENDING, Reason.RETRY),
    OpenState.BUFFERED: (RunStatus.PENDING, Reason.OVERLAP_WAIT),
    OpenState.RUNNING: (RunStatus.RUNNING, None),
    OpenState.BACKFILL: (RunStatus.RUNNING, None),
}
"""What a row says of its run; the other states are of no run."""


async def _count(schedule: Schedule, after_ms: Ms, until_ms: Ms) -> int:
    """The slots in (after, until]; stops soon after :data:`BACKFILL_SLOTS_MAX`."""
    found, at, step = 0, after_ms, max(until_ms - after_ms, 1)
    while at < until_ms and found <= BACKFILL_SLOTS_MAX:
        end = min(at + step, until_ms)
        here = schedule.count(at, end, _COUNTED + 1)
        if here > _COUNTED and step > 1:
            step = max(step // 8, 1)
            continue
        found, at = found + here, end
        await asyncio.sleep(0)
    return found


class Asking:
    """Lays down requests."""

    def __init__(
        self, storage: Storage, table: JobTable, leadership: Leadership, options: EngineOptions, clock: Clock
    ) -> None:
        self._storage = storage
        self._table = table
        self._leadership = leadership
        self._options = options
        self._clock = clock

    async def trigger(self, job_id: str, payload: Any, key: str | None, overlap: Overlap | None) -> str:  # noqa: ANN401 - any JSON value
        """A run now; its id. See :meth:`natscron.engine.engine.Engine.trigger`."""
        job = self._entry(job_id).job
        self._room(OPEN_MAX)
        now = self._clock.now_ms()
        run_id = self._id(job, "trigger", key, now)
        if key is not None and await self._storage.list_runs(RunQuery(job=job_id, run_id=run_id, limit=1)):
            return run_id
        row = OpenRow(
            run_id=run_id,
            job_id=job_id,
            generation=job.generation,
            scheduled_at_ms=now,
            state=OpenState.PENDING,
            trigger=Trigger.MANUAL,
            next_at_ms=now,
            payload=payload,
            overlap=overlap,
            reader=1 if overlap is None else _READER,
        )
        await self._storage.submit_row(row)
        return run_id

    async def asked_for(self, run_id: str) -> Run | None:
        """See :meth:`natscron.engine.engine.Engine.asked_for`."""
        row = await self._storage.fetch_row(run_id) if ids.is_ulid(run_id) else None
        if row is None or row.state not in _SHOWN:
            return None
        status, reason = _SHOWN[row.state]
        work = row.backfill
        return Run(
            job=row.job_id,
            status=status,
            run_id=run_id,
            scheduled_at_ms=row.scheduled_at_ms if work is None else None,
            reason=reason,
            attempt=row.attempt,
            trigger=row.trigger,
            delivery=row.delivery if row.epoch else None,
            result=None if work is None else f"{work.done} of {work.total} slots",
            from_ms=None if work is None else work.from_ms,
            to_ms=None if work is None else work.to_ms,
            count=None if work is None else work.total,
        )

    async def report(self, run_id: str, job_id: str, report: Report) -> None:
        """A worker's word on how a run ended, also of a removed job. A second word on an attempt changes nothing."""
        entry = self._table.get(job_id)
        self._room(REPORTS_MAX)
        row = OpenRow(
            run_id=f"{run_id}=end.{report.attempt}",
            job_id=job_id,
            generation=0 if entry is None else entry.job.generation,
            scheduled_at_ms=ids.ulid_time_ms(run_id),
            state=OpenState.REPORTED,
            about=run_id,
            report=report,
            reader=_READER,
        )
        await self._storage.submit_row(row)

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self, job_id: str, from_ms: Ms, to_ms: Ms, *, every_ms: Ms, overlap: Overlap | None, key: str | None
    ) -> OpenRow:
        """Begin a backfill; its row."""
        entry = self._entry(job_id)
        job, schedule = entry.job, entry.schedule
        now = self._clock.now_ms()
        if schedule is None or job.invalid is not None:
            raise ValidationError(f"job {job_id!r} cannot be honoured and never runs: {job.invalid}")
        if not 0 <= from_ms <= to_ms <= now:
            raise ValidationError("a backfill is of a past range: from must not lie after to, nor to after now")
        if every_ms < 1:
            raise ValidationError(f"a backfill hands out at most one slot a millisecond; got one each {every_ms} ms")
        total = await _count(schedule, from_ms - 1, to_ms)
        if total > BACKFILL_SLOTS_MAX:
            raise LimitExceededError(
                f"the range has more than {BACKFILL_SLOTS_MAX} slots, the most of one backfill; split it"
            )
        if not total:
            raise ValidationError("the range has no slot of the job's schedule; see its preview")
        going = self._leadership.rows(OpenState.BACKFILL)
        row = OpenRow(
            run_id=self._id(job, "backfill", key, now),
            job_id=job_id,
            generation=job.generation,
            scheduled_at_ms=from_ms - 1,
            state=OpenState.BACKFILL,
            trigger=Trigger.BACKFILL,
            overlap=overlap,
            backfill=Backfill(from_ms=from_ms, to_ms=to_ms, every_ms=every_ms, total=total),
            reader=_READER,
        )
        known = next((old for old in going if old.run_id == row.run_id), None)
        if known is not None:
            return known
        if key is not None and await self._storage.list_runs(RunQuery(job=job_id, run_id=row.run_id, limit=1)):
            return row
        if len(going) >= BACKFILLS_MAX:
            raise LimitExceededError(f"{len(going)} backfills are going on, at most {BACKFILLS_MAX} may be")
        await self._storage.submit_row(row)
        return row

    def backfills(self) -> list[OpenRow]:
        """Those going on, as far as this instance has seen them; the oldest first."""
        return sorted(self._leadership.rows(OpenState.BACKFILL), key=lambda row: row.run_id)

    async def cancel_backfill(self, backfill_id: str) -> None:
        """End a backfill. Raises BackfillNotFoundError."""
        row = next((row for row in self.backfills() if row.run_id == backfill_id), None)
        if row is None:
            raise BackfillNotFoundError(f"no backfill {backfill_id!r} is going on: see the list of backfills")
        word = OpenRow(
            run_id=f"{backfill_id}=end",
            job_id=row.job_id,
            generation=row.generation,
            scheduled_at_ms=self._clock.now_ms(),
            state=OpenState.CANCEL,
            about=backfill_id,
            reader=_READER,
        )
        await self._storage.submit_row(word)

    def _entry(self, job_id: str) -> Entry:
        entry = self._table.get(job_id)
        if entry is None:
            raise JobNotFoundError(f"no job {job_id!r}: see the list of jobs")
        return entry

    def _room(self, most: int) -> None:
        if self._leadership.open_rows >= most:
            raise LimitExceededError(
                f"{self._leadership.open_rows} runs are open, at most {most} may be: wait until they are done"
            )

    def _id(self, job: Job, what: str, key: str | None, now: Ms) -> str:
        if key is None:
            return ids.ulid(now)
        return ids.keyed_run_id(job.created_at_ms, self._options.namespace, job.id, str(job.generation), what, key)
