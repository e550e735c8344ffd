"""The API's calls about runs: make one now, find records, take a worker's report."""

from collections.abc import Sequence
from typing import Final

import msgspec

from natscron.codec import run_to_json, text_to_ms
from natscron.errors import RunNotFoundError, ValidationError
from natscron.ids import ulid_time_ms
from natscron.model import Delivery, Ms, Reason, Report, Run, RunStatus
from natscron.server.context import Context
from natscron.server.delivery import bounded
from natscron.server.edits import unknown
from natscron.server.effects import knows_ends
from natscron.server.jobs import Input, Reply
from natscron.server.replies import encode
from natscron.server.requests import ReportRequest, RunRequest, RunsRequest, TriggerRequest, read
from natscron.storage.protocol import RunQuery

__all__ = ["Runs"]

_ROOM: Final = 1024
_OPEN: Final = frozenset({RunStatus.PENDING, RunStatus.RUNNING})
_OVER: Final = frozenset({RunStatus.COMPLETED, RunStatus.DEAD})
_MAX_ATTEMPTS_SHOWN: Final = 1000
_MAX_OFFSET: Final = 1_000_000
_AHEAD_MS: Final = 60_000
"""How far a worker's clock may be ahead of ours."""


class Runs:
    """History and triggers."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._engine = context.engine
        self._admission = context.admission
        self._clock = context.clock
        self._fresh = context.fresh
        self._max_reply = context.max_reply

    async def trigger(self, data: Input) -> Reply:
        """Run a job now, paused or not; the same ``key`` never makes a second run."""
        request = read(TriggerRequest, data)
        await self._fresh.catch_up()
        entry = self._engine.table.get(request.subject)
        if entry is None:
            raise unknown(request.subject)
        if entry.job.invalid is not None:
            raise ValidationError(f"job {entry.job.id!r} cannot be honoured and never runs: {entry.job.invalid}")
        if request.payload is not msgspec.UNSET:
            self._admission.limits.check_payload(request.payload)
        if request.overlap is not None:
            self._admission.check_overlap(entry.job, request.overlap)
        run_id = await self._engine.trigger(entry.job.id, request.payload, request.key, request.overlap)
        return {"run_id": run_id, "status": "triggered"}

    async def page(self, data: Input) -> Reply:
        """Records, newest first unless ``ascending``, as many as fit into one message."""
        request = read(RunsRequest, data, empty_is_default=True)
        offset = _offset(request.cursor)
        found = await self._store.list_runs(
            RunQuery(
                job=request.job or None,
                status=request.status,
                since_ms=_instant(request.since),
                until_ms=_instant(request.until),
                descending=not request.ascending,
                # One more than asked for tells whether there is another page.
                limit=min(request.limit + 1, 10_000),
                offset=offset,
            )
        )
        shown: list[dict[str, object]] = []
        room = max(self._max_reply() - _ROOM, _ROOM)
        for run in found[: request.limit]:
            record = run_to_json(run)
            room -= len(encode(record)) + 1
            if room < 0 and shown:
                break
            shown.append(record)
        reply: Reply = {"runs": shown}
        if len(shown) < len(found):
            reply["next"] = str(offset + len(shown))
        return reply

    async def get(self, data: Input) -> Reply:
        """One run: its newest record, and all records of its attempts, oldest first."""
        request = read(RunRequest, data)
        run_id = _run_id(request.run_id)
        asked = await self._engine.asked_for(run_id)
        found = await self._records(run_id, request.job or ("" if asked is None else asked.job))
        if not found and asked is not None and request.job in {"", asked.job}:
            return {"run": run_to_json(asked), "attempts": []}
        if not found:
            raise _unknown(run_id)
        return {"run": run_to_json(_newest(found)), "attempts": [run_to_json(run) for run in found]}

    async def report(self, data: Input) -> Reply:
        """Take what a worker says about a run: that it works on it, has completed it, or failed.

        Where the leader waits for the end of the job's runs it is told, and it alone records how they ended.
        """
        request = read(ReportRequest, data)
        run_id = _run_id(request.run_id)
        scheduled_ms = ulid_time_ms(run_id)
        started_ms = _instant(request.started_at)
        now_ms = self._clock.now_ms()
        if started_ms is not None and started_ms > now_ms + _AHEAD_MS:
            raise ValidationError(f"started_at {request.started_at!r} lies in the future; check the worker's clock")
        status = RunStatus(request.status)
        final = status is not RunStatus.RUNNING
        if final and self._waits_for(request.job):
            return await self._tell(request, request.job, started_ms, now_ms)
        found = await self._records(run_id, request.job)
        if found:
            known = found[-1]
        elif self._engine.table.get(request.job) is not None:
            # Records are written behind: a quick worker may report before there is one.
            known = Run(job=request.job, status=RunStatus.SENT, run_id=run_id, scheduled_at_ms=scheduled_ms)
        else:
            raise _unknown(run_id)
        if final and (self._waits_for(known.job) or _going(found)):
            return await self._tell(request, known.job, started_ms, now_ms)
        if not final and _is_over(found, request.attempt):
            return {"run_id": run_id, "status": "recorded"}
        started_ms = started_ms if started_ms is not None else known.started_at_ms
        self._engine.record(
            msgspec.structs.replace(
                known,
                status=status,
                attempt=max(request.attempt, known.attempt),
                started_at_ms=started_ms,
                finished_at_ms=now_ms if final else None,
                duration_ms=max(0, now_ms - started_ms) if final and started_ms is not None else None,
                reason=Reason.WORKER_ERROR if status is RunStatus.FAILED else None,
                delivery=known.delivery or Delivery.CORE,
                error=_error(request),
                result=None if request.result is None else bounded(request.result),
            )
        )
        return {"run_id": run_id, "status": "recorded"}

    def _waits_for(self, job_id: str) -> bool:
        """Whether the leader waits for the ends of the job's runs."""
        entry = self._engine.table.get(job_id)
        return entry is not None and knows_ends(entry.job)

    async def _tell(self, request: ReportRequest, job_id: str, started_ms: Ms | None, now_ms: Ms) -> Reply:
        report = Report(
            status=RunStatus(request.status),
            attempt=request.attempt,
            started_at_ms=started_ms,
            finished_at_ms=now_ms,
            code=None if request.code is None else bounded(request.code),
            error=None if request.error is None else bounded(request.error),
            result=None if request.result is None else bounded(request.result),
        )
        await self._engine.report(request.run_id, job_id, report)
        return {"run_id": request.run_id, "status": "recorded"}

    async def _records(self, run_id: str, job: str) -> Sequence[Run]:
        return await self._store.list_runs(
            RunQuery(job=job or None, run_id=run_id, descending=False, limit=_MAX_ATTEMPTS_SHOWN)
        )


