"""Runs every slot of a past range once, at a bounded rate.

A backfill is an open row: what it is, and the last slot that it handed out. A slot's message, its own row and the
backfill's row with the slot in it are one write, messages first; so a successor goes on behind the last slot that went
out, and a slot is sent twice only where a fault fell inside that write, and then under the same id (a hash of the
backfill and the slot).

Its own overlap policy, or the job's, decides about each slot. One that would have to wait is not taken yet: the range
itself is the buffer, looked at again every :data:`_LOOK_MS`. It ends when the range has no further slot, when somebody
lays down word that it is cancelled, or when its job is gone; each of these is recorded under its id.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from natscron import ids
from natscron.engine.flights import Flight, Flights
from natscron.engine.table import Entry
from natscron.engine.tries import Tries
from natscron.model import Delivery, Ms, OpenRow, Overlap, Reason, Run, RunStatus, Trigger
from natscron.policy import overlap
from natscron.policy.overlap import Verdict

__all__ = ["BATCH_MAX", "Backfills"]

BATCH_MAX: Final = 64
"""Slots of one backfill handed over at once, when it is behind its rate."""
_LOOK_MS: Final[Ms] = 100
_BEHIND_MAX_MS: Final[Ms] = 1_000
"""What was not handed out in time is made up for no further back than this: no storm after a stall."""


class _Going(msgspec.Struct):
    row: OpenRow
    next_ms: Ms


class Backfills:
    """All backfills of one leadership."""

    def __init__(  # noqa: PLR0913 - what it asks and whom it tells
        self,
        find: Callable[[str], Entry | None],
        flights: Flights,
        tries: Tries,
        record: Callable[[Run], None],
        *,
        namespace: str,
        instance: str,
        epoch: int,
    ) -> None:
        self._find = find
        self._flights = flights
        self._tries = tries
        self._record = record
        self._namespace = namespace
        self._instance = instance
        self._epoch = epoch
        self._going: dict[str, _Going] = {}
        self._cancelled: dict[str, str] = {}

    def taken_up(self, row: OpenRow, now: Ms) -> None:
        """A backfill was begun, or is taken over."""
        if row.run_id not in self._going and row.backfill is not None:
            self._going[row.run_id] = _Going(row, now)

    def cancel(self, row: OpenRow) -> None:
        """Word that one is to end; both rows are deleted with the next step."""
        self._cancelled[row.about] = row.run_id

    def next_ms(self) -> Ms | None:
        """When there is something to do."""
        if self._cancelled:
            return 0
        return min((going.next_ms for going in self._going.values()), default=None)

    async def step(self, now: Ms) -> None:
        """Hand out what is due of each."""
        for backfill_id, word in list(self._cancelled.items()):
            del self._cancelled[backfill_id]
            self._flights.closed_rows.append(word)
            going = self._going.get(backfill_id)
            if going is not None:
                self._end(going, Reason.BACKFILL_CANCELLED, "it was cancelled", now)
        for going in list(self._going.values()):
            if going.next_ms <= now:
                await self._hand_out(going, now)

    async def _hand_out(self, going: _Going, now: Ms) -> None:
        row, work = going.row, going.row.backfill
        entry = self._find(row.job_id)
        if work is None or entry is None or entry.schedule is None or entry.job.generation != row.generation:
            self._end(going, Reason.BACKFILL_CANCELLED, "its job was removed, or is invalid", now)
            return
        going.next_ms = max(going.next_ms, now - _BEHIND_MAX_MS)
        policy = row.overlap or entry.job.overlap
        batch: list[Flight] = []
        at, done, over = row.scheduled_at_ms, work.done, False
        while going.next_ms <= now and len(batch) < BATCH_MAX:
            slot = entry.schedule.next_after_ms(at)
            if slot is None or slot > work.to_ms:
                over = True
                break
            flight = self._flight(row, entry, slot)
            if not self._may_go(flight, policy, now):
                going.next_ms = now + _LOOK_MS
                break
            if flight.going:
                batch.append(flight)
            at, done = slot, done + 1
            going.next_ms += work.every_ms
        if at != row.scheduled_at_ms:
            going.row = msgspec.structs.replace(
                row, scheduled_at_ms=at, epoch=self._epoch, backfill=msgspec.structs.replace(work, done=done)
            )
            await self._tries.hand_over(batch, (going.row,), now)
        if over:
            self._end(going, Reason.BACKFILL_DONE, None, now)

    def _may_go(self, flight: Flight, policy: Overlap, now: Ms) -> bool:
        """Whether the slot is dealt with: admitted, or left out. False: not yet."""
        job_id = flight.job.id
        verdict = overlap.decide(policy, running=self._flights.running(job_id), waiting=self._flights.waiting(job_id))
        if verdict in {Verdict.BUFFER, Verdict.DROP}:
            return False
        self._flights.admit(flight, now)
        return True

    def _flight(self, row: OpenRow, entry: Entry, slot: Ms) -> Flight:
        job = entry.job
        run_id = ids.keyed_run_id(slot, self._namespace, job.id, str(job.generation), "backfill", row.run_id, str(slot))
        flight = Flight(
            run_id=run_id, job=job, delivery=Delivery.CORE, scheduled_ms=slot, due_ms=slot, trigger=Trigger.BACKFILL
        )
        flight.overlap = row.overlap
        return flight

    def _end(self, going: _Going, reason: Reason, error: str | None, now: Ms) -> None:
        row, work = going.row, going.row.backfill
        del self._going[row.run_id]
        self._flights.closed_rows.append(row.run_id)
        if work is None:
            return
        self._record(
            Run(
                job=row.job_id,
                run_id=row.run_id,
                status=RunStatus.COMPLETED if reason is Reason.BACKFILL_DONE else RunStatus.SKIPPED,
                reason=reason,
                trigger=Trigger.BACKFILL,
                finished_at_ms=now,
                instance=self._instance,
                error=error,
                result=f"{work.done} of {work.total} slots",
                from_ms=work.from_ms,
                to_ms=work.to_ms,
                count=work.done if reason is Reason.BACKFILL_DONE else max(work.total - work.done, 0),
            )
        )
