"""What a run becomes on the wire, and what the answers mean."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.engine.target import Dispatch, Refusal
from natscron.model import Delivery, Job, Reason, RunStatus, Trigger
from natscron.server.delivery import MAX_RESULT_CHARS, CapturingStream, StreamMap, SubjectTarget
from natscron.server.subjects import SubjectPolicy
from natscron.storage.protocol import Outgoing, Reply

RUN = "01JQ0000000000000000000000"


@pytest.fixture
def streams() -> StreamMap:
    return StreamMap()


@pytest.fixture
def target(streams: StreamMap) -> SubjectTarget:
    return SubjectTarget(SubjectPolicy.for_service("nats-cron"), streams)


def dispatch(payload: Any = msgspec.UNSET, attempt: int = 1) -> Dispatch:  # noqa: ANN401 - any JSON value
    return Dispatch(RUN, 1_700_000_000_123, attempt, Trigger.SCHEDULE, payload)


def encoded(target: SubjectTarget, job: Job, delivery: Delivery = Delivery.CORE, **more: Any) -> Outgoing:  # noqa: ANN401 - see dispatch
    found = target.encode(job, dispatch(**more), delivery)
    assert isinstance(found, Outgoing)
    return found


def refused(target: SubjectTarget, job: Job, **more: Any) -> Refusal:  # noqa: ANN401 - see dispatch
    found = target.encode(job, dispatch(**more), Delivery.CORE)
    assert isinstance(found, Refusal)
    return found


def test_every_message_carries_the_five_headers_then_the_jobs_own(target: SubjectTarget) -> None:
    message = encoded(target, Job(id="orders.daily", payload="hello", headers={"X-Team": "billing"}), attempt=3)
    assert message.subject == "orders.daily"
    assert message.body == b"hello"
    assert message.headers == (
        ("Nats-Msg-Id", RUN),
        ("Nats-Cron-Job", "orders.daily"),
        ("Nats-Cron-Run", RUN),
        ("Nats-Cron-Scheduled-At", "2023-11-14T22:13:20.123Z"),
        ("Nats-Cron-Attempt", "3"),
        ("X-Team", "billing"),
    )


@pytest.mark.parametrize("payload", [msgspec.UNSET, None, "", {"type": "json", "data": ""}])
def test_without_a_payload_the_body_is_the_run_id(target: SubjectTarget, payload: Any) -> None:  # noqa: ANN401 - any JSON value
    assert encoded(target, Job(id="a", payload=payload)).body == RUN.encode()


def test_a_triggers_own_payload_stands_in_for_the_jobs(target: SubjectTarget) -> None:
    job = Job(id="a", payload="mine")
    assert encoded(target, job, payload="other").body == b"other"
    assert encoded(target, job).body == b"mine"


def test_only_messages_that_are_answered_have_a_token(target: SubjectTarget) -> None:
    job = Job(id="a")
    assert encoded(target, job, Delivery.CORE).token == ""
    assert encoded(target, job, Delivery.JETSTREAM).token == f"{RUN}.1"
    assert encoded(target, job, Delivery.REQUEST, attempt=2).token == f"{RUN}.2"


def test_a_new_revision_of_a_job_is_encoded_anew(target: SubjectTarget) -> None:
    assert encoded(target, Job(id="a", payload="one", revision=1)).body == b"one"
    assert encoded(target, Job(id="a", payload="two", revision=2)).body == b"two"


@pytest.mark.parametrize("subject", ["$SYS.x", "_INBOX.a", "nats-cron.jobs.create", "a.*", "a..b", "a\r\nPUB b 0"])
def test_a_row_with_a_forbidden_subject_is_never_published(target: SubjectTarget, subject: str) -> None:
    assert refused(target, Job(id=subject)).reason == Reason.RESERVED_SUBJECT
    assert target.admits(Job(id=subject)) == refused(target, Job(id=subject)).error
    assert target.admits(Job(id="a.b")) is None


def test_a_row_that_cannot_be_honoured_is_refused_with_its_error(target: SubjectTarget) -> None:
    assert refused(target, Job(id="a", invalid="no such zone")) == Refusal(Reason.INVALID_JOB, "no such zone")


@pytest.mark.parametrize("headers", [{"Nats-Msg-Id": "x"}, {"X": "a\r\nb"}, {"": "x"}, {"a b": "x"}])
def test_headers_that_break_the_protocol_are_refused_at_firing_too(
    target: SubjectTarget, headers: dict[str, str]
) -> None:
    assert refused(target, Job(id="a", headers=headers)).reason == Reason.INVALID_JOB


def test_a_payload_without_bytes_is_refused(target: SubjectTarget) -> None:
    assert refused(target, Job(id="a", payload={"type": "base64", "data": "%%"})).reason == Reason.INVALID_JOB
    assert refused(target, Job(id="a"), payload={"type": "base64", "data": "%%"}).reason == Reason.INVALID_JOB


def test_auto_is_core_without_a_stream_and_jetstream_with_one(target: SubjectTarget, streams: StreamMap) -> None:
    job = Job(id="orders.daily")
    assert target.delivery_of(job) is Delivery.CORE
    assert streams.replace([CapturingStream("ORDERS", ("orders.>",))])
    assert target.delivery_of(job) is Delivery.JETSTREAM
    assert target.delivery_of(Job(id="orders")) is Delivery.CORE
    assert streams.replace([])
    assert target.delivery_of(job) is Delivery.CORE


def test_a_stream_without_acknowledgements_counts_as_core(target: SubjectTarget, streams: StreamMap) -> None:
    streams.replace([CapturingStream("FAST", ("a",), no_ack=True)])
    assert target.delivery_of(Job(id="a")) is Delivery.CORE


def test_a_delivery_that_is_named_is_never_second_guessed(target: SubjectTarget, streams: StreamMap) -> None:
    streams.replace([CapturingStream("ALL", ("a",))])
    for delivery in (Delivery.CORE, Delivery.JETSTREAM, Delivery.REQUEST):
        assert target.delivery_of(Job(id="a", delivery=delivery)) is delivery


def reply(data: bytes, status: str = "", headers: dict[str, str] | None = None) -> Reply:
    return Reply("t", status, headers or {}, data)


def test_an_acknowledgement_means_stored(target: SubjectTarget) -> None:
    outcome = target.judge(Delivery.JETSTREAM, reply(b'{"stream":"S","seq":7}'))
    assert (outcome.status, outcome.retry, outcome.result) == (RunStatus.STORED, False, None)
    outcome = target.judge(Delivery.JETSTREAM, reply(b'{"stream":"S","seq":7,"duplicate":true}'))
    assert outcome.status is RunStatus.STORED
    assert "duplicate" in str(outcome.result)


def test_no_responders_is_worth_another_try(target: SubjectTarget) -> None:
    outcome = target.judge(Delivery.JETSTREAM, reply(b"", "503"))
    assert (outcome.status, outcome.reason, outcome.retry) == (RunStatus.FAILED, Reason.NO_STREAM, True)
    outcome = target.judge(Delivery.REQUEST, reply(b"", "503"))
    assert (outcome.status, outcome.reason, outcome.retry) == (RunStatus.FAILED, Reason.NO_RESPONDERS, True)


@pytest.mark.parametrize(("code", "retry"), [(503, True), (500, True), (400, False), (409, False)])
def test_a_streams_refusal_is_tried_again_only_if_it_may_pass(target: SubjectTarget, code: int, *, retry: bool) -> None:
    body = b'{"error":{"code":%d,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S"}' % code
    outcome = target.judge(Delivery.JETSTREAM, reply(body))
    assert (outcome.reason, outcome.retry) == (Reason.STREAM_REFUSED, retry)
    assert "maximum bytes exceeded" in str(outcome.error)


@pytest.mark.parametrize("data", [b"done", b"", b"{}", b"[]", b"\xff", b'{"stream":5}'])
def test_a_workers_answer_in_place_of_a_streams_is_named(target: SubjectTarget, data: bytes) -> None:
    outcome = target.judge(Delivery.JETSTREAM, reply(data))
    assert (outcome.status, outcome.reason, outcome.retry) == (RunStatus.FAILED, Reason.STREAM_REFUSED, False)
    assert "subscriber" in str(outcome.error)


def test_a_workers_reply_is_the_result_within_bounds(target: SubjectTarget) -> None:
    assert target.judge(Delivery.REQUEST, reply(b"42 rows")).result == "42 rows"
    assert target.judge(Delivery.REQUEST, reply(b"")).status is RunStatus.COMPLETED
    long = target.judge(Delivery.REQUEST, reply("ü".encode() * 100_000)).result
    assert long is not None
    assert len(long) == MAX_RESULT_CHARS


def test_a_micro_error_fails_the_run_with_its_text(target: SubjectTarget) -> None:
    headers = {"Nats-Service-Error": "no disk", "nats-service-error-code": "507"}
    outcome = target.judge(Delivery.REQUEST, reply(b"details", headers=headers))
    assert (outcome.status, outcome.reason, outcome.retry) == (RunStatus.FAILED, Reason.WORKER_ERROR, True)
    assert outcome.error == "507: no disk"
    assert outcome.result == "details"


@given(st.binary(), st.sampled_from(["", "503", "408"]), st.dictionaries(st.text(), st.text(), max_size=2))
def test_no_reply_whatever_it_holds_makes_judging_raise(data: bytes, status: str, headers: dict[str, str]) -> None:
    target = SubjectTarget(SubjectPolicy(), StreamMap())
    for delivery in (Delivery.JETSTREAM, Delivery.REQUEST):
        outcome = target.judge(delivery, reply(data, status, headers))
        assert len(outcome.result or "") <= MAX_RESULT_CHARS


def test_a_burst_is_encoded_within_a_few_microseconds_a_run(target: SubjectTarget) -> None:
    jobs = [Job(id=f"a.{n}", payload="x", headers={"X-Team": "b"}) for n in range(2000)]
    one = dispatch()
    for job in jobs:
        target.encode(job, one, Delivery.CORE)
    best = min(_timed(target, jobs, one) for _ in range(5))
    assert best / len(jobs) < 30e-6  # 2 on an idle host; a shared one is given room


def _timed(target: SubjectTarget, jobs: list[Job], one: Dispatch) -> float:
    start = time.perf_counter()
    for job in jobs:
        target.encode(job, one, Delivery.CORE)
    return time.perf_counter() - start
