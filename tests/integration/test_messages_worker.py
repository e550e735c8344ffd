"""What workers do: take, drop, put off."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.support.messages import World, world_on

if TYPE_CHECKING:
    from natscron.wire.failures import Message

from natscron.errors import InvalidSubjectError, ValidationError
from natscron.messages import Fired
from natscron.testing.nats import NatsServer
from natscron.wire.consumer import parse_ack

pytestmark = pytest.mark.anyio

FAR = dt.timedelta(hours=1)


@pytest.fixture
async def world(shared_nats: NatsServer) -> AsyncIterator[World]:
    async with world_on(shared_nats.url) as world:
        yield world


async def pending(world: World, name: str = "orders") -> int:
    """Messages that the worker's consumer has handed out and that nobody has acknowledged."""
    await world.nc.flush()
    info = await (await world.worker(name)).consumer_info()
    return int(info.num_ack_pending or 0)


async def test_a_stale_message_is_acknowledged_and_dropped(world: World) -> None:
    handle = await world.schedules.at(world.target(), "in 50s", b"old", id="a")
    assert await handle.cancel()
    late = {"Nats-Scheduler": handle.subject, "Nats-Schedule-Next": "purge"}
    await world.js.publish(world.target(), b"old", headers=late)
    message = await world.receive()
    assert (await world.schedules.inspect(message)).stale
    assert await pending(world) == 1
    assert await world.schedules.receive(message) is None
    assert await pending(world) == 0


async def test_a_stale_message_without_a_place_in_a_stream_is_known_too(world: World) -> None:
    """Republished or handed on over core NATS: there is no sequence to compare."""
    handle = await world.schedules.at(world.target(), "in 50s", b"old", id="a")
    await handle.cancel()
    heard = await world.nc.subscribe("core." + world.name)
    late = {"Nats-Scheduler": handle.subject, "Nats-Schedule-Next": "purge"}
    await world.nc.publish("core." + world.name, b"old", headers=late)
    assert await world.schedules.receive(await heard.next_msg(timeout=5)) is None


async def test_an_ordinary_message_costs_no_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.js.publish(world.target(), b"x")
    message = await world.receive()
    monkeypatch.setattr(world.schedules._link, "newest", None)
    fired = await world.schedules.receive(message)
    assert fired == Fired(sequence=message.metadata.sequence.stream)
    assert await pending(world) == 1


async def test_a_message_is_put_off_with_its_attempt_counted_and_its_due_time_kept(world: World) -> None:
    await world.schedules.at(world.target(), "in 1ms", b"work", headers={"X": "1"}, ttl="1h", id="order-1")
    first = await world.receive()
    one = await world.schedules.receive(first)
    assert one is not None
    handle = await world.schedules.retry_later(first, "10ms")
    assert await pending(world) == 0
    assert handle.target == world.target()
    second = await world.receive()
    two = await world.schedules.receive(second)
    assert two is not None
    assert (two.attempt, two.due, two.id) == (2, one.due, handle.id)
    assert second.data == b"work"
    assert second.headers is not None
    assert (second.headers["X"], second.headers["Nats-TTL"]) == ("1", "3600s")
    stored = await (await world.schedules.retry_later(second, FAR)).get()
    assert stored is not None
    assert (stored.attempt, stored.headers) == (3, {"X": "1"})


async def test_an_ordinary_message_can_be_put_off_too(world: World) -> None:
    await world.js.publish(world.target(), b"x", headers={"X": "1", "Nats-Msg-Id": "7"})
    await world.schedules.retry_later(await world.receive(), dt.timedelta(milliseconds=1))
    message = await world.receive()
    fired = await world.schedules.receive(message)
    assert fired is not None
    assert (fired.attempt, fired.due) == (2, None)
    assert message.headers is not None
    assert message.headers["X"] == "1"
    assert "Nats-Msg-Id" not in message.headers


async def test_a_crash_before_the_acknowledgement_does_not_add_a_second_copy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.js.publish(world.target(), b"x")
    worker = await world.js.pull_subscribe(world.target(), durable="w", config=None, stream=world.name.upper())
    [message] = await worker.fetch(1, timeout=10)

    async def crash(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as between:
        between.setattr("natscron.messages.worker.acknowledge", crash)
        with pytest.raises(asyncio.CancelledError):
            await world.schedules.retry_later(message, FAR)
    await message.nak()
    [again] = await worker.fetch(1, timeout=10)
    assert again.metadata.sequence.stream == message.metadata.sequence.stream
    handle = await world.schedules.retry_later(again, FAR)
    assert handle.replaced
    assert [one.id async for one in world.schedules.list()] == [handle.id]
    assert (await worker.consumer_info()).num_ack_pending == 0


async def test_our_own_connections_message_can_be_put_off_and_dropped(world: World) -> None:
    """A message that has no methods of its own, only subject, headers, body and reply."""
    await world.js.publish(world.target(), b"x")
    arrived: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    inbox = world.connection.new_inbox()
    await world.connection.subscribe(inbox, lambda message: None if arrived.done() else arrived.set_result(message))
    stream = world.name.upper()
    await world.worker()
    await world.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.orders", b"1", reply=inbox)
    client = await arrived

    class Bare:
        subject, headers, data, reply = client.subject, client.headers, client.data, client.reply

    assert parse_ack(Bare.reply)[0] == 1
    await world.schedules.retry_later(Bare(), FAR)
    assert await pending(world) == 0


async def test_a_message_whose_subject_is_not_the_streams_stays_unacknowledged(world: World) -> None:
    await world.schedules.at(world.target(), "in 1ms", b"x")
    message = await world.receive()
    message.subject = "elsewhere"
    with pytest.raises(InvalidSubjectError, match="10190"):
        await world.schedules.retry_later(message, "1s")
    with pytest.raises(ValidationError):
        await world.schedules.retry_later(message, "a while")
    assert await pending(world) == 1
