"""Messages that the server holds back, repeats and samples."""

import datetime as dt
from collections.abc import AsyncIterator

import pytest
from tests.support.messages import World, world_on

from natscron.clock import SystemClock
from natscron.errors import (
    ConfigError,
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    InvalidSubjectError,
    LimitExceededError,
    StorageNotInitializedError,
    ValidationError,
)
from natscron.messages import MessageScheduler, Publication
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(shared_nats: NatsServer) -> AsyncIterator[World]:
    async with world_on(shared_nats.url) as world:
        yield world


def now() -> dt.datetime:
    return dt.datetime.fromtimestamp(SystemClock().now_s(), dt.UTC)


async def test_a_message_comes_once_when_it_is_due_and_leaves_nothing_behind(world: World) -> None:
    due = now() + dt.timedelta(milliseconds=300)
    handle = await world.schedules.at(world.target(), due, b"order 1", headers={"X-Team": "billing"}, ttl="5m")
    assert await world.subjects() == {handle.subject: 1}
    message = await world.receive()
    assert now() >= due
    assert message.data == b"order 1"
    assert message.headers is not None
    assert message.headers["X-Team"] == "billing"
    assert message.headers["Nats-TTL"] == "300s"
    fired = await world.schedules.receive(message)
    assert fired is not None
    assert (fired.id, fired.revision, fired.attempt) == (handle.id, handle.revision, 1)
    assert fired.due is not None
    assert dt.timedelta(0) <= fired.due - due < dt.timedelta(milliseconds=1)
    assert await world.subjects() == {}
    assert await world.schedules.get(handle) is None
    assert await handle.next_fire() is None


async def test_an_instant_that_is_over_fires_at_once_unless_that_is_refused(world: World) -> None:
    await world.schedules.at(world.target(), "2020-01-01T00:00:00Z", "late")
    assert (await world.receive()).data == b"late"
    with pytest.raises(InvalidScheduleTimeError, match="is over"):
        await world.schedules.at(world.target(), "2020-01-01T00:00:00Z", "late", past="refuse")
    assert await world.subjects() == {}


async def test_an_interval_fires_again_and_again_and_says_when_next(world: World) -> None:
    handle = await world.schedules.every(world.target(), "1s", b"tick", id="ticks")
    first, second = await world.receive(), await world.receive()
    one, two = await world.schedules.receive(first), await world.schedules.receive(second)
    assert one is not None
    assert two is not None
    assert one.next_fire == two.due
    assert two.due is not None
    assert one.due == two.due - dt.timedelta(seconds=1)
    stored = await handle.get()
    assert stored is not None
    assert (stored.kind, stored.text, stored.id) == ("every", "@every 1s", "ticks")
    assert stored.next_fire is not None
    assert stored.next_fire.microsecond == 0
    assert await handle.cancel()


async def test_cron_fields_and_aliases_fire_by_the_servers_clock(world: World) -> None:
    every_second = await world.schedules.cron(world.target(), "* * * * * *", b"tick")
    fired = await world.schedules.receive(await world.receive())
    assert fired is not None
    assert fired.due is not None
    assert fired.next_fire == fired.due + dt.timedelta(seconds=1)
    await every_second.cancel()
    daily = await world.schedules.cron(world.target("reports"), "30 9 * * mon-fri", tz="America/New_York", id="d")
    stored = await daily.get()
    assert stored is not None
    assert (stored.text, stored.tz, stored.kind) == ("0 30 9 * * 1-5", "America/New_York", "cron")
    assert stored.next_fire is not None
    assert stored.next_fire > now()
    hourly = await world.schedules.cron(world.target("reports"), "@hourly", id="h")
    assert hourly.warnings == ()
    night = await world.schedules.cron(world.target("reports"), "0 30 2 * * *", tz="Europe/Berlin", id="n")
    assert "clock change" in night.warnings[0]


