"""Queuing runs: what the overlap policies make of a batch, and the statements that write it.

Only one leader does it at a time, fenced by its lease; everybody else who changes what is going of a job waits for the
job's row (see :mod:`natscron.storage.sql.lines`). Under ``cancel_other`` a claim may take a run at the moment at which
it is to be ended in favour of another, and claims wait for no job: so the rows themselves are locked, and what they say
after that counts.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, union_all, update

from natscron.model import Delivery, Ms, Overlap, QueuedRun, Reason, Run, RunStatus
from natscron.policy import overlap
from natscron.policy.overlap import Verdict
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.lines import Counts, Lines, word, words
from natscron.storage.sql.lists import SLICE, Lists
from natscron.storage.sql.runrows import (
    RUNNING,
    WAITING,
    cancelled_values,
    left_out_values,
    queued_values,
)
from natscron.storage.sql.schema import executions as e

__all__ = ["REPLACED", "Entered", "Entering", "decide"]

REPLACED: Final = "a newer run took its place (overlap cancel_other)"
_LEFT_OUT: Final = {
    Verdict.SKIP: (Reason.OVERLAP_SKIP, "the job's previous run was still going"),
    Verdict.DROP: (Reason.BUFFER_FULL, "the job's previous run was still going and no more runs may wait"),
}


class Entered:
    """What a batch came to."""

    def __init__(self) -> None:
        self.placed: list[QueuedRun] = []
        self.held: list[QueuedRun] = []
        self.left_out: list[tuple[QueuedRun, Reason, str]] = []
        """By their own policy."""
        self.replaced: list[QueuedRun] = []
        """Of this batch, in favour of a later one of it."""
        self.replacing: set[str] = set()
        """Jobs of which all that was there before is to end."""


class _Line:
    """One job's, while a batch is decided. ``running`` goes on whatever is decided."""

    def __init__(self, going: int, held: int, running: int) -> None:
        self.queued = going - running
        self.held = held
        self.running = running
        self.mine: list[QueuedRun] = []
        """Those of this batch that are placed or held."""


def decide(runs: Sequence[QueuedRun], counts: Mapping[str, Counts], running: Mapping[str, int]) -> Entered:
    """Decide about each run in turn. ``running``: of jobs with a run under ``cancel_other``, what workers have."""
    result = Entered()
    lines: dict[str, _Line] = {}
    kept: dict[str, bool] = {}
    for run in runs:
        line = lines.get(run.job)
        if line is None:
            there = counts.get(run.job, Counts(0, 0))
            line = lines[run.job] = _Line(there.going, there.held, running.get(run.job, 0))
        verdict = overlap.enter(run, running=line.queued + line.running, waiting=line.held)
        if verdict in _LEFT_OUT:
            result.left_out.append((run, *_LEFT_OUT[verdict]))
            continue
        if verdict is Verdict.REPLACE:
            result.replacing.add(run.job)
            result.replaced += line.mine
            line.mine.clear()
            line.queued = line.held = 0
        held = line.running > 0 if verdict is Verdict.REPLACE else verdict is not Verdict.START
        if held:
            line.held += 1
        else:
            line.queued += 1
        kept[run.run_id] = held
        line.mine.append(run)
    for line in lines.values():
        for run in line.mine:
            (result.held if kept[run.run_id] else result.placed).append(run)
    return result


