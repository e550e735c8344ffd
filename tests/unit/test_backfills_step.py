"""One step of a backfill at a time: what it hands out, what it leaves, and what it asks to have deleted."""

from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.test_flights_overlap import REPORTS, Air

from natscron.engine import backfills as module
from natscron.engine.backfills import BATCH_MAX, Backfills
from natscron.engine.flight import Flight
from natscron.engine.table import Entry
from natscron.model import Backfill, OpenRow, OpenState, Overlap, Run, ScheduleSpec
from natscron.schedule import compile_schedule

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000_000
BEGIN = NOW - 86_400_000
ROW = OpenRow(
    run_id="b",
    job_id="a",
    generation=7,
    scheduled_at_ms=BEGIN - 1,
    state=OpenState.BACKFILL,
    backfill=Backfill(from_ms=BEGIN, to_ms=NOW, every_ms=10, total=1_440),
)
WORD = OpenRow(run_id="b=end", job_id="a", generation=7, scheduled_at_ms=NOW, state=OpenState.CANCEL, about="b")


class Hand:
    """Backfills of one job, and what they handed over."""

    def __init__(self, spec: ScheduleSpec | None = None) -> None:
        self.air = Air(msgspec.structs.replace(REPORTS, overlap=Overlap.ALLOW))
        self.spec = spec or ScheduleSpec(cron="* * * * *")
        self.out: list[str] = []
        self.rows: list[OpenRow] = []
        self.records: list[Run] = []
        self.all = Backfills(
            self.find,
            self.air.flights,
            self,  # type: ignore[arg-type]
            self.records.append,
            namespace="n",
            instance="me",
            epoch=4,
        )

    def find(self, job_id: str) -> Entry | None:
        job = self.air.jobs.get(job_id)
        if job is None:
            return None
        schedule = None if job.invalid else compile_schedule(self.spec, anchor_ms=0, seed="a").schedule
        return Entry(job, schedule, ())

    async def hand_over(self, flights: Sequence[Flight], beside: Sequence[OpenRow], now: int) -> None:
        for flight in flights:
            self.out.append(flight.run_id)
            self.air.flights.sent(flight, now)
        self.rows += beside


async def test_it_keeps_its_rate_and_makes_up_for_a_stall_of_a_second_at_the_most() -> None:
    hand = Hand()
    hand.all.taken_up(ROW, NOW)
    await hand.all.step(NOW)
    assert len(hand.out) == 1
    await hand.all.step(NOW + 100)
    assert len(hand.out) == 11
    for _ in range(10):
        await hand.all.step(NOW + 3_600_000)
    assert len(hand.out) == 11 + 101


async def test_a_step_deals_with_a_bounded_number_of_slots_also_if_none_of_them_goes() -> None:
    hand = Hand()
    hand.air.edit(overlap=Overlap.SKIP)
    hand.all.taken_up(ROW, NOW)
    await hand.all.step(NOW)
    await hand.all.step(NOW + 5_000)
    assert len(hand.air.records) == BATCH_MAX


async def test_a_slot_that_went_out_in_a_write_that_was_cut_before_the_cursor_is_not_sent_again() -> None:
    hand = Hand()
    hand.all.taken_up(ROW, NOW)
    await hand.all.step(NOW)
    first = hand.air.flights.find(hand.out[0])
    assert first is not None
    heir = Hand()
    heir.air.flights.taken_over(Flight.of_row(first.as_row(3), heir.air.job), NOW + 60_000)
    heir.all.taken_up(ROW, NOW)
    await heir.all.step(NOW)
    assert heir.out == []
    assert [row.backfill.done for row in heir.rows if row.backfill] == [1]
    await heir.all.step(NOW + 10)
    assert len(heir.out) == 1
    assert heir.out != hand.out


async def test_nothing_is_decided_before_all_that_is_going_is_known() -> None:
    hand = Hand()
    hand.air.flights.holding = True
    hand.all.taken_up(ROW, NOW)
    await hand.all.step(NOW)
    assert (hand.out, hand.rows) == ([], [])
    hand.air.flights.release_all()
    await hand.all.step(NOW + 1_000)
    assert hand.out


async def test_its_job_removed_and_added_again_is_another_job() -> None:
    hand = Hand()
    hand.all.taken_up(ROW, NOW)
    hand.air.edit(generation=8)
    await hand.all.step(NOW)
    assert (hand.out, [run.reason for run in hand.records]) == ([], ["backfill_cancelled"])


async def test_its_own_row_is_deleted_before_the_word_that_ended_it() -> None:
    hand = Hand()
    hand.all.taken_up(ROW, NOW)
    hand.all.cancel(WORD)
    await hand.all.step(NOW)
    assert list(hand.air.flights.closed_rows) == ["b", "b=end"]
    assert hand.all.next_ms() is None


async def test_one_that_ended_is_not_begun_again_by_its_key_and_what_ended_is_remembered_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ENDED_KEPT", 1)
    hand = Hand()
    for name in ("b", "c"):
        row = msgspec.structs.replace(ROW, run_id=name, scheduled_at_ms=NOW)
        hand.all.taken_up(row, NOW)
        await hand.all.step(NOW)
        hand.air.flights.closed_rows.clear()
        hand.all.taken_up(row, NOW)
        assert list(hand.air.flights.closed_rows) == [name]
        assert hand.all.next_ms() is None
    hand.all.taken_up(ROW, NOW)
    assert hand.all.next_ms() == NOW
