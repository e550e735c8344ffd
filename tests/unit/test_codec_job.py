"""Job input in both forms, merging, bodies, headers, and what replies show."""

import base64
from typing import Any

import msgspec
import pytest

from natscron.codec import body_of, check_headers, job_to_json, job_view, merge_job, parse_job, subject_of
from natscron.errors import MalformedInputError, ValidationError
from natscron.model import CatchUp, CatchUpPolicy, Delivery, Job, JobState, Overlap, Retry, ScheduleSpec

FULL: dict[str, Any] = {
    "subject": "reports.daily",
    "schedule": {"cron": "0 9 * * MON-FRI", "tz": "Europe/Berlin", "dst_gap": "skip", "run_at_start": True},
    "payload": {"type": "json", "data": "{}"},
    "headers": {"X-Team": "billing"},
    "delivery": "request",
    "catchup": {"policy": "all", "window": "2h", "limit": 7, "grace": "1m"},
    "overlap": "skip",
    "timeout": "1500ms",
    "retry": {"attempts": 3, "backoff": "2s", "factor": 3, "max_backoff": "1m", "jitter": "12.5%"},
    "labels": {"team": "billing"},
    "paused": True,
    "note": "why it exists",
}


def test_every_field_is_read() -> None:
    parsed = parse_job(FULL)
    assert parsed.job == Job(
        id="reports.daily",
        schedule=ScheduleSpec(cron="0 9 * * MON-FRI", tz="Europe/Berlin", dst_gap="skip", run_at_start=True),
        payload={"type": "json", "data": "{}"},
        headers={"X-Team": "billing"},
        delivery=Delivery.REQUEST,
        catchup=CatchUp(policy=CatchUpPolicy.ALL, window_ms=7_200_000, limit=7, grace_ms=60_000),
        overlap=Overlap.SKIP,
        timeout_ms=1500,
        retry=Retry(attempts=3, backoff_ms=2000, factor=3.0, max_backoff_ms=60_000, jitter=0.125),
        labels={"team": "billing"},
        paused=True,
        note="why it exists",
    )
    assert parsed.given == frozenset(FULL)
    assert parsed.warnings == ()


@pytest.mark.parametrize(
    "data",
    [FULL, {"subject": "a", "schedule": {"every": "1s"}}, {"target": {"subject": "a"}, "payload": {"data": ""}}],
)
def test_what_is_shown_can_be_created_again(data: dict[str, Any]) -> None:
    job = parse_job(data).job
    view = job_view(job, state=JobState.ACTIVE, next_run_ms=5, last_run_ms=None, delivery_effective=Delivery.CORE)
    again = parse_job(msgspec.json.encode(view))
    assert again.job == job
    assert again.warnings == ()


def test_keys_match_in_any_case() -> None:
    job = parse_job(b'{"SUBJECT":"a","Schedule":{"EVERY":"1s"},"catchUp":{"Policy":"none"}}').job
    assert (job.id, job.schedule, job.catchup.policy) == ("a", ScheduleSpec(every="1s"), CatchUpPolicy.NONE)


def test_the_older_form_is_read_and_remembered() -> None:
    job = parse_job(
        b'{"id":"x","target":{"subject":"j.a"},"payload":{"type":"json","data":"{}"},"schedule":{"every":"10s"},'
        b'"last_run":"0001-01-01T00:00:00Z","next_run":"2026-11-20T09:19:23.716122941Z"}'
    ).job
    assert (job.id, job.old_format, job.extra) == ("j.a", True, {"id": "x"})
    assert body_of(job, "RUN") == b"{}"
    assert job_to_json(job)["target"] == {"subject": "j.a"}
    assert job_to_json(job)["subject"] == "j.a"


def test_two_subjects_that_differ_are_refused() -> None:
    with pytest.raises(ValidationError, match="differ"):
        parse_job({"subject": "a", "target": {"subject": "b"}})


@pytest.mark.parametrize("data", [b"null", b"{}", b'{"subject":null}', b'{"subject":""}', b'{"target":{}}'])
def test_a_job_without_subject_is_refused_in_the_go_versions_words(data: bytes) -> None:
    with pytest.raises(ValidationError, match=r"^job subject is required$"):
        parse_job(data)