async def test_a_sample_is_the_last_message_of_its_source(world: World) -> None:
    await world.js.publish(world.target("in"), b"21 C", headers={"Sensor": "7"})
    handle = await world.schedules.sample(world.target("out"), source=world.target("in"), every="1s")
    message = await world.receive("out")
    assert message.data == b"21 C"
    assert message.headers is not None
    assert message.headers["Sensor"] == "7"
    fired = await world.schedules.receive(message)
    assert fired is not None
    assert (fired.id, fired.empty_sample) == (handle.id, False)
    assert fired.next_fire is not None
    assert fired.due == fired.next_fire - dt.timedelta(seconds=1)
    stored = await handle.get()
    assert stored is not None
    assert (stored.kind, stored.source) == ("sample", world.target("in"))
    await handle.cancel()


async def test_a_sample_of_a_source_without_messages_says_that_it_is_empty(world: World) -> None:
    handle = await world.schedules.sample(world.target("out"), source=world.target("in"), cron="* * * * * *")
    fired = await world.schedules.receive(await world.receive("out"))
    assert fired is not None
    assert fired.empty_sample
    await handle.cancel()


async def test_a_rollup_keeps_only_the_newest_message_on_the_target(world: World) -> None:
    for number in range(3):
        await world.js.publish(world.target(), b"%d" % number)
    assert [message.data for message in await world.drain("orders", 3)] == [b"0", b"1", b"2"]
    await world.schedules.at(world.target(), "in 1ms", "newest", rollup=True)
    assert (await world.receive()).data == b"newest"
    stored = await world.js.get_last_msg(world.name.upper(), world.target())
    assert stored.data == b"newest"
    assert await world.count("orders") == 1


async def test_a_plain_subscription_does_not_see_what_the_server_generates(world: World) -> None:
    """It is stored, not published: workers need a consumer."""
    heard = await world.nc.subscribe(world.target())
    await world.schedules.at(world.target(), "in 1ms", b"x")
    assert (await world.receive()).data == b"x"
    await world.nc.flush()
    assert heard.pending_msgs == 0


async def test_schedules_are_listed_by_target_in_the_order_of_writing(world: World) -> None:
    schedules, far = world.schedules, dt.timedelta(hours=1)
    await schedules.at(world.target("a"), far, b"1", id="one")
    await schedules.every(world.target("a.b"), "1h", b"2", id="two")
    await schedules.at(world.target("c"), far, b"3", id="three", headers={"X": "1"}, rollup=True, ttl=60)
    assert [(one.id, one.kind, one.body) async for one in schedules.list()] == [
        ("one", "at", b"1"),
        ("two", "every", b"2"),
        ("three", "at", b"3"),
    ]
    assert [one.id async for one in schedules.list(world.target("a"))] == ["one"]
    assert [one.id async for one in schedules.list(world.target("a.*"))] == ["two"]
    assert [one.id async for one in schedules.list(world.target(">"))] == ["one", "two", "three"]
    [three] = [one async for one in schedules.list(world.target("c"))]
    assert (three.headers, three.rollup, three.ttl) == ({"X": "1"}, True, "60s")
    assert three == await schedules.get(three)


@pytest.mark.parametrize("direct", [True, False])
async def test_more_schedules_than_one_answer_holds_are_all_listed(world: World, *, direct: bool) -> None:
    await world.update(allow_direct=direct)
    result = await world.schedules.at_many((world.target(), dt.timedelta(hours=1), b"x") for _ in range(1_203))
    assert result.scheduled == 1_203
    found = [one.sequence async for one in world.schedules.list()]
    assert len(found) == len(set(found)) == 1_203
    assert found == sorted(found)


async def test_a_schedule_of_another_program_is_listed_and_has_no_id(world: World) -> None:
    headers = {"Nats-Schedule": "@hourly", "Nats-Schedule-Target": world.target()}
    await world.js.publish(f"{world.name}.schedules.nightly", b"x", headers=headers)
    [found] = [one async for one in world.schedules.list()]
    assert (found.id, found.text, found.target) == ("", "@hourly", world.target())
    with pytest.raises(ValidationError, match="written by another program"):
        await world.schedules.cancel(found)


