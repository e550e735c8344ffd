"""What an explanation says of a job's past and future: schedule, records, mark and policies joined."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.codec import text_to_ms
from natscron.engine.explain import MAX_LINES, MAX_SLOTS, Asked, Explanation, Line, What, Why, explain
from natscron.engine.table import Entry
from natscron.errors import InvalidScheduleError
from natscron.ids import keyed_run_id
from natscron.model import (
    Calendar,
    CalendarSpec,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Job,
    Mark,
    Overlap,
    Reason,
    Retry,
    Run,
    RunStatus,
    ScheduleSpec,
    Skip,
    Stamp,
    Trigger,
    Version,
)
from natscron.schedule import compile_schedule

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
BORN = text_to_ms("2027-01-01T00:00:00Z")
NOW = text_to_ms("2027-06-15T12:00:30Z")


def at(text: str) -> int:
    return text_to_ms(text)


def entry_of(spec: ScheduleSpec, calendars: tuple[Calendar, ...] = (), **more: Any) -> Entry:  # noqa: ANN401 - fields
    fields: dict[str, Any] = {"generation": 3, "created_at_ms": BORN, "anchor_ms": BORN}
    fields |= {"counts_from": Stamp(BORN, 3)} | more
    job = Job(id="a.b", schedule=spec, **fields)
    known = {calendar.name: calendar.spec for calendar in calendars}
    compiled = compile_schedule(spec, anchor_ms=job.anchor_ms, seed=job.id, lenient=True, calendars=known)
    return Entry(job, compiled.schedule, compiled.warnings, calendars)


def told(entry: Entry, *runs: Run, since: int = NOW - 10 * MINUTE, **more: Any) -> Explanation:  # noqa: ANN401 - fields
    asked: dict[str, Any] = {
        "until_ms": NOW,
        "now_ms": NOW,
        "mark": Mark(instant_ms=NOW, jobs_seq=100),
        "count": 3,
    } | more
    return explain(Asked(entry=entry, runs=runs, since_ms=since, **asked))


def ran(slot: int, status: RunStatus = RunStatus.COMPLETED, **more: Any) -> Run:  # noqa: ANN401 - fields
    trigger = more.get("trigger", Trigger.SCHEDULE)
    fields: dict[str, Any] = {
        "run_id": keyed_run_id(slot, trigger),
        "scheduled_at_ms": slot,
        "started_at_ms": slot + 2,
        "finished_at_ms": slot + 12,
        "lateness_ms": 2,
    }
    return Run(job="a.b", status=status, **(fields | more))


def missed(first: int, last: int, count: int, reason: Reason) -> Run:
    return Run(
        job="a.b",
        status=RunStatus.SKIPPED,
        from_ms=first,
        to_ms=last,
        count=count,
        reason=reason,
        finished_at_ms=last + HOUR,
    )


def shape(lines: tuple[Line, ...]) -> list[tuple[str, str]]:
    return [(line.what.value, line.reason) for line in lines]


EVERY_FIVE = ScheduleSpec(cron="*/5 * * * *")
SLOTS = [at("2027-06-15T11:55:00Z"), at("2027-06-15T12:00:00Z")]


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


# Clock changes.

BERLIN = ScheduleSpec(cron="30 2 * * *", tz="Europe/Berlin")


@pytest.mark.parametrize(
    ("day", "slot", "mark", "local"),
    [
        ("2027-03-28", "2027-03-28T01:00:00Z", "moved", "2027-03-28T03:00:00+02:00"),
        ("2027-10-31", "2027-10-31T00:30:00Z", "", "2027-10-31T02:30:00+02:00"),
        ("2027-06-01", "2027-06-01T00:30:00Z", "", "2027-06-01T02:30:00+02:00"),
    ],
)
def test_clock_changes_are_marked_in_the_past_and_in_the_future(day: str, slot: str, mark: str, local: str) -> None:
    begin = at(f"{day}T00:00:00Z")
    past = told(entry_of(BERLIN), ran(at(slot)), since=begin, until_ms=begin + DAY, now_ms=begin + DAY).past
    future = told(entry_of(BERLIN), since=begin - 1, until_ms=begin, now_ms=begin, count=1).future
    for line in (past[0], future[0]):
        assert (line.at_ms, line.mark, line.local) == (at(slot), mark, local)
    assert ("moved by a clock change" in future[0].text) is bool(mark)


def test_both_passes_of_a_repeated_hour_are_shown_and_the_second_is_marked() -> None:
    begin = at("2027-10-31T00:00:00Z")
    spec = msgspec.structs.replace(BERLIN, dst_fold="both")
    future = told(entry_of(spec), since=begin - 1, until_ms=begin, now_ms=begin, count=2).future
    assert [(line.local, line.mark) for line in future] == [
        ("2027-10-31T02:30:00+02:00", ""),
        ("2027-10-31T02:30:00+01:00", "repeated"),
    ]


# Exclusions.

HOLIDAYS = Calendar(name="holidays", spec=CalendarSpec(dates=("06-16", "06-17")), counts_from=Stamp(BORN, 4))


def test_slots_that_a_calendar_takes_away_are_named_with_it() -> None:
    spec = ScheduleSpec(cron="0 9 * * *", except_=(ScheduleSpec(calendar="holidays"),))
    found = told(entry_of(spec, (HOLIDAYS,)), count=1)
    assert shape(found.future) == [("will_not_run", "excluded"), ("will_run", "")]
    assert (found.future[0].source, found.future[0].count) == ("calendar holidays", 2)
    later = at("2027-06-18T00:00:00Z")
    past = told(
        entry_of(spec, (HOLIDAYS,)),
        ran(at("2027-06-15T09:00:00Z")),
        since=at("2027-06-15T00:00:00Z"),
        now_ms=later,
        until_ms=later,
        mark=Mark(instant_ms=later, jobs_seq=100),
    ).past
    assert shape(past) == [("ran", ""), ("not_run", "excluded")]


def test_slots_that_a_schedule_takes_away_are_named_with_it_in_english() -> None:
    spec = ScheduleSpec(cron="0 * * * *", except_=(ScheduleSpec(cron="0 13 * * *"),))
    line = told(entry_of(spec), count=1).future[0]
    assert (line.what, line.source) == (What.WILL_NOT_RUN, "at 13:00 every day, UTC")


def test_exclusions_of_very_many_candidates_stay_bounded() -> None:
    spec = ScheduleSpec(cron="* * * * * *", except_=(ScheduleSpec(calendar="holidays"),))
    future = told(entry_of(spec, (HOLIDAYS,)), now_ms=at("2027-06-15T23:59:59Z"), count=1).future
    assert len(future) <= 4
    assert sum(line.count or 1 for line in future) > 1_000
    assert future[-1].at_ms == at("2027-06-18T00:00:00Z")


# Jitter.


def test_jitter_shows_slot_and_due_instant() -> None:
    spec = ScheduleSpec(cron="*/5 * * * *", jitter="2m")
    found = told(entry_of(spec), count=8)
    late = [line.due_ms - line.at_ms for line in found.future if line.due_ms and line.at_ms]
    assert late
    assert all(0 < one <= 2 * MINUTE for one in late)
    assert any("(jitter)" in line.text for line in found.future)
    assert any(line.reason == "jitter" for line in found.policies)


def test_a_slot_that_jitter_has_not_brought_due_yet_belongs_to_the_future() -> None:
    spec = ScheduleSpec(cron="*/5 * * * *", jitter="4m")
    entry = entry_of(spec)
    found = told(entry, now_ms=SLOTS[1], until_ms=SLOTS[1] + 1, since=SLOTS[1], count=1)
    shown = [line.at_ms for line in (*found.past, *found.future)]
    assert shown[0] == SLOTS[1]
    assert (found.past == ()) is (found.future[0].at_ms == SLOTS[1])


# The future.


def test_the_next_slots_run() -> None:
    future = told(entry_of(EVERY_FIVE), count=2).future
    assert [(line.what.value, line.at_ms, line.text) for line in future] == [
        ("will_run", at("2027-06-15T12:05:00Z"), "runs"),
        ("will_run", at("2027-06-15T12:10:00Z"), "runs"),
    ]


def test_no_future_is_shown_if_none_is_asked_for() -> None:
    assert told(entry_of(EVERY_FIVE), count=0).future == ()


def test_skip_next_takes_slots_away_and_the_next_one_runs() -> None:
    entry = entry_of(EVERY_FIVE, skip=Skip(NOW, at("2027-06-15T12:10:00Z")))
    assert shape(told(entry).future) == [("will_not_run", "skip_next")] * 2 + [("will_run", "")]


def test_a_pause_with_an_end_is_one_range_and_then_it_runs() -> None:
    entry = entry_of(EVERY_FIVE, paused=True, paused_until_ms=NOW + HOUR, counts_from=Stamp(NOW - MINUTE, 90))
    future = told(entry, count=2).future
    assert shape(future) == [("will_not_run", "paused"), ("will_run", ""), ("will_run", "")]
    assert (future[0].count, future[1].at_ms) == (12, at("2027-06-15T13:05:00Z"))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ScheduleSpec(cron="*/5 * * * *", max_runs=2, last_slot="2027-06-15T12:10:00Z"), Why.MAX_RUNS),
        (ScheduleSpec(cron="*/5 * * * *", not_after="2027-06-15T12:14:00Z"), Why.NOT_AFTER),
    ],
)
def test_the_last_slot_is_called_the_last_and_the_end_named(spec: ScheduleSpec, reason: Why) -> None:
    future = told(entry_of(spec), count=5).future
    assert shape(future) == [("will_run", ""), ("will_run", reason.value), ("end", reason.value)]


def test_a_once_job_has_one_slot_before_it_and_an_end_after_it() -> None:
    spec = ScheduleSpec(at="2027-06-15T12:30:00Z")
    assert shape(told(entry_of(spec)).future) == [("will_run", "once"), ("end", "once")]
    [end] = told(entry_of(spec), now_ms=NOW + DAY).future
    assert (end.what, end.reason) == (What.END, "once")
    assert "2027-06-15T12:30:00Z" in end.text


def test_a_once_job_created_after_its_instant_is_still_shown_in_the_past() -> None:
    spec = ScheduleSpec(at="2027-06-15T12:00:00Z")
    made = SLOTS[1] + 5_000
    entry = entry_of(spec, created_at_ms=made, anchor_ms=made, counts_from=Stamp(made, 3))
    past = told(entry, ran(SLOTS[1]), since=SLOTS[1]).past
    assert ("ran", "") in shape(past)


@pytest.mark.parametrize(
    ("overlap", "verdict"),
    [(Overlap.ALLOW, ""), (Overlap.SKIP, "skip"), (Overlap.BUFFER_ONE, "buffer"), (Overlap.CANCEL_OTHER, "replace")],
)
def test_while_a_run_is_going_the_next_slot_says_what_becomes_of_it(overlap: Overlap, verdict: str) -> None:
    entry = entry_of(EVERY_FIVE, overlap=overlap, delivery=Delivery.REQUEST)
    future = told(entry, ran(SLOTS[1], RunStatus.RUNNING), count=2).future
    assert [line.if_going for line in future] == [verdict, ""]
    assert ("run going on now" in future[0].text) is bool(verdict)


# Policies.


def test_every_policy_in_force_has_a_sentence() -> None:
    entry = entry_of(
        EVERY_FIVE,
        delivery=Delivery.REQUEST,
        overlap=Overlap.BUFFER_ALL,
        retry=Retry(attempts=4, only=("timeout",), never=("5*",)),
        pause_after_failures=3,
        priority=7,
        paused=True,
        paused_until_ms=NOW + DAY,
        skip=Skip(NOW, NOW + HOUR),
        catchup=CatchUp(policy=CatchUpPolicy.ALL, limit=12, window_ms=3 * HOUR),
    )
    texts = {line.reason: line.text for line in told(entry).policies}
    assert set(texts) == {
        "paused",
        "skip",
        "catchup",
        "overlap",
        "timeout",
        "retry",
        "pause_after_failures",
        "priority",
    }
    assert "newest 12 are made up for within 3h" in texts["catchup"]
    assert "tried 4 times" in texts["retry"]
    assert "only for timeout" in texts["retry"]
    assert "3 failed runs in a row" in texts["pause_after_failures"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (CatchUpPolicy.LATEST, "of older ones the newest is made up for within 24h"),
        (CatchUpPolicy.NONE, "older ones are not made up for"),
    ],
)
def test_catch_up_is_told_in_words(policy: CatchUpPolicy, words: str) -> None:
    entry = entry_of(EVERY_FIVE, catchup=CatchUp(policy=policy))
    [text] = [line.text for line in told(entry).policies if line.reason == "catchup"]
    assert words in text


def test_core_delivery_says_that_nothing_confirms_it() -> None:
    reasons = {line.reason for line in told(entry_of(EVERY_FIVE), delivery=Delivery.CORE).policies}
    assert "delivery" in reasons
    assert "retry" not in reasons


def test_the_schedule_is_read_out_in_english_with_its_zone() -> None:
    found = told(entry_of(BERLIN))
    assert (found.description, found.zone) == ("at 02:30 every day, Europe/Berlin", "Europe/Berlin")


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