def test_unknown_fields_are_kept_and_named() -> None:
    parsed = parse_job({"subject": "a", "colour": "red", "Size": {"x": [1]}})
    assert parsed.job.extra == {"colour": "red", "Size": {"x": [1]}}
    assert len(parsed.warnings) == 1
    assert "'colour'" in parsed.warnings[0]
    assert "'Size'" in parsed.warnings[0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"schedule": {"evry": "1s"}}, "unknown schedule field 'evry'"),
        ({"priority": 101}, "priority must be a whole number from -100 to 100"),
        ({"pause_after_failures": -1}, "pause_after_failures must be a whole number from 0 to 1000"),
        ({"paused_until": "in 2h"}, "paused_until: 'in 2h' counts from now"),
        ({"paused_until": "tomorrow"}, "paused_until: invalid time"),
        ({"paused_until": 5}, "paused_until must be an instant as text"),
        ({"skip": {"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}}, "skip.from must not be later"),
        ({"skip": {"from": "2026-01-02T00:00:00Z"}}, "skip.until must be an instant"),
        ({"skip": {"since": 1}}, "unknown field 'since' in skip"),
        ({"retry": {"only": ["a", "b c"]}}, "retry.only[1] must be a word"),
        ({"retry": {"never": ["5*", "*5"]}}, "retry.never[1] must be a word"),
        ({"retry": {"never": ["x"] * 33}}, "retry.never must be a list of at most 32"),
        ({"retry": {"only": "timeout"}}, "retry.only must be a list"),
        ({"delivery": "carrier"}, "delivery must be one of auto, core, jetstream, request; got 'carrier'"),
        ({"delivery": 5}, "delivery must be one of"),
        ({"overlap": "x"}, "overlap must be one of allow, skip"),
        ({"catchup": "some"}, "catchup must be one of latest, all, none"),
        ({"catchup": {"polcy": "all"}}, "unknown field 'polcy' in catchup"),
        ({"catchup": {"limit": 0}}, "catchup.limit must be a whole number from 1 to 10000; got 0"),
        ({"catchup": {"limit": True}}, "catchup.limit"),
        ({"catchup": {"window": "0s"}}, "catchup.window must be at least 1ms"),
        ({"timeout": "0s"}, "timeout must be at least 1ms"),
        ({"timeout": 30}, "timeout must be a duration as text"),
        ({"timeout": "-1s"}, "timeout must be"),
        ({"timeout": "30"}, "missing unit in duration"),
        ({"timeout": "9000h"}, "at most 8784h"),
        ({"retry": {"attempts": 0}}, "retry.attempts"),
        ({"retry": {"attempts": 10**400}}, "retry.attempts"),
        ({"retry": {"factor": 0.5}}, "retry.factor"),
        ({"retry": {"jitter": "101%"}}, "retry.jitter"),
        ({"retry": {"jitter": 0.1}}, "retry.jitter"),
        ({"retry": {"tries": 1}}, "unknown field 'tries' in retry"),
    ],
)
def test_a_bad_value_is_refused_by_name(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_job({"subject": "a", **fields})
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("fields", [{"headers": {"a": 1}}, {"labels": []}, {"paused": "yes"}, {"note": 1}])
def test_a_wrong_json_type_is_malformed(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedInputError, match="json: cannot unmarshal"):
        parse_job({"subject": "a", **fields})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("\u00e9", "x"),
        ("Nats-Msg-Id", "x"),
        ("nAtS-Foo", "x"),
        ("X", "a\rb"),
        ("X", "a\nb"),
        ("X", "\x00"),
    ],
)
def test_headers_that_could_break_a_message_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match="header"):
        check_headers({name: value})


