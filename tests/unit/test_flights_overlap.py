"""Runs that are due while another is going, and runs whose workers report how they ended."""

import msgspec
import pytest
from tests.unit.test_flights import Judge

from natscron.engine.flight import Flight
from natscron.engine.flights import Flights
from natscron.engine.inbox import Inbox
from natscron.engine.target import Outcome
from natscron.model import (
    Delivery,
    Job,
    OpenRow,
    OpenState,
    Overlap,
    Reason,
    Report,
    Retry,
    Run,
    RunStatus,
    Trigger,
)
from natscron.storage.protocol import Reply

NOW = 1_000_000
JOB = Job(id="a", generation=7, timeout_ms=10_000, delivery=Delivery.REQUEST)
GOOD = Outcome(RunStatus.COMPLETED)
STORED = Outcome(RunStatus.STORED)
FAILED = Outcome(RunStatus.FAILED, Reason.WORKER_ERROR, "no", retry=True, code="404")


class Air:
    """The flights of one job, and what they recorded."""

    def __init__(self, job: Job = JOB) -> None:
        self.judge = Judge()
        self.records: list[Run] = []
        self.jobs = {"a": job}
        self.flights = Flights(self.judge, self.records.append, self.jobs.get, instance="me", epoch=4)

    @property
    def job(self) -> Job:
        return self.jobs["a"]

    def edit(self, **changes: object) -> None:
        self.jobs["a"] = msgspec.structs.replace(self.job, **changes)

    def flight(self, run_id: str, *, policy: Overlap | None = None, at: int = 0) -> Flight:
        flight = Flight(
            run_id=run_id,
            job=self.job,
            delivery=self.job.delivery,
            scheduled_ms=NOW + at,
            due_ms=NOW + at,
            trigger=Trigger.SCHEDULE,
        )
        flight.overlap = policy
        return flight

    def due(self, run_id: str, *, policy: Overlap | None = None, at: int = 0) -> bool:
        """A run is due; True if it was sent."""
        flight = self.flight(run_id, policy=policy, at=at)
        if not self.flights.admit(flight, NOW + at) or flight.replaces:
            if flight.replaces:
                self.flights.send_at(flight, NOW + at)
            return False
        self.flights.sent(flight, NOW + at)
        return True

    def step(self, at: int = 0) -> list[str]:
        """Send what is to be sent now; its ids."""
        again = self.flights.expire(NOW + at, 100).again
        for flight in again:
            self.flights.sent(flight, NOW + at)
        return [flight.run_id for flight in again]

    def ends(self, run_id: str, verdict: Outcome = GOOD, at: int = 100, attempt: int = 1) -> None:
        self.judge.verdict = verdict
        self.flights.on_reply(Reply(f"{run_id}.{attempt}", "", {}, b""), NOW + at)

    def story(self) -> list[tuple[str | None, str, str | None]]:
        return [(run.run_id, run.status.value, run.reason) for run in self.records]


def with_overlap(policy: Overlap) -> Air:
    return Air(msgspec.structs.replace(JOB, overlap=policy))


# Overlap.


def test_skip_leaves_the_run_out_and_says_so() -> None:
    air = with_overlap(Overlap.SKIP)
    assert air.due("r1")
    assert not air.due("r2")
    air.ends("r1")
    assert air.due("r3")
    assert air.story() == [("r2", "skipped", "overlap_skip"), ("r1", "completed", None)]


def test_buffer_one_keeps_the_first_and_drops_the_rest() -> None:
    air = with_overlap(Overlap.BUFFER_ONE)
    assert [air.due(name) for name in ("r1", "r2", "r3")] == [True, False, False]
    assert air.step() == []
    air.ends("r1")
    assert air.step(100) == ["r2"]
    air.ends("r2", at=200)
    assert air.story() == [
        ("r3", "skipped", "buffer_full"),
        ("r1", "completed", None),
        ("r2", "completed", None),
    ]
    assert len(air.flights) == 0