class Entering:
    """The statements."""

    def __init__(self, database: Database, lines: Lines) -> None:
        lists = Lists(database)
        self._lines = lines
        self._known = union_all(
            select(e.c.run_id).where(lists.among(e.c.run_id, "ids")),
            select(e.c.execution_id).where(lists.among(e.c.execution_id, "ids")),
        )
        self._insert = insert(e)
        open_ = (e.c.status.in_(words((*WAITING, RUNNING))), e.c.handler.is_not(None))
        self._open_of = select(e.c.execution_id).where(lists.among(e.c.job_id, "ids"), *open_)
        # By their keys: a claim on MySQL, which has the row, would wait for what has locked an index of it, and be
        # waited for.
        self._lock_rows = (
            select(e.c.execution_id, e.c.job_id, e.c.status)
            .where(lists.among(e.c.execution_id, "ids"), *open_)
            .order_by(e.c.execution_id)
            .with_for_update()
        )
        self._end_waiting = (
            update(e)
            .where(lists.among(e.c.execution_id, "ids"), e.c.status.in_(words(WAITING)))
            .values({name: bindparam(name) for name in cancelled_values(0, "", "")})
        )
        self._mark_running = (
            update(e)
            .where(lists.among(e.c.execution_id, "ids"), e.c.status == word(RUNNING))
            .values(cancel_reason=Reason.REPLACED.value)
        )

    async def enter(
        self, connection: AnyConnection, runs: Sequence[QueuedRun], now_ms: Ms
    ) -> tuple[list[Run], bool, bool]:
        """Queue runs: the records of those left out by their own policy, whether any was placed, any to be cancelled.

        Part of a transaction in which nobody else does it.
        """
        fresh = await self._unknown(connection, runs)
        bounded = await self._lines.lock(connection, (run.job for run in fresh if run.capacity))
        rows = await self._locked(connection, sorted({run.job for run in fresh if run.overlap is Overlap.CANCEL_OTHER}))
        counts: dict[str, Counts] = {}
        for begin in range(0, len(bounded), SLICE):
            counts |= await self._lines.counts(connection, bounded[begin : begin + SLICE])
        running = Counter(row.job_id for found in rows.values() for row in found if row.status == RUNNING)
        entered = decide(fresh, counts, running)
        doomed = await self._replace(
            connection, [row for job in entered.replacing for row in rows.get(job, ())], now_ms
        )
        await self._write(connection, entered, now_ms)
        left_out = [_record(run, now_ms, reason, error) for run, reason, error in entered.left_out]
        return left_out, bool(entered.placed), doomed

    async def _unknown(self, connection: AnyConnection, runs: Sequence[QueuedRun]) -> list[QueuedRun]:
        """Those whose id is not there in any form, once each."""
        fresh: dict[str, QueuedRun] = {}
        for run in runs:
            fresh.setdefault(run.run_id, run)
        ids = list(fresh)
        for begin in range(0, len(ids), SLICE):
            for (known,) in (await connection.execute(self._known, {"ids": ids[begin : begin + SLICE]})).all():
                fresh.pop(known, None)
        return list(fresh.values())

    async def _locked(self, connection: AnyConnection, job_ids: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        """The rows of these jobs that are not over, by job; locked, and as they are after that.

        No other comes into being meanwhile: the jobs are locked too.
        """
        ids: list[str] = []
        for begin in range(0, len(job_ids), SLICE):
            found = await connection.execute(self._open_of, {"ids": list(job_ids[begin : begin + SLICE])})
            ids += found.scalars()
        rows: defaultdict[str, list[Any]] = defaultdict(list)
        for begin in range(0, len(ids), SLICE):
            locked = await connection.execute(self._lock_rows, {"ids": sorted(ids)[begin : begin + SLICE]})
            for row in locked.all():
                rows[row.job_id].append(row)
        return rows

    async def _replace(self, connection: AnyConnection, rows: Sequence[Any], now_ms: Ms) -> bool:
        """End what waits, and have workers end what runs; whether there is any such."""
        waiting = [row.execution_id for row in rows if row.status != RUNNING]
        running = [row.execution_id for row in rows if row.status == RUNNING]
        for begin in range(0, len(waiting), SLICE):
            values = cancelled_values(now_ms, Reason.REPLACED.value, REPLACED)
            await connection.execute(self._end_waiting, {"ids": waiting[begin : begin + SLICE], **values})
        for begin in range(0, len(running), SLICE):
            await connection.execute(self._mark_running, {"ids": running[begin : begin + SLICE]})
        return bool(running)

    async def _write(self, connection: AnyConnection, entered: Entered, now_ms: Ms) -> None:
        queued = [queued_values(run, now_ms, held=False) for run in entered.placed]
        queued += [queued_values(run, now_ms, held=True) for run in entered.held]
        over = [left_out_values(run, now_ms, reason, error) for run, reason, error in entered.left_out]
        over += [left_out_values(run, now_ms, Reason.REPLACED, REPLACED) for run in entered.replaced]
        for values in (queued, over):
            if values:
                await connection.execute(self._insert, values)


def _record(run: QueuedRun, now_ms: Ms, reason: Reason, error: str) -> Run:
    """The record of a run that was left out, as it is read back."""
    return Run(
        job=run.job,
        status=RunStatus.SKIPPED,
        run_id=run.run_id,
        scheduled_at_ms=run.scheduled_at_ms,
        finished_at_ms=now_ms,
        reason=reason.value,
        trigger=run.trigger,
        delivery=Delivery.HANDLER,
        error=error,
    )
