"""The watch and the bounded read on a real server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from natscron.errors import StorageUnavailableError
from natscron.testing.nats import NatsCluster, NatsServer, TcpProxy
from natscron.wire.connection import Connection
from natscron.wire.consumer import Start, Watch, parse_ack
from natscron.wire.kv import bucket_config, bucket_filter, get_last, last_seq, purge, subject_of
from natscron.wire.options import ConnectOptions
from natscron.wire.reading import read_range
from natscron.wire.streams import ensure_stream, pick_replicas
from natscron.wire.window import PublishWindow

pytestmark = pytest.mark.anyio


class Copy:
    """Holds what a watch handed over."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.order: list[bytes] = []
        self.resets = 0
        self.seq = 0
        self.stamps: list[int] = []
        self._changed = asyncio.Event()

    def on_reset(self) -> None:
        self.resets += 1
        self.rows.clear()
        self._changed.set()

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        assert headers is None or isinstance(headers, dict)
        assert seq > 0
        self.rows[subject] = data
        self.order.append(data)
        self.stamps.append(timestamp_ns)

    def on_complete(self, seq: int) -> None:
        self.seq = seq
        self._changed.set()

    async def reaches(self, seq: int, resets: int = 0, within_s: float = 10) -> None:
        async with asyncio.timeout(within_s):
            while self.seq < seq or self.resets < resets:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def bucket(connection: Connection, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    name = f"b{abs(hash(request.node.name))}"
    await ensure_stream(connection, bucket_config(name))
    yield name
    info = await connection.js_request(f"STREAM.INFO.KV_{name}")
    async with asyncio.timeout(5):
        while info["state"]["consumer_count"]:
            await connection.flush()
            info = await connection.js_request(f"STREAM.INFO.KV_{name}")
    await connection.js_request(f"STREAM.DELETE.KV_{name}")


async def put(connection: Connection, bucket: str, key: str, value: bytes) -> int:
    async with PublishWindow(connection) as window:
        ack = await (await window.publish(subject_of(bucket, key), value))
        return ack.seq


def watch(connection: Connection, bucket: str, copy: Copy, start: Start | int = Start.LAST_PER_SUBJECT) -> Watch:
    return Watch(connection, f"KV_{bucket}", [bucket_filter(bucket)], copy, start)


async def test_an_empty_bucket_is_complete_at_once(connection: Connection, bucket: str) -> None:
    copy = Copy()
    one = watch(connection, bucket, copy)
    await asyncio.wait_for(one.ready(), 2)
    assert (copy.resets, copy.seq, copy.rows) == (1, 0, {})
    await one.close()


async def test_a_watch_hands_over_the_last_values_and_then_each_change(connection: Connection, bucket: str) -> None:
    for value in (b"1", b"2"):
        await put(connection, bucket, "a", value)
    await put(connection, bucket, "b", b"3")
    copy = Copy()
    one = watch(connection, bucket, copy)
    await one.ready()
    assert (copy.resets, copy.seq, copy.order) == (1, 3, [b"2", b"3"])
    await put(connection, bucket, "a", b"4")
    await copy.reaches(4)
    assert copy.rows == {subject_of(bucket, "a"): b"4", subject_of(bucket, "b"): b"3"}
    entry = await get_last(connection, f"KV_{bucket}", subject_of(bucket, "a"))
    assert entry is not None
    assert (entry.data, entry.seq, entry.timestamp_ns) == (b"4", 4, copy.stamps[-1])
    await one.close()


async def test_a_set_whose_messages_were_purged_is_complete(connection: Connection, bucket: str) -> None:
    await put(connection, bucket, "a", b"1")
    assert await purge(connection, f"KV_{bucket}", bucket_filter(bucket)) == 1
    copy = Copy()
    one = watch(connection, bucket, copy)
    await one.ready()
    assert (copy.seq, copy.rows) == (1, {})
    await one.close()


async def test_what_does_not_match_moves_the_watch_on_with_the_heartbeat(connection: Connection, bucket: str) -> None:
    copy = Copy()
    one = Watch(connection, f"KV_{bucket}", [bucket_filter(bucket, "a"), bucket_filter(bucket, "b")], copy)
    await one.ready()
    await put(connection, bucket, "c", b"1")
    await copy.reaches(1)
    assert copy.rows == {}
    await one.close()


async def test_renewing_begins_a_fresh_set(connection: Connection, bucket: str) -> None:
    await put(connection, bucket, "a", b"1")
    copy = Copy()
    one = watch(connection, bucket, copy)
    await one.ready()
    one.renew()
    await copy.reaches(1, resets=2)
    assert copy.order == [b"1", b"1"]
    await one.close()


async def test_a_callback_that_raises_does_not_stop_the_watch(connection: Connection, bucket: str) -> None:
    class Fragile(Copy):
        def on_message(
            self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
        ) -> None:
            if data == b"bad":
                raise ZeroDivisionError
            super().on_message(subject, headers, data, seq, timestamp_ns)

    copy = Fragile()
    one = watch(connection, bucket, copy)
    await one.ready()
    await put(connection, bucket, "a", b"bad")
    await put(connection, bucket, "b", b"good")
    await copy.reaches(2)
    assert copy.order == [b"good"]
    await one.close()


async def test_a_watch_survives_the_kill_and_restart_of_the_server(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    await ensure_stream(connection, bucket_config("b"))
    await put(connection, "b", "a", b"1")
    copy = Copy()
    one = watch(connection, "b", copy)
    await one.ready()
    nats_server.kill()
    await asyncio.to_thread(nats_server.start)
    await copy.reaches(1, resets=2, within_s=1.5)
    await put(connection, "b", "a", b"2")
    await copy.reaches(2)
    await one.close()
    await connection.close()


async def test_a_deaf_watch_is_noticed_and_made_anew(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    await ensure_stream(connection, bucket_config("b"))
    copy = Copy()
    one = watch(connection, "b", copy)
    await one.ready()
    edition = one._edition
    assert edition is not None
    await connection.js_request(f"CONSUMER.DELETE.KV_b.{edition.name}")
    await put(connection, "b", "a", b"1")
    await copy.reaches(1, resets=2, within_s=3)
    await one.close()
    await connection.close()


async def test_a_gap_in_what_was_delivered_makes_the_watch_anew(connection: Connection, bucket: str) -> None:
    copy = Copy()
    one = watch(connection, bucket, copy)
    await one.ready()
    assert one._edition is not None
    one._edition.consumer_seq += 1
    await put(connection, bucket, "a", b"1")
    await copy.reaches(1, resets=2)
    assert copy.rows == {subject_of(bucket, "a"): b"1"}
    await one.close()


async def test_a_watch_of_a_stream_that_is_not_there_waits_for_it(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    copy = Copy()
    one = watch(connection, "later", copy)
    await ensure_stream(connection, bucket_config("later"))
    await asyncio.wait_for(one.ready(), 5)
    await one.close()
    await connection.close()


async def test_a_new_watch_sees_only_what_comes_and_none_twice_over_a_cut(
    proxy: TcpProxy, nats_server: NatsServer
) -> None:
    writer = await Connection.connect(ConnectOptions(url=nats_server.url))
    reader = await Connection.connect(ConnectOptions(url=proxy.url))
    await ensure_stream(writer, {"name": "LOG", "subjects": ["log.>"]})
    async with PublishWindow(writer) as window:

        async def log(value: bytes) -> None:
            await (await window.publish("log.x", value))

        await log(b"old")
        copy = Copy()
        one = Watch(reader, "LOG", ["log.>"], copy, Start.NEW)
        await one.ready()
        await log(b"1")
        await copy.reaches(2)
        await proxy.cut()
        await log(b"2")
        await log(b"3")
        await proxy.mend()
        await copy.reaches(4)
        await log(b"4")
        await copy.reaches(5)
    assert (copy.order, copy.resets) == ([b"1", b"2", b"3", b"4"], 0)
    await one.close()
    await reader.close()
    await writer.close()


async def test_a_range_is_read_whole_and_its_consumer_is_gone_afterwards(connection: Connection, bucket: str) -> None:
    for number in range(10):
        await put(connection, bucket, f"k.{number}", b"%d" % number)
    stream = f"KV_{bucket}"
    entries = await read_range(connection, stream, [bucket_filter(bucket, "k.*")], 3, 7)
    assert [(entry.seq, entry.data) for entry in entries] == [(n, b"%d" % (n - 1)) for n in range(3, 8)]
    assert len(await read_range(connection, stream, [])) == 10
    assert await read_range(connection, stream, [bucket_filter(bucket, "none")]) == []
    assert await read_range(connection, stream, [], 11) == []


async def test_a_range_that_the_stream_has_not_reached_is_not_whole(connection: Connection, bucket: str) -> None:
    await put(connection, bucket, "a", b"1")
    one, two = await asyncio.gather(
        read_range(connection, f"KV_{bucket}", [], 1, 1),
        read_range(connection, "none", [], timeout_s=1),
        return_exceptions=True,
    )
    assert not isinstance(one, BaseException)
    assert len(one) == 1
    assert isinstance(two, StorageUnavailableError)


async def test_twenty_thousand_rows_are_handed_over_in_order(connection: Connection, bucket: str) -> None:
    async with PublishWindow(connection) as window:
        for number in range(20_000):
            await window.publish(subject_of(bucket, f"k.{number}"), b"%d" % number)
        await window.settle()
    copy = Copy()
    one = watch(connection, bucket, copy)
    async with asyncio.timeout(5):
        await one.ready()
    assert copy.order == [b"%d" % number for number in range(20_000)]
    assert await last_seq(connection, f"KV_{bucket}") == copy.seq == 20_000
    await one.close()


def test_acknowledgement_subjects_are_read_in_both_forms() -> None:
    assert parse_ack("$JS.ACK.S.C.1.42.7.1700000000000000001.3") == (42, 7, 1700000000000000001, 3)
    assert parse_ack("$JS.ACK.hub.AHASH.S.C.1.42.7.17.3") == (42, 7, 17, 3)
    assert parse_ack("$JS.ACK.hub.AHASH.S.C.1.42.7.17.3.rnd") == (42, 7, 17, 3)
    with pytest.raises(ValueError, match="not an acknowledgement"):
        parse_ack("_INBOX.x")


async def test_in_a_cluster_eight_at_once_make_one_bucket_with_three_replicas(shared_cluster: NatsCluster) -> None:
    connections = [await Connection.connect(ConnectOptions(url=shared_cluster.url)) for _ in range(8)]
    try:
        config = bucket_config("shared", replicas=pick_replicas(connections[0]))
        infos: list[dict[str, Any]] = await asyncio.gather(*(ensure_stream(one, config) for one in connections))
        assert {info["config"]["num_replicas"] for info in infos} == {3}
        assert all(info["cluster"]["leader"] for info in infos)
        again = await ensure_stream(connections[0], bucket_config("shared", replicas=1))
        assert again["config"]["num_replicas"] == 3
        copy = Copy()
        one = watch(connections[1], "shared", copy)
        await one.ready()
        seq = await put(connections[0], "shared", "a", b"1")
        await copy.reaches(seq)
        found = await read_range(connections[2], "KV_shared", [bucket_filter("shared", "a")], 1, seq)
        assert [entry.data for entry in found] == [b"1"]
        assert await read_range(connections[2], "KV_shared", [bucket_filter("shared", "none")], 1, seq) == []
        await one.close()
    finally:
        for connection in connections:
            await connection.close()


async def test_when_the_node_that_hosts_the_watch_dies_the_watch_is_made_anew_on_another(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        connection = await Connection.connect(ConnectOptions(url=cluster.url))
        await ensure_stream(connection, bucket_config("b", replicas=3))
        # The watch alone shall suffer: while the node that leads the cluster or the stream is elected nothing works.
        spared = cluster.meta_leader
        victim = next(name for name in ("n0", "n1", "n2") if name != spared)
        await connection.close()
        connection = await Connection.connect(ConnectOptions(url=cluster.named(spared).url))
        await move_leader(connection, spared)
        await put(connection, "b", "a", b"1")
        copy = Copy()
        one = watch(connection, "b", copy)
        await one.ready()
        while await host_of(connection, one) != victim:
            resets = copy.resets
            one.renew()
            await copy.reaches(1, resets=resets + 1)
        resets = copy.resets
        cluster.named(victim).kill()
        await copy.reaches(1, resets=resets + 1)
        await put(connection, "b", "a", b"2")
        await copy.reaches(2)
        await one.close()
        await connection.close()


async def move_leader(connection: Connection, name: str) -> None:
    async with asyncio.timeout(10):
        while True:
            info = await ensure_stream(connection, bucket_config("b", replicas=3))
            if info["cluster"]["leader"] == name:
                return
            await connection.js_request("STREAM.LEADER.STEPDOWN.KV_b", {"placement": {"preferred": name}})


async def host_of(connection: Connection, one: Watch) -> str:
    edition = one._edition
    assert edition is not None
    info = await connection.js_request(f"CONSUMER.INFO.KV_b.{edition.name}")
    return str(info["cluster"]["leader"])


async def test_many_renewals_leave_no_consumer_behind(connection: Connection, bucket: str) -> None:
    copy = Copy()
    one = watch(connection, bucket, copy)
    await one.ready()
    for number in range(2, 22):
        one.renew()
        await copy.reaches(0, resets=number)
    await one.close()
    info = await connection.js_request(f"STREAM.INFO.KV_{bucket}")
    assert info["state"]["consumer_count"] == 0


async def test_eight_at_once_make_one_bucket_on_a_single_server(nats_server: NatsServer) -> None:
    connection = await Connection.connect(ConnectOptions(url=nats_server.url))
    infos = await asyncio.gather(*(ensure_stream(connection, bucket_config("b", replicas=3)) for _ in range(8)))
    assert {info["config"]["num_replicas"] for info in infos} == {1}
    await connection.close()


async def test_a_server_without_jetstream_is_named_as_the_phase_that_was_waited_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with NatsServer(tmp_path_factory.mktemp("plain"), jetstream=False) as server:
        connection = await Connection.connect(ConnectOptions(url=server.url))
        with pytest.raises(StorageUnavailableError, match="JetStream answers"):
            await ensure_stream(connection, bucket_config("b"), phase_s=0.2)
        await connection.close()
