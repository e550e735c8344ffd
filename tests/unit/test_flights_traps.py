"""What waits and what is reported, where answers cross: each of these was wrong once, or nearly."""

import msgspec
import pytest
from tests.unit.test_flights_overlap import FAILED, JOB, NOW, REPORTS, STORED, Air, inbox, report, with_overlap, word

from natscron.engine import flights as module
from natscron.engine.flight import Flight
from natscron.model import Delivery, OpenState, Overlap, Retry, RunStatus, Trigger

TWICE = Retry(attempts=2, backoff_ms=1_000, jitter=0)
STREAM = msgspec.structs.replace(REPORTS, delivery=Delivery.JETSTREAM, retry=TWICE)


# A stream's acknowledgement and a worker's report.


def test_a_report_of_failure_before_the_acknowledgement_is_that_of_a_stored_message() -> None:
    air = Air(STREAM)
    air.due("r1")
    air.flights.reported("r1", report(RunStatus.FAILED), NOW + 500)
    flight = air.flights.find("r1")
    assert flight is not None
    assert (flight.state, flight.attempt, flight.message) == (OpenState.RETRY, 2, 2)


def test_a_worker_that_failed_is_heard_although_the_acknowledgement_was_lost_and_a_copy_was_sent() -> None:
    air = Air(STREAM)
    air.due("r1")
    air.step(5_000)
    assert air.step(6_000) == ["r1"]
    # The copy is attempt 2, which the stream drops; what the worker has says attempt 1.
    air.flights.reported("r1", report(RunStatus.FAILED, attempt=1), NOW + 6_500)
    assert air.story()[-1] == ("r1", "failed", "worker_error")


def test_the_late_acknowledgement_of_a_message_that_failed_is_not_taken_for_that_of_the_next() -> None:
    air = Air(STREAM)
    air.due("r1")
    air.flights.reported("r1", report(RunStatus.FAILED), NOW + 500)
    assert air.step(1_500) == ["r1"]
    air.ends("r1", STORED, at=1_501)
    flight = air.flights.find("r1")
    assert flight is not None
    assert not flight.stored
    air.ends("r1", STORED, at=1_502, attempt=2)
    assert flight.stored


def test_an_inherited_message_is_known_to_have_failed_before_it_is_sent_again() -> None:
    air = Air(msgspec.structs.replace(STREAM, retry=Retry()))
    air.due("r1")
    row = air.flights.rows_before(NOW)[0][0]
    heir = Air(msgspec.structs.replace(STREAM, retry=Retry()))
    said = msgspec.structs.replace(word("r1"), report=report(RunStatus.FAILED))
    inbox(heir, set()).opened_all([row, said])
    assert heir.story() == [("r1", "failed", "worker_error")]


def test_a_try_after_a_missing_report_is_a_new_message_with_core_delivery_too() -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=TWICE))
    air.due("r1")
    air.step(10_000)
    flight = air.flights.find("r1")
    assert flight is not None
    assert (flight.attempt, flight.message) == (2, 2)


def test_a_reporter_whose_clock_is_ahead_does_not_put_off_the_next_try() -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=TWICE))
    air.due("r1")
    air.flights.reported("r1", report(RunStatus.FAILED, at=3_600_000), NOW + 500)
    assert air.flights.next_ms() == NOW + 1_500


def test_a_worker_that_repeats_its_word_is_recorded_once_and_one_that_is_late_all_the_same() -> None:
    air = Air(REPORTS)
    box = inbox(air, set())
    air.due("told")
    for _ in range(2):
        box.opened(word("told"))
    assert air.story() == [("told", "completed", None)]
    air.due("late")
    air.step(10_000)
    box.opened(word("late"))
    assert air.story()[1:] == [("late", "failed", "timeout"), ("late", "completed", None)]


def test_a_reports_row_stays_until_the_mark_has_passed_its_run() -> None:
    air = Air(REPORTS)
    air.due("r1", at=50)
    inbox(air, set()).opened(word("r1"))
    assert air.flights.closed_rows == {"r1=end.1": NOW + 50}


