"""The server is killed and comes back; its nodes die: what was acknowledged fires, and doubles are known as such."""

import asyncio
import contextlib
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from natscron.clock import SystemClock
from natscron.errors import StorageError, StorageUnavailableError, StorageUncertainError
from natscron.messages import At, Fired, MessageScheduler, read_fired
from natscron.testing.nats import NatsCluster, NatsServer, TcpProxy
from natscron.wire.connection import Connection
from natscron.wire.consumer import Start, Watch
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

FAR = dt.timedelta(hours=1)
WAIT_S = 30.0


def instant() -> dt.datetime:
    return dt.datetime.fromtimestamp(SystemClock().now_s(), dt.UTC)


class Received(NamedTuple):
    """A message of the stream as a worker has it."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class Arrivals:
    """What comes to a target, through restarts of the server."""

    def __init__(self) -> None:
        self.found: list[Fired] = []
        self.bodies: list[bytes] = []
        self.changed = asyncio.Event()

    def on_reset(self) -> None:
        pass

    def on_complete(self, seq: int) -> None:
        pass

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        reply = f"$JS.ACK.ORDERS.w.1.{seq}.1.{timestamp_ns}.0"
        self.found.append(read_fired(Received(subject, reply, data, headers)))
        self.bodies.append(data)
        self.changed.set()

    async def until(self, count: int) -> None:
        """So many have come, doubles not counted."""
        async with asyncio.timeout(WAIT_S):
            while len({one.key for one in self.found}) < count:
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def watching(url: str, target: str) -> AsyncIterator[Arrivals]:
    connection = await Connection.connect(ConnectOptions(url=url))
    arrivals = Arrivals()
    watch = Watch(connection, "ORDERS", [target], arrivals, Start.ALL)
    try:
        yield arrivals
    finally:
        await watch.close()
        await connection.close()


async def restart(server: NatsServer) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def scheduled(schedules: MessageScheduler) -> None:
    """Until the server answers again: its clients are not told when a stream is ready."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(StorageError):
                await schedules.check_stream()
                return
            await asyncio.sleep(0.05)


COUNT = 400


