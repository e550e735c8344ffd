"""The API: reads that see every write, pages, previews, runs."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from natscron.ids import ulid
from natscron.model import Delivery, Run, RunStatus
from natscron.server.limits import Limits

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio


def job(subject: str = "a.b", every: str = "30s", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": every}, **more}


# Reads.


async def test_a_read_sees_every_write_before_it(world: "World") -> None:
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"1s"}}')

    async def later() -> None:
        await asyncio.sleep(0.02)
        world.engine.table.put(world.store.rows["a.b"])
        world.engine.table.complete(world.store.seq)

    shown, _ = await asyncio.gather(world.body("jobs.get", {"subject": "a.b"}), later())
    assert shown["subject"] == "a.b"


async def test_a_read_that_cannot_be_fresh_says_so_instead_of_lying(world: "World") -> None:
    world.store.lag = True
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"every":"1s"}}')
    code, _, text = await world.error("jobs.get", {"subject": "a.b"})
    assert code == 503
    assert "try again" in text


async def test_reads_at_once_share_a_lookup_that_began_after_them(world: "World") -> None:
    await world.body("jobs.create", job())
    world.store.gate = asyncio.Event()
    first = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    while world.store.lookups == 0:  # noqa: ASYNC110 - the store counts, there is no event
        await asyncio.sleep(0)
    rest = [asyncio.create_task(world.body("jobs.get", {"subject": "a.b"})) for _ in range(50)]
    await asyncio.sleep(0.01)
    world.store.gate.set()
    await asyncio.gather(first, *rest)
    assert world.store.lookups == 2


async def test_a_cancelled_read_leaves_the_others_their_lookup(world: "World") -> None:
    await world.body("jobs.create", job())
    world.store.gate = asyncio.Event()
    one = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    other = asyncio.create_task(world.body("jobs.get", {"subject": "a.b"}))
    await asyncio.sleep(0.01)
    one.cancel()
    world.store.gate.set()
    assert (await other)["subject"] == "a.b"
    assert one.cancelled() or one.cancelling()


async def test_a_store_that_is_away_is_a_503_everywhere(world: "World") -> None:
    await world.body("jobs.create", job())
    world.store.down = True
    for subject in ("jobs.create", "jobs.update", "jobs.put", "jobs.delete", "jobs.get", "jobs.list", "jobs.pause"):
        assert (await world.error(subject, job("c" if subject == "jobs.create" else "a.b")))[0] == 503
    assert (await world.ask("status")).code == 0


async def test_the_list_is_in_the_order_of_the_last_change(world: "World") -> None:
    for subject in ("b", "a", "c"):
        await world.body("jobs.create", job(subject))
    await world.body("jobs.update", job("b", every="1m"))
    listed = await world.body("jobs.list")
    assert [one["subject"] for one in listed["jobs"]] == ["a", "c", "b"]
    assert listed["total"] == 3
    assert "next" not in listed


async def test_pages_cover_everything_once_and_each_fits_in_a_message(many: "World") -> None:
    found: list[str] = []
    request: dict[str, Any] = {}
    pages = 0
    while True:
        answer = await many.ask("jobs.list", request)
        assert len(answer.body) <= 20_000
        page = json.loads(answer.body)
        assert page["total"] == 200
        found += [one["subject"] for one in page["jobs"]]
        pages += 1
        if "next" not in page:
            break
        request = {"cursor": page["next"]}
    assert found == [f"j.{n}" for n in range(200)]
    assert pages > 2


async def test_a_pattern_that_deletes_more_than_a_reply_holds_says_how_many_names_are_missing(
    make_world: "type[World]",
) -> None:
    world = make_world(max_reply=2000)
    for n in range(300):
        await world.body("jobs.create", job(f"some.longer.subject.{n}"))
    reply = await world.body("jobs.delete.pattern", {"pattern": "some.>"})
    assert reply["count"] == 300
    assert 0 < len(reply["deleted"]) == 300 - reply["omitted"]
    assert not world.store.rows


async def test_filters_and_limits_work_together(many: "World") -> None:
    page = await many.body("jobs.list", {"label": "team=red", "limit": 3})
    assert [one["subject"] for one in page["jobs"]] == ["j.1", "j.3", "j.5"]
    assert page["total"] == 100
    page = await many.body("jobs.list", {"label": "team", "limit": 2, "cursor": page["next"]})
    assert [one["subject"] for one in page["jobs"]] == ["j.7", "j.9"]
    page = await many.body("jobs.list", {"pattern": "j.7", "state": "active"})
    assert page["total"] == 1


async def test_a_job_edited_between_two_pages_is_seen_again_rather_than_missed(many: "World") -> None:
    page = await many.body("jobs.list", {"limit": 10})
    await many.body("jobs.update", job("j.50", every="1m"))
    seen = [one["subject"] for one in page["jobs"]]
    while "next" in page:
        page = await many.body("jobs.list", {"cursor": page["next"]})
        seen += [one["subject"] for one in page["jobs"]]
    assert set(seen) == {f"j.{n}" for n in range(200)}


async def test_a_job_too_large_for_a_page_does_not_hide_the_others(make_world: "type[World]") -> None:
    world = make_world(max_reply=4000)
    await world.body("jobs.create", job("big", payload="x" * 5000))
    await world.body("jobs.create", job("small"))
    page = await world.body("jobs.list")
    more = await world.body("jobs.list", {"cursor": page["next"]}) if "next" in page else {"jobs": []}
    assert [one["subject"] for one in page["jobs"] + more["jobs"]] == ["big", "small"]


async def test_what_is_listed_can_be_created_again(world: "World") -> None:
    await world.body(
        "jobs.create",
        job(payload={"a": [1]}, headers={"X": "y"}, labels={"l": "m"}, delivery="request", overlap="skip"),
    )
    (shown,) = (await world.body("jobs.list"))["jobs"]
    await world.body("jobs.delete", {"subject": "a.b"})
    assert "warning" not in await world.body("jobs.create", shown)
    (again,) = (await world.body("jobs.list"))["jobs"]
    owned = {"revision", "created_at", "updated_at", "next_run"}
    assert {k: v for k, v in again.items() if k not in owned} == {k: v for k, v in shown.items() if k not in owned}


async def test_preview_shows_the_next_slots(world: "World") -> None:
    reply = await world.body(
        "jobs.preview", {"schedule": {"cron": "0 9 * * MON"}, "after": "2026-11-20T00:00:00Z", "count": 2}
    )
    assert reply == {
        "slots": [
            {"at": "2026-11-23T09:00:00.000Z", "local": "2026-11-23T09:00:00+00:00", "mark": ""},
            {"at": "2026-11-30T09:00:00.000Z", "local": "2026-11-30T09:00:00+00:00", "mark": ""},
        ],
        "description": "at 09:00 on Monday, UTC",
    }
    await world.body("jobs.create", job())
    reply = await world.body("jobs.preview", {"subject": "a.b"})
    assert len(reply["slots"]) == 5
    assert reply["description"] == "every 30s"


async def test_preview_of_a_stored_job_shows_wall_times_and_what_clock_changes_do(world: "World") -> None:
    for subject, minute, fold in (("moved", "30 2", None), ("twice", "30 2", "both")):
        schedule = {"cron": f"{minute} * * *", "tz": "Europe/Berlin"} | ({"dst_fold": fold} if fold else {})
        await world.body("jobs.create", {"subject": subject, "schedule": schedule})
    spring = await world.body("jobs.preview", {"subject": "moved", "after": "2027-03-27T12:00:00Z", "count": 1})
    assert spring["slots"] == [
        {"at": "2027-03-28T01:00:00.000Z", "local": "2027-03-28T03:00:00+02:00", "mark": "moved"}
    ]
    autumn = await world.body("jobs.preview", {"subject": "twice", "after": "2027-10-30T12:00:00Z", "count": 2})
    assert [(slot["local"], slot["mark"]) for slot in autumn["slots"]] == [
        ("2027-10-31T02:30:00+02:00", ""),
        ("2027-10-31T02:30:00+01:00", "repeated"),
    ]


async def test_preview_of_a_row_that_only_the_go_version_would_store_shows_what_fires(world: "World") -> None:
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"cron":"1,,2 * * * *"}}')
    reply = await world.body("jobs.preview", {"subject": "a.b", "after": "2027-01-01T00:00:00Z", "count": 2})
    assert [slot["at"] for slot in reply["slots"]] == ["2027-01-01T00:01:00.000Z", "2027-01-01T00:02:00.000Z"]
    assert reply["warnings"]


async def test_a_row_whose_subject_is_not_allowed_is_invalid_in_every_read(world: "World") -> None:
    await world.body("jobs.create", job("sound"))
    world.store.write("nats-cron.status", b'{"subject":"nats-cron.status","schedule":{"every":"1s"}}')
    entry = world.engine.table.get("nats-cron.status")
    assert entry is not None
    assert entry.schedule is None
    shown = await world.body("jobs.get", {"subject": "nats-cron.status"})
    assert (shown["state"], shown["next_run"]) == ("invalid", None)
    assert "reserved" in shown["invalid"]
    listed = await world.body("jobs.list", {"state": "invalid"})
    assert [one["subject"] for one in listed["jobs"]] == ["nats-cron.status"]
    for endpoint in ("jobs.preview", "jobs.trigger", "jobs.pause"):
        code, _, text = await world.error(endpoint, {"subject": "nats-cron.status"})
        assert code == 422
        assert "reserved" in text
    assert (await world.body("jobs.delete", {"subject": "nats-cron.status"}))["status"] == "deleted"


async def test_a_kind_of_schedule_that_nobody_registered_is_refused_and_shown_as_invalid_where_it_is_stored(
    world: "World",
) -> None:
    lunar = {"kind": "myapp.lunar", "config": "full"}
    code, _, text = await world.error("jobs.create", {"subject": "a.b", "schedule": lunar})
    assert code == 422
    assert "unknown kind of schedule 'myapp.lunar'" in text
    world.store.write("a.b", json.dumps({"subject": "a.b", "schedule": lunar}).encode())
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["next_run"], shown["schedule"]) == ("invalid", None, lunar)
    assert "'myapp.lunar'" in shown["invalid"]
    assert [one["subject"] for one in (await world.body("jobs.list", {"state": "invalid"}))["jobs"]] == ["a.b"]
    for endpoint in ("jobs.preview", "jobs.trigger", "jobs.pause", "jobs.skip"):
        code, _, text = await world.error(endpoint, {"subject": "a.b"})
        assert code == 422
        assert "'myapp.lunar'" in text
    explained = await world.body("jobs.explain", {"subject": "a.b"})
    assert [line["reason"] for line in explained["past"]] == ["invalid_job"]


async def test_a_schedule_that_stops_finding_slots_says_why(world: "World") -> None:
    fades = {
        "every": "20ms",
        "start_at": "2026-01-01T00:00:00Z",
        "except": [{"every": "10ms", "start_at": "2027-01-01T00:00:00Z"}],
    }
    await world.body("jobs.create", {**job("a.b"), "schedule": fades})
    await world.body("jobs.create", job("sound"))
    shown = await world.body("jobs.get", {"subject": "a.b"})
    assert (shown["state"], shown["next_run"]) == ("invalid", None)
    assert "finding a slot takes too long here: 'except' takes away too many in a row" in shown["invalid"]
    assert [one["subject"] for one in (await world.body("jobs.list", {"state": "invalid"}))["jobs"]] == ["a.b"]
    assert "invalid" not in await world.body("jobs.get", {"subject": "sound"})


async def test_last_runs_are_asked_for_in_pages_and_those_of_an_earlier_job_left_out(world: "World") -> None:
    for n in range(1500):
        world.store.write(f"j.{n}", b'{"subject":"j.%d","schedule":{"every":"30s"},"natscron":{"reader":1}}' % n)
    world.engine.ran = {"j.0": 1_700_000_100_000, "j.1": 1_600_000_000_000}
    listed = (await world.body("jobs.list"))["jobs"]
    assert world.engine.asked == [1024, 476]
    assert [one["last_run"] for one in listed[:3]] == ["2023-11-14T22:15:00.000Z", None, None]
    assert (await world.body("jobs.get", {"subject": "j.0"}))["last_run"] == "2023-11-14T22:15:00.000Z"
    world.engine.asked.clear()
    await world.body("jobs.list", {"limit": 7})
    assert world.engine.asked == [7]


# Runs.


async def test_a_trigger_names_its_run_and_passes_payload_and_key_on(world: "World") -> None:
    await world.body("jobs.create", job())
    reply = await world.body("jobs.trigger", {"subject": "a.b", "payload": {"n": 1}, "key": "k"})
    assert len(reply["run_id"]) == 26
    assert world.engine.triggered == [("a.b", {"n": 1}, "k", None)]
    await world.body("jobs.trigger", {"subject": "a.b", "payload": None})
    assert world.engine.triggered[1] == ("a.b", msgspec.UNSET, None, None)


async def test_a_triggers_payload_has_the_jobs_limit(make_world: "type[World]") -> None:
    world = make_world(Limits(max_payload=10))
    await world.body("jobs.create", job())
    assert (await world.error("jobs.trigger", {"subject": "a.b", "payload": "x" * 11}))[0] == 413


async def test_runs_are_listed_newest_first_in_pages(world: "World") -> None:
    world.store.runs = [Run(job="a", status=RunStatus.SENT, run_id=ulid(n), scheduled_at_ms=n) for n in range(5)]
    page = await world.body("runs.list", {"job": "a", "limit": 2})
    assert [one["scheduled_at"][-5:] for one in page["runs"]] == [".004Z", ".003Z"]
    page = await world.body("runs.list", {"job": "a", "limit": 3, "cursor": page["next"]})
    assert len(page["runs"]) == 3
    assert "next" not in page
    assert (await world.body("runs.list", {"job": "zz"})) == {"runs": []}


async def test_a_run_shows_all_its_attempts(world: "World") -> None:
    run_id = ulid(1)
    world.store.runs = [
        Run(job="a", status=RunStatus.FAILED, run_id=run_id, attempt=1),
        Run(job="a", status=RunStatus.COMPLETED, run_id=run_id, attempt=2),
    ]
    reply = await world.body("runs.get", {"run_id": run_id})
    assert reply["run"]["status"] == "completed"
    assert [one["attempt"] for one in reply["attempts"]] == [1, 2]


async def test_a_run_without_a_record_is_shown_as_it_was_asked_for(world: "World") -> None:
    run_id = ulid(1)
    world.engine.asked_runs[run_id] = Run(job="a", status=RunStatus.PENDING, run_id=run_id)
    for job_id in ("", "a"):
        reply = await world.body("runs.get", {"run_id": run_id, "job": job_id})
        assert (reply["run"]["status"], reply["run"]["job"], reply["attempts"]) == ("pending", "a", [])
    assert (await world.error("runs.get", {"run_id": run_id, "job": "b"}))[0] == 404
    world.store.runs = [Run(job="a", status=RunStatus.SENT, run_id=run_id)]
    assert (await world.body("runs.get", {"run_id": run_id}))["run"]["status"] == "sent"


async def test_a_workers_report_becomes_a_record_of_its_run(world: "World") -> None:
    run_id = ulid(1_700_000_000_000)
    world.store.runs = [
        Run(job="a", status=RunStatus.SENT, run_id=run_id, scheduled_at_ms=5, delivery=Delivery.CORE, instance="i9")
    ]
    await world.body("runs.report", {"run_id": run_id, "status": "failed", "error": "no disk\x00" + "x" * 3000})
    (run,) = world.engine.recorded
    assert (run.job, run.run_id, run.scheduled_at_ms, run.instance) == ("a", run_id, 5, "i9")
    assert (run.status, run.reason) == (RunStatus.FAILED, "worker_error")
    assert run.error is not None
    assert len(run.error) == 1024
    assert run.finished_at_ms is not None


async def test_a_report_before_the_record_needs_the_job(world: "World") -> None:
    await world.body("jobs.create", job())
    run_id = ulid(1_700_000_000_000)
    assert (await world.error("runs.report", {"run_id": run_id, "status": "running"}))[0] == 404
    await world.body("runs.report", {"run_id": run_id, "status": "running", "job": "a.b"})
    (run,) = world.engine.recorded
    assert (run.scheduled_at_ms, run.finished_at_ms) == (1_700_000_000_000, None)


async def test_preview_of_a_job_says_what_keeps_its_slots_from_running(world: "World") -> None:
    world.store.write("a.b", b'{"subject":"a.b","schedule":{"cron":"0 9 * * *","jitter":"5m"}}')
    plain = await world.body("jobs.preview", {"subject": "a.b", "count": 1})
    assert "warnings" not in plain
    assert plain["slots"][0]["at"] < plain["slots"][0]["due"] < plain["slots"][0]["at"].replace("T09:00", "T09:05")
    await world.body("jobs.skip", {"subject": "a.b", "count": 2})
    assert "are skipped" in (await world.body("jobs.preview", {"subject": "a.b"}))["warnings"][0]
    await world.body("jobs.pause", {"subject": "a.b", "until": "in 2h"})
    assert "no slot runs before" in (await world.body("jobs.preview", {"subject": "a.b"}))["warnings"][0]
    await world.body("jobs.pause", {"subject": "a.b"})
    assert "until it is resumed" in (await world.body("jobs.preview", {"subject": "a.b"}))["warnings"][0]
