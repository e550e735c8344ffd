"""The API's calls about backfills: run every slot of a past range once.

Who is authoritative: the leader, which hands out the slots; this only asks for it. What the range holds is counted
before, in steps that let others run in between, and bounded. The same ``key`` never makes a second backfill.
"""

import asyncio
import re
from typing import Final

import msgspec

from natscron.codec import ms_to_text
from natscron.durations import format_duration
from natscron.errors import BackfillNotFoundError, InvalidScheduleTimeError, LimitExceededError, ValidationError
from natscron.model import Backfill, Job, Ms, OpenRow, Overlap
from natscron.schedule import Schedule
from natscron.schedule.instants import parse_instant
from natscron.server.context import Context
from natscron.server.edits import unknown
from natscron.server.effects import knows_ends
from natscron.server.jobs import Input, Reply, counts_from_creation
from natscron.server.requests import BackfillRequest, BackfillsRequest, CancelRequest, read

__all__ = ["MAX_SLOTS", "Backfills"]

MAX_SLOTS: Final = 100_000
"""The most slots of one backfill."""
_COUNTED_AT_ONCE: Final = 500
_RATE: Final = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)/(s|m|h)", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_SLOWEST: Final = 0.1
_FASTEST: Final = 1000.0
_MS: Final = 1_000_000


class _Range(msgspec.Struct, frozen=True):
    """What a range holds."""

    count: int
    first_ms: Ms | None
    last_ms: Ms | None


class Backfills:
    """Begin, show and end backfills."""

    def __init__(self, context: Context) -> None:
        self._engine = context.engine
        self._admission = context.admission
        self._clock = context.clock
        self._fresh = context.fresh

    async def start(self, data: Input) -> Reply:
        """Begin one; or, with ``dry_run``, say what it would run."""
        request = read(BackfillRequest, data)
        every_ms = _every_ms(request.rate)
        now_ms = self._clock.now_ms()
        from_ms = _instant(request.from_, "from")
        to_ms = now_ms if request.to is None else _instant(request.to, "to")
        if to_ms > now_ms:
            raise ValidationError(
                f"to lies in the future ({ms_to_text(to_ms)}): a backfill runs slots of the past, and the schedule "
                "those that come; leave it out for now"
            )
        if from_ms > now_ms:
            raise ValidationError(
                f"from lies in the future ({ms_to_text(from_ms)}): a backfill runs slots of the past, and the schedule "
                "those that come"
            )
        if from_ms > to_ms:
            raise ValidationError(f"from ({ms_to_text(from_ms)}) is later than to ({ms_to_text(to_ms)}); swap them")
        await self._fresh.catch_up()
        entry = self._engine.table.get(request.subject)
        if entry is None:
            raise unknown(request.subject)
        job = entry.job
        if job.invalid is not None or entry.schedule is None:
            raise ValidationError(f"job {job.id!r} cannot be honoured and never runs: {job.invalid}")
        overlap = self._overlap(job, request.overlap)
        held = await _held(entry.schedule, from_ms, to_ms)
        reply: Reply = {"count": held.count, "first": _text(held.first_ms), "last": _text(held.last_ms)}
        reply["estimate"] = _estimate(held.count, every_ms)
        why = _begins_later(job, held, from_ms)
        if request.dry_run:
            return reply | ({"warning": why} if why else {})
        if not held.count:
            span = f"from {ms_to_text(from_ms)} to {ms_to_text(to_ms)}"
            raise ValidationError(f"job {job.id!r} has no slot {span}; {why or 'see jobs.preview'}")
        row = await self._engine.backfill(
            job.id, from_ms, to_ms, every_ms=every_ms, overlap=overlap, key=request.key or None
        )
        reply = {"id": row.run_id, **reply, "status": "started"}
        there = row.backfill
        if there is not None and (there.from_ms, there.to_ms, there.every_ms) != (from_ms, to_ms, every_ms):
            reply["status"] = "present"
            reply["warning"] = (
                f"the key belongs to a backfill that is going on, from {ms_to_text(there.from_ms)} to "
                f"{ms_to_text(there.to_ms)}: no second one was started"
            )
        return reply

    async def page(self, data: Input) -> Reply:
        """Those going on; at most a hundred can be."""
        request = read(BackfillsRequest, data, empty_is_default=True)
        found = [row for row in self._engine.backfills() if request.job in {"", row.job_id}]
        return {"backfills": [_view(row, row.backfill) for row in found if row.backfill is not None]}

    async def cancel(self, data: Input) -> Reply:
        """End one; the slots that it handed out already stay run."""
        request = read(CancelRequest, data)
        if not request.id:
            raise BackfillNotFoundError("name the backfill by its id; backfills.list shows those going on")
        await self._engine.cancel_backfill(request.id)
        return {"id": request.id, "status": "cancelled"}

    def _overlap(self, job: Job, asked: Overlap | None) -> Overlap | None:
        """None: the job's own, as it is when each slot comes."""
        if asked is not None:
            self._admission.check_overlap(job, asked)
            return asked
        return None if knows_ends(job) else Overlap.ALLOW