async def test_what_was_acknowledged_before_a_kill_fires_once_also_if_it_was_due_meanwhile(
    nats_server: NatsServer,
) -> None:
    async with MessageScheduler(nats_server.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        due = instant() + dt.timedelta(seconds=1.5)
        result = await schedules.at_many(("orders", due, b"%d" % n) for n in range(COUNT))
        assert result.scheduled == COUNT
        await asyncio.to_thread(nats_server.kill)
        await asyncio.sleep(max(0.0, (due - instant()).total_seconds()))  # the clock is what has to go on
        await asyncio.to_thread(nats_server.start)
        async with watching(nats_server.url, "orders") as arrivals:
            await arrivals.until(COUNT)
            assert sorted(map(int, arrivals.bodies)) == list(range(COUNT))
            assert all(one.due is not None and one.due >= due for one in arrivals.found)
        assert [one async for one in schedules.list()] == []


async def test_a_kill_in_the_middle_of_firing_loses_nothing_and_doubles_have_the_same_key(
    nats_server: NatsServer,
) -> None:
    async with MessageScheduler(nats_server.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        many = 20 * COUNT
        due = instant() + dt.timedelta(seconds=3)
        result = await schedules.at_many(("orders", due, b"%d" % n) for n in range(many))
        assert result.scheduled == many
        async with watching(nats_server.url, "orders") as arrivals:
            await arrivals.until(1)
            await restart(nats_server)
            await arrivals.until(many)
        counts = Counter(arrivals.bodies)
        assert set(counts) == {b"%d" % n for n in range(many)}
        doubled = [body for body, count in counts.items() if count > 1]
        for body in doubled:
            keys = {one.key for one, data in zip(arrivals.found, arrivals.bodies, strict=True) if data == body}
            assert len(keys) == 1
        print(f"{len(doubled)} of {many} came twice")


async def test_recurring_messages_go_on_after_a_kill_and_can_be_cancelled(nats_server: NatsServer) -> None:
    async with MessageScheduler(nats_server.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        handle = await schedules.every("orders", "1s", b"tick", id="ticks")
        async with watching(nats_server.url, "orders") as arrivals:
            await arrivals.until(1)
            await restart(nats_server)
            before = len({one.key for one in arrivals.found})
            await arrivals.until(before + 2)
            assert {one.revision for one in arrivals.found} == {handle.revision}
            assert all(one.due is not None and one.due.microsecond == 0 for one in arrivals.found)
        await scheduled(schedules)
        assert await handle.cancel()
        assert await handle.get() is None


async def test_calls_during_an_outage_fail_at_once_and_after_it_the_same_id_stands_once(
    nats_server: NatsServer,
) -> None:
    async with MessageScheduler(nats_server.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        first = await schedules.at("orders", FAR, b"1", id="a")
        await asyncio.to_thread(nats_server.kill)
        for call in (
            schedules.at("orders", FAR, b"2", id="a"),
            first.cancel(),
            first.get(),
            first.publish_now(),
            schedules.check_stream(),
        ):
            with pytest.raises((StorageUnavailableError, StorageUncertainError)):
                await call
        await asyncio.to_thread(nats_server.start)
        await scheduled(schedules)
        second = await schedules.at("orders", FAR, b"2", id="a")
        assert second.replaced
        assert [(one.id, one.body) async for one in schedules.list()] == [("a", b"2")]


async def test_an_answer_that_is_lost_is_uncertain_and_the_same_id_again_makes_it_one(proxy: TcpProxy) -> None:
    async with MessageScheduler(proxy.url, "ORDERS", timeout="500ms") as schedules:
        await schedules.ensure_stream(["orders"])
        await schedules.at("orders", FAR, b"0", id="a")
        proxy.freeze()
        with pytest.raises(StorageUncertainError) as caught:
            await schedules.at("orders", FAR, b"1", id="a")
        assert caught.value.may_have_happened
        await proxy.mend()
        await scheduled(schedules)
        await schedules.at("orders", FAR, b"1", id="a")
        assert [(one.id, one.body) async for one in schedules.list()] == [("a", b"1")]


@pytest.mark.soak
async def test_the_node_that_leads_the_stream_is_killed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Its successor is elected within 4 to 9 seconds, and what was due meanwhile fires then."""
    with NatsCluster(tmp_path) as cluster:
        async with MessageScheduler(cluster.url, "ORDERS") as schedules:
            await schedules.ensure_stream(["orders"])
            due = instant() + dt.timedelta(seconds=2)
            result = await schedules.at_many(("orders", due, b"%d" % n) for n in range(COUNT))
            assert result.scheduled == COUNT
            connection = await Connection.connect(ConnectOptions(url=cluster.url))
            info = await connection.js_request("STREAM.INFO.ORDERS")
            await connection.close()
            await asyncio.to_thread(cluster.named(info["cluster"]["leader"]).kill)
            survivors = ",".join(server.url for server in cluster.servers if server.running)
            async with watching(survivors, "orders") as arrivals:
                await arrivals.until(COUNT)
                assert sorted(map(int, arrivals.bodies)) == list(range(COUNT))
            await scheduled(schedules)
            handle = await schedules.at("orders", FAR, id="a")
            assert await handle.cancel()


@pytest.mark.soak
async def test_many_messages_are_scheduled_across_the_death_of_the_node_that_leads(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        async with MessageScheduler(cluster.url, "ORDERS") as schedules:
            await schedules.ensure_stream(["orders"])
            connection = await Connection.connect(ConnectOptions(url=cluster.url))
            info = await connection.js_request("STREAM.INFO.ORDERS")
            await connection.close()
            leader = cluster.named(info["cluster"]["leader"])

            async def items() -> AsyncIterator[At]:
                for n in range(6_000):
                    if n == 2_000:
                        await asyncio.to_thread(leader.kill)
                    yield At("orders", FAR, b"%d" % n)

            outcomes = [one async for one in schedules.at_many(items(), window=500)]
            unsure = [one for one in outcomes if one.error is not None]
            assert all(isinstance(one.error, StorageUncertainError) for one in unsure)
            print(f"{len(unsure)} of {len(outcomes)} uncertain")
            await scheduled(schedules)
            stored = {one.body async for one in schedules.list()}
            assert {one.item.body for one in outcomes if one.handle is not None} <= stored
            assert len(outcomes) == 6_000
            assert len(unsure) <= 501