def test_buffer_all_runs_one_after_another_in_the_order_of_their_slots() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    assert [air.due(f"r{n}", at=n) for n in range(5)] == [True, False, False, False, False]
    order = []
    for n in range(5):
        air.ends(f"r{n}", at=100 + n)
        order += air.step(100 + n)
    assert order == ["r1", "r2", "r3", "r4"]
    assert {status for _, status, _ in air.story()} == {"completed"}


def test_a_run_that_is_due_does_not_overtake_those_that_wait() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    air.due("r2")
    air.ends("r1")
    assert not air.due("r3", at=100)
    assert air.step(100) == ["r2"]


def test_cancel_other_takes_the_place_of_what_is_going() -> None:
    air = with_overlap(Overlap.CANCEL_OTHER)
    assert air.due("r1")
    assert not air.due("r2")
    assert air.story() == [("r1", "failed", "replaced")]
    flight = air.flights.find("r2")
    assert flight is not None
    assert flight.replaces == "r1"
    assert air.step() == ["r2"]
    # The replaced worker's answer comes too late to say anything.
    air.ends("r1")
    air.ends("r2", at=200)
    assert air.story() == [("r1", "failed", "replaced"), ("r2", "completed", None)]


def test_what_waits_is_asked_again_under_the_policy_of_that_moment() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    for name in ("r1", "r2", "r3", "r4"):
        air.due(name)
    air.edit(overlap=Overlap.SKIP)
    air.ends("r1")
    assert air.step(100) == ["r2"]
    assert air.story()[1:] == [("r3", "skipped", "overlap_skip"), ("r4", "skipped", "overlap_skip")]


def test_allow_lets_everything_go_that_waits() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    for name in ("r1", "r2", "r3"):
        air.due(name)
    air.edit(overlap=Overlap.ALLOW)
    air.ends("r1")
    assert air.step(100) == ["r2", "r3"]


def test_a_retry_counts_as_going() -> None:
    air = Air(msgspec.structs.replace(JOB, overlap=Overlap.SKIP, retry=Retry(attempts=2, backoff_ms=1_000, jitter=0)))
    air.due("r1")
    air.ends("r1", FAILED)
    assert not air.due("r2", at=500)
    assert air.step(1_100) == ["r1"]


def test_a_run_with_a_policy_of_its_own_goes_by_that() -> None:
    air = with_overlap(Overlap.SKIP)
    air.due("r1")
    assert air.due("by-hand", policy=Overlap.ALLOW)
    assert not air.due("patient", policy=Overlap.BUFFER_ONE)
    air.ends("r1")
    assert air.step(100) == []
    air.ends("by-hand", at=200)
    assert air.step(200) == ["patient"]


def test_what_waits_ends_when_its_job_is_removed() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    air.due("r2")
    air.jobs.clear()
    air.ends("r1")
    assert air.step(100) == []
    assert air.story()[-1] == ("r2", "failed", "job_removed")
    assert len(air.flights) == 0


def test_what_waits_is_laid_down_and_a_successor_lets_it_go_only_when_it_knows_all_that_is_going() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.due("r1")
    air.due("r2", at=1)
    rows, _ = air.flights.rows_before(NOW + 10)
    assert [(row.run_id, row.state, row.reader) for row in rows] == [
        ("r1", OpenState.RUNNING, 1),
        ("r2", OpenState.BUFFERED, 2),
    ]
    heir = with_overlap(Overlap.BUFFER_ALL)
    heir.flights.holding = True
    heir.flights.queue(Flight.of_row(rows[1], heir.job))
    assert heir.step(100) == []
    going = Flight.of_row(rows[0], heir.job)
    heir.flights.taken_over(going, NOW + 10_000)
    heir.flights.release_all()
    assert heir.step(200) == []
    heir.flights.settle(going, finished=True, now_ms=NOW + 300)
    assert heir.step(300) == ["r2"]


