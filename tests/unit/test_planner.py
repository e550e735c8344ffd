"""Which slots are due: each of them once, whatever is edited when and whoever saw it."""

import msgspec
import pytest
from tests.unit.planning import BIRTH, FIVES, MINUTES, SECONDS, TWOS, Jobs, at, mark, slots, started, take

from natscron.engine.table import compile_entry
from natscron.model import Job, ScheduleSpec

# Time passes.


def test_each_slot_comes_once_at_its_instant_and_in_order() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS), jobs.create(TWOS, "b")])
    assert planner.next_due() == 11_000
    assert slots(planner, 10_999, 2) == []
    assert slots(planner, 13_000, 2) == [11_000, 12_000, 12_000, 13_000]
    assert slots(planner, 13_000, 2) == []
    assert slots(planner, 14_000, 2) == [14_000, 14_000]


def test_a_window_taken_in_parts_moves_the_mark_only_behind_what_was_handed_out() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS), jobs.create(SECONDS, "b")])
    first = take(planner, 20_000, 2, limit=3)
    assert [due.slot_ms for due in first.due] == [11_000, 11_000, 12_000]
    assert first.more
    # The other job's slot at 12,000 is still in the heap.
    assert planner.decided.instant_ms == 11_999
    rest = take(planner, 20_000, 2)
    assert [due.slot_ms for due in rest.due][:2] == [12_000, 13_000]
    assert len(first.due) + len(rest.due) == 20
    assert not rest.more
    assert planner.decided.instant_ms == 20_000


def test_the_mark_says_how_far_the_jobs_were_seen_also_in_a_window_taken_in_parts() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    take(planner, 20_000, 7, limit=3)
    assert planner.decided.jobs_seq == 7


def test_the_mark_never_goes_back() -> None:
    planner = started([Jobs().create(SECONDS)])
    slots(planner, 15_000, 5)
    assert slots(planner, 12_000, 3) == []
    assert planner.decided == mark(15_000, 5)
    assert slots(planner, 16_000, 5) == [16_000]


def test_a_takeover_begins_behind_the_mark() -> None:
    jobs = Jobs()
    entry = jobs.create(SECONDS)
    assert slots(started([entry], 12_500, 1), 14_000, 1) == [13_000, 14_000]


# A job is new.


def test_a_new_job_has_no_slots_before_its_creation_however_late_it_is_seen() -> None:
    jobs = Jobs(12_500)
    planner = started(from_ms=5_000)
    slots(planner, 15_000, 0)
    planner.put(jobs.create(TWOS))
    assert slots(planner, 16_000, 1) == [14_000, 16_000]


def test_a_once_job_that_is_stored_after_its_instant_runs() -> None:
    planner = started(from_ms=20_000)
    planner.put(Jobs(20_500).create(at(15_000)))
    assert slots(planner, 21_000, 1) == [15_000]
    assert slots(planner, 60_000, 1) == []


def test_the_run_at_start_is_due_at_the_creation_also_when_the_mark_had_passed_it() -> None:
    planner = started(from_ms=20_000)
    slots(planner, 24_000, 0)
    planner.put(Jobs(20_500).create(msgspec.structs.replace(SECONDS, run_at_start=True)))
    assert slots(planner, 24_600, 1) == [20_500, 21_500, 22_500, 23_500, 24_500]


def test_the_run_at_start_is_not_repeated_by_an_edit() -> None:
    jobs = Jobs()
    planner = started([jobs.create(msgspec.structs.replace(MINUTES, run_at_start=True))])
    assert slots(planner, 10_500, 1) == [BIRTH]
    planner.put(jobs.edit(11_000, note="x"))
    planner.put(jobs.edit(12_000, schedule=msgspec.structs.replace(FIVES, run_at_start=True)))
    assert slots(planner, 14_999, 3) == []


def test_a_job_removed_and_added_again_is_a_new_one() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    assert slots(planner, 12_000, 1) == [11_000, 12_000]
    planner.remove("a")
    assert slots(planner, 14_000, 2) == []
    jobs.seq, jobs.now_ms = 2, 14_500
    planner.put(jobs.create(SECONDS))
    assert slots(planner, 16_000, 3) == [15_500]


# A job is edited.


def test_editing_never_runs_todays_slot_again() -> None:
    jobs = Jobs(0)
    noon = 12 * 3_600_000
    planner = started([jobs.create(ScheduleSpec(cron="0 12 * * *"))], 0)
    assert slots(planner, noon, 1) == [noon]
    planner.put(jobs.edit(noon + 60_000, schedule=ScheduleSpec(cron="0 12 * * *", tz="Etc/UTC")))
    assert slots(planner, noon + 120_000, 2) == []
    planner.put(jobs.edit(noon + 180_000, schedule=ScheduleSpec(cron="0 11,12 * * *")))
    assert slots(planner, noon + 240_000, 3) == []
    assert planner.next_due() == noon + 23 * 3_600_000


