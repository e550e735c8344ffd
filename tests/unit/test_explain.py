"""What an explanation says of a job's past: schedule, records, mark and exclusions joined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.explaining import (
    BORN,
    DAY,
    EVERY_FIVE,
    HOUR,
    MINUTE,
    NOW,
    SLOTS,
    at,
    entry_of,
    missed,
    ran,
    shape,
    told,
)

from natscron.engine.explain import MAX_LINES, MAX_SLOTS, What, Why
from natscron.engine.table import Entry
from natscron.errors import InvalidScheduleError
from natscron.model import (
    CatchUp,
    CatchUpPolicy,
    Job,
    Mark,
    Reason,
    RunStatus,
    ScheduleSpec,
    Skip,
    Stamp,
    Trigger,
    Version,
)

# The past.


def test_slots_are_joined_with_their_records() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[0]), ran(SLOTS[1])).past
    assert [(line.what, line.at_ms, line.run and line.run.lateness_ms) for line in past] == [
        (What.RAN, SLOTS[0], 2),
        (What.RAN, SLOTS[1], 2),
    ]


@pytest.mark.parametrize(
    ("status", "reason", "what"),
    [
        (RunStatus.SENT, None, What.RAN),
        (RunStatus.STORED, None, What.RAN),
        (RunStatus.FAILED, Reason.NO_RESPONDERS, What.FAILED),
        (RunStatus.DEAD, Reason.OUTCOME_UNKNOWN, What.FAILED),
        (RunStatus.RUNNING, None, What.GOING),
        (RunStatus.PENDING, Reason.TIMEOUT, What.GOING),
        (RunStatus.SKIPPED, Reason.OVERLAP_SKIP, What.NOT_RUN),
    ],
)
def test_the_record_says_what_became_of_a_slot(status: RunStatus, reason: Reason | None, what: What) -> None:
    line = told(entry_of(EVERY_FIVE), ran(SLOTS[0]), ran(SLOTS[1], status, reason=reason)).past[-1]
    assert (line.what, line.reason) == (what, reason or "")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason: Reason) -> None:
    text = told(entry_of(EVERY_FIVE), ran(SLOTS[1], RunStatus.FAILED, reason=reason)).past[-1].text
    not_of_runs = {Reason.BACKFILL_DONE, Reason.LEADER_CHANGED, Reason.LEADER_RELEASED, Reason.HISTORY_DROPPED}
    assert text.endswith(f": {reason}") is (reason in not_of_runs), text


def test_the_last_attempt_of_a_run_is_what_counts_however_the_records_are_ordered() -> None:
    first = ran(SLOTS[1], RunStatus.PENDING, reason=Reason.TIMEOUT)
    second = ran(SLOTS[1], attempt=2)
    for runs in ((first, second), (second, first)):
        line = told(entry_of(EVERY_FIVE), *runs).past[-1]
        assert (line.what, line.run and line.run.attempt) == (What.RAN, 2)
        assert "attempt 2" in line.text


def test_an_error_is_given_with_its_reason() -> None:
    run = ran(SLOTS[1], RunStatus.FAILED, reason=Reason.WORKER_ERROR, error="disk full")
    assert told(entry_of(EVERY_FIVE), run).past[-1].text == (
        "failed, 2ms late: the worker reported an error (disk full)"
    )


def test_slots_inside_a_range_record_are_that_range_and_nothing_else() -> None:
    first, last = at("2027-06-15T06:00:00Z"), SLOTS[0]
    past = told(entry_of(EVERY_FIVE), missed(first, last, 72, Reason.CATCHUP_LATEST), ran(SLOTS[1]), since=first).past
    assert shape(past) == [("not_run", "catchup_latest"), ("ran", "")]
    assert (past[0].from_ms, past[0].to_ms, past[0].count) == (first, last, 72)
    assert past[0].text.startswith("72 slots not run: it was missed")


def test_a_range_record_that_reaches_out_of_the_window_is_cut_to_it_and_not_counted() -> None:
    past = told(entry_of(EVERY_FIVE), missed(NOW - DAY, SLOTS[1], 289, Reason.CATCHUP_NONE)).past
    assert [(line.from_ms, line.to_ms, line.count) for line in past] == [(NOW - 10 * MINUTE, SLOTS[1], None)]


@pytest.mark.parametrize("reason", [Reason.FAILURES_PAUSED, Reason.INVALID_JOB])
def test_a_record_of_no_slot_says_from_when_on_none_runs_and_hides_no_slot(reason: Reason) -> None:
    past = told(entry_of(EVERY_FIVE), missed(SLOTS[0], SLOTS[0], 0, reason), ran(SLOTS[0]), ran(SLOTS[1])).past
    assert [(line.text.partition(":")[0], line.count) for line in past if line.what is What.NOT_RUN] == [
        ("none runs from here on", 0)
    ]
    assert [line.at_ms for line in past if line.what is What.RAN] == SLOTS
    past = told(entry_of(EVERY_FIVE), missed(SLOTS[0], SLOTS[0], 0, reason), ran(SLOTS[1])).past
    assert What.NO_RECORD in [line.what for line in past]


def test_an_outage_longer_than_the_window_leaves_no_slot_unexplained() -> None:
    past = told(
        entry_of(EVERY_FIVE),
        missed(NOW - 3 * DAY, NOW - DAY - 1, 576, Reason.CATCHUP_WINDOW),
        missed(NOW - DAY, SLOTS[0], 287, Reason.CATCHUP_LATEST),
        ran(SLOTS[1], trigger=Trigger.CATCHUP, lateness_ms=5_000),
        since=NOW - 2 * DAY,
    ).past
    assert shape(past) == [("not_run", "catchup_window"), ("not_run", "catchup_latest"), ("ran", "")]
    assert past[-1].text == "by catch-up: completed, 5s late"


def test_catch_up_with_a_limit_shows_what_ran_and_what_was_over_it() -> None:
    slots = [NOW - 30_000 - n * 5 * MINUTE for n in range(3)]
    past = told(
        entry_of(EVERY_FIVE, catchup=CatchUp(policy=CatchUpPolicy.ALL, limit=3)),
        missed(slots[2] - 10 * MINUTE, slots[2] - 5 * MINUTE, 2, Reason.CATCHUP_LIMIT),
        *(ran(slot, trigger=Trigger.CATCHUP) for slot in slots),
        since=slots[2] - 10 * MINUTE,
    ).past
    assert shape(past) == [("not_run", "catchup_limit"), ("ran", ""), ("ran", ""), ("ran", "")]


def test_runs_by_hand_and_by_backfill_are_listed_beside_the_slots() -> None:
    by_hand = ran(SLOTS[0] + 7, trigger=Trigger.MANUAL)
    again = ran(SLOTS[0], trigger=Trigger.BACKFILL)
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[0]), by_hand, again, ran(SLOTS[1])).past
    assert [line.run and line.run.trigger for line in past] == ["schedule", "backfill", "manual", "schedule"]
    assert "by hand" in past[2].text
    assert "by a backfill" in past[1].text


def test_a_slot_after_the_mark_is_undecided() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[0]), mark=Mark(instant_ms=SLOTS[0], jobs_seq=100)).past
    assert shape(past) == [("ran", ""), ("undecided", "after_mark")]
    assert "decided up to 2027-06-15T11:55:00Z" in past[1].text


def test_a_change_that_no_leader_has_seen_leaves_its_slots_undecided() -> None:
    entry = entry_of(EVERY_FIVE, counts_from=Stamp(SLOTS[0], 200))
    assert shape(told(entry, since=SLOTS[1]).past) == [("undecided", "after_mark")]


def test_without_any_leader_ever_nothing_is_decided() -> None:
    [line] = told(entry_of(EVERY_FIVE), mark=None).past
    assert (line.what, line.count) == (What.UNDECIDED, 2)
    assert "nothing is decided yet" in line.text


def test_slots_without_records_that_aged_out_are_one_range_with_the_limits() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[1]), since=NOW - 2 * HOUR, keeps="100 records of a job").past
    assert shape(past) == [("no_record", "aged_out"), ("ran", "")]
    assert past[0].count == 23
    assert "100 records of a job" in past[0].text


def test_a_hole_between_records_is_said_to_be_lost() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[0] - 5 * MINUTE), ran(SLOTS[1]), since=NOW - 20 * MINUTE).past
    assert shape(past) == [("no_record", "aged_out"), ("ran", ""), ("no_record", "lost"), ("ran", "")][-4:]


def test_a_record_may_still_be_on_its_way() -> None:
    past = told(entry_of(ScheduleSpec(every="30s")), since=NOW - 1_000, now_ms=NOW, until_ms=NOW + 1).past
    assert shape(past) == [("no_record", "not_written")]


def test_slots_older_than_what_was_read_are_not_said_to_be_lost() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[1]), since=NOW - HOUR, read_from_ms=SLOTS[1]).past
    assert shape(past) == [("no_record", "not_read"), ("ran", "")]


def test_the_time_before_the_job_existed_is_named() -> None:
    entry = entry_of(
        EVERY_FIVE, created_at_ms=NOW - 8 * MINUTE, anchor_ms=NOW - 8 * MINUTE, counts_from=Stamp(NOW - 8 * MINUTE, 3)
    )
    past = told(entry, ran(SLOTS[0]), ran(SLOTS[1]), since=NOW - DAY).past
    assert shape(past) == [("not_run", "before_job"), ("ran", ""), ("ran", "")]
    assert "did not exist before 2027-06-15T11:52:30Z" in past[0].text


def test_the_time_before_the_present_schedule_began_to_count_is_named_and_its_records_shown() -> None:
    entry = entry_of(EVERY_FIVE, counts_from=Stamp(SLOTS[0] + 1, 50))
    past = told(entry, ran(SLOTS[0] - 3 * MINUTE), ran(SLOTS[1]), since=NOW - 20 * MINUTE).past
    assert shape(past) == [("not_run", "before_schedule"), ("ran", ""), ("ran", "")]


def test_slots_of_an_earlier_schedule_are_shown_as_long_as_it_is_known() -> None:
    entry = entry_of(
        EVERY_FIVE,
        counts_from=Stamp(SLOTS[1] - 1, 200),
        previous=(Version(schedule=ScheduleSpec(cron="*/3 * * * *"), since=Stamp(BORN, 3)),),
    )
    past = told(entry, mark=Mark(instant_ms=SLOTS[0], jobs_seq=100), since=SLOTS[0] - MINUTE).past
    assert [(line.what.value, line.at_ms or line.from_ms, line.earlier) for line in past] == [
        ("no_record", at("2027-06-15T11:54:00Z"), True),
        ("undecided", at("2027-06-15T11:57:00Z"), True),
        ("undecided", SLOTS[1], False),
    ]


def test_slots_of_a_pause_that_is_known_are_paused() -> None:
    entry = entry_of(
        EVERY_FIVE,
        counts_from=Stamp(SLOTS[1] - 1, 90),
        previous=(
            Version(schedule=EVERY_FIVE, since=Stamp(BORN, 3)),
            Version(schedule=None, since=Stamp(SLOTS[0] - 1, 80)),
        ),
    )
    past = told(entry, ran(SLOTS[0] - 5 * MINUTE), ran(SLOTS[1]), since=SLOTS[0] - 6 * MINUTE).past
    assert shape(past) == [("ran", ""), ("not_run", "paused"), ("ran", "")]


def test_a_paused_job_says_so_for_the_past_and_the_future() -> None:
    entry = entry_of(EVERY_FIVE, paused=True, counts_from=Stamp(SLOTS[0] - 1, 90))
    found = told(entry, since=SLOTS[0])
    assert shape(found.past) == [("not_run", "paused")]
    assert found.past[0].count == 2
    assert shape(found.future) == [("will_not_run", "paused")] * 3


def test_a_skipped_slot_without_a_record_is_skipped_all_the_same() -> None:
    entry = entry_of(EVERY_FIVE, skip=Skip(SLOTS[0], SLOTS[1]))
    assert shape(told(entry, ran(SLOTS[0])).past) == [("ran", ""), ("not_run", "skip_next")]


def test_more_slots_than_are_shown_are_cut_at_the_old_end_with_their_number() -> None:
    past = told(entry_of(ScheduleSpec(every="1s")), since=NOW - DAY).past
    assert (past[0].what, past[0].reason) == (What.CUT, "limit")
    assert past[0].count == 86_400 - MAX_SLOTS
    assert sum(line.count or 1 for line in past) == 86_400
    assert past[-1].to_ms == NOW - 1_000


def test_more_runs_by_hand_than_there_is_room_for_are_cut_too() -> None:
    runs = [ran(NOW - DAY + n, trigger=Trigger.MANUAL, run_id=f"{n:026}") for n in range(MAX_LINES + 500)]
    past = told(entry_of(ScheduleSpec(every="1000h")), *runs, since=NOW - DAY - 1).past
    assert (len(past), past[0].what, past[0].count) == (MAX_LINES, What.CUT, 501)


def test_a_window_that_reaches_into_the_future_ends_now() -> None:
    past = told(entry_of(EVERY_FIVE), ran(SLOTS[1]), since=SLOTS[1], until_ms=NOW + DAY).past
    assert shape(past) == [("ran", "")]


def test_a_job_that_cannot_be_honoured_says_why_and_shows_its_records() -> None:
    entry = Entry(Job(id="a.b", schedule=EVERY_FIVE, invalid="no such zone", generation=3), None, (), ())
    found = told(entry, ran(SLOTS[1]))
    assert [line.what.value for line in found.past] == ["invalid", "ran"]
    assert found.future == ()
    assert "no such zone" in found.past[0].text


# Nothing is left out.


@given(
    every=st.integers(1, 7),
    window=st.integers(1, 120),
    ran_at=st.sets(st.integers(0, 120)),
    pauses=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 30)), max_size=3),
    marked=st.integers(0, 120),
    edited=st.integers(0, 120),
    paused=st.booleans(),
    taken=st.integers(2, 5),
)
def test_every_slot_of_the_window_has_exactly_one_line(
    every: int,
    window: int,
    ran_at: set[int],
    pauses: list[tuple[int, int]],
    marked: int,
    edited: int,
    paused: bool,  # noqa: FBT001 - drawn
    taken: int,
) -> None:
    """Minutes before now, in all of them."""
    begin = NOW - 30_000
    base = [begin - n * MINUTE for n in range(121)]
    spec = ScheduleSpec(cron=f"*/{every} * * * *", except_=(ScheduleSpec(cron=f"*/{every * taken} * * * *"),))
    try:
        entry = entry_of(spec, paused=paused, counts_from=Stamp(base[edited] + 1, 50))
    except InvalidScheduleError:
        return  # nothing is left of it
    assert entry.schedule is not None
    slots = {slot for slot in base if entry.schedule.last_at_or_before_ms(slot) == slot}
    ranges = [(base[min(first + length, 120)], base[first]) for first, length in pauses]
    covered = {slot for slot in slots for first, last in ranges if first <= slot <= last}
    runs = [ran(base[n]) for n in ran_at if base[n] in slots - covered]
    skipped = [missed(first, last, 1, Reason.CATCHUP_NONE) for first, last in ranges]
    since = NOW - window * MINUTE
    past = told(entry, *runs, *skipped, since=since, mark=Mark(instant_ms=base[marked], jobs_seq=100)).past
    assert [line.when_ms for line in past] == sorted(line.when_ms for line in past)
    known = [line for line in past if line.reason not in {Why.EXCLUDED, Why.BEFORE_SCHEDULE}]
    for slot in sorted(slots):
        hits = [line for line in known if slot == line.at_ms or (line.from_ms or 1) <= slot <= (line.to_ms or 0)]
        counted = slot > base[edited]
        if since <= slot and (counted or hits):
            own = [line for line in hits if line.reason != Reason.CATCHUP_NONE]
            assert len(own) == (slot not in covered), (slot, hits)
            assert hits, slot
        elif slot < since:
            assert not hits, (slot, hits)
