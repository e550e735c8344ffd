"""The API: shapes, errors and writes, on a store in memory."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from natscron.errors import (
    InvalidSubjectError,
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    ValidationError,
)
from natscron.server.delivery import CapturingStream

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio


def job(subject: str = "a.b", every: str = "30s", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": every}, **more}


# Shapes.


async def test_endpoints_come_in_the_go_versions_order_then_ours(world: "World") -> None:
    assert [one.name for one in world.all] == [
        "jobs-list",
        "jobs-create",
        "jobs-update",
        "jobs-delete",
        "jobs-delete-pattern",
        "jobs-get",
        "status",
        "jobs-put",
        "jobs-pause",
        "jobs-resume",
        "jobs-trigger",
        "jobs-preview",
        "runs-list",
        "runs-get",
        "runs-report",
        "cluster-info",
        "jobs-skip",
        "jobs-explain",
        "jobs-backfill",
        "backfills-list",
        "backfills-cancel",
        "calendars-put",
        "calendars-get",
        "calendars-list",
        "calendars-delete",
    ]
    assert all(one.subject == one.name.replace("-", ".") for one in world.all)


async def test_every_endpoints_metadata_is_json_text_and_small(world: "World") -> None:
    for one in world.all:
        for text in one.metadata.values():
            assert json.loads(text)["type"] == "object"
    assert sum(len(text) for one in world.all for text in one.metadata.values()) < 32_000


async def test_replies_to_writes_are_maps_of_strings_with_sorted_keys(world: "World") -> None:
    for subject, data in (
        ("jobs.create", job(colour="red")),
        ("jobs.update", job()),
        ("jobs.put", job()),
        ("jobs.pause", {"subject": "a.b"}),
        ("jobs.resume", {"subject": "a.b"}),
        ("jobs.delete", {"subject": "a.b"}),
    ):
        reply = await world.body(subject, data)
        assert all(isinstance(value, str) for value in reply.values()), subject
        assert list(reply) == sorted(reply)


async def test_the_words_for_what_was_done_are_the_go_versions(world: "World") -> None:
    assert (await world.body("jobs.create", job()))["status"] == "created"
    assert (await world.body("jobs.update", job()))["status"] == "updated"
    assert (await world.ask("jobs.delete", {"subject": "a.b"})).body == b'{"status":"deleted"}'


async def test_an_empty_list_is_null_as_in_go(world: "World") -> None:
    assert (await world.ask("jobs.list")).body == b'{"jobs":null}'
    assert (await world.ask("jobs.delete.pattern", {"pattern": "x.>"})).body == b'{"count":0,"deleted":null}'


async def test_get_begins_with_what_go_shows(world: "World") -> None:
    await world.body("jobs.create", job())
    answer = await world.ask("jobs.get", {"subject": "a.b"})
    assert answer.body.startswith(b'{"subject":"a.b","schedule":{"every":"30s"},')
    shown = json.loads(answer.body)
    assert shown["revision"] == 1
    assert shown["state"] == "active"
    assert shown["delivery_effective"] == "core"
    assert shown["next_run"].endswith("Z")
    assert shown["last_run"] is None


async def test_html_characters_are_escaped_as_go_escapes_them(world: "World") -> None:
    await world.body("jobs.create", job(note="<a> & b\u2028"))
    answer = await world.ask("jobs.get", {"subject": "a.b"})
    assert rb'"note":"\u003ca\u003e \u0026 b\u2028"' in answer.body


async def test_status_has_the_go_versions_fields_among_sorted_keys(world: "World") -> None:
    await world.body("jobs.create", job())
    reply = await world.body("status", b"whatever")
    assert (reply["service"], reply["is_leader"], reply["jobs"]) == ("nats-cron", False, 1)
    assert (reply["leader"], reply["epoch"], reply["instances"]) == ("i2", 3, ["i1", "i2"])
    assert reply["mark"] == "2023-11-14T22:13:20.000Z"
    assert reply["lateness_ms"] == {"p50": 0.5, "p99": None}
    assert reply["warnings"] == ["w", "n"]
    assert list(reply) == sorted(reply)


async def test_cluster_info_names_the_leader_and_the_streams_that_matter(world: "World") -> None:
    world.streams.replace([CapturingStream("S", ("x.>",)), CapturingStream("KV_b", ("$KV.b.>",))])
    reply = await world.body("cluster.info")
    assert reply["leader"] == "i2"
    assert [one["name"] for one in reply["streams"]] == ["S"]
    assert reply["instances"] == [{"instance_id": "i1", "is_leader": False}, {"instance_id": "i2", "is_leader": True}]


# Errors of the Go version.


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", 400, "unexpected end of JSON input"),
        (b"{bad", 400, "invalid character 'b' looking for beginning of object key string"),
        (b"[]", 400, "json: cannot unmarshal array into Go value of type scheduler.JobDefinition"),
        (
            b'{"subject":5}',
            400,
            "json: cannot unmarshal number into Go struct field JobDefinition.subject of type string",
        ),
        (b'{"subject":"a"} t', 400, "invalid character 't' after top-level value"),
        (b"null", 422, "job subject is required"),
        (b"{}", 422, "job subject is required"),
        (b'{"subject":"a"}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
        (b'{"subject":"a","schedule":{}}', 422, "invalid schedule: schedule must specify either 'every' or 'cron'"),
        (
            b'{"subject":"a","schedule":{"every":"1s","cron":"* * * * *"}}',
            422,
            "invalid schedule: schedule cannot specify both 'every' and 'cron'",
        ),
        (
            b'{"subject":"a","schedule":{"every":"30"}}',
            422,
            "invalid schedule: invalid duration '30': time: missing unit in duration \"30\"",
        ),
        (
            b'{"subject":"a","schedule":{"cron":"60 * * * *"}}',
            422,
            "invalid schedule: invalid cron expression '60 * * * *': end of range (60) above maximum (59): 60",
        ),
        (b'{"subject":"x","schedule":{"cron":"TZ=UTC"}}', 422, "invalid schedule: invalid cron expression"),
        (b'{"subject":"x","schedule":{"every":"0s"}}', 422, "invalid schedule: invalid duration"),
        (b'{"subject":"x","schedule":{"every":"1ns"}}', 422, "below the minimum"),
        (b'{"subject":"a b","schedule":{"every":"1s"}}', 422, "failed to create job in KV store: nats: invalid key"),
        (b'{"subject":"a.*","schedule":{"every":"1s"}}', 422, "nats: invalid key"),
        (b'{"subject":"$SYS.x","schedule":{"every":"1s"}}', 422, "reserved"),
        (b'{"subject":"nats-cron.status","schedule":{"every":"1s"}}', 422, "reserved"),
    ],
)
async def test_a_refused_create_says_what_go_says(world: "World", data: bytes, code: int, text: str) -> None:
    got, description, said = await world.error("jobs.create", data)
    assert got == code
    assert description == "Failed to create job"
    assert text in said
    assert not world.store.rows


async def test_a_second_create_is_refused_in_gos_words(world: "World") -> None:
    await world.body("jobs.create", job())
    code, _, text = await world.error("jobs.create", job())
    assert code == 409
    assert "job with subject a.b already exists" in text


@pytest.mark.parametrize(
    ("subject", "data", "code", "description", "text"),
    [
        ("jobs.get", b"", 400, "Invalid request", "unexpected end of JSON input"),
        ("jobs.get", b'{"subject":"x"}', 404, "Job not found", "nats: key not found"),
        ("jobs.get", b'{"subject":"a b"}', 404, "Job not found", "nats: invalid key"),
        ("jobs.get", b"{}", 404, "Job not found", "nats: invalid key"),
        ("jobs.get", b'{"subject":[]}', 400, "Invalid request", "json: cannot unmarshal array into Go struct field"),
        ("jobs.delete", b"", 400, "Invalid request", "unexpected end of JSON input"),
        ("jobs.delete", b"{}", 422, "Failed to delete job", "nats: invalid key"),
        ("jobs.delete", b'{"subject":"x"}', 404, "Failed to delete job", "nats: key not found"),
        ("jobs.delete.pattern", b"x", 400, "Invalid request", "invalid character 'x'"),
        ("jobs.delete.pattern", b'{"pattern":"a.>.b"}', 422, "Failed to delete jobs", "only come last"),
        ("jobs.delete.pattern", b"{}", 422, "Failed to delete jobs", "empty"),
        ("jobs.update", b'{"subject":"x","schedule":{"every":"1s"}}', 404, "Failed to update job", "key not found"),
        ("jobs.update", b"{}", 422, "Failed to update job", "job subject is required"),
        ("jobs.pause", b'{"subject":"x"}', 404, "Job not found", "key not found"),
        ("jobs.trigger", b'{"subject":"x"}', 404, "Job not found", "key not found"),
        ("jobs.list", b'{"pattern":"te*"}', 422, "Failed to get jobs", "whole token"),
        ("jobs.list", b'{"cursor":"x"}', 422, "Failed to get jobs", "cursor"),
        ("jobs.list", b'{"limit":0}', 422, "Failed to get jobs", "limit"),
        ("jobs.list", b'{"state":"odd"}', 422, "Failed to get jobs", "odd"),
        ("jobs.preview", b'{"schedule":{"cron":"x"}}', 422, "Failed to preview", "invalid cron expression"),
        ("jobs.preview", b'{"schedule":{"every":"1s"},"after":"now"}', 422, "Failed to preview", "RFC 3339"),
        ("runs.get", b'{"run_id":"x"}', 422, "Failed to get run", "not a ULID"),
        ("runs.get", b'{"run_id":"01JQ0000000000000000000000"}', 404, "Run not found", "no run"),
        ("runs.report", b'{"run_id":"01JQ0000000000000000000000"}', 422, "Failed to record", "status"),
        ("runs.list", b'{"since":"x"}', 422, "Failed to get runs", "RFC 3339"),
    ],
)
async def test_a_refused_request_names_what_is_wrong(
    world: "World", subject: str, data: bytes, code: int, description: str, text: str
) -> None:
    got, described, said = await world.error(subject, data)
    assert (got, described) == (code, description)
    assert text in said


# Writes.


async def test_an_update_keeps_what_is_not_given_and_null_resets(world: "World") -> None:
    await world.body("jobs.create", job(payload="keep", note="why", headers={"X": "1"}))
    await world.body("jobs.update", job(every="1m", note=None))
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert shown["schedule"] == {"every": "1m"}
    assert shown["payload"] == "keep"
    assert shown["headers"] == {"X": "1"}
    assert "note" not in shown


async def test_put_replaces_as_a_whole_and_creates(world: "World") -> None:
    assert (await world.body("jobs.put", job(note="first")))["status"] == "created"
    assert (await world.body("jobs.put", job(every="5m")))["status"] == "updated"
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert shown["schedule"] == {"every": "5m"}
    assert "note" not in shown


@pytest.mark.parametrize("subject", ["jobs.update", "jobs.put", "jobs.delete", "jobs.pause", "jobs.resume"])
@pytest.mark.parametrize("as_text", [True, False])
async def test_a_write_on_an_old_revision_is_refused(world: "World", subject: str, *, as_text: bool) -> None:
    await world.body("jobs.create", job())
    await world.body("jobs.update", job(every="1m"))
    code, _, text = await world.error(subject, job(expected_revision="1" if as_text else 1))
    assert code == 409
    assert world.store.rows["a.b"].revision == 2, text
    assert (await world.ask(subject, job(expected_revision="2" if as_text else 2))).code == 0


async def test_put_and_create_may_insist_that_there_is_no_job(world: "World") -> None:
    assert (await world.body("jobs.put", job(expected_revision=0)))["status"] == "created"
    assert (await world.error("jobs.put", job(expected_revision=0)))[0] == 409
    assert (await world.error("jobs.create", job("c", expected_revision=4)))[0] == 409
    assert (await world.error("jobs.put", job("c", expected_revision=4)))[0] == 409


@pytest.mark.parametrize("value", [-1, 1.5, "x", True, [], "9" * 30])
async def test_a_revision_that_is_none_is_refused(world: "World", value: Any) -> None:  # noqa: ANN401 - any JSON value
    assert (await world.error("jobs.put", job(expected_revision=value)))[0] == 422


async def test_concurrent_edits_of_one_job_are_all_kept(world: "World") -> None:
    await world.body("jobs.create", job())
    await asyncio.gather(*(world.body("jobs.update", {"subject": "a.b", f"x{n}": n}) for n in range(4)))
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert {f"x{n}" for n in range(4)} <= set(shown)


async def test_an_edit_decided_on_an_old_copy_is_decided_again(world: "World") -> None:
    await world.body("jobs.create", job())
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"30s"},"note":"theirs"}')
    await world.body("jobs.update", {"subject": "a.b", "labels": {"l": "1"}})
    assert world.store.rows["a.b"].note == "theirs"
    assert world.store.rows["a.b"].labels == {"l": "1"}


async def test_pausing_keeps_the_job_and_takes_a_note(world: "World") -> None:
    await world.body("jobs.create", job(payload="p"))
    await world.body("jobs.pause", {"subject": "a.b", "note": "holidays"})
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["note"], shown["payload"]) == ("paused", "holidays", "p")
    await world.body("jobs.resume", {"subject": "a.b"})
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["note"]) == ("active", "holidays")


async def test_in_five_minutes_becomes_an_instant_when_it_is_saved(world: "World") -> None:
    reply = await world.body("jobs.create", {"subject": "a", "schedule": {"at": "in 5m"}})
    at = world.store.rows["a"].schedule.at  # type: ignore[union-attr]
    assert at == reply["next_run"]
    await world.body("jobs.update", {"subject": "a", "note": "x"})
    assert world.store.rows["a"].schedule.at == at  # type: ignore[union-attr]


async def test_unknown_fields_are_kept_and_warned_about(world: "World") -> None:
    reply = await world.body("jobs.create", job(colour="red"))
    assert "colour" in reply["warning"]
    assert (await world.body("jobs.get", {"subject": "a.b"}))["colour"] == "red"


async def test_a_star_in_the_seconds_field_is_warned_about_in_every_reply_that_takes_one(world: "World") -> None:
    often = {"subject": "a.b", "schedule": {"cron": "* */15 * * * *"}}
    for endpoint in ("jobs.create", "jobs.put", "jobs.update"):
        assert "runs every second of each matching minute" in (await world.body(endpoint, often))["warning"]
    preview = await world.body("jobs.preview", {"schedule": often["schedule"]})
    assert "every second" in preview["warnings"][0]
    assert "warning" not in await world.body("jobs.put", {"subject": "a.b", "schedule": {"cron": "0 */15 * * * *"}})


async def test_a_timeout_needs_a_delivery_that_waits(world: "World") -> None:
    assert "timeout" in (await world.error("jobs.create", job(delivery="core", timeout="5s")))[2]
    assert "timeout" in (await world.body("jobs.create", job("a", timeout="5s")))["warning"]
    world.streams.replace([CapturingStream("S", ("b",))])
    assert "warning" not in await world.body("jobs.create", job("b", timeout="5s"))


@pytest.mark.parametrize(
    ("delivery", "stream", "text"),
    [
        ("jetstream", None, "no stream captures"),
        ("jetstream", CapturingStream("FAST", ("a.b",), no_ack=True), "does not acknowledge"),
        ("request", CapturingStream("S", ("a.>",)), "in the worker's place"),
    ],
)
async def test_a_delivery_that_will_not_work_now_is_warned_about(
    world: "World", delivery: str, stream: CapturingStream | None, text: str
) -> None:
    world.streams.replace([] if stream is None else [stream])
    assert text in (await world.body("jobs.create", job(delivery=delivery, timeout="5s")))["warning"]


async def test_the_older_form_is_taken_and_shown(world: "World") -> None:
    old = {"target": {"subject": "j.a"}, "payload": {"type": "json", "data": "{}"}, "schedule": {"every": "10s"}}
    await world.body("jobs.create", old)
    shown = await world.body("jobs.get", {"subject": "j.a"})
    assert shown["target"] == {"subject": "j.a"}
    assert shown["subject"] == "j.a"


async def test_a_pattern_deletes_what_it_matches_in_the_order_of_the_list(world: "World") -> None:
    for subject in ("a", "a.c", "a.b", "b"):
        await world.body("jobs.create", job(subject))
    await world.body("jobs.update", job("a.c", every="1m"))
    answer = await world.ask("jobs.delete.pattern", {"pattern": "a.>"})
    assert answer.body == b'{"count":2,"deleted":["a.b","a.c"]}'
    assert set(world.store.rows) == {"a", "b"}


async def test_rows_that_cannot_be_honoured_are_listed_and_can_be_mended_or_deleted(world: "World") -> None:
    world.store.write("bad", b"not json")
    world.store.write("worse", b'{"subject":"worse","schedule":{"cron":"99 * * * *"}}')
    listed = (await world.body("jobs.list", {"state": "invalid"}))["jobs"]
    assert [(one["subject"], one["state"], bool(one["invalid"])) for one in listed] == [
        ("bad", "invalid", True),
        ("worse", "invalid", True),
    ]
    assert (await world.error("jobs.trigger", {"subject": "bad"}))[0] == 422
    assert (await world.error("jobs.pause", {"subject": "bad"}))[0] == 422
    await world.body("jobs.update", job("bad"))
    await world.body("jobs.delete", {"subject": "worse"})
    assert (await world.body("jobs.get", {"subject": "bad"}))["state"] == "active"


# The embedding API raises what the API replies.


async def test_the_calls_raise_typed_errors_for_those_who_embed(world: "World") -> None:
    await world.calls.jobs.create(job())
    with pytest.raises(JobAlreadyExistsError):
        await world.calls.jobs.create(job())
    with pytest.raises(JobNotFoundError):
        await world.calls.lookups.get({"subject": "x"})
    with pytest.raises(InvalidSubjectError):
        await world.calls.jobs.create(job("$SYS.a"))
    with pytest.raises(LimitExceededError):
        await world.calls.jobs.create(job("c", note="x" * 9999))
    with pytest.raises(ValidationError):
        await world.calls.jobs.create(job("c", every="-1s"))
