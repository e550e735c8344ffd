"""The API: what is too large, and input that means harm."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from natscron.server.api import Endpoint
from natscron.server.limits import Limits

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio


def job(subject: str = "a.b", every: str = "30s", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": every}, **more}


# Limits.


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"payload": "x" * 101}, "payload: 101 bytes, and the limit is 100"),
        ({"headers": {"A": "1", "B": "2", "C": "3"}}, "headers: 3 entries, and the limit is 2"),
        ({"headers": {"A": "x" * 20_000}}, "headers: "),
        ({"labels": {"a": "1", "b": "2", "c": "3"}}, "labels: 3 entries, and the limit is 2"),
        ({"labels": {"x" * 129: "1"}}, "label name"),
        ({"labels": {"x": "y" * 1025}}, "label 'x'"),
        ({"note": "x" * 5000}, "note: 5000 characters"),
        ({"odd": "x" * 70_000}, "unknown fields"),
    ],
)
async def test_what_is_too_large_is_refused_with_value_limit_and_remedy(
    more: dict[str, Any], what: str, make_world: "type[World]"
) -> None:
    world = make_world(Limits(max_payload=100, max_headers=2, max_labels=2))
    code, _, text = await world.error("jobs.create", job(**more))
    assert code == 413
    assert what in text
    assert ";" in text


async def test_there_are_never_more_jobs_than_allowed_also_when_created_at_once(make_world: "type[World]") -> None:
    world = make_world(Limits(max_jobs=5))
    answers = await asyncio.gather(*(world.ask("jobs.create", job(f"a.{n}")) for n in range(20)))
    assert sorted(answer.code for answer in answers) == [0] * 5 + [413] * 15
    assert (await world.ask("jobs.put", job("new"))).code == 413
    assert (await world.ask("jobs.put", job("a.0"))).code == 0


# Input that means harm.

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    [
        *("subject", "schedule", "payload", "headers", "delivery", "catchup", "overlap", "timeout", "retry", "labels"),
        *("paused", "note", "target", "expected_revision", "pattern", "state", "label", "limit", "cursor", "run_id"),
        *("status", "attempt", "count", "after", "SUBJECT", "Schedule", "key", "job", "since"),
    ]
)
_requests = st.one_of(
    st.binary(max_size=60),
    _values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(_fields, _values, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["every", "cron", "at", "tz", "start_at", "run_at_start"]), _values, max_size=3
    ).map(lambda spec: json.dumps({"subject": "fuzz", "schedule": spec}).encode()),
)


@given(data=_requests)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_request_gets_a_reply_that_is_json_and_a_sound_job_stays_as_it_is(
    data: bytes, make_world: "type[World]"
) -> None:
    async def scenario() -> None:
        world = make_world()
        await world.body("jobs.create", job("sound"))
        for endpoint in world.all:
            if endpoint.subject in {"jobs.delete.pattern", "jobs.delete"} and b"sound" in data:
                continue
            answer = await endpoint.answer(data)
            assert isinstance(json.loads(answer.body), dict)
            assert answer.code != 500, (endpoint.name, data, answer)
            if answer.code:
                assert json.loads(answer.body)["error"]
        assert world.store.rows["sound"].schedule is not None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe\x00",
        b'{"subject":"\xff"}',
        b'{"subject":"a","schedule":{"every":"' + b"9" * 100_000 + b's"}}',
        b'{"subject":"a","schedule":{"cron":"' + b"* " * 50_000 + b'"}}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"subject":"a","schedule":{"every":"1s"},"payload":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"subject":"a","schedule":{"every":1e999}}',
        b'{"subject":"a","retry":{"attempts":' + b"9" * 5000 + b"}}",
        b'{"subject":"\\ud800","schedule":{"every":"1s"}}',
        b'{"subject":"a","schedule":{"every":"1s"},"timeout":"-1s"}',
        b'{"subject":"a","schedule":{"at":"9999-12-31T23:59:59.999999999Z","tz":"../../etc/passwd"}}',
    ],
)
async def test_hostile_bytes_get_an_error_that_is_short_and_named(world: "World", data: bytes) -> None:
    for subject in ("jobs.create", "jobs.put", "jobs.update", "jobs.get", "jobs.delete", "jobs.list", "jobs.preview"):
        answer = await world.ask(subject, data)
        assert len(answer.body) < 4000
        assert answer.code != 500, (subject, answer)
    assert (await world.error("jobs.create", data))[0] in {400, 422}
    assert not world.store.rows


async def test_numbers_beyond_64_bits_in_a_payload_survive(world: "World") -> None:
    await world.body(
        "jobs.create", b'{"subject":"a","schedule":{"every":"1s"},"payload":{"n":123456789012345678901234}}'
    )
    answer = await world.ask("jobs.get", {"subject": "a"})
    assert json.loads(answer.body)["payload"]["n"] in (123456789012345678901234, 1.2345678901234568e23)


async def test_an_error_of_our_own_is_told_as_such_and_the_log_has_its_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_data: bytes) -> dict[str, Any]:
        await asyncio.sleep(0)
        raise ZeroDivisionError("oops")

    answer = await Endpoint(name="x", subject="x", call=broken, descriptions={0: "Failed"}).answer(b"")
    assert answer.code == 500
    assert b"oops" not in answer.body
    assert "oops" in caplog.text
