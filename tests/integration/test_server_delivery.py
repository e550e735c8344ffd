"""Core, JetStream and request delivery on a real server, and ``auto`` as streams come and go."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def server(nats_server: NatsServer) -> AsyncIterator[Server]:
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        yield server


def job(subject: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": "1h"}, **more}


async def record_of(client: Client, server: Server, subject: str, *, final: str) -> dict[str, Any]:
    """Trigger the job and wait for the record that ends its run."""
    records = await client.subscribe(f"nats-cron.log.{subject}")
    await client.flush()
    await server.trigger_job(subject)
    async with asyncio.timeout(10):
        while True:
            record: dict[str, Any] = json.loads((await records.next_msg(timeout=10)).data)
            if record["status"] == final:
                return record


async def effective(server: Server, subject: str, wanted: str) -> None:
    async with asyncio.timeout(5):
        while (await server.get_job(subject))["delivery_effective"] != wanted:  # noqa: ASYNC110 - advisories tell others
            await asyncio.sleep(0.02)


async def test_auto_follows_the_streams_of_the_account(client: Client, server: Server) -> None:
    js = client.jetstream()
    await server.create_job(job("orders.daily"))
    await effective(server, "orders.daily", "core")
    assert (await record_of(client, server, "orders.daily", final="sent"))["delivery"] == "core"
    await js.add_stream(name="ORDERS", subjects=["orders.>"])
    await effective(server, "orders.daily", "jetstream")
    record = await record_of(client, server, "orders.daily", final="stored")
    stored = await js.get_msg("ORDERS", 1)
    assert (stored.headers or {})["Nats-Msg-Id"] == record["run_id"]
    await js.delete_stream("ORDERS")
    await effective(server, "orders.daily", "core")


async def test_a_stream_that_was_there_before_the_server_is_known_at_once(
    nats_server: NatsServer, client: Client
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s.*"])
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job(job("s.a", timeout="5s"))
        assert (await server.get_job("s.a"))["delivery_effective"] == "jetstream"


async def test_a_request_ends_with_the_workers_reply(client: Client, server: Server) -> None:
    async def work(message: Msg) -> None:
        await message.respond(b"42 rows")

    await client.subscribe("work.ok", queue="w", cb=work)
    await server.create_job(job("work.ok", delivery="request", timeout="5s"))
    assert (await record_of(client, server, "work.ok", final="completed"))["result"] == "42 rows"


async def test_a_workers_micro_error_fails_the_run(client: Client, server: Server) -> None:
    async def work(message: Msg) -> None:
        headers = {"Nats-Service-Error": "no disk", "Nats-Service-Error-Code": "507"}
        await client.publish(message.reply, b"", headers=headers)

    await client.subscribe("work.bad", cb=work)
    await server.create_job(job("work.bad", delivery="request"))
    record = await record_of(client, server, "work.bad", final="failed")
    assert (record["reason"], record["error"]) == ("worker_error", "507: no disk")


async def test_a_request_without_workers_fails_with_its_reason(client: Client, server: Server) -> None:
    await server.create_job(job("work.nobody", delivery="request", timeout="1s"))
    assert (await record_of(client, server, "work.nobody", final="failed"))["reason"] == "no_responders"


async def test_a_payload_arrives_as_it_was_given(client: Client, server: Server) -> None:
    messages = await client.subscribe("p.>")
    await client.flush()
    cases: dict[str, tuple[Any, bytes]] = {
        "p.text": ("hello", b"hello"),
        "p.json": ({"a": [1, "ü"]}, '{"a":[1,"ü"]}'.encode()),
        "p.base64": ({"type": "base64", "data": "AAH/"}, b"\x00\x01\xff"),
        "p.envelope": ({"type": "json", "data": '{"x":1}'}, b'{"x":1}'),
    }
    for subject, (payload, body) in cases.items():
        await server.create_job(job(subject, payload=payload, headers={"X-Team": "billing"}))
        await server.trigger_job(subject)
        message = await messages.next_msg(timeout=5)
        assert (message.subject, message.data) == (subject, body)
        assert (message.headers or {})["X-Team"] == "billing"


@pytest.mark.parametrize("history", [True, False])
async def test_records_are_kept_unless_the_settings_say_no(
    nats_server: NatsServer, client: Client, *, history: bool
) -> None:
    messages = await client.subscribe("h.a")
    async with Server(ServerOptions(nats_url=nats_server.url, history=history)) as server:
        await server.create_job(job("h.a"))
        await server.trigger_job("h.a")
        await messages.next_msg(timeout=5)
    # A clean stop has stored what was recorded.
    info = await client.jetstream().stream_info("NATS_CRON_LOG")
    assert (info.state.messages > 0) is history


async def test_a_row_with_a_reserved_subject_is_listed_and_never_published_nor_recorded_as_a_run(
    client: Client, server: Server
) -> None:
    """Written past the API, as another client of the bucket could."""
    heard = await client.subscribe("nats-cron.jobs.>")
    ticks = await client.subscribe("sound")
    key = await client.jetstream().key_value("nats-cron-jobs")
    row = json.dumps({"subject": "nats-cron.jobs.delete.pattern", "schedule": {"every": "10ms"}}).encode()
    await client.flush()
    await key.put("nats-cron.jobs.delete.pattern", row)
    (shown,) = await server.list_jobs({"state": "invalid"})
    assert (shown["state"], shown["next_run"], shown["last_run"]) == ("invalid", None, None)
    assert "reserved" in shown["invalid"]
    # A sound job that is due later shows that the other's slots have been passed by.
    await server.create_job(job("sound", schedule={"every": "100ms"}))
    for _ in range(3):
        await ticks.next_msg(timeout=5)
    assert heard.pending_msgs == 0
    await server.stop()
    records = await runs_in(client, "nats-cron.log.nats-cron.jobs.delete.pattern")
    assert records == []


async def runs_in(client: Client, subject: str) -> list[dict[str, Any]]:
    info = await client.jetstream().stream_info("NATS_CRON_LOG", subjects_filter=subject)
    return [
        json.loads((await client.jetstream().get_last_msg("NATS_CRON_LOG", one)).data or b"")
        for one in info.state.subjects or {}
    ]
