"""The texts with which the Go version refuses requests, and the oddities that it takes: what we say and do instead."""

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio


def job(subject: str = "a.b", **schedule: Any) -> bytes:  # noqa: ANN401 - any JSON value
    return json.dumps({"subject": subject, "schedule": schedule or {"every": "1h"}}).encode()


# What create and update say, in the order in which they look.

REQUESTS = [
    (b"", 400, "unexpected end of JSON input"),
    (b"{", 400, "unexpected end of JSON input"),
    (b"{bad", 400, "invalid character 'b' looking for beginning of object key string"),
    (b"[]", 400, "json: cannot unmarshal array into Go value of type scheduler.JobDefinition"),
    (b'{"subject":1}', 400, "json: cannot unmarshal number into Go struct field JobDefinition.subject of type string"),
    (
        b'{"subject":"a","schedule":{"every":1}}',
        400,
        "json: cannot unmarshal number into Go struct field .schedule.every of type string",
    ),
    (job() + b" trailing", 400, "invalid character 't' after top-level value"),
    (b"null", 422, "job subject is required"),
    (b"{}", 422, "job subject is required"),
    (b'{"subject":"","schedule":{"every":"1h"}}', 422, "job subject is required"),
    (b'{"target":{"subject":""},"schedule":{"every":"1h"}}', 422, "job subject is required"),
    (b'{"subject":"a"}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
    (b'{"subject":"a","schedule":{}}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
    (b'{"subject":"a","schedule":null}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
    (job(every="1h", cron="* * * * *"), 422, "invalid schedule: schedule cannot specify both 'every' and 'cron'"),
]


@pytest.mark.parametrize(("data", "code", "text"), REQUESTS)
async def test_a_request_that_cannot_be_taken_is_refused_in_gos_words(
    world: "World", data: bytes, code: int, text: str
) -> None:
    for endpoint, description in (("jobs.create", "Failed to create job"), ("jobs.put", "Failed to put job")):
        got, described, said = await world.error(endpoint, data)
        assert (got, described) == (code, description)
        assert text in said
    assert not world.store.rows


@pytest.mark.parametrize(
    "subject", ["a b", "a:b*", "a.*", "a.>", ">", "", ".a", "a.", "a..b", "a\tb", "a\x00b", "a\r\nb"]
)
async def test_subjects_that_nobody_can_publish_to_are_refused_at_once_by_every_call(
    world: "World", subject: str
) -> None:
    for endpoint in ("jobs.create", "jobs.put"):
        code, _, text = await world.error(endpoint, job(subject))
        assert code == 422
        assert "subject" in text
    for endpoint in ("jobs.get", "jobs.delete", "jobs.pause", "jobs.trigger", "jobs.update", "jobs.preview"):
        code, _, text = await world.error(endpoint, {"subject": subject})
        assert code in {404, 422}
        assert text
    assert not world.store.rows


@pytest.mark.parametrize("subject", ["a$b", "ü.ö", "a:b", "_a", "=b32.a", "a/b=c-d_e", "A.a"])
async def test_legal_subjects_that_gos_keys_could_not_hold_are_taken(world: "World", subject: str) -> None:
    await world.body("jobs.create", job(subject))
    assert (await world.body("jobs.get", {"subject": subject}))["subject"] == subject
    assert [one["subject"] for one in (await world.body("jobs.list"))["jobs"]] == [subject]
    await world.body("jobs.delete", {"subject": subject})
    assert not world.store.rows


# Intervals.


@pytest.mark.parametrize(
    ("every", "text"),
    [
        ("abc", 'time: invalid duration "abc"'),
        ("30", 'time: missing unit in duration "30"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1y", 'time: unknown unit "y" in duration "1y"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("1 h", 'time: unknown unit " h" in duration "1 h"'),
        ("1e3s", 'time: unknown unit "e" in duration "1e3s"'),
        ("1h-5m", 'time: unknown unit "h-" in duration "1h-5m"'),
        ("300000h0m0s" + "9" * 30 + "h", "time: invalid duration"),
        ("9999999h", "time: invalid duration"),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("0", "invalid duration '0'"),
        ("0s", "invalid duration '0s'"),
        ("-1s", "invalid duration '-1s'"),
        ("-0.5h", "invalid duration '-0.5h'"),
        ("1ns", "below the minimum"),
        ("9ms", "below the minimum"),
        ("@every 0s", "invalid duration '0s'"),
    ],
)
async def test_intervals_that_cannot_run_are_refused_in_gos_words(world: "World", every: str, text: str) -> None:
    code, _, said = await world.error("jobs.create", job(every=every))
    assert code == 422
    assert said.startswith("invalid schedule: ")
    assert text in said


@pytest.mark.parametrize(
    "every", ["1h30m", "1.5h", ".5s", "1.s", "+5s", "250ms", "15000us", "20000µs", "20000μs", "20000000ns", "1d"]
)
async def test_intervals_that_go_takes_are_taken_and_days_too(world: "World", every: str) -> None:
    await world.body("jobs.create", job(every=every))
    assert (await world.body("jobs.get", {"subject": "a.b"}))["next_run"] is not None


# Cron.


@pytest.mark.parametrize(
    ("cron", "text"),
    [
        ("   ", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("a * * * *", 'failed to parse int from a: strconv.Atoi: parsing "a": invalid syntax'),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* 24 * * *", "end of range (24) above maximum (23): 24"),
        ("* * 32 * *", "end of range (32) above maximum (31): 32"),
        ("* * * 13 *", "end of range (13) above maximum (12): 13"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("0/1/2 * * * *", "too many slashes: 0/1/2"),
        ("-1 * * * *", 'failed to parse int from : strconv.Atoi: parsing "": invalid syntax'),
        ("CRON_TZ=X 0 9 * * *", "provided bad location X: unknown time zone X"),
        ("TZ=UTC", "invalid cron expression 'TZ=UTC'"),
        ("CRON_TZ=UTC", "invalid cron expression 'CRON_TZ=UTC'"),
        ("TZ=", "invalid cron expression 'TZ='"),
        ("TZ=UTC ", "invalid cron expression"),
        (", * * * *", "invalid cron expression"),
        ("@fortnightly", "@fortnightly"),
        ("* * * * * * *", "found 7"),
        ("0 0 31 2 *", "invalid cron expression '0 0 31 2 *'"),
        ("1,,2 * * * *", "invalid cron expression '1,,2 * * * *'"),
        ("*/100 * * * *", "invalid cron expression '*/100 * * * *'"),
        ("+5 * * * *", "invalid cron expression '+5 * * * *'"),
    ],
)
async def test_cron_expressions_that_cannot_run_are_refused_in_gos_words(world: "World", cron: str, text: str) -> None:
    code, _, said = await world.error("jobs.create", job(cron=cron))
    assert code == 422
    assert said.startswith("invalid schedule: invalid cron expression")
    assert text in said
    assert not world.store.rows


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("0 9 * * MON", ["2026-11-23T09:00:00.000Z", "2026-11-30T09:00:00.000Z"]),
        ("0 9 ? nov sun", ["2026-11-22T09:00:00.000Z", "2026-11-29T09:00:00.000Z"]),
        ("1,3-5 0 * * *", ["2026-11-20T00:01:00.000Z", "2026-11-20T00:03:00.000Z"]),
        ("57/1 23 * * *", ["2026-11-20T23:57:00.000Z", "2026-11-20T23:58:00.000Z"]),
        (" \t0  9\t* * * ", ["2026-11-20T09:00:00.000Z", "2026-11-21T09:00:00.000Z"]),
        ("CRON_TZ=America/New_York 0 9 * * *", ["2026-11-20T14:00:00.000Z", "2026-11-21T14:00:00.000Z"]),
        ("TZ=America/New_York 0 9 * * *", ["2026-11-20T14:00:00.000Z", "2026-11-21T14:00:00.000Z"]),
        ("0 0 1 * */1", ["2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"]),
        ("0 0 1 * */2", ["2026-11-21T00:00:00.000Z", "2026-11-22T00:00:00.000Z"]),
        ("@hourly", ["2026-11-20T01:00:00.000Z", "2026-11-20T02:00:00.000Z"]),
    ],
)
async def test_cron_expressions_that_go_runs_have_the_same_slots(world: "World", cron: str, slots: list[str]) -> None:
    request = {"schedule": {"cron": cron}, "after": "2026-11-20T00:00:00Z", "count": 2}
    assert [slot["at"] for slot in (await world.body("jobs.preview", request))["slots"]] == slots


@pytest.mark.parametrize(
    "cron", ["1,,2 * * * *", "*/100 * * * *", "+5 * * * *", "*-5 * * * *", "0 0 31 2 *", ", * * * *"]
)
async def test_rows_with_gos_oddities_are_read_and_harm_nobody(world: "World", cron: str) -> None:
    world.store.write("odd", job("odd", cron=cron))
    world.store.write("sound", job("sound"))
    shown = {one["subject"]: one for one in (await world.body("jobs.list"))["jobs"]}
    assert shown["sound"]["state"] == "active"
    assert shown["odd"]["state"] in {"active", "done", "invalid"}
    assert (shown["odd"]["next_run"] is None) is (cron in {"0 0 31 2 *", ", * * * *"})


# What Go does wrong and we do not.


async def test_a_second_create_a_lost_race_and_an_old_revision_are_conflicts(world: "World") -> None:
    first = await world.body("jobs.create", job())
    code, _, text = await world.error("jobs.create", job())
    assert (code, "job with subject a.b already exists" in text) == (409, True)
    await world.body("jobs.update", {"subject": "a.b", "note": "n"})
    for endpoint in ("jobs.update", "jobs.put", "jobs.delete", "jobs.pause", "jobs.resume"):
        body = json.loads(job()) | {"expected_revision": first["revision"]}
        code, _, text = await world.error(endpoint, body)
        assert code == 409, endpoint
        assert "revision" in text or endpoint == "jobs.delete"
    assert world.store.rows["a.b"].note == "n"


async def test_unknown_jobs_are_not_found_by_every_call_and_nothing_is_written(world: "World") -> None:
    for endpoint in ("jobs.update", "jobs.delete", "jobs.get", "jobs.pause", "jobs.resume", "jobs.trigger"):
        code, _, text = await world.error(endpoint, {"subject": "no.such"})
        assert code == 404, endpoint
        assert "nats: key not found" in text
    assert (await world.error("jobs.preview", {"subject": "no.such"}))[0] == 404
    assert world.store.seq == 0


async def test_an_update_to_a_bad_schedule_keeps_the_good_one(world: "World") -> None:
    await world.body("jobs.create", job())
    for schedule in ({"every": "0s"}, {"cron": "60 * * * *"}, {"cron": "TZ=UTC"}, {"every": "1h", "cron": "* * * * *"}):
        for endpoint in ("jobs.update", "jobs.put"):
            assert (await world.error(endpoint, {"subject": "a.b", "schedule": schedule}))[0] == 422
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["schedule"], shown["state"]) == ({"every": "1h"}, "active")


async def test_a_pattern_ending_in_a_wildcard_for_the_rest_spares_its_own_prefix(world: "World") -> None:
    for subject in ("a", "a.b", "a.b.c", "te", "test"):
        await world.body("jobs.create", job(subject))
    assert (await world.body("jobs.delete.pattern", {"pattern": "a.>"})) == {"count": 2, "deleted": ["a.b", "a.b.c"]}
    for pattern in ("te*", "a.>.b", ">.a", "a..b", "", "a b"):
        assert (await world.error("jobs.delete.pattern", {"pattern": pattern}))[0] == 422, pattern
    assert set(world.store.rows) == {"a", "te", "test"}