def _begins_later(job: Job, held: _Range, from_ms: Ms) -> str:
    """Why slots that one may expect are not there; empty if there is nothing to say."""
    if not counts_from_creation(job.schedule) or from_ms >= job.anchor_ms:
        return ""
    if held.first_ms is not None and held.first_ms < job.anchor_ms:
        return ""  # another member of the schedule reaches back further
    return (
        f"its schedule counts from the job's creation, {ms_to_text(job.anchor_ms)}, and has no slot before; with "
        "start_at it counts from there"
    )


async def _held(schedule: Schedule, from_ms: Ms, to_ms: Ms) -> _Range:
    first_ms = schedule.next_after_ms(from_ms - 1)
    if first_ms is None or first_ms > to_ms:
        return _Range(0, None, None)
    last_ms = schedule.last_at_or_before_ms(to_ms)
    if schedule.interval is not None:
        count = schedule.count(from_ms - 1, to_ms, MAX_SLOTS + 1)
    else:
        count = 0
        slot: Ms | None = first_ms
        while slot is not None and slot <= to_ms and count <= MAX_SLOTS:
            count += 1
            slot = schedule.next_after_ms(slot)
            if count % _COUNTED_AT_ONCE == 0:
                await asyncio.sleep(0)
    if count > MAX_SLOTS:
        raise LimitExceededError(
            f"the range has more than {MAX_SLOTS} slots, and that is the most of one backfill; take it in parts"
        )
    return _Range(count, first_ms, last_ms)


def _every_ms(rate: str) -> Ms:
    found = _RATE.fullmatch(rate.strip())
    if found is None:
        raise ValidationError(
            f"rate {rate!r} is not one; write how many slots in which time, such as 10/s, 30/m, 100/h"
        )
    each = float(found[1]) / _UNITS[found[2]]
    if not _SLOWEST <= each <= _FASTEST:
        raise ValidationError(f"rate {rate!r} is out of bounds: at least 0.1/s (6/m), at most 1000/s")
    return -(-1000 * _UNITS[found[2]] * _MS // int(float(found[1]) * _MS))


def _instant(text: str, field: str) -> Ms:
    if not text:
        raise ValidationError(f"{field} is required: an instant such as 2026-11-01T00:00:00Z")
    try:
        return parse_instant(text)
    except InvalidScheduleTimeError as error:
        raise ValidationError(f"{field}: {error}") from None


def _estimate(count: int, every_ms: Ms) -> str:
    """How long handing out takes, from the first slot to the last; runs themselves may take longer."""
    return format_duration(max(count - 1, 0) * every_ms * _MS, short=True)


def _text(at_ms: Ms | None) -> str | None:
    return None if at_ms is None else ms_to_text(at_ms)


def _view(row: OpenRow, backfill: Backfill) -> Reply:
    begun = row.scheduled_at_ms >= backfill.from_ms
    return {
        "id": row.run_id,
        "job": row.job_id,
        "from": ms_to_text(backfill.from_ms),
        "to": ms_to_text(backfill.to_ms),
        "count": backfill.total,
        "done": backfill.done,
        "last": ms_to_text(row.scheduled_at_ms) if begun else None,
        "every": format_duration(backfill.every_ms * _MS, short=True),
        "overlap": None if row.overlap is None else row.overlap.value,
        "estimate": _estimate(backfill.total - backfill.done, backfill.every_ms),
    }