def test_all_that_was_said_of_a_run_of_the_journal_is_kept_until_it_is_taken_up() -> None:
    air = Air(REPORTS)
    box = inbox(air, {"r1"})
    first = msgspec.structs.replace(word("r1"), report=report(RunStatus.FAILED))
    box.opened_all([first, msgspec.structs.replace(word("r1"), run_id="r1=end.2", report=report(attempt=2))])
    assert box.has_word_of("r1")
    flight = air.flight("r1")
    flight.state = OpenState.RUNNING
    air.flights.taken_over(flight, NOW + 10_000)
    box.taken_up("r1")
    assert list(air.flights.closed_rows) == ["r1=end.1", "r1=end.2"]


@pytest.mark.parametrize("state", [OpenState.PENDING, OpenState.BUFFERED])
@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
def test_a_report_proves_that_the_leader_before_us_sent_the_run_although_its_row_does_not(
    state: OpenState, status: RunStatus
) -> None:
    air = Air(msgspec.structs.replace(REPORTS, overlap=Overlap.BUFFER_ALL))
    row = msgspec.structs.replace(air.flight("r1").as_row(3), state=state)
    box = inbox(air, set())
    box.opened_all([row, msgspec.structs.replace(word("r1"), report=report(status))])
    box.all_known()
    assert [(run, end) for run, end, _ in air.story()] == [("r1", status.value)]
    assert air.step(1_000) == []
    assert (air.flights.waiting("a"), air.flights.running("a"), len(air.flights)) == (0, 0, 0)


# What waits.


def test_a_run_that_waits_by_its_own_policy_costs_none_of_those_behind_it_its_place() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    assert not air.due("by-hand", policy=Overlap.BUFFER_ONE)
    for name in ("r3", "r4", "r5"):
        air.due(name)
    air.ends("r1")
    assert air.step(100) == ["by-hand"]
    assert air.flights.waiting("a") == 3


def test_a_run_that_was_let_go_and_not_sent_yet_is_laid_down_as_one_that_waits() -> None:
    air = with_overlap(Overlap.BUFFER_ONE)
    air.due("r1")
    air.due("r2")
    air.ends("r1")
    air.due("r3")
    rows, _ = air.flights.rows_before(NOW + 200)
    assert {row.run_id: row.state for row in rows} == {"r2": OpenState.BUFFERED, "r3": OpenState.BUFFERED}
    heir = with_overlap(Overlap.BUFFER_ONE)
    box = inbox(heir, set())
    box.opened_all(rows)
    box.all_known()
    assert heir.step(300) == ["r2"]
    assert heir.flights.waiting("a") == 1
    assert heir.story() == []


def test_a_newer_run_in_the_line_replaces_those_before_it_and_leaves_those_behind_it() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    for n in range(4):
        air.due(f"r{n}", at=n)
    air.flights.queue(air.flight("urgent", policy=Overlap.CANCEL_OTHER, at=2))
    air.flights.queue(air.flight("r4", at=4))
    air.ends("r0")
    assert air.step(100) == ["urgent"]
    assert air.flights.waiting("a") == 2


def test_a_policy_is_not_asked_where_nobody_tells_when_a_run_ends() -> None:
    air = Air(msgspec.structs.replace(JOB, delivery=Delivery.CORE, overlap=Overlap.SKIP))
    assert air.due("r1")
    assert air.due("r2")
    assert air.due("r3", policy=Overlap.BUFFER_ONE)


def test_what_waits_goes_when_its_job_no_longer_hears_reports() -> None:
    air = Air(msgspec.structs.replace(REPORTS, overlap=Overlap.BUFFER_ALL))
    for name in ("r1", "r2", "r3"):
        air.due(name)
    air.edit(reports=False)
    air.flights.reported("r1", report(), NOW + 500)
    assert air.step(500) == ["r2", "r3"]


def test_a_trigger_is_not_decided_before_all_that_is_going_is_known() -> None:
    air = with_overlap(Overlap.SKIP)
    air.flights.holding = True
    for name, policy in (("by-hand", None), ("regardless", Overlap.ALLOW)):
        flight = air.flight(name, policy=policy)
        flight.trigger = Trigger.MANUAL
        air.flights.taken_over(flight, NOW)
    assert air.step(1) == ["regardless"]
    air.flights.release_all()
    assert air.step(100) == []
    assert air.story() == [("by-hand", "skipped", "overlap_skip")]


