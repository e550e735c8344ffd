"""Skips, pauses, overlap, reports, backfills and calendars over the API of a real server, and what they do to runs."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from natscron.clock import SystemClock
from natscron.codec import ms_to_text, text_to_ms
from natscron.errors import BackfillNotFoundError, CalendarInUseError
from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

MORNINGS: dict[str, Any] = {"name": "closed", "weekly": [{"start": "00:00", "end": "12:00"}]}
HOLIDAYS: dict[str, Any] = {"name": "holidays", "dates": ["12-25"]}
NINE = "2027-01-01T09:00:00Z"
DAY_MS = 86_400_000
DAY = {"from": "2027-01-01T00:00:00Z", "to": "2027-01-01T23:00:00Z"}
RUN = "01JQ0000000000000000000000"


class Api(NamedTuple):
    client: Client
    server: Server

    async def ask(self, subject: str, data: dict[str, Any] | None = None) -> Any:  # noqa: ANN401 - any JSON value
        """The reply to a request that succeeds."""
        code, body = await self.reply(subject, data)
        assert code == "", body
        return body

    async def reply(self, subject: str, data: dict[str, Any] | None = None) -> tuple[str, Any]:
        message = await self.client.request(f"nats-cron.{subject}", json.dumps(data or {}).encode(), timeout=5)
        return (message.headers or {}).get("Nats-Service-Error-Code", ""), json.loads(message.data)

    async def record(self, records: Subscription, **wanted: object) -> dict[str, Any]:
        """The next run record that has these values."""
        async with asyncio.timeout(15):
            while True:
                record: dict[str, Any] = json.loads((await records.next_msg(timeout=15)).data)
                if wanted.items() <= record.items():
                    return record


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("policies")) as server:
        yield server


@pytest.fixture
async def api(own_nats: NatsServer) -> AsyncIterator[Api]:
    client = await nats.connect(own_nats.url)
    async with Server(ServerOptions(nats_url=own_nats.url, instance_id="i1")) as server:
        while not server.is_leader:  # noqa: ASYNC110 - the server tells no one when it begins to lead
            await asyncio.sleep(0.01)
        await server.delete_jobs(">")
        for calendar in await server.list_calendars():
            await server.delete_calendar(calendar["name"])
        yield Api(client, server)
    await client.close()


async def listen(client: Client, subject: str) -> Subscription:
    subscription = await client.subscribe(subject)
    await client.flush()
    return subscription


def slot(message: Msg) -> str:
    assert message.headers is not None
    return message.headers["Nats-Cron-Scheduled-At"]


async def test_skipped_slots_do_not_run_and_are_recorded(api: Api) -> None:
    messages, records = await listen(api.client, "skip.me"), await listen(api.client, "nats-cron.log.skip.me")
    await api.ask("jobs.create", {"subject": "skip.me", "schedule": {"cron": "*/2 * * * * *"}})
    # Right after a slot the next one is far enough for the leader to hear of it in time.
    await messages.next_msg(timeout=10)
    reply = await api.ask("jobs.skip", {"subject": "skip.me", "count": 2})
    skipped = reply["skipped"]
    assert reply["next_run"] > skipped[1] > skipped[0]
    record = await api.record(records, reason="skip_next")
    assert record["status"] == "skipped"
    assert "warning" not in reply
    assert slot(await messages.next_msg(timeout=10)) == reply["next_run"]
    assert (await api.ask("jobs.skip", {"subject": "skip.me", "count": 0}))["status"] == "active"


async def test_a_pause_ends_by_itself(api: Api) -> None:
    await api.ask("jobs.create", {"subject": "rest.me", "schedule": {"every": "100ms"}})
    until = ms_to_text(SystemClock().now_ms() + 800)
    assert (await api.ask("jobs.pause", {"subject": "rest.me", "until": until}))["paused_until"] == until
    messages = await listen(api.client, "rest.me")
    shown = await api.ask("jobs.get", {"subject": "rest.me"})
    assert (shown["state"], shown["paused_until"]) == ("paused", until)
    first = await messages.next_msg(timeout=10)
    if slot(first) < until:  # on its way when the pause began
        first = await messages.next_msg(timeout=10)
    assert slot(first) >= until
    assert (await api.ask("jobs.get", {"subject": "rest.me"}))["state"] == "active"


async def none_going(api: Api) -> None:
    async with asyncio.timeout(10):
        while await api.server.list_backfills():  # noqa: ASYNC110 - a list that others keep tells nobody
            await asyncio.sleep(0.01)


async def test_a_backfill_runs_each_slot_once_and_a_key_makes_no_second(api: Api) -> None:
    messages, records = await listen(api.client, "fill.me"), await listen(api.client, "nats-cron.log.fill.me")
    await api.ask("jobs.create", {"subject": "fill.me", "schedule": {"cron": "0 * * * *"}})
    day = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T23:00:00Z"}
    asked = {"subject": "fill.me", **day, "rate": "1000/s", "key": "k"}
    held = await api.ask("jobs.backfill", {**asked, "dry_run": True})
    assert (held["count"], held["first"], held["last"]) == (
        24,
        "2026-01-01T00:00:00.000Z",
        "2026-01-01T23:00:00.000Z",
    )
    assert set(held) == {"count", "first", "last", "estimate"}
    begun = await api.ask("jobs.backfill", asked)
    done = await api.record(records, reason="backfill_done")
    assert (done["run_id"], done["status"], done["count"]) == (begun["id"], "completed", 24)
    slots = [slot(await messages.next_msg(timeout=10)) for _ in range(24)]
    assert slots == [f"2026-01-01T{hour:02}:00:00.000Z" for hour in range(24)]
    assert (await api.ask("jobs.backfill", asked))["id"] == begun["id"]
    await none_going(api)
    found = await api.ask("runs.get", {"run_id": begun["id"], "job": "fill.me"})
    assert found["run"]["reason"] == "backfill_done"
    assert messages.pending_msgs == 0


async def test_a_backfill_is_listed_and_cancelled(api: Api) -> None:
    records = await listen(api.client, "nats-cron.log.fill.slowly")
    await api.ask("jobs.create", {"subject": "fill.slowly", "schedule": {"cron": "0 * * * *"}})
    day = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T23:00:00Z"}
    begun = await api.server.backfill_job({"subject": "fill.slowly", **day, "rate": "0.1/s"})
    async with asyncio.timeout(10):
        while not (going := await api.server.list_backfills()):  # noqa: ASYNC110 - see none_going
            await asyncio.sleep(0.01)
    assert (going[0]["id"], going[0]["job"], going[0]["count"], going[0]["every"]) == (
        begun["id"],
        "fill.slowly",
        24,
        "10s",
    )
    await api.ask("backfills.cancel", {"id": begun["id"]})
    record = await api.record(records, reason="backfill_cancelled")
    assert (record["run_id"], record["status"]) == (begun["id"], "skipped")
    await none_going(api)
    with pytest.raises(BackfillNotFoundError):
        await api.server.cancel_backfill(begun["id"])


async def test_a_report_ends_a_run_and_is_recorded_once(api: Api) -> None:
    messages, records = await listen(api.client, "tell.me"), await listen(api.client, "nats-cron.log.tell.me")
    job = {"subject": "tell.me", "schedule": {"every": "1h"}, "delivery": "core", "reports": True, "timeout": "1m"}
    await api.ask("jobs.create", {**job, "overlap": "skip"})
    run_id = (await api.ask("jobs.trigger", {"subject": "tell.me"}))["run_id"]
    message = await messages.next_msg(timeout=10)
    assert message.headers is not None
    assert message.headers["Nats-Cron-Run"] == run_id
    second = (await api.ask("jobs.trigger", {"subject": "tell.me"}))["run_id"]
    assert (await api.record(records, run_id=second))["reason"] == "overlap_skip"
    third = (await api.ask("jobs.trigger", {"subject": "tell.me", "overlap": "allow"}))["run_id"]
    assert (await messages.next_msg(timeout=10)).data == third.encode()
    report = {"job": "tell.me", "status": "failed", "code": "E7", "error": "no disk"}
    await api.ask("runs.report", {"run_id": run_id, **report})
    failed = await api.record(records, run_id=run_id, status="failed")
    assert (failed["reason"], "no disk" in failed["error"]) == ("worker_error", True)
    await api.ask("runs.report", {"run_id": third, "job": "tell.me", "status": "completed", "result": "done"})
    assert (await api.record(records, run_id=third, status="completed"))["result"] == "done"
    ends = [one["status"] for one in (await api.ask("runs.get", {"run_id": run_id, "job": "tell.me"}))["attempts"]]
    assert ends.count("failed") == 1


async def test_jobs_rest_while_their_calendar_says_so(api: Api) -> None:
    messages = await listen(api.client, "work.day")
    now = SystemClock().now_ms()
    yesterday, tomorrow = (ms_to_text(now + days * DAY_MS)[:10] for days in (-1, 1))
    closed = await api.ask("calendars.put", {"name": "closed", "dates": [f"{yesterday}/{tomorrow}"]})
    assert (closed["status"], closed["jobs"]) == ("created", 0)
    without = [{"calendar": "closed"}]
    await api.ask("jobs.create", {"subject": "work.day", "schedule": {"every": "100ms", "except": without}})
    assert text_to_ms((await api.ask("jobs.get", {"subject": "work.day"}))["next_run"]) > now + DAY_MS
    opened = SystemClock().now_ms()
    changed = await api.ask("calendars.put", {"name": "closed", "dates": ["2020-01-01"]})
    assert (changed["status"], changed["jobs"]) == ("updated", 1)
    first = await messages.next_msg(timeout=10)
    assert text_to_ms(slot(first)) >= opened - 100
    daily = {"every": "24h", "start_at": NINE, "except": without}
    await api.ask("jobs.update", {"subject": "work.day", "schedule": daily})
    code, body = await api.reply("calendars.put", MORNINGS)
    assert (code, "'work.day' (" in body["error"], "takes away" in body["error"]) == ("422", True, True)
    await api.ask("jobs.update", {"subject": "work.day", "schedule": {"every": "1h"}})
    await api.server.put_calendar(MORNINGS)
    await api.server.delete_calendar("closed")


async def test_a_calendar_is_seen_through_another_instance_at_once(api: Api, own_nats: NatsServer) -> None:
    options = ServerOptions(nats_url=own_nats.url, instance_id="i2", micro=False)
    async with Server(options) as other:
        for n in range(10):
            await api.ask("calendars.put", {**HOLIDAYS, "name": f"c{n}"})
            schedule = {"every": "1h", "except": [{"calendar": f"c{n}"}]}
            await other.create_job({"subject": f"refers.{n}", "schedule": schedule})
            with pytest.raises(CalendarInUseError, match=f"refers.{n}"):
                await api.server.delete_calendar(f"c{n}")
        assert [one["name"] for one in await other.list_calendars()] == [f"c{n}" for n in range(10)]


@pytest.mark.parametrize(
    ("subject", "data", "code", "text"),
    [
        ("jobs.create", {"subject": "x", "schedule": {"every": "1h"}, "overlap": "skip"}, "422", "when a run ends"),
        (
            "jobs.create",
            {"subject": "x", "schedule": {"every": "1h", "except": [{"calendar": "no"}]}},
            "422",
            "no calendar 'no'; known are known",
        ),
        ("jobs.create", {"subject": "nats-cron.calendars.x", "schedule": {"every": "1h"}}, "422", "reserved"),
        ("jobs.create", {"subject": "nats-cron.backfills.x", "schedule": {"every": "1h"}}, "422", "reserved"),
        ("jobs.trigger", {"subject": "plain", "overlap": "skip"}, "422", "when a run ends"),
        ("jobs.pause", {"subject": "plain", "until": "2020-01-01T00:00:00Z"}, "422", "future"),
        ("jobs.skip", {"subject": "plain", "count": 1001}, "422", "count"),
        ("jobs.skip", {"subject": "over"}, "422", "no further slot"),
        ("jobs.skip", {"subject": "none"}, "404", "no job"),
        ("jobs.backfill", {"subject": "plain", **DAY, "rate": "0.01/s"}, "422", "0.1/s"),
        ("jobs.backfill", {"subject": "plain", "from": DAY["from"], "to": "2199-01-01T00:00:00Z"}, "422", "future"),
        ("jobs.backfill", {"subject": "often", "from": "2026-01-01T00:00:00Z"}, "413", "100000"),
        ("jobs.backfill", {"subject": "plain", "from": "2026-01-01T00:00:00Z", "overlap": "skip"}, "422", "ends"),
        ("jobs.backfill", {"subject": "none", "from": "2026-01-01T00:00:00Z"}, "404", "no job"),
        ("backfills.cancel", {"id": RUN}, "404", "no backfill"),
        ("calendars.put", {"name": "Bad Name"}, "422", "calendar name"),
        ("calendars.put", {"name": "x", "dates": ["13-13"]}, "422", "13-13"),
        ("calendars.delete", {"name": "known"}, "409", "'refers'"),
        ("calendars.get", {"name": "none"}, "404", "no calendar"),
        ("runs.report", {"run_id": "x", "status": "completed"}, "422", "run_id"),
    ],
)
async def test_what_cannot_be_is_refused(api: Api, subject: str, data: dict[str, Any], code: str, text: str) -> None:
    await api.server.put_calendar({"name": "known", "dates": ["12-25"]})
    for name, schedule in (
        ("plain", {"cron": "0 * * * *"}),
        ("often", {"cron": "* * * * * *"}),
        ("refers", {"every": "1h", "except": [{"calendar": "known"}]}),
        ("over", {"cron": "0 * * * *", "not_after": "2026-01-01T00:00:00Z"}),
    ):
        await api.server.put_job({"subject": name, "schedule": schedule, "delivery": "core"})
    got, body = await api.reply(subject, data)
    assert (got, text in body["error"]) == (code, True), body
