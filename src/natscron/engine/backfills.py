"""Runs every slot of a past range once, at a bounded rate.

A backfill is an open row: what it is, and the last slot that it handed out. A slot's message, its own row and the
backfill's row with the slot in it are one write, messages first; so a successor goes on behind the last slot that went
out, and a slot is sent twice only where a fault fell inside that write, and then under the same id (a hash of the
backfill and the slot).

Its own overlap policy, or the job's, decides about each slot. One that would have to wait is not taken yet: the range
itself is the buffer, looked at again every :data:`_LOOK_MS`. It ends when the range has no further slot, when somebody
lays down word that it is cancelled, or when its job is gone; each of these is recorded under its id. While its job
cannot be honoured (a calendar is away, say) it waits.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from natscron import ids
from natscron.engine.flights import Flight, Flights
from natscron.engine.table import Entry
from natscron.engine.tries import Tries
from natscron.model import Delivery, Ms, OpenRow, Reason, Run, RunStatus, Trigger
from natscron.policy import overlap
from natscron.policy.overlap import Verdict

__all__ = ["BATCH_MAX", "Backfills"]

BATCH_MAX: Final = 64
"""Slots of one backfill dealt with at once, when it is behind its rate."""
_ENDED_KEPT: Final = 1_000
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
        self._ended: OrderedDict[str, None] = OrderedDict()

    def taken_up(self, row: OpenRow, now: Ms) -> None:
        """A backfill was begun, or is taken over."""
        if row.run_id in self._ended:
            # Asked for again under its key before the history had its end.
            self._flights.closed_rows[row.run_id] = 0
        elif row.run_id not in self._going and row.backfill is not None:
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
            going = self._going.get(backfill_id)
            if going is not None:
                self._end(going, Reason.BACKFILL_CANCELLED, "it was cancelled", now)
            # After the backfill's own row, which would be taken up again without it.
            self._flights.closed_rows[word] = 0
        for going in list(self._going.values()):
            if going.next_ms <= now:
                await self._hand_out(going, now)
                await asyncio.sleep(0)

    async def _hand_out(self, going: _Going, now: Ms) -> None:
        row, work = going.row, going.row.backfill
        entry = self._find(row.job_id)
        if work is None or entry is None or entry.job.generation != row.generation:
            self._end(going, Reason.BACKFILL_CANCELLED, "its job was removed", now)
            return
        if entry.schedule is None or self._flights.holding:
            going.next_ms = now + _LOOK_MS
            return
        going.next_ms = max(going.next_ms, now - _BEHIND_MAX_MS)
        batch: list[Flight] = []
        at, done, over = row.scheduled_at_ms, work.done, False
        while going.next_ms <= now and done - work.done < BATCH_MAX:
            slot = entry.schedule.next_after_ms(at)
            if slot is None or slot > work.to_ms:
                over = slot is not None or entry.schedule.failure is None
                going.next_ms = now + _LOOK_MS
                break
            flight = self._flight(row, entry, slot, now)
            # One that is known went out with its row in a write that was cut before ours.
            if not self._flights.knows(flight.run_id) and not self._may_go(flight, now):
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

    def _may_go(self, flight: Flight, now: Ms) -> bool:
        """Whether the slot is dealt with: admitted, or left out. False: not yet."""
        job_id, flights = flight.job.id, self._flights
        verdict = overlap.decide(flight.policy, running=flights.running(job_id), waiting=flights.waiting(job_id))
        if verdict in {Verdict.BUFFER, Verdict.DROP}:
            return False
        flights.admit(flight, now)
        return True

    def _flight(self, row: OpenRow, entry: Entry, slot: Ms, now: Ms) -> Flight:
        job = entry.job
        run_id = ids.keyed_run_id(slot, self._namespace, job.id, str(job.generation), "backfill", row.run_id, str(slot))
        flight = Flight(
            run_id=run_id, job=job, delivery=Delivery.CORE, scheduled_ms=slot, due_ms=now, trigger=Trigger.BACKFILL
        )
        flight.overlap = row.overlap
        return flight

    def _end(self, going: _Going, reason: Reason, error: str | None, now: Ms) -> None:
        row, work = going.row, going.row.backfill
        del self._going[row.run_id]
        self._ended[row.run_id] = None
        if len(self._ended) > _ENDED_KEPT:
            self._ended.popitem(last=False)
        self._flights.closed_rows[row.run_id] = 0
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