def test_a_row_closed_before_the_mark_has_passed_its_slot_is_kept_until_then_and_a_triggers_is_not() -> None:
    air = with_overlap(Overlap.SKIP)
    for name, trigger in (("slot", Trigger.SCHEDULE), ("by-hand", Trigger.MANUAL)):
        flight = air.flight(name, at=30)
        flight.trigger = trigger
        flight.row = flight.as_row(4)
        air.flights.sent(flight, NOW + 30)
        air.ends(name)
    assert air.flights.closed_rows == {"slot": NOW + 30, "by-hand": 0}


# Retries and doubts.


def test_a_doubtful_run_whose_worker_reported_meanwhile_is_not_judged_twice() -> None:
    air = Air(msgspec.structs.replace(JOB, retry=Retry(attempts=3, backoff_ms=1_000, jitter=0)))
    flight = air.flight("r1")
    flight.state = OpenState.RUNNING
    air.flights.taken_over(flight, NOW)
    assert air.flights.expire(NOW, 10).doubtful == [flight]
    air.flights.reported("r1", report(RunStatus.FAILED), NOW + 10)
    air.flights.settle(flight, finished=False, now_ms=NOW + 20)
    assert (flight.attempt, len(air.records)) == (2, 1)


def test_timers_of_runs_that_ended_are_not_kept_for_as_long_as_their_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STALE_MAX", 10)
    air = Air(msgspec.structs.replace(JOB, timeout_ms=86_400_000, overlap=Overlap.ALLOW))
    air.due("long")
    for n in range(500):
        air.due(f"r{n}", at=n)
        air.ends(f"r{n}", at=n)
    assert len(air.flights._timers) <= 20
    assert air.flights.next_ms() == NOW + 86_400_000


def test_an_ended_run_failed_by_its_retries_is_told_of_by_the_last_try_only() -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=TWICE))
    box = inbox(air, set())
    air.due("r1")
    air.ends("r1", FAILED)
    air.flights.reported("r1", report(RunStatus.FAILED), NOW + 10)
    assert air.step(1_100) == ["r1"]
    air.step(20_000)
    assert air.story()[-1] == ("r1", "failed", "timeout")
    # The first try's word ended nothing; a good end after all is still told.
    box.opened(word("r1"))
    assert air.story()[-1] == ("r1", "completed", None)


def test_a_flight_that_was_replaced_in_its_own_batch_is_no_longer_going() -> None:
    air = with_overlap(Overlap.CANCEL_OTHER)
    flights = [air.flight("t1"), air.flight("t2")]
    for flight in flights:
        flight.trigger = Trigger.MANUAL
        air.flights.taken_over(flight, NOW)
    again = air.flights.expire(NOW, 10).again
    assert [(flight.run_id, flight.going) for flight in again] == [("t1", False), ("t2", True)]


def test_a_row_says_all_that_a_successor_must_know() -> None:
    air = Air(STREAM)
    air.due("r1", policy=Overlap.CANCEL_OTHER)
    flight = air.flights.find("r1")
    assert flight is not None
    flight.attempt, flight.message, flight.stored, flight.payload = 4, 3, True, {"x": 1}
    row = flight.as_row(4)
    assert (row.overlap, row.message, row.stored, row.attempt) == (Overlap.CANCEL_OTHER, 3, True, 4)
    assert Flight.of_row(row, air.job).as_row(4) == row
    assert row.reader == 2


def test_a_new_message_has_a_timeout_of_its_own() -> None:
    air = Air(STREAM)
    air.due("r1")
    air.ends("r1", STORED)
    air.flights.reported("r1", report(RunStatus.FAILED, at=9_000), NOW + 9_000)
    assert air.step(10_000) == ["r1"]
    flight = air.flights.find("r1")
    assert flight is not None
    assert flight.deadline_ms == NOW + 20_000


def test_a_run_that_takes_the_place_of_others_ends_those_that_wait_too_and_leaves_nothing_behind() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    air.due("r2")
    air.due("now", policy=Overlap.CANCEL_OTHER)
    assert air.step() == ["now"]
    air.ends("now")
    assert air.step(100) == []
    assert air.story() == [("r2", "skipped", "replaced"), ("r1", "failed", "replaced"), ("now", "completed", None)]
    assert (len(air.flights), air.flights._waiting, air.flights._going) == (0, {}, {})


def test_nothing_is_kept_of_a_job_whose_last_waiting_run_is_gone() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    air.due("r2")
    air.ends("r1")
    air.step(100)
    air.ends("r2", at=200)
    assert (air.flights._waiting, air.flights._going) == ({}, {})
