"""The API on a real server, byte by byte where the Go version's clients read it."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client

from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio


class Reply(NamedTuple):
    data: bytes
    headers: dict[str, str]

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.data)


class Api(NamedTuple):
    client: Client
    server: Server

    async def ask(self, subject: str, data: bytes | dict[str, Any] = b"") -> Reply:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        message = await self.client.request(f"nats-cron.{subject}", raw, timeout=5)
        return Reply(message.data, dict(message.headers or {}))


@pytest.fixture(scope="module")
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a fixture's own type
    """A server for this file: the service has one set of names an account."""
    with NatsServer(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture
async def api(own_nats: NatsServer) -> AsyncIterator[Api]:
    client = await nats.connect(own_nats.url)
    async with Server(ServerOptions(nats_url=own_nats.url, instance_id="i1")) as server:
        await server.delete_jobs(">")
        yield Api(client, server)
    await client.close()


async def test_ping_and_info_are_a_micro_services(api: Api) -> None:
    ping = json.loads((await api.client.request("$SRV.PING.nats-cron", timeout=5)).data)
    assert list(ping) == ["name", "id", "version", "metadata", "type"]
    assert (ping["name"], ping["version"]) == ("nats-cron", "1.0.0")
    assert ping["metadata"]["instance_id"] == "i1"
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    assert len(ping["id"]) == 22
    info = json.loads((await api.client.request(f"$SRV.INFO.nats-cron.{ping['id']}", timeout=5)).data)
    assert info["description"] == "NATS Cron Scheduler"
    assert [(one["name"], one["subject"], one["queue_group"]) for one in info["endpoints"][:7]] == [
        ("jobs-list", "nats-cron.jobs.list", "q"),
        ("jobs-create", "nats-cron.jobs.create", "q"),
        ("jobs-update", "nats-cron.jobs.update", "q"),
        ("jobs-delete", "nats-cron.jobs.delete", "q"),
        ("jobs-delete-pattern", "nats-cron.jobs.delete.pattern", "q"),
        ("jobs-get", "nats-cron.jobs.get", "q"),
        ("status", "nats-cron.status", "q"),
    ]
    assert len(info["endpoints"]) == 25
    assert json.loads(info["endpoints"][1]["metadata"]["request_schema"])["required"] == ["subject", "schedule"]


async def test_a_go_clients_day(api: Api) -> None:
    assert await api.ask("jobs.list") == Reply(b'{"jobs":null}', {})
    created = await api.ask("jobs.create", b'{"SUBJECT":"a.b","Schedule":{"EVERY":"30s"}}')
    assert created.headers == {}
    assert re.fullmatch(rb'\{"revision":"\d+","status":"created"\}', created.data)
    got = await api.ask("jobs.get", b'{"subject":"a.b"}')
    assert got.headers == {}
    assert got.data.startswith(b'{"subject":"a.b","schedule":{"every":"30s"},"revision":')
    listed = await api.ask("jobs.list", b"")
    assert listed.data.startswith(b'{"jobs":[{"subject":"a.b",')
    updated = await api.ask("jobs.update", b'{"subject":"a.b","schedule":{"every":"1m"}}')
    assert re.fullmatch(rb'\{"next_run":"[^"]+","revision":"\d+","status":"updated"\}', updated.data)
    assert await api.ask("jobs.delete", b'{"subject":"a.b"}') == Reply(b'{"status":"deleted"}', {})
    assert await api.ask("jobs.list") == Reply(b'{"jobs":null}', {})


async def test_deleting_by_pattern_answers_in_gos_shape_and_order(api: Api) -> None:
    for subject in ("a", "a.b", "a.c"):
        await api.ask("jobs.create", {"subject": subject, "schedule": {"every": "1h"}})
    await api.ask("jobs.update", {"subject": "a.b", "note": "later"})
    assert await api.ask("jobs.delete.pattern", b'{"pattern":"a.*"}') == Reply(
        b'{"count":2,"deleted":["a.c","a.b"]}', {}
    )
    assert await api.ask("jobs.delete.pattern", b'{"pattern":"a.*"}') == Reply(b'{"count":0,"deleted":null}', {})
    assert [one["subject"] for one in await api.server.list_jobs()] == ["a"]


async def test_status_begins_with_nothing_but_has_gos_three(api: Api) -> None:
    body = (await api.ask("status", b"ignored")).body
    assert (body["service"], body["jobs"]) == ("nats-cron", 0)
    assert isinstance(body["is_leader"], bool)
    assert list(body) == sorted(body)


@pytest.mark.parametrize(
    ("subject", "data", "description", "code", "text"),
    [
        ("jobs.create", b"", "Failed to create job", "400", "unexpected end of JSON input"),
        ("jobs.create", b"{}", "Failed to create job", "422", "job subject is required"),
        ("jobs.update", b"[]", "Failed to update job", "400", "cannot unmarshal array into Go value"),
        ("jobs.delete", b"", "Invalid request", "400", "unexpected end of JSON input"),
        ("jobs.get", b'{"subject":"no"}', "Job not found", "404", "nats: key not found"),
        ("jobs.delete.pattern", b"{", "Invalid request", "400", "unexpected end of JSON input"),
    ],
)
async def test_errors_are_micro_errors_with_a_json_body(
    api: Api, subject: str, data: bytes, description: str, code: str, text: str
) -> None:
    reply = await api.ask(subject, data)
    assert reply.headers == {"Nats-Service-Error": description, "Nats-Service-Error-Code": code}
    assert list(reply.body) == ["error", "code"]
    assert reply.body["code"] == code
    assert text in reply.body["error"]


async def test_errors_count_in_the_statistics(api: Api) -> None:
    await api.ask("jobs.create", b"x")
    stats = json.loads((await api.client.request("$SRV.STATS.nats-cron", timeout=5)).data)
    create = stats["endpoints"][1]
    assert (create["num_requests"], create["num_errors"]) == (1, 1)
    assert create["last_error"] == "400:Failed to create job"


async def test_a_write_is_read_at_once_through_another_instance(api: Api, own_nats: NatsServer) -> None:
    options = ServerOptions(nats_url=own_nats.url, instance_id="i2", micro=False)
    async with Server(options) as other:
        for n in range(20):
            await api.server.put_job({"subject": "seen", "schedule": {"every": "1h"}, "note": str(n)})
            assert (await other.get_job("seen"))["note"] == str(n)
        await other.delete_job("seen")
        assert await api.server.list_jobs() == []


async def test_the_last_run_is_the_same_whichever_instance_answers_also_after_a_failover(
    api: Api, own_nats: NatsServer
) -> None:
    records = await api.client.subscribe("nats-cron.log.ran.*")
    await api.client.flush()
    for subject in ("ran.a", "ran.b"):
        await api.ask("jobs.create", {"subject": subject, "schedule": {"every": "1h"}})
        await api.ask("jobs.trigger", {"subject": subject})
        await records.next_msg(timeout=5)
    shown = {one["subject"]: one["last_run"] for one in await api.server.list_jobs()}
    assert set(shown) == {"ran.a", "ran.b"}
    assert None not in shown.values()
    async with Server(ServerOptions(nats_url=own_nats.url, instance_id="i2", micro=False)) as other:
        assert {one["subject"]: one["last_run"] for one in await other.list_jobs()} == shown
        await api.server.stop()
        async with asyncio.timeout(10):
            while not other.is_leader:  # noqa: ASYNC110 - leadership tells nobody
                await asyncio.sleep(0.02)
        assert (await other.get_job("ran.a"))["last_run"] == shown["ran.a"]
        assert {one["subject"]: one["last_run"] for one in await other.list_jobs()} == shown
        # A job of the same name that is created later has not run yet.
        await other.delete_job("ran.a")
        await other.create_job({"subject": "ran.a", "schedule": {"every": "1h"}})
        assert (await other.get_job("ran.a"))["last_run"] is None


async def test_create_race_has_one_winner(api: Api) -> None:
    job = {"subject": "race", "schedule": {"every": "1h"}}
    replies = await asyncio.gather(*(api.ask("jobs.create", job) for _ in range(10)))
    assert sorted(reply.headers.get("Nats-Service-Error-Code", "") for reply in replies) == [""] + ["409"] * 9
    assert all("already exists" in reply.body["error"] for reply in replies if reply.headers)


async def test_a_page_never_outgrows_a_message(own_nats: NatsServer) -> None:
    client = await nats.connect(own_nats.url)
    options = ServerOptions(nats_url=own_nats.url, name="paging", leader_election=False)
    async with Server(options) as server:
        body = "x" * 300_000
        for n in range(5):
            await server.put_job({"subject": f"big.{n}", "schedule": {"every": "1h"}, "payload": body})
        seen: list[str] = []
        request: dict[str, Any] = {}
        while True:
            page = json.loads((await client.request("paging.jobs.list", json.dumps(request).encode(), timeout=5)).data)
            seen += [one["subject"] for one in page["jobs"]]
            if "next" not in page:
                break
            request = {"cursor": page["next"]}
    await client.close()
    assert seen == [f"big.{n}" for n in range(5)]


async def test_many_creates_at_once_are_all_stored(api: Api) -> None:
    async def create(n: int) -> None:
        reply = await api.ask("jobs.create", {"subject": f"many.{n}", "schedule": {"every": "1h"}})
        assert reply.body["status"] == "created"

    gate = asyncio.Semaphore(64)

    async def gated(n: int) -> None:
        async with gate:
            await create(n)

    await asyncio.gather(*(gated(n) for n in range(500)))
    page = (await api.ask("jobs.list", {"pattern": "many.*", "limit": 1})).body
    assert page["total"] == 500


async def test_a_trigger_is_run_and_its_record_found(api: Api) -> None:
    messages = await api.client.subscribe("run.me")
    records = await api.client.subscribe("nats-cron.log.run.me")
    await api.ask("jobs.create", {"subject": "run.me", "schedule": {"every": "1h"}, "payload": "p"})
    reply = (await api.ask("jobs.trigger", {"subject": "run.me", "payload": {"n": 1}})).body
    message = await messages.next_msg(timeout=5)
    assert message.data == b'{"n":1}'
    assert (message.headers or {})["Nats-Cron-Run"] == reply["run_id"]
    record = json.loads((await records.next_msg(timeout=5)).data)
    assert (record["run_id"], record["status"], record["trigger"]) == (reply["run_id"], "sent", "manual")
    assert (await api.ask("runs.get", {"run_id": reply["run_id"]})).body["run"] == record
    report = await api.ask("runs.report", {"run_id": reply["run_id"], "status": "completed", "result": "42"})
    assert report.body == {"run_id": reply["run_id"], "status": "recorded"}
    record = json.loads((await records.next_msg(timeout=5)).data)
    assert (record["status"], record["result"]) == ("completed", "42")


HOSTILE = [
    b"\xff\xfe",
    b'{"subject":"x\xc3\x28","schedule":{"every":"1s"}}',
    b'{"subject":"\\ud800","schedule":{"every":"1s"}}',
    b"[" * 10_000 + b"]" * 10_000,
    b'{"subject":"x","schedule":{"every":"1s"},"payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b"[" * 50_000,
    b'{"subject":"x","schedule":{"cron":"TZ=UTC"}}',
    b'{"subject":"x","schedule":{"every":1e400}}',
    b'{"subject":"x","schedule":{"every":"1e400s"}}',
    b'{"subject":"x","schedule":{"every":"1s"},"retry":{"attempts":1e400}}',
    b'{"count":1e400,"limit":1e400,"expected_revision":1e400,"attempt":1e400}',
    b'{"subject":"\xff","schedule":{"every":"1s"}}',
    b'{"subject":"a\\r\\nPUB x 1","schedule":{"every":"1s"}}',
    b'{"subject":"a","schedule":{"every":"' + b"9" * 4000 + b'h"}}',
    b'{"subject":"x","schedule":{"every":"0s"}}',
    b'{"subject":"x","schedule":{"every":"-1s"}}',
    b"9" * 100_000,
    bytes(range(256)),
]


async def test_garbage_on_every_endpoint_leaves_the_service_as_it_was(api: Api) -> None:
    ticks = await api.client.subscribe("sound")
    await api.ask("jobs.create", {"subject": "sound", "schedule": {"every": "100ms"}, "payload": "still"})
    chance = random.Random(20261120)  # noqa: S311 - the same bytes in every run
    noise = [chance.randbytes(chance.randrange(1, 400)) for _ in range(40)]
    info = json.loads((await api.client.request("$SRV.INFO.nats-cron", timeout=5)).data)
    for endpoint in info["endpoints"]:
        for data in HOSTILE + noise:
            message = await api.client.request(endpoint["subject"], data, timeout=5)
            assert isinstance(json.loads(message.data), dict)
            code = (message.headers or {}).get("Nats-Service-Error-Code")
            assert code != "500", (endpoint["subject"], data[:80], message.data)
            if endpoint["name"] in {"jobs-create", "jobs-put", "jobs-update"}:
                assert code in {"400", "404", "422"}, (endpoint["subject"], data[:80])
    assert [one["subject"] for one in await api.server.list_jobs()] == ["sound"]
    while ticks.pending_msgs:
        await ticks.next_msg()
    assert (await ticks.next_msg(timeout=5)).data == b"still"


async def test_a_payload_over_the_limit_is_told_so_and_the_connection_lives(api: Api) -> None:
    big = {"subject": "big", "schedule": {"every": "1h"}, "payload": "x" * 1_040_000}
    reply = await api.ask("jobs.create", big)
    assert reply.headers["Nats-Service-Error-Code"] == "413"
    assert "payload" in reply.body["error"]
    assert "limit" in reply.body["error"]
    assert (await api.ask("jobs.list")).body == {"jobs": None}


async def test_a_stream_that_captures_the_api_is_named_in_the_status(nats_server: NatsServer) -> None:
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="GREEDY", subjects=["nats-cron.jobs.>"])
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        assert any("GREEDY" in warning for warning in (await server.status())["warnings"])
    await client.close()
