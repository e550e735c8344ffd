"""Rows that only a later version can honour: an instance that cannot does not lead, and those that can do."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise

import nats
import pytest
from nats.aio.client import Client

from natscron.codec import encode_calendar, encode_row, row
from natscron.errors import ValidationError
from natscron.model import Calendar, CalendarSpec, Job, ScheduleSpec
from natscron.server import Server, ServerOptions
from natscron.storage.nats import NatsStorageOptions
from natscron.storage.nats.keys import StateKeys
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

TICK = {"subject": "tick", "schedule": {"every": "100ms"}, "catchup": "all"}
LATER = b'{"subject":"later","schedule":{"every":"100ms"},"natscron":{"reader":99}}'
NEWER_INSTANCE = """
import asyncio, sys
from natscron.codec import row, state
row.READER = state.READER = 99
from natscron.config import load_settings
from natscron.server.run import run_server
settings = load_settings(overrides={'nats.url': sys.argv[1], 'service.instance_id': 'newer'})
sys.exit(asyncio.run(run_server(settings)))
"""


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def server(nats_server: NatsServer) -> AsyncIterator[Server]:
    async with Server(ServerOptions(nats_url=nats_server.url, instance_id="older")) as server:
        yield server


async def until_leading(server: Server, *, leading: bool) -> None:
    async with asyncio.timeout(15):
        while server.is_leader is not leading:  # noqa: ASYNC110 - leadership tells nobody
            await asyncio.sleep(0.02)


async def blocked(server: Server) -> str:
    async with asyncio.timeout(10):
        while (why := (await server.status())["blocked"]) is None:  # noqa: ASYNC110 - nor that
            await asyncio.sleep(0.02)
    return str(why)


async def test_a_job_of_a_later_version_is_left_to_an_instance_of_that_version(
    nats_server: NatsServer, client: Client, server: Server
) -> None:
    ticks = await client.subscribe("tick")
    later = await client.subscribe("later")
    await server.create_job(TICK)
    await ticks.next_msg(timeout=5)
    jobs = await client.jetstream().key_value("nats-cron-jobs")
    await jobs.put("later", LATER)
    await until_leading(server, leading=False)
    why = await blocked(server)
    assert "'later'" in why
    assert "99" in why
    assert "up to 2" in why
    assert [one["subject"] for one in await server.list_jobs({"state": "invalid"})] == ["later"]
    with pytest.raises(ValidationError, match="99"):
        await server.update_job({"subject": "later", "schedule": {"every": "1m"}})

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEWER_INSTANCE, nats_server.url, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        first = await later.next_msg(timeout=15)
        assert (first.headers or {})["Nats-Cron-Job"] == "later"
        status = await server.status()
        assert (status["leader"], status["is_leader"]) == ("newer", False)
    finally:
        process.terminate()
        await process.wait()
    # The handover lost no slot of the other job and made none twice.
    seen = []
    while ticks.pending_msgs:
        headers = (await ticks.next_msg()).headers or {}
        seen.append(datetime.fromisoformat(headers["Nats-Cron-Scheduled-At"]))
    steps = {later - earlier for earlier, later in pairwise(seen)}
    assert [step.total_seconds() for step in steps] == [0.1]

    await jobs.delete("later")
    await until_leading(server, leading=True)
    assert (await server.status())["blocked"] is None
    await ticks.next_msg(timeout=5)


PLAIN = Job(id="plain", schedule=ScheduleSpec(every="100ms"))
JITTERED = Job(id="plain", schedule=ScheduleSpec(every="100ms", jitter="10ms"))


async def test_an_instance_of_the_first_reader_leads_until_a_row_says_more(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row, "READER", 1)
    plain = await client.subscribe("plain")
    jobs = await client.jetstream().key_value("nats-cron-jobs")
    await jobs.put("plain", encode_row(PLAIN))
    await plain.next_msg(timeout=5)
    await jobs.put("plain", encode_row(JITTERED))
    await until_leading(server, leading=False)
    assert "up to 1" in await blocked(server)
    await jobs.put("plain", encode_row(PLAIN))
    await until_leading(server, leading=True)


async def test_a_job_whose_calendar_is_of_a_later_version_is_left_to_that_version(
    client: Client, server: Server
) -> None:
    await until_leading(server, leading=True)
    jobs = await client.jetstream().key_value("nats-cron-jobs")
    away = ScheduleSpec(every="100ms", except_=(ScheduleSpec(calendar="moons"),))
    await jobs.put("_cal.moons", b'{"moons":5,"natscron":{"reader":99}}')
    await jobs.put("plain", encode_row(Job(id="plain", schedule=away)))
    await until_leading(server, leading=False)
    assert "99" in await blocked(server)
    await jobs.put("_cal.moons", encode_calendar(Calendar(name="moons", spec=CalendarSpec(dates=("12-25",)))))
    await until_leading(server, leading=True)


@pytest.mark.parametrize("record", ["lease", "open row"])
async def test_a_state_record_of_a_later_version_blocks_until_it_is_gone(
    client: Client, server: Server, record: str
) -> None:
    await until_leading(server, leading=True)
    keys = StateKeys(NatsStorageOptions())
    subject = keys.lease if record == "lease" else keys.row("01J0000000000000000000000A")
    stream = client.jetstream()
    await stream.publish(subject, json.dumps({"reader": 99}).encode())
    await until_leading(server, leading=False)
    why = await blocked(server)
    assert "reader version 99" in why
    assert "up to 2" in why
    await stream.publish(subject, b"", headers={"KV-Operation": "DEL"})
    await until_leading(server, leading=True)


async def test_a_lease_that_nobody_can_read_is_not_overwritten_and_does_not_end_the_process(
    nats_server: NatsServer, client: Client
) -> None:
    async with Server(ServerOptions(nats_url=nats_server.url)):
        pass
    stream = client.jetstream()
    lease = StateKeys(NatsStorageOptions()).lease
    await stream.publish(lease, b"{oops")
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        assert "lease" in await blocked(server)
        assert (await stream.get_last_msg("KV_nats-cron-state", lease)).data == b"{oops"
        assert server.is_running
        assert await server.list_jobs() == []