def test_an_edit_that_leaves_the_schedule_loses_and_repeats_nothing() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 12_000, 1)
    # Two slots are due and not taken when the edit comes.
    planner.put(jobs.edit(14_500, note="x"))
    assert slots(planner, 15_000, 2) == [13_000, 14_000, 15_000]


def test_slots_due_before_an_edit_and_not_yet_taken_run_by_the_old_schedule() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 12_000, 1)
    planner.put(jobs.edit(14_500, schedule=FIVES))
    assert slots(planner, 20_000, 2) == [13_000, 14_000, 15_000, 20_000]


def test_an_edit_that_the_leader_saw_late_gets_the_slots_it_lost_and_none_that_ran() -> None:
    jobs = Jobs()
    planner = started([jobs.create(FIVES)])
    edited = jobs.edit(14_500, schedule=TWOS)
    # The leader goes on by the old schedule, then sees the edit.
    assert slots(planner, 21_000, 1) == [15_000, 20_000]
    planner.put(edited)
    # 20,000 is a slot of both and ran; 15,000 ran too and is none of the new schedule.
    assert slots(planner, 22_000, 2) == [16_000, 18_000, 22_000]


def test_a_takeover_that_finds_an_edit_that_no_leader_saw_decides_it_the_same_way() -> None:
    jobs = Jobs()
    jobs.create(FIVES)
    edited = jobs.edit(14_500, mark(14_000, 1), schedule=TWOS)
    assert slots(started([edited], 21_000, 1), 22_000, 2) == [16_000, 18_000, 22_000]


def test_what_the_old_schedule_had_before_its_own_time_does_not_hide_slots() -> None:
    jobs = Jobs()
    jobs.create(MINUTES)
    # The known version has every second from 20,500 on; the edit comes back to fives at 22,500.
    jobs.edit(20_500, schedule=ScheduleSpec(cron="* * * * * *"))
    edited = jobs.edit(22_500, schedule=FIVES)
    assert slots(started([edited], 26_000, 2), 30_000, 3) == [30_000]
    assert slots(started([edited], 24_000, 2), 30_000, 3) == [25_000, 30_000]


def test_a_chain_of_unseen_edits_runs_each_schedule_in_its_own_time() -> None:
    jobs = Jobs()
    jobs.create(MINUTES)
    jobs.edit(11_500, schedule=ScheduleSpec(cron="* * * * * *"))
    jobs.edit(14_500, paused=True)
    jobs.edit(17_500, paused=False)
    edited = jobs.edit(19_500, schedule=TWOS)
    assert slots(started([edited], BIRTH, 1), 24_000, 5) == [
        12_000,
        13_000,
        14_000,
        18_000,
        19_000,
        20_000,
        22_000,
        24_000,
    ]


@pytest.mark.parametrize("seen", [True, False])
def test_resuming_never_back_fills(seen: bool) -> None:  # noqa: FBT001 - a parameter
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 12_000, 1)
    paused = jobs.edit(12_500, paused=True)
    if seen:
        planner.put(paused)
        assert slots(planner, 30_000, 2) == []
    planner.put(jobs.edit(30_500, paused=False))
    assert slots(planner, 32_000, 3) == [31_000, 32_000]


def test_pausing_leaves_what_was_due_before() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 11_000, 1)
    planner.put(jobs.edit(13_500, paused=True))
    assert slots(planner, 30_000, 2) == [12_000, 13_000]


def test_a_once_job_paused_over_its_instant_does_not_run_when_it_is_resumed() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(20_000))])
    planner.put(jobs.edit(15_000, paused=True))
    assert slots(planner, 25_000, 2) == []
    planner.put(jobs.edit(30_000, paused=False))
    assert take(planner, 60_000, 3).due == ()


def test_a_once_job_moved_into_the_past_runs_unless_it_would_reach_behind_the_schedule_it_replaces() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(50_000))])
    slots(planner, 20_000, 1)
    planner.put(jobs.edit(20_500, schedule=at(15_000)))
    assert slots(planner, 21_000, 2) == [15_000]
    planner.put(jobs.edit(30_000, schedule=at(14_000)))
    assert take(planner, 60_000, 3).due == ()


def test_a_label_edit_of_a_once_job_that_ran_does_not_run_it_again() -> None:
    jobs = Jobs()
    planner = started([jobs.create(at(20_000))])
    assert slots(planner, 20_000, 1) == [20_000]
    planner.put(jobs.edit(20_500, note="x"))
    assert slots(planner, 60_000, 2) == []
    assert slots(started([jobs.edit(21_000, note="x")], 20_700, 2), 60_000, 3) == []


def test_a_version_of_before_todays_minimum_interval_still_has_its_slots() -> None:
    jobs = Jobs()
    jobs.create(ScheduleSpec(every="400ms"))
    jobs.edit(11_000, schedule=MINUTES)
    entry = compile_entry(jobs.rows["a"], 10_000_000_000)
    assert slots(started([entry], BIRTH, 1), 12_000, 2) == [10_400, 10_800]


