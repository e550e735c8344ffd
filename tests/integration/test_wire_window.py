"""The publish window on a real server: every future ends."""

import asyncio

import pytest

from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.testing.nats import TcpProxy
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError, NoRespondersError
from natscron.wire.kv import bucket_config, cas_headers, is_wrong_sequence, subject_of
from natscron.wire.options import ConnectOptions
from natscron.wire.streams import ensure_stream
from natscron.wire.window import PublishWindow

pytestmark = pytest.mark.anyio


async def test_acknowledgements_carry_the_sequence_and_tell_duplicates(connection: Connection) -> None:
    await ensure_stream(connection, {"name": "W1", "subjects": ["w1.>"]})
    async with PublishWindow(connection) as window:
        first = await (await window.publish("w1.a", b"x", {"Nats-Msg-Id": "1"}))
        second = await (await window.publish("w1.a", b"x", {"Nats-Msg-Id": "1"}))
    assert (first.stream, first.seq, first.duplicate) == ("W1", 1, False)
    assert (second.seq, second.duplicate) == (1, True)


async def test_a_refusal_of_the_server_ends_the_future_with_its_error(connection: Connection) -> None:
    await ensure_stream(connection, bucket_config("w2"))
    async with PublishWindow(connection) as window:
        subject = subject_of("w2", "k")
        await (await window.publish(subject, b"1", cas_headers(0)))
        with pytest.raises(ApiError) as caught:
            await (await window.publish(subject, b"2", cas_headers(0)))
        assert is_wrong_sequence(caught.value)
        assert len(window) == 0


async def test_a_subject_without_a_stream_ends_the_future(connection: Connection) -> None:
    async with PublishWindow(connection) as window:
        with pytest.raises(NoRespondersError):
            await (await window.publish("w3.nobody", b""))


async def test_an_acknowledgement_that_never_comes_is_uncertain(connection: Connection) -> None:
    await connection.subscribe("w4.silent", lambda _: None)
    async with PublishWindow(connection, timeout_s=0.05) as window:
        futures = [await window.publish("w4.silent", b"") for _ in range(3)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUncertainError] * 3
        assert len(window) == 0


async def test_a_full_window_waits_and_loses_nothing(connection: Connection) -> None:
    await ensure_stream(connection, {"name": "W5", "subjects": ["w5.>"]})
    async with PublishWindow(connection, size=7) as window:
        futures = []
        for number in range(500):
            futures.append(await window.publish("w5.a", b"%d" % number))
            assert len(window) <= 7
        acks = await asyncio.gather(*futures)
    assert [ack.seq for ack in acks] == list(range(1, 501))


async def test_a_cut_link_ends_what_is_in_flight_and_refuses_the_rest(proxy: TcpProxy) -> None:
    connection = await Connection.connect(ConnectOptions(url=proxy.url))
    await connection.subscribe("w6.silent", lambda _: None)
    async with PublishWindow(connection, timeout_s=30) as window:
        future = await window.publish("w6.silent", b"")
        await connection.flush()
        await proxy.cut()
        with pytest.raises(StorageUncertainError, match="lost"):
            await asyncio.wait_for(future, 5)
        with pytest.raises(StorageUnavailableError):
            await window.publish("w6.silent", b"")
        assert len(window) == 0
    await connection.close()


async def test_closing_ends_what_is_in_flight(connection: Connection) -> None:
    await connection.subscribe("w7.silent", lambda _: None)
    window = PublishWindow(connection)
    future = await window.publish("w7.silent", b"")
    await window.close()
    with pytest.raises(StorageUncertainError):
        await future
