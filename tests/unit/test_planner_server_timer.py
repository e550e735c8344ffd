"""Slots that nats-server times, in the planner: three seconds late, and each once, whatever is edited when."""

import msgspec
import pytest
from tests.unit.planning import BIRTH, SECONDS, Jobs, mark, slots, started, take

from natscron.model import Reason, ScheduleSpec

TWOS = ScheduleSpec(cron="*/2 * * * * *", timer="server")
SERVER = msgspec.structs.replace(SECONDS, timer="server")
LAG = 3_000


def test_a_slot_is_the_leaders_three_seconds_after_it() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    assert planner.next_due() == BIRTH + 1_000 + LAG
    assert slots(planner, 13_999, 1) == []
    assert slots(planner, 15_000, 1) == [11_000, 12_000]


def test_what_is_undecided_up_to_a_slot_that_fired_is_found_and_stays_undecided() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    assert slots(planner, 15_500, 1) == [11_000, 12_000]
    found = planner.undecided("a", 15_500, 14_000 + LAG, 16)
    assert [(due.slot_ms, due.due_ms) for due in found] == [(13_000, 16_000), (14_000, 17_000)]
    assert planner.undecided("a", 15_500, 13_000 + LAG, 16) == found[:1]
    assert planner.undecided("a", 16_000, 14_000 + LAG, 16) == found[1:]
    assert len(planner.undecided("a", 15_500, 90_000, 4)) == 4
    assert planner.undecided("b", 15_500, 90_000, 16) == []
    assert slots(planner, 17_000, 1) == [13_000, 14_000]
    assert planner.undecided("a", 15_500, 14_000 + LAG, 16) == []


def test_slots_made_ready_ahead_are_still_undecided() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    assert [due.slot_ms for due in planner.take_ahead(16_000, 100)] == [11_000, 12_000, 13_000]
    assert [due.slot_ms for due in planner.undecided("a", BIRTH, 15_000, 16)] == [11_000, 12_000]


def test_the_server_takes_over_from_the_leader_at_the_edit() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    assert slots(planner, 13_200, 1) == [11_000, 12_000, 13_000]
    planner.put(jobs.edit(14_300, planner.decided, schedule=SERVER))
    # The slot at 14,000 is of the time before the edit, and is the leader's, at once.
    assert slots(planner, 14_400, 2) == [14_000]
    assert slots(planner, 18_500, 2) == [15_000]
    assert [due.slot_ms for due in planner.undecided("a", 18_500, 20_000, 16)] == [16_000, 17_000]


def test_the_leader_takes_over_from_the_server_at_the_edit() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    assert slots(planner, 15_100, 1) == [11_000, 12_000]
    planner.put(jobs.edit(15_200, planner.decided, schedule=SECONDS))
    # What was the server's until the edit the leader goes through as before; what comes after is its own.
    assert [due.slot_ms for due in planner.undecided("a", 15_200, 18_000, 16)] == [
        13_000,
        14_000,
        15_000,
        16_000,
        17_000,
        18_000,
    ]
    assert slots(planner, 16_000, 2) == [13_000, 16_000]
    assert slots(planner, 19_000, 2) == [14_000, 17_000, 15_000, 18_000, 19_000]


@pytest.mark.parametrize(("before", "after"), [(SECONDS, SERVER), (SERVER, SECONDS), (SERVER, TWOS)])
def test_an_edit_that_no_leader_saw_loses_nothing_and_doubles_nothing(
    before: ScheduleSpec, after: ScheduleSpec
) -> None:
    jobs = Jobs()
    jobs.create(before)
    planner = started([jobs.edit(15_500, schedule=after)], 14_500, 1)
    found = slots(planner, 25_000, 2)
    assert len(set(found)) == len(found)
    first = 14_500 - (LAG if before.timer else 0)
    until = 25_000 - (LAG if after.timer else 0)
    old = [slot for slot in range(11_000, 15_501, 1_000) if slot > first]
    assert sorted(found) == [*old, *range(16_000, until + 1, 2_000 if after.cron else 1_000)]


def test_a_pause_is_about_slots_and_not_about_when_the_leader_looks_at_them() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    assert slots(planner, 15_000, 1) == [11_000, 12_000]
    planner.put(jobs.edit(15_500, planner.decided, paused=True))
    assert [due.slot_ms for due in planner.undecided("a", 15_500, 30_000, 16)] == [13_000, 14_000, 15_000]
    assert slots(planner, 17_000, 2) == [13_000, 14_000]
    planner.put(jobs.edit(17_500, planner.decided, paused=False))
    window = take(planner, 30_000, 3)
    ran = [due.slot_ms for due in window.due]
    assert ran == [15_000, *range(18_000, 27_001, 1_000)]
    [paused] = window.missed
    assert paused.skipped.reason is Reason.PAUSED
    assert (paused.skipped.from_ms, paused.skipped.to_ms, paused.skipped.count) == (16_000, 17_000, 2)


def test_a_pause_that_ends_by_itself_ends_at_the_slot() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SERVER)])
    planner.put(jobs.edit(12_500, planner.decided, paused=True, paused_until_ms=15_500))
    window = take(planner, 20_000, 2)
    assert [due.slot_ms for due in window.due] == [11_000, 12_000, 16_000, 17_000]
    [paused] = window.missed
    assert (paused.skipped.from_ms, paused.skipped.to_ms, paused.skipped.count) == (13_000, 15_000, 3)


def test_a_version_is_kept_until_the_leader_has_gone_through_its_slots() -> None:
    jobs = Jobs()
    jobs.create(SERVER)
    jobs.edit(15_500, schedule=SECONDS)
    kept = jobs.edit(16_000, mark(18_499, 9), note="a").job.previous
    assert len(kept) == 1
    assert jobs.edit(17_000, mark(18_500, 9), note="b").job.previous == ()
