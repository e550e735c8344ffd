"""Runs on their way: every end of every kind of delivery, and what a successor makes of what it finds."""

import asyncio

import msgspec
import pytest

from natscron.engine import flights as module
from natscron.engine.flights import ACK_WAIT_MS, Flight, Flights
from natscron.engine.target import Dispatch, Outcome, Refusal
from natscron.model import (
    Delivery,
    Job,
    OpenRow,
    OpenState,
    Reason,
    Retry,
    Run,
    RunStatus,
    Trigger,
)
from natscron.storage.protocol import Outgoing, Reply
from natscron.testing.virtual import run as on_virtual_time

NOW = 1_000_000
THRICE = Retry(attempts=3, backoff_ms=1_000, factor=2.0, jitter=0.0)
JOB = Job(id="a", generation=7, timeout_ms=10_000, retry=THRICE)

GOOD = Outcome(RunStatus.COMPLETED, result="done")
AGAIN = Outcome(RunStatus.FAILED, Reason.NO_RESPONDERS, "nobody", retry=True)
NEVER = Outcome(RunStatus.FAILED, Reason.WORKER_ERROR, "no")


class Judge:
    """A target whose verdict is set."""

    verdict = GOOD

    def admits(self, job: Job) -> str | None:
        del job
        return None

    def delivery_of(self, job: Job) -> Delivery:
        return job.delivery

    def encode(self, job: Job, dispatch: Dispatch, delivery: Delivery) -> Outgoing | Refusal:
        raise NotImplementedError

    def judge(self, delivery: Delivery, reply: Reply) -> Outcome:
        del delivery, reply
        return self.verdict