async def test_what_is_wrong_is_refused_before_anything_is_sent(world: World) -> None:
    schedules, target = world.schedules, world.target()
    with pytest.raises(InvalidIntervalError, match="whole seconds"):
        await schedules.every(target, "1500ms")
    with pytest.raises(InvalidCronExpressionError, match="uses L"):
        await schedules.cron(target, "0 0 L * *")
    with pytest.raises(InvalidScheduleError, match="either every= or cron="):
        await schedules.sample(target, source=world.target("in"))
    with pytest.raises(InvalidScheduleError, match="same in every zone"):
        await schedules.sample(target, source=world.target("in"), every="5m", tz="Asia/Tokyo")
    with pytest.raises(InvalidSubjectError):
        await schedules.at("a.*", "in 5m")
    with pytest.raises(InvalidSubjectError, match="where schedules stand"):
        await schedules.at(f"{schedules.prefix}.orders", "in 5m")
    with pytest.raises(InvalidSubjectError, match="where schedules stand"):
        await schedules.cancel(target, "a", publish=Publication(f"{schedules.prefix}.x"))
    with pytest.raises(ConfigError, match="pile up"):
        MessageScheduler(world.nc, "S", remember="never")
    with pytest.raises(ValidationError, match="Nats-"):
        await schedules.at(target, "in 5m", headers={"Nats-TTL": "1"})
    with pytest.raises(ValidationError, match="the id is missing"):
        await schedules.cancel(target)
    with pytest.raises(InvalidScheduleError, match="is text"):
        await schedules.cron(target, None)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(LimitExceededError, match="the server takes"):
        await schedules.at(target, "in 5m", b"x" * (1 << 20))
    assert await world.subjects() == {}


async def test_what_the_server_refuses_says_what_to_do(world: World) -> None:
    schedules = world.schedules
    with pytest.raises(InvalidSubjectError, match=r"target is not among the subjects .*10190"):
        await schedules.at("elsewhere", "in 5m")
    with pytest.raises(InvalidSubjectError, match=r"source is not among the subjects .*10203"):
        await schedules.sample(world.target(), source="elsewhere", every="5m")
    with pytest.raises(LimitExceededError, match=r"10097"):
        await schedules.at(world.target(), "in 5m", headers={"X": "x" * 70_000})
    assert await world.subjects() == {}


async def test_a_url_makes_a_connection_of_its_own(world: World, shared_nats: NatsServer) -> None:
    async with MessageScheduler(shared_nats.url, world.name.upper(), f"{world.name}.schedules") as schedules:
        handle = await schedules.at(world.target(), "in 1h", id="x")
        assert await world.schedules.cancel(world.target(), "x")
    with pytest.raises(StorageNotInitializedError):
        await schedules.at(world.target(), "in 1h")
    assert repr(schedules) == f"MessageScheduler(stream='{world.name.upper()}', prefix='{world.name}.schedules')"
    assert f"revision={handle.revision}" in repr(handle)


async def test_a_client_that_was_given_stays_open_and_as_it_was(world: World) -> None:
    await world.schedules.at(world.target(), "in 1h")
    await world.schedules.close()
    await world.schedules.close()
    assert world.nc.is_connected
    assert world.nc._subs == {}


@pytest.mark.parametrize("stream", ["", "a.b", "a b", "x/y", 5])
async def test_a_name_that_no_stream_can_have_is_refused(stream: str) -> None:
    with pytest.raises(ConfigError, match="not the name of a stream"):
        MessageScheduler("nats://localhost", stream)


async def test_what_is_no_client_is_refused_at_the_first_call() -> None:
    with pytest.raises(ConfigError, match="no NATS client"):
        await MessageScheduler(object(), "S").check_stream()
