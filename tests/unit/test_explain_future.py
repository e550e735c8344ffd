"""What an explanation says of what comes: clock changes, exclusions, jitter, the next slots, and policies."""

import msgspec
import pytest
from tests.unit.explaining import BORN, DAY, EVERY_FIVE, HOUR, MINUTE, NOW, SLOTS, at, entry_of, ran, shape, told

from natscron.engine.explain import What, Why
from natscron.model import (
    Calendar,
    CalendarSpec,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Mark,
    Overlap,
    Retry,
    RunStatus,
    ScheduleSpec,
    Skip,
    Stamp,
)

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