class Air:
    """Flights, and what they recorded."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.records: list[Run] = []
        self.jobs = {"a": JOB}
        self.all = Flights(self.judge, self.records.append, self.jobs.get, instance="me", epoch=4)

    def flight(self, run_id: str = "r", delivery: Delivery = Delivery.REQUEST, slot_ms: int = NOW - 5) -> Flight:
        return Flight(
            run_id=run_id,
            job=JOB,
            delivery=delivery,
            scheduled_ms=slot_ms,
            due_ms=slot_ms,
            trigger=Trigger.SCHEDULE,
        )

    def sent(self, run_id: str = "r", delivery: Delivery = Delivery.REQUEST, slot_ms: int = NOW - 5) -> Flight:
        flight = self.flight(run_id, delivery, slot_ms)
        self.all.sent(flight, NOW)
        return flight

    def inherited(self, state: OpenState, at_ms: int, delivery: Delivery = Delivery.REQUEST) -> Flight:
        """From an open row of the leader before us."""
        flight = self.flight(delivery=delivery)
        flight.state = state
        flight.row = flight.as_row(3)
        self.all.taken_over(flight, at_ms)
        return flight

    def reply(self, token: str, verdict: Outcome, now_ms: int = NOW + 100) -> None:
        self.judge.verdict = verdict
        self.all.on_reply(Reply(token, "", {}, b""), now_ms)

    @property
    def last(self) -> tuple[RunStatus, str | None, int]:
        """Status, reason and attempt of the newest record."""
        record = self.records[-1]
        return record.status, record.reason, record.attempt


# Ends.


@pytest.mark.parametrize("delivery", [Delivery.REQUEST, Delivery.JETSTREAM])
def test_a_good_answer_ends_a_run_and_is_recorded_whole(delivery: Delivery) -> None:
    air = Air()
    air.sent(delivery=delivery)
    assert air.all.running("a") == 1
    air.reply("r.1", GOOD)
    assert air.records == [
        Run(
            job="a",
            status=RunStatus.COMPLETED,
            run_id="r",
            scheduled_at_ms=NOW - 5,
            started_at_ms=NOW,
            finished_at_ms=NOW + 100,
            delivery=delivery,
            lateness_ms=5,
            duration_ms=100,
            instance="me",
            result="done",
        )
    ]
    assert (len(air.all), air.all.running("a"), air.all.next_ms()) == (0, 0, None)


@pytest.mark.parametrize("delivery", [Delivery.REQUEST, Delivery.JETSTREAM])
def test_an_answer_that_no_retry_mends_ends_the_run(delivery: Delivery) -> None:
    air = Air()
    air.sent(delivery=delivery)
    air.reply("r.1", NEVER)
    assert air.last == (RunStatus.FAILED, Reason.WORKER_ERROR, 1)
    assert len(air.all) == 0


def test_a_second_answer_says_nothing() -> None:
    air = Air()
    air.sent()
    air.reply("r.1", GOOD)
    air.reply("r.1", NEVER)
    air.reply("unknown.1", NEVER)
    assert len(air.records) == 1
    assert air.all.knows("r")
    assert not air.all.knows("unknown")


def test_a_request_is_tried_again_after_each_failure_until_its_attempts_are_used_up() -> None:
    air = Air()
    flight = air.sent()
    times = []
    now = NOW
    for attempt in (1, 2):
        air.reply(f"r.{attempt}", AGAIN, now)
        assert air.last == (RunStatus.PENDING, Reason.NO_RESPONDERS, attempt)
        assert flight.state is OpenState.RETRY
        due = air.all.next_ms()
        assert due is not None
        times.append(due - now)
        assert air.all.expire(due - 1, 10).again == []
        assert air.all.expire(due, 10).again == [flight]
        air.all.sent(flight, now := due)
    assert times == [1_000, 2_000]
    assert (flight.run_id, flight.attempt) == ("r", 3)
    air.reply("r.3", AGAIN, now)
    assert air.last == (RunStatus.FAILED, Reason.NO_RESPONDERS, 3)
    assert len(air.all) == 0


def test_a_request_without_an_answer_times_out_at_its_jobs_timeout() -> None:
    air = Air()
    air.sent()
    assert air.all.next_ms() == NOW + 10_000
    assert air.all.expire(NOW + 9_999, 10) == ([], [])
    assert air.records == []
    air.all.expire(NOW + 10_000, 10)
    assert air.last == (RunStatus.PENDING, Reason.TIMEOUT, 1)


def test_an_earlier_trys_answer_is_not_taken_for_the_present_one() -> None:
    air = Air()
    flight = air.sent()
    air.all.expire(NOW + 10_000, 10)
    air.all.sent(flight, NOW + 11_000)
    air.reply("r.1", GOOD, NOW + 11_100)
    assert len(air.all) == 1
    air.reply("r.2", GOOD, NOW + 11_200)
    assert air.last == (RunStatus.COMPLETED, None, 2)


@pytest.mark.parametrize("delivery", [Delivery.REQUEST, Delivery.JETSTREAM])
def test_an_answer_while_a_retry_waits_is_too_late(delivery: Delivery) -> None:
    air = Air()
    air.sent(delivery=delivery)
    air.reply("r.1", AGAIN, NOW + 10)
    air.reply("r.1", GOOD, NOW + 20)
    assert air.last == (RunStatus.PENDING, Reason.NO_RESPONDERS, 1)


def test_a_stream_that_does_not_acknowledge_is_asked_again_until_the_jobs_timeout() -> None:
    air = Air()
    flight = air.sent(delivery=Delivery.JETSTREAM)
    assert air.all.next_ms() == NOW + ACK_WAIT_MS
    air.all.expire(NOW + ACK_WAIT_MS, 10)
    assert air.last == (RunStatus.PENDING, Reason.TIMEOUT, 1)
    again = NOW + ACK_WAIT_MS + 1_000
    assert air.all.expire(again, 10).again == [flight]
    air.all.sent(flight, again)
    # The deadline bounds all tries together.
    assert air.all.next_ms() == NOW + 10_000
    air.all.expire(NOW + 10_000, 10)
    assert air.last == (RunStatus.FAILED, Reason.TIMEOUT, 2)
    assert len(air.all) == 0


def test_a_stream_is_tried_more_often_than_a_request_and_any_trys_acknowledgement_counts() -> None:
    air = Air()
    air.jobs["a"] = msgspec.structs.replace(JOB, retry=Retry(attempts=1, backoff_ms=10, jitter=0.0))
    flight = air.sent(delivery=Delivery.JETSTREAM)
    flight.job = air.jobs["a"]
    air.reply("r.1", AGAIN)
    assert air.last == (RunStatus.PENDING, Reason.NO_RESPONDERS, 1)
    [again] = air.all.expire(NOW + 200, 10).again
    air.all.sent(again, NOW + 200)
    # The first try's acknowledgement: the stream has the run's id.
    air.reply("r.1", GOOD, NOW + 300)
    assert (air.records[-1].status, air.records[-1].attempt) == (RunStatus.COMPLETED, 2)


def test_a_core_message_with_a_row_is_sent_when_it_is_stored() -> None:
    air = Air()
    flight = air.sent(delivery=Delivery.CORE)
    air.all.delivered(flight, NOW + 1)
    assert air.last == (RunStatus.SENT, None, 1)


def test_a_run_that_cannot_be_sent_is_recorded_with_the_reason() -> None:
    air = Air()
    flight = air.sent()
    air.all.refuse(flight, Reason.TOO_LARGE, "too large", NOW)
    assert air.last == (RunStatus.FAILED, Reason.TOO_LARGE, 1)
    assert len(air.all) == 0


@pytest.mark.parametrize(
    "now_stored", [None, msgspec.structs.replace(JOB, generation=8), msgspec.structs.replace(JOB, invalid="broken")]
)
def test_a_retry_of_a_job_that_is_gone_ends(now_stored: Job | None) -> None:
    air = Air()
    air.sent()
    air.reply("r.1", AGAIN)
    air.jobs.clear()
    if now_stored is not None:
        air.jobs["a"] = now_stored
    assert air.all.expire(NOW + 5_000, 10).again == []
    assert air.last == (RunStatus.FAILED, Reason.JOB_REMOVED, 2)


def test_a_retry_is_sent_by_the_job_as_it_is_then() -> None:
    air = Air()
    air.sent()
    air.reply("r.1", AGAIN)
    air.jobs["a"] = msgspec.structs.replace(JOB, payload="new")
    assert [flight.job.payload for flight in air.all.expire(NOW + 5_000, 10).again] == ["new"]


def test_no_more_than_the_limit_is_dealt_with_at_a_time() -> None:
    air = Air()
    for n in range(5):
        air.sent(str(n))
        air.reply(f"{n}.1", AGAIN)
    assert len(air.all.expire(NOW + 60_000, 2).again) == 2
    assert len(air.all.expire(NOW + 60_000, 10).again) == 3


# Open rows.


def test_only_runs_that_the_mark_would_pass_are_laid_down_and_only_when_they_changed() -> None:
    air = Air()
    early, late = air.sent("early", slot_ms=NOW - 10), air.sent("late", slot_ms=NOW + 10)
    rows, instant = air.all.rows_before(NOW)
    assert rows == [early.as_row(4)]
    assert instant == NOW
    assert rows[0] == OpenRow(
        run_id="early",
        job_id="a",
        generation=7,
        scheduled_at_ms=NOW - 10,
        state=OpenState.RUNNING,
        delivery=Delivery.REQUEST,
        deadline_ms=NOW + 10_000,
        epoch=4,
    )
    air.all.rows_saved(rows)
    assert air.all.rows_before(NOW) == ([], NOW)
    air.reply("early.1", AGAIN)
    [changed], _ = air.all.rows_before(NOW)
    assert (changed.state, changed.attempt, changed.next_at_ms) == (OpenState.RETRY, 2, NOW + 1_100)
    assert air.all.rows_before(NOW + 10)[0] == [changed, late.as_row(4)]


def test_the_mark_waits_before_the_first_run_whose_row_must_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    air = Air()
    for n in range(4):
        air.sent(str(n), slot_ms=NOW + n)
    rows, instant = air.all.rows_before(NOW + 10)
    assert [row.run_id for row in rows] == ["0", "1"]
    assert instant == NOW + 1
    air.all.rows_saved(rows)
    rows, instant = air.all.rows_before(NOW + 10)
    assert [row.run_id for row in rows] == ["2", "3"]
    assert instant == NOW + 10


def test_a_run_that_ends_leaves_its_row_to_be_deleted_and_one_without_a_row_none() -> None:
    air = Air()
    flight = air.sent("kept")
    air.sent("short")
    air.all.rows_saved([flight.as_row(4)])
    air.reply("kept.1", GOOD)
    air.reply("short.1", GOOD)
    assert list(air.all.closed_rows) == ["kept"]


def test_a_row_stored_after_its_run_ended_is_deleted_again() -> None:
    air = Air()
    row = air.sent().as_row(4)
    air.reply("r.1", GOOD)
    assert list(air.all.closed_rows) == []
    air.all.rows_saved([row])
    assert list(air.all.closed_rows) == ["r"]


# Taken over.


def test_an_inherited_request_runs_until_its_deadline_and_is_then_doubtful() -> None:
    air = Air()
    flight = air.inherited(OpenState.RUNNING, NOW + 3_000)
    assert air.all.running("a") == 1
    assert air.all.expire(NOW + 2_999, 10) == ([], [])
    assert air.all.expire(NOW + 3_000, 10) == ([], [flight])
    assert air.records == []


def test_a_doubtful_run_that_had_ended_is_closed_without_another_record() -> None:
    air = Air()
    flight = air.inherited(OpenState.RUNNING, NOW)
    air.all.expire(NOW, 10)
    air.all.settle(flight, finished=True, now_ms=NOW)
    assert (air.records, len(air.all), list(air.all.closed_rows)) == ([], 0, ["r"])


def test_a_doubtful_run_that_had_not_ended_has_an_unknown_outcome_and_the_retry_policy_decides() -> None:
    air = Air()
    flight = air.inherited(OpenState.RUNNING, NOW)
    air.all.expire(NOW, 10)
    air.all.settle(flight, finished=False, now_ms=NOW)
    assert air.last == (RunStatus.PENDING, Reason.OUTCOME_UNKNOWN, 1)
    assert air.all.expire(NOW + 1_000, 10).again == [flight]
    flight.attempt = 3
    air.all.sent(flight, NOW + 1_000)
    assert not flight.inherited
    once = air.flight("once")
    once.job = msgspec.structs.replace(JOB, retry=Retry())
    once.state = OpenState.RUNNING
    air.all.taken_over(once, NOW)
    air.all.settle(once, finished=False, now_ms=NOW)
    assert air.last == (RunStatus.FAILED, Reason.OUTCOME_UNKNOWN, 1)


def test_a_doubtful_run_that_was_settled_meanwhile_stays_settled() -> None:
    air = Air()
    flight = air.inherited(OpenState.RUNNING, NOW)
    air.all.expire(NOW, 10)
    air.all.settled_elsewhere("r")
    air.all.settle(flight, finished=False, now_ms=NOW)
    assert air.records == []


def test_the_leader_before_us_deleting_a_row_ends_a_running_flight_and_no_retry() -> None:
    air = Air()
    air.inherited(OpenState.RUNNING, NOW)
    air.all.settled_elsewhere("r")
    assert (len(air.all), list(air.all.closed_rows), air.all.running("a")) == (0, [], 0)
    air.inherited(OpenState.RETRY, NOW)
    air.all.settled_elsewhere("r")
    assert len(air.all) == 1
    air.all.settled_elsewhere("unknown")


def test_an_inherited_retry_is_sent_at_its_instant() -> None:
    air = Air()
    flight = air.inherited(OpenState.RETRY, NOW + 50, Delivery.JETSTREAM)
    assert air.all.expire(NOW + 49, 10).again == []
    assert air.all.expire(NOW + 50, 10).again == [flight]


# The end of a leadership.


def test_landed_waits_for_the_last_flight_or_the_cut() -> None:
    async def main() -> None:
        air = Air()
        cut = asyncio.Event()
        await air.all.landed(cut)
        air.sent("a1")
        air.sent("a2")
        waiting = asyncio.create_task(air.all.landed(cut))
        await asyncio.sleep(1)
        air.reply("a1.1", GOOD)
        await asyncio.sleep(1)
        assert not waiting.done()
        air.reply("a2.1", GOOD)
        await waiting
        air.sent("a3")
        waiting = asyncio.create_task(air.all.landed(cut))
        await asyncio.sleep(1)
        assert not waiting.done()
        cut.set()
        await waiting

    on_virtual_time(main())


def test_what_ended_is_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENDED_KEPT", 3)
    air = Air()
    for n in range(5):
        air.sent(str(n))
        air.reply(f"{n}.1", GOOD)
    assert [air.all.knows(str(n)) for n in range(5)] == [False, False, True, True, True]