def test_sound_headers_pass() -> None:
    check_headers({"X-Team": "billing \u00e9", "a!#$%&'*+-.^_`|~9": ""})


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ("text", b"text"),
        ("", b"RUN"),
        (None, b"RUN"),
        ({"type": "json", "data": '{"a": 1}'}, b'{"a": 1}'),
        ({"TYPE": "text", "Data": "x"}, b"x"),
        ({"type": "json", "data": ""}, b"RUN"),
        ({"type": None, "data": "x"}, b"x"),
        ({"type": "base64", "data": base64.b64encode(b"\x00\xff").decode()}, b"\x00\xff"),
        ({"type": "base64", "data": ""}, b"RUN"),
        ({"data": "x"}, b'{"data":"x"}'),
        ({"type": "t", "data": {"x": 1}}, b'{"type":"t","data":{"x":1}}'),
        ({"type": "t", "data": "x", "more": 1}, b'{"type":"t","data":"x","more":1}'),
        ({"a": [1, 2.5, None, True, "\u00e9"]}, '{"a":[1,2.5,null,true,"\u00e9"]}'.encode()),
        ([], b"[]"),
        ({}, b"{}"),
        (0, b"0"),
        (False, b"false"),
        (123456789012345678901234567890, b"123456789012345678901234567890"),
    ],
)
def test_the_body_of_a_message(payload: object, body: bytes) -> None:
    job = parse_job(msgspec.json.encode({"subject": "a"})[:-1] + b',"payload":' + _json(payload) + b"}").job
    assert body_of(job, "RUN") == body


def _json(value: object) -> bytes:
    return str(value).encode() if isinstance(value, int) and value > 1 else msgspec.json.encode(value)


def test_the_older_form_takes_an_envelope_without_type() -> None:
    job = parse_job({"target": {"subject": "a"}, "payload": {"data": "x"}}).job
    assert body_of(job, "RUN") == b"x"


def test_a_triggers_own_payload_stands_in() -> None:
    assert body_of(Job(id="a", payload="mine"), "RUN", {"x": 1}) == b'{"x":1}'


def test_broken_base64_is_a_validation_error() -> None:
    with pytest.raises(ValidationError, match="base64"):
        body_of(Job(id="a", payload={"type": "base64", "data": "?"}), "RUN")


def test_a_merge_keeps_what_is_absent_and_resets_what_is_null() -> None:
    old = msgspec.structs.replace(parse_job(FULL).job, revision=7, generation=3, extra={"colour": "red", "size": 1})
    merged = merge_job(
        old,
        b'{"subject":"reports.daily","schedule":{"every":"1m"},"headers":null,"timeout":null,"size":null,"z":2}',
    )
    expected = msgspec.structs.replace(
        old, schedule=ScheduleSpec(every="1m"), headers={}, timeout_ms=None, extra={"colour": "red", "z": 2}
    )
    assert merged.job == expected
    assert "'z'" in merged.warnings[0]


def test_a_merge_cannot_change_the_subject() -> None:
    with pytest.raises(ValidationError, match="cannot be changed"):
        merge_job(Job(id="a"), {"subject": "b"})


def test_an_update_in_the_newer_form_keeps_the_older_forms_payload() -> None:
    old = parse_job({"target": {"subject": "a"}, "payload": {"type": "t", "data": "x"}}).job
    assert merge_job(old, {"subject": "a", "schedule": {"every": "1s"}}).job.payload == {"type": "t", "data": "x"}


def test_the_subject_can_be_read_alone() -> None:
    assert subject_of(b'{"Target":{"SUBJECT":"a"},"schedule":5}') == "a"
    assert subject_of(b'{"subject":"b"}') == "b"
    assert subject_of(b"{}") == ""


def test_a_view_adds_what_replies_promise() -> None:
    job = msgspec.structs.replace(
        parse_job({"subject": "a"}).job, revision=9, created_at_ms=1, updated_at_ms=86_400_123
    )
    view = job_view(
        job, state=JobState.PAUSED, next_run_ms=None, last_run_ms=1_000, delivery_effective=Delivery.JETSTREAM
    )
    assert view == {
        "subject": "a",
        "revision": 9,
        "created_at": "1970-01-01T00:00:00.001Z",
        "updated_at": "1970-01-02T00:00:00.123Z",
        "next_run": None,
        "last_run": "1970-01-01T00:00:01.000Z",
        "state": "paused",
        "delivery_effective": "jetstream",
    }


def test_a_view_says_what_is_wrong_with_the_row_or_else_with_its_schedule() -> None:
    sound = parse_job({"subject": "a"}).job

    def shown(invalid: str | None, failure: str | None) -> str | None:
        job = msgspec.structs.replace(sound, invalid=invalid)
        state = JobState.INVALID
        view = job_view(job, state=state, next_run_ms=None, last_run_ms=None, delivery_effective=None, failure=failure)
        found: str | None = view.get("invalid")
        return found

    assert shown("a newer row", "lost") == "a newer row"
    assert shown(None, "lost") == "lost"
    assert shown(None, None) is None