def test_a_successor_that_finds_nothing_going_lets_the_first_go() -> None:
    air = with_overlap(Overlap.BUFFER_ALL)
    air.flights.holding = True
    for name, at in (("late", 2), ("early", 1)):
        air.flights.queue(air.flight(name, at=at))
    air.flights.release_all()
    assert air.step(10) == ["early"]
    assert air.flights.waiting("a") == 1


# Reports.

REPORTS = msgspec.structs.replace(JOB, delivery=Delivery.CORE, reports=True, overlap=Overlap.SKIP)


def report(
    status: RunStatus = RunStatus.COMPLETED,
    attempt: int = 1,
    at: int = 500,
    *,
    result: str | None = None,
    error: str | None = None,
    code: str | None = None,
) -> Report:
    return Report(status=status, attempt=attempt, finished_at_ms=NOW + at, result=result, error=error, code=code)


def test_a_core_run_whose_worker_reports_is_going_until_the_report() -> None:
    air = Air(REPORTS)
    air.due("r1")
    air.flights.underway(air.flights.find("r1") or air.flight("?"), NOW + 1)
    assert not air.due("r2", at=10)
    air.flights.reported("r1", report(result="42"), NOW + 600)
    assert air.due("r3", at=700)
    assert air.story() == [
        ("r1", "running", None),
        ("r2", "skipped", "overlap_skip"),
        ("r1", "completed", None),
    ]
    done = air.records[-1]
    assert (done.result, done.duration_ms, done.finished_at_ms) == ("42", 500, NOW + 500)


def test_without_a_report_the_run_fails_at_its_timeout_and_the_retry_policy_decides() -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=Retry(attempts=2, backoff_ms=1_000, jitter=0)))
    air.due("r1")
    air.flights.underway(air.flights.find("r1") or air.flight("?"), NOW)
    assert air.step(9_999) == []
    assert air.step(10_000) == []
    assert air.records[-1].reason == Reason.TIMEOUT
    assert air.step(11_000) == ["r1"]
    air.flights.reported("r1", report(attempt=2, at=12_000), NOW + 12_000)
    assert (air.records[-1].status, air.records[-1].attempt) == (RunStatus.COMPLETED, 2)


def test_a_stored_message_is_going_until_the_report_and_a_try_that_follows_is_a_new_message() -> None:
    air = Air(
        msgspec.structs.replace(
            REPORTS, delivery=Delivery.JETSTREAM, retry=Retry(attempts=3, backoff_ms=1_000, jitter=0)
        )
    )
    air.due("r1")
    air.ends("r1", STORED, at=5)
    flight = air.flights.find("r1")
    assert flight is not None
    assert (flight.stored, flight.message, flight.deadline_ms) == (True, 1, NOW + 10_005)
    # The acknowledgement of a copy ends nothing.
    air.ends("r1", STORED, at=6)
    assert [status for _, status, _ in air.story()] == ["running"]
    air.flights.reported("r1", report(RunStatus.FAILED, error="broken"), NOW + 500)
    assert (flight.stored, flight.message, flight.attempt) == (False, 2, 2)
    assert air.step(1_500) == ["r1"]
    air.ends("r1", STORED, at=1_505, attempt=2)
    air.flights.reported("r1", report(attempt=2, at=2_000), NOW + 2_000)
    assert air.story()[-1] == ("r1", "completed", None)


def test_a_stream_that_takes_nothing_is_asked_again_with_the_same_message() -> None:
    air = Air(msgspec.structs.replace(REPORTS, delivery=Delivery.JETSTREAM))
    air.due("r1")
    air.ends("r1", Outcome(RunStatus.FAILED, Reason.NO_STREAM, "none", retry=True), at=5)
    [again] = air.step(2_000)
    flight = air.flights.find(again)
    assert flight is not None
    assert (flight.attempt, flight.message) == (2, 1)


@pytest.mark.parametrize("code", ["404", "503"])
def test_the_retry_policy_may_name_the_workers_own_code(code: str) -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=Retry(attempts=2, only=("5*",), jitter=0)))
    air.due("r1")
    air.flights.reported("r1", report(RunStatus.FAILED, code=code), NOW + 500)
    assert (air.records[-1].status is RunStatus.PENDING) is (code == "503")


