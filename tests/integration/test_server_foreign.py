"""While an instance of the Go version is alive on the account, ours does not lead and says which."""

import asyncio
import json
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig

from natscron.clock import SystemClock
from natscron.server import Server, ServerOptions
from natscron.server.foreign import GoWatch
from natscron.testing.nats import NatsServer
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio


class Time(SystemClock):
    """Trust time that is moved by hand."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def trust_s(self) -> float:
        return super().trust_s() + self.passed_s


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    yield connection
    await connection.close()


async def go_answers(client: Client) -> None:
    """Answer PING as the Go version does."""

    async def answer(message: Msg) -> None:
        body = {
            "name": "nats-cron",
            "id": "X" * 22,
            "version": "1.0.0",
            "metadata": {"instance_id": "go-1"},
            "type": "io.nats.micro.v1.ping_response",
        }
        await message.respond(json.dumps(body).encode())

    await client.subscribe("$SRV.PING.nats-cron", cb=answer)
    await client.flush()


async def test_nobody_there_means_free_to_lead(connection: Connection) -> None:
    watch = GoWatch(connection, SystemClock(), "nats-cron-jobs")
    await watch.look()
    assert watch.may_lead() is None
    assert watch.last_seen_ms is None


async def test_a_go_instance_that_answers_is_named(client: Client, connection: Connection) -> None:
    await go_answers(client)
    watch = GoWatch(connection, SystemClock(), "nats-cron-jobs")
    await watch.look()
    assert "go-1" in str(watch.may_lead())
    assert watch.last_seen_ms is not None


async def test_our_own_instances_are_not_taken_for_foreign_ones(
    nats_server: NatsServer, connection: Connection
) -> None:
    async with Server(ServerOptions(nats_url=nats_server.url, leader_election=False)):
        watch = GoWatch(connection, SystemClock(), "nats-cron-jobs")
        await watch.look()
        assert watch.may_lead() is None


async def test_a_leader_key_counts_while_it_is_renewed(client: Client, connection: Connection) -> None:
    bucket = await client.jetstream().create_key_value(KeyValueConfig(bucket="nats-cron-leader"))
    clock = Time()
    watch = GoWatch(connection, clock, "nats-cron-jobs")
    await bucket.put("leader", b"nats-cron")
    await watch.look()
    assert "leader key" in str(watch.may_lead())
    clock.passed_s += 30
    await bucket.put("leader", b"nats-cron")
    await watch.look()
    assert watch.may_lead() is not None
    # A bucket that somebody made without an age limit keeps the key of a leader long gone.
    clock.passed_s += 40
    await watch.look()
    assert watch.may_lead() is None
    await bucket.put("leader", b"nats-cron")
    await watch.look()
    assert watch.may_lead() is not None
    await bucket.delete("leader")
    await watch.look()
    assert watch.may_lead() is None


async def test_other_buckets_are_none_of_the_go_versions_business(client: Client, connection: Connection) -> None:
    await go_answers(client)
    watch = GoWatch(connection, SystemClock(), "mine-jobs")
    await watch.start()
    assert watch.may_lead() is None
    await watch.stop()


async def test_an_account_that_answers_nothing_leaves_the_last_finding(client: Client, connection: Connection) -> None:
    await go_answers(client)
    watch = GoWatch(connection, SystemClock(), "nats-cron-jobs")
    while watch.may_lead() is None:
        await watch.look()
    await connection.close()
    await watch.look()
    assert watch.may_lead() is not None


async def test_ours_leads_when_the_go_instance_is_gone(nats_server: NatsServer) -> None:
    go = await nats.connect(nats_server.url)
    await go_answers(go)
    ticks = await (listener := await nats.connect(nats_server.url)).subscribe("tick")
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job({"subject": "tick", "schedule": {"every": "100ms"}})
        status = await server.status()
        assert not status["is_leader"]
        assert "go-1" in status["blocked"]
        with pytest.raises(nats.errors.TimeoutError):
            await ticks.next_msg(timeout=0.5)
        await go.close()
        async with asyncio.timeout(10):
            await ticks.next_msg(timeout=10)
        assert (await server.status())["blocked"] is None
    await listener.close()
