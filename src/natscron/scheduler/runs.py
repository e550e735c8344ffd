"""A running scheduler's calls about runs."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from natscron.engine.engine import Engine
from natscron.engine.freshness import Freshness
from natscron.errors import RunNotFoundError, ValidationError
from natscron.model import Delivery, Overlap, Run, RunStatus
from natscron.policy.failures import counted, reached
from natscron.scheduler.values import Duration, instant_ms, job_id, millis, payload_of
from natscron.storage.protocol import RunOrder, RunQuery
from natscron.storage.queue import QueueStorage

__all__ = ["Runs"]

_MOST: Final = 10_000
_SORTS: Final = {
    None: RunOrder.RECORDED,
    "start_time": RunOrder.START_TIME,
    "end_time": RunOrder.END_TIME,
    "duration": RunOrder.DURATION,
}


class Runs:
    """Trigger, backfill, redrive; the history."""

    def __init__(self, store: QueueStorage, engine: Engine, fresh: Freshness) -> None:
        self._store = store
        self._engine = engine
        self._fresh = fresh

    async def trigger(self, identity: str, payload: Any, key: str | None, overlap: Overlap | str | None) -> str:  # noqa: ANN401 - any JSON value
        """A run now; its id."""
        await self._fresh.catch_up()
        return await self._engine.trigger(job_id(identity), payload_of(payload), key, _overlap(overlap))

    async def backfill(  # noqa: PLR0913 - what a backfill is
        self,
        identity: str,
        since: dt.datetime,
        until: dt.datetime,
        *,
        every: Duration,
        overlap: Overlap | str | None,
        key: str | None,
    ) -> str:
        """Run every slot of a past range; the backfill's id."""
        await self._fresh.catch_up()
        row = await self._engine.backfill(
            job_id(identity),
            instant_ms(since, "since"),
            instant_ms(until, "until"),
            every_ms=millis(every, "every", least=1),
            overlap=_overlap(overlap),
            key=key,
        )
        return row.run_id

    async def find(  # noqa: PLR0913 - what a query is
        self,
        identity: str | None,
        *,
        status: RunStatus | str | None,
        since: dt.datetime | None,
        until: dt.datetime | None,
        sort_by: str | None,
        descending: bool,
        limit: int,
        offset: int,
    ) -> Sequence[Run]:
        """Records that match."""
        if sort_by not in _SORTS:
            raise ValidationError(f"sort_by must be start_time, end_time or duration; got {sort_by!r:.80}")
        return await self._store.list_runs(
            RunQuery(
                job=None if identity is None else job_id(identity),
                status=_status(status),
                since_ms=None if since is None else instant_ms(since, "since"),
                until_ms=None if until is None else instant_ms(until, "until"),
                order=_SORTS[sort_by],
                descending=descending,
                limit=_number(limit, "limit", 1, _MOST),
                offset=_number(offset, "offset", 0, 2**53),
                service=False,
            )
        )

    async def get(self, run_id: str) -> Run:
        """The newest try of a run; one that no leader has queued yet is pending. Raises RunNotFoundError.

        In this order, because the queue has a run before its row goes.
        """
        asked = await self._engine.asked_for(run_id)
        job = None if asked is None else asked.job
        found = await self._store.list_runs(RunQuery(job=job, run_id=run_id, limit=1_000)) if run_id else ()
        if found:
            return max(found, key=lambda run: run.attempt)
        if asked is None:
            raise RunNotFoundError(f"there is no run {run_id!r:.80}, or its record has aged out")
        return msgspec.structs.replace(asked, delivery=Delivery.HANDLER)

    async def delete(self, identity: str, before: dt.datetime) -> int:
        """Delete records up to an instant; how many."""
        return await self._store.delete_runs(job_id(identity), instant_ms(before, "before"))

    async def redrive(self, run_id: str) -> None:
        """Try a run again that failed for good. Raises RunNotFoundError, and ValidationError if it did not fail."""
        if await self._store.redrive(run_id):
            return
        run = await self.get(run_id)
        raise ValidationError(
            f"run {run_id} is {run.status.value} and cannot be redriven: only one that failed for good can, as long as "
            "its record is kept"
        )

    async def failures_of(self, identity: str, since_ms: int, limit: int) -> tuple[int, str]:
        """How many runs since an instant failed in a row up to now, and the last error; asks ``limit`` runs at most."""
        newest: dict[str, Run] = {}
        query = RunQuery(job=identity, since_ms=since_ms, limit=min(4 * limit, _MOST))
        for run in await self._store.list_runs(query):
            if run.run_id is not None and run.finished_at_ms is not None:
                known = newest.get(run.run_id)
                if known is None or known.attempt < run.attempt:
                    newest[run.run_id] = run
        failures, error = 0, ""
        for run in sorted(newest.values(), key=lambda run: run.finished_at_ms or 0):
            before, failures = failures, counted(failures, run)
            # The last line of a traceback says most.
            error = (run.error or run.reason or "").rsplit("\n", 1)[-1] if failures > before else error
        return (failures, error) if reached(failures, limit) else (0, "")


def _overlap(value: Overlap | str | None) -> Overlap | None:
    try:
        return None if value is None else Overlap(value)
    except ValueError:
        raise ValidationError(f"overlap must be one of {', '.join(Overlap)}; got {value!r:.80}") from None


def _status(value: RunStatus | str | None) -> RunStatus | None:
    try:
        return None if value is None else RunStatus(value)
    except ValueError:
        raise ValidationError(f"status must be one of {', '.join(RunStatus)}; got {value!r:.80}") from None


def _number(value: int, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValidationError(f"{what} must be a number from {least} to {most}; got {value!r:.80}")
    return value