def test_the_report_of_a_try_that_was_given_up_counts_only_if_it_is_good() -> None:
    air = Air(msgspec.structs.replace(REPORTS, retry=Retry(attempts=3, backoff_ms=1_000, jitter=0)))
    air.due("r1")
    air.step(10_000)
    air.flights.reported("r1", report(RunStatus.FAILED, at=10_100), NOW + 10_100)
    assert len(air.flights) == 1
    air.flights.reported("r1", report(at=10_200), NOW + 10_200)
    assert air.story()[-1] == ("r1", "completed", None)
    assert air.step(20_000) == []


def test_a_report_about_a_run_that_was_not_sent_is_nobodys_word() -> None:
    air = Air(msgspec.structs.replace(REPORTS, overlap=Overlap.BUFFER_ALL))
    air.due("r1")
    air.due("r2")
    air.flights.reported("r2", report(), NOW + 500)
    assert air.flights.waiting("a") == 1


class _Nothing:
    """Stands in for what a row may concern besides runs."""

    def loaded(self, row: OpenRow) -> None:
        raise NotImplementedError

    def cancel(self, row: OpenRow) -> None:
        raise NotImplementedError

    def taken_up(self, row: OpenRow, now: int) -> None:
        raise NotImplementedError


class _Clock:
    def now_ms(self) -> int:
        return NOW + 600


def inbox(air: Air, journal: set[str]) -> Inbox:
    nothing = _Nothing()
    return Inbox(
        flights=air.flights,
        failing=nothing,  # type: ignore[arg-type]
        backfills=nothing,  # type: ignore[arg-type]
        find_job=air.jobs.get,
        expected=lambda row: row.about in journal,
        record=air.records.append,
        clock=_Clock(),  # type: ignore[arg-type]
    )


def word(run_id: str) -> OpenRow:
    return OpenRow(
        run_id=f"{run_id}=end.1",
        job_id="a",
        generation=7,
        scheduled_at_ms=NOW,
        state=OpenState.REPORTED,
        about=run_id,
        report=report(),
        reader=2,
    )


def test_a_report_before_the_successor_has_taken_the_run_up_is_kept_until_then() -> None:
    air = Air(REPORTS)
    journal = {"r1"}
    box = inbox(air, journal)
    box.opened_all([word("r1")])
    assert air.records == []
    flight = air.flight("r1")
    flight.state = OpenState.RUNNING
    air.flights.taken_over(flight, NOW + 10_000)
    box.taken_up("r1")
    assert air.story() == [("r1", "completed", None)]
    assert list(air.flights.closed_rows) == ["r1=end.1"]


def test_a_report_about_a_run_that_nobody_waits_for_is_recorded_all_the_same() -> None:
    air = Air(REPORTS)
    inbox(air, set()).opened(word("r1"))
    assert air.story() == [("r1", "completed", None)]
    assert list(air.flights.closed_rows) == ["r1=end.1"]


def test_a_report_and_its_runs_row_found_together_end_the_run_whatever_their_order() -> None:
    air = Air(REPORTS)
    run = OpenRow(
        run_id="r1",
        job_id="a",
        generation=7,
        scheduled_at_ms=NOW + 1,
        state=OpenState.RUNNING,
        deadline_ms=NOW + 10_000,
        epoch=3,
    )
    box = inbox(air, set())
    box.opened_all([word("r1"), run])
    box.all_known()
    assert air.story() == [("r1", "completed", None)]
    assert sorted(air.flights.closed_rows) == ["r1", "r1=end.1"]


def test_an_inherited_run_without_a_report_is_over_at_its_deadline_and_not_in_doubt() -> None:
    air = Air(REPORTS)
    flight = air.flight("r1")
    flight.state = OpenState.RUNNING
    air.flights.taken_over(flight, NOW + 10_000)
    assert air.flights.expire(NOW + 10_000, 10) == ([], [])
    assert air.story() == [("r1", "failed", "timeout")]
