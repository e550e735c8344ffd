"""Counts failed runs in a row, and says when a job is to be paused for them.

The leader counts; the counters lie among the open rows, laid down before the mark passes what they count, so that a
successor goes on counting. One that is full is acted on again by each leader that finds it, until the job is seen
paused: a leader that dies between counting and pausing costs nothing. A counter that is back at zero has no row. While
a job is paused nothing counts, so that it begins anew when it goes on.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from natscron import ids
from natscron.model import Job, Ms, OpenRow, OpenState, Run
from natscron.policy.failures import counted, reached

__all__ = ["Failing", "OnFailing", "is_paused"]

OnFailing = Callable[[Job, int, str], None]
"""A job has failed so often in a row that it is to be paused; the text is the last error."""
_READER: Final = 2
_ROWS_MAX: Final = 1_000
"""Counters laid down at once; those behind have their turn at the next renewal."""


def is_paused(job: Job, now_ms: Ms) -> bool:
    """Whether the job is paused at that instant: a pause may have an end."""
    return job.paused and (job.paused_until_ms is None or now_ms < job.paused_until_ms)


class _Count(msgspec.Struct):
    job_id: str
    generation: int
    failures: int
    row_id: str
    stored: OpenRow | None = None


class Failing:
    """The counters of one leadership."""

    def __init__(
        self,
        find_job: Callable[[str], Job | None],
        on_failing: OnFailing,
        now_ms: Callable[[], Ms],
        *,
        namespace: str,
        epoch: int,
    ) -> None:
        self._find_job = find_job
        self._on_failing = on_failing
        self._now_ms = now_ms
        self._namespace = namespace
        self._epoch = epoch
        self._counts: dict[str, _Count] = {}
        self._gone: list[str] = []

    @property
    def counting(self) -> bool:
        """Whether any counter stands above zero."""
        return bool(self._counts)

    def loaded(self, row: OpenRow) -> None:
        """A counter of the leader before us."""
        job = self._find_job(row.job_id)
        if job is None or job.generation != row.generation or is_paused(job, self._now_ms()):
            self._gone.append(row.run_id)
            return
        self._counts[row.job_id] = _Count(row.job_id, row.generation, row.attempt, row.run_id, row)
        if reached(row.attempt, job.pause_after_failures):
            self._on_failing(job, row.attempt, "")

    def observe(self, run: Run) -> None:
        """A record was made."""
        known = self._counts.get(run.job)
        job = self._find_job(run.job)
        if job is None or not job.pause_after_failures:
            if known is not None:
                self._forget(known)
            return
        if known is not None and known.generation != job.generation:
            self._forget(known)
            known = None
        if is_paused(job, self._now_ms()):
            return
        before = 0 if known is None else known.failures
        failures = counted(before, run)
        if failures == before:
            return
        if not failures:
            if known is not None:
                self._forget(known)
            return
        if known is None:
            row_id = ids.keyed_run_id(0, self._namespace, job.id, str(job.generation), "failures")
            known = self._counts[job.id] = _Count(job.id, job.generation, 0, row_id)
        known.failures = failures
        if reached(failures, job.pause_after_failures):
            self._on_failing(job, failures, run.error or run.reason or "")

    def job_changed(self, job_id: str, job: Job | None) -> None:
        """A paused job begins anew when it is resumed, one that is gone does not count."""
        known = self._counts.get(job_id)
        if known is not None and (job is None or job.generation != known.generation or is_paused(job, self._now_ms())):
            self._forget(known)

    def rows(self) -> list[OpenRow]:
        """The counters that changed since they were stored, the first :data:`_ROWS_MAX`."""
        rows: list[OpenRow] = []
        for count in self._counts.values():
            if len(rows) >= _ROWS_MAX:
                break
            if count.stored is not None and count.stored.attempt == count.failures:
                continue
            row = OpenRow(
                run_id=count.row_id,
                job_id=count.job_id,
                generation=count.generation,
                scheduled_at_ms=0,
                state=OpenState.FAILURES,
                attempt=count.failures,
                epoch=self._epoch,
                reader=_READER,
            )
            rows.append(row)
        return rows

    def saved(self, row: OpenRow) -> None:
        """A counter's row is stored."""
        count = self._counts.get(row.job_id)
        if count is None or count.row_id != row.run_id:
            self._gone.append(row.run_id)
        else:
            count.stored = row

    def gone(self) -> list[str]:
        """Rows that can be deleted; handed out once."""
        gone, self._gone = self._gone, []
        return gone

    def _forget(self, count: _Count) -> None:
        del self._counts[count.job_id]
        if count.stored is not None:
            self._gone.append(count.row_id)