def _going(found: Sequence[Run]) -> bool:
    """By its records the run goes on: the leader waits for its end, though its job was edited or removed since."""
    return bool(found) and all(run.status in _OPEN for run in found)


def _is_over(found: Sequence[Run], attempt: int) -> bool:
    return any(run.status in _OVER and run.attempt >= attempt for run in found)


def _newest(found: Sequence[Run]) -> Run:
    """The newest record. Instances store theirs independently, so 'running' may come in behind the end."""
    newest = found[-1]
    if newest.status is not RunStatus.RUNNING:
        return newest
    ends = [run for run in found if run.status in _OVER and run.attempt >= newest.attempt]
    return ends[-1] if ends else newest


def _error(request: ReportRequest) -> str | None:
    text = ": ".join(part for part in (request.code, request.error) if part)
    return bounded(text) if text else None


def _run_id(text: str) -> str:
    try:
        ulid_time_ms(text)
    except ValueError as error:
        raise ValidationError(f"run_id is {str(error)[:200]}") from None
    return text


def _unknown(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id!r}, or its record has aged out; name its job too if it is new")


def _instant(text: str | None) -> Ms | None:
    return None if text is None else text_to_ms(text)


def _offset(cursor: str) -> int:
    if not cursor:
        return 0
    if cursor.isascii() and cursor.isdigit() and len(cursor) < 8 and int(cursor) <= _MAX_OFFSET:  # noqa: PLR2004 - digits
        return int(cursor)
    raise ValidationError(f"cursor {cursor[:40]!r} is none of ours; give the 'next' of the page before")
