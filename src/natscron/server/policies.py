"""The API's calls that change when a stored job runs, and not what it is: pause, resume, skip.

Each is an edit of the job's row (:mod:`natscron.server.edits`), decided on the row that it replaces.
"""

from typing import Final

import msgspec

from natscron.codec import ms_to_text
from natscron.errors import InvalidScheduleTimeError, ValidationError
from natscron.model import Job, Ms, Skip
from natscron.schedule import Schedule
from natscron.schedule.instants import resolve_instant
from natscron.server.admission import next_due, schedule_of
from natscron.server.context import Context
from natscron.server.edits import Edits
from natscron.server.jobs import Input, Reply, named
from natscron.server.requests import PauseRequest, ResumeRequest, SkipRequest, read, revision_of

__all__ = ["Policies"]

_SHOWN: Final = 20
_SOON_MS: Final[Ms] = 1_000
"""A slot so near may be handed over by the leader before it hears of the skip."""


class Policies:
    """Let jobs rest, and go on."""

    def __init__(self, context: Context) -> None:
        self._engine = context.engine
        self._admission = context.admission
        self._clock = context.clock
        self._edits = Edits(context)

    async def pause(self, data: Input) -> Reply:
        """Stop a job's schedule until it is resumed, or until an instant; triggers go on."""
        request = read(PauseRequest, data)
        until_ms = None if request.until is None else self._until(request.until)
        reply = await self._rest(request, paused=True, until_ms=until_ms)
        return reply if until_ms is None else {"paused_until": ms_to_text(until_ms), **reply}

    async def resume(self, data: Input) -> Reply:
        """Let a paused job's schedule go on; what was missed meanwhile is not run."""
        return await self._rest(read(ResumeRequest, data), paused=False, until_ms=None)

    async def skip(self, data: Input) -> Reply:
        """Leave out the next slots, or those after the ones left out already; a count of 0 takes that back."""
        request = read(SkipRequest, data)
        subject = named(request.subject)
        skipped: list[Ms] = []
        next_runs: list[Ms | None] = []

        def change(old: Job) -> Job:
            _honoured(old)
            schedule = self._schedule(old)
            now_ms = self._clock.now_ms()
            skip = None
            skipped[:] = []
            if request.count:
                skip, skipped[:] = _left_out(old, schedule, now_ms, request.count)
            new = msgspec.structs.replace(old, skip=skip)
            next_runs[:] = [next_due(new, schedule, now_ms)]
            return new

        revision = await self._edits.knowing_calendars(
            lambda: self._edits.edit(subject, revision_of(request.expected_revision), change)
        )
        [next_ms] = next_runs
        reply: Reply = {
            "count": len(skipped),
            "next_run": None if next_ms is None else ms_to_text(next_ms),
            "revision": str(revision),
            "skipped": [ms_to_text(slot) for slot in skipped[:_SHOWN]],
            "status": "skipped" if request.count else "active",
        }
        if skipped and skipped[0] <= self._clock.now_ms() + _SOON_MS:
            reply["warning"] = f"{ms_to_text(skipped[0])} is a moment away: it may be under way already"
        return reply

    async def _rest(self, request: ResumeRequest, *, paused: bool, until_ms: Ms | None) -> Reply:
        subject = named(request.subject)

        def change(old: Job) -> Job:
            _honoured(old)
            note = old.note if request.note is None else request.note
            return msgspec.structs.replace(old, paused=paused, paused_until_ms=until_ms, note=note)

        revision = await self._edits.edit(subject, revision_of(request.expected_revision), change)
        return {"revision": str(revision), "status": "paused" if paused else "active"}

    def _until(self, text: str) -> Ms:
        now_ms = self._clock.now_ms()
        try:
            until_ms = resolve_instant(text, now_ms)
        except InvalidScheduleTimeError as error:
            raise ValidationError(f"until: {error}; or give a time from now, such as 'in 2h'") from None
        if until_ms <= now_ms:
            raise ValidationError(f"until {text[:64]!r} is not in the future: a pause ends later than now")
        return until_ms

    def _schedule(self, job: Job) -> Schedule:
        # As leniently as when it was loaded: it fires, so its slots can be left out.
        return schedule_of(
            job.schedule,
            anchor_ms=job.anchor_ms,
            seed=job.id,
            min_interval_ns=self._admission.min_interval_ns,
            lenient=True,
            calendars=self._engine.table.calendars(),
        )[0]


def _honoured(job: Job) -> None:
    if job.invalid is not None:
        raise ValidationError(
            f"job {job.id!r} cannot be honoured ({job.invalid}) and never runs; put it anew, or delete it"
        )


def _left_out(job: Job, schedule: Schedule, now_ms: Ms, count: int) -> tuple[Skip, list[Ms]]:
    """The skip that the job has from now on, and the slots that it adds."""
    if job.paused and (job.paused_until_ms is None or job.paused_until_ms > now_ms):
        if job.paused_until_ms is None:
            raise ValidationError(f"job {job.id!r} is paused and has no next slot to skip; resume it first")
        now_ms = job.paused_until_ms - 1
    dues = schedule.dues
    due = dues.next_after_ms(now_ms)
    first = None if due is None else dues.slot_of(due)
    before = job.skip
    if before is not None and first is not None and before.from_ms < first <= before.until_ms:
        from_ms, slot = before.from_ms, schedule.next_after_ms(before.until_ms)
    else:
        # With jitter the next slot may lie in the past although it is not due yet.
        from_ms, slot = now_ms if first is None else min(now_ms, first - 1), first
    found: list[Ms] = []
    while slot is not None and len(found) < count:
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    if not found:
        raise ValidationError(f"job {job.id!r} has no further slot that could be skipped")
    return Skip(from_ms, found[-1]), found