def test_an_invalid_row_is_planned_by_nobody() -> None:
    entry = compile_entry(Job(id="a", schedule=SECONDS, invalid="broken"), 1)
    planner = started([entry])
    assert len(planner) == 0
    assert slots(planner, 60_000, 1) == []


def test_a_job_that_becomes_invalid_stops() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 11_000, 1)
    planner.put(compile_entry(msgspec.structs.replace(jobs.rows["a"], invalid="broken", revision=2), 1))
    assert slots(planner, 20_000, 2) == []


# Clocks that differ.


def test_a_mark_ahead_of_the_clock_holds_the_sequence_back_until_the_changes_slots_are_taken() -> None:
    jobs = Jobs()
    entry = jobs.create(TWOS)
    planner = started([entry], 20_000, 0)
    # The mark is at 20,000 and knows nothing of the job; here it is 13,000.
    assert slots(planner, 13_000, 1) == [12_000]
    assert planner.decided == mark(20_000, 0)
    # A successor that begins at this mark must find 14,000 and what follows still open.
    assert slots(started([entry], 20_000, planner.decided.jobs_seq), 14_000, 1) == [12_000, 14_000]
    assert slots(planner, 20_000, 1) == [14_000, 16_000, 18_000, 20_000]
    assert planner.decided == mark(20_000, 1)


def test_a_leader_behind_the_stores_clock_leaves_the_old_schedule_its_last_slots() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    slots(planner, 12_000, 1)
    planner.put(jobs.edit(14_500, schedule=FIVES))
    assert slots(planner, 12_500, 2) == []
    assert slots(planner, 15_000, 2) == [13_000, 14_000, 15_000]
    # The same for a successor that finds the edit seen and the mark before it.
    assert slots(started([compile_entry(jobs.rows["a"], 1)], 12_500, 2), 15_000, 2) == [13_000, 14_000, 15_000]


# Encoding ahead.


def test_slots_taken_ahead_stay_undecided_and_come_once() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    ahead = planner.take_ahead(12_500, 100)
    assert [due.slot_ms for due in ahead] == [11_000, 12_000]
    assert planner.decided == mark(BIRTH)
    assert slots(planner, 13_000, 1) == [13_000]


def test_what_was_taken_ahead_of_a_job_that_changes_is_left_out_and_planned_anew() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS), jobs.create(SECONDS, "b")])
    ahead = planner.take_ahead(12_500, 100)
    planner.put(jobs.edit(10_500, schedule=TWOS))
    assert {due.cursor.entry.job.id for due in ahead if due.cursor.alive} == {"b"}
    assert slots(planner, 12_500, 3) == [12_000]
    planner.remove("b")
    assert not any(due.cursor.alive for due in ahead)


def test_nothing_is_taken_ahead_that_is_due_already_or_beyond_the_limit() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    assert [due.slot_ms for due in planner.take_ahead(30_000, 3)] == [11_000, 12_000, 13_000]
    late = started(from_ms=20_000)
    late.put(Jobs(12_500).create(TWOS))
    assert late.take_ahead(30_000, 3) == []


# Standing by.


def test_a_follower_takes_over_at_the_mark_it_followed() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    planner.follow(mark(12_500, 1))
    planner.ready()
    assert slots(planner, 14_000, 1) == [13_000, 14_000]


def test_a_follower_keeps_what_the_leader_had_not_seen() -> None:
    jobs = Jobs()
    planner = started([jobs.create(FIVES)])
    planner.follow(mark(13_000, 1))
    planner.put(jobs.edit(14_500, schedule=TWOS))
    # The leader's view is behind: it goes on by the schedule before.
    planner.follow(mark(17_000, 1))
    planner.follow(mark(21_000, 1))
    planner.ready()
    assert slots(planner, 22_000, 2) == [16_000, 18_000, 22_000]


def test_a_planner_tells_when_it_takes_more_for_decided_than_a_mark_says() -> None:
    planner = started(from_ms=1_000, jobs_seq=5)
    assert planner.beyond(mark(999, 5))
    assert planner.beyond(mark(1_000, 4))
    assert not planner.beyond(mark(1_000, 5))
    assert not planner.beyond(mark(2_000, 9))


def test_a_follower_drops_what_the_leader_saw_in_time() -> None:
    jobs = Jobs()
    planner = started([jobs.create(FIVES)])
    planner.put(jobs.edit(14_500, schedule=TWOS))
    planner.follow(mark(14_600, 2))
    planner.follow(mark(21_000, 2))
    planner.ready()
    assert slots(planner, 22_000, 2) == [22_000]


# What it costs.


def test_a_job_edited_again_and_again_leaves_no_cursors_behind() -> None:
    jobs = Jobs()
    planner = started([jobs.create(SECONDS)])
    for n in range(5_000):
        planner.put(jobs.edit(BIRTH + n, note=str(n)))
    assert len(planner._heap) < 3_000
    assert len(planner) == 1
