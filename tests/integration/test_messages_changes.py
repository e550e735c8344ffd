"""Replacing and cancelling: one write each, also against each other and against the firing."""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg
from tests.support.messages import WAIT_S, World, world_on

from natscron.clock import SystemClock
from natscron.errors import StorageUnavailableError
from natscron.messages import Fired, Handle, MessageScheduler, Publication
from natscron.messages.changes import TRIES, current
from natscron.messages.link import Link
from natscron.messages.subjects import same_id
from natscron.testing.nats import NatsCluster, NatsServer
from natscron.wire.kv import purge
from natscron.wire.reading import Entry

pytestmark = pytest.mark.anyio

FAR = dt.timedelta(hours=1)


@pytest.fixture
async def world(shared_nats: NatsServer) -> AsyncIterator[World]:
    async with world_on(shared_nats.url) as world:
        yield world


@pytest.fixture(params=["one server", "a cluster of three"])
async def either(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A world on one server, and on three replicas."""
    if request.param == "one server":
        server: NatsServer = request.getfixturevalue("shared_nats")
        url = server.url
    else:
        cluster: NatsCluster = request.getfixturevalue("shared_cluster")
        url = cluster.url
    async with world_on(url.split(",")[0]) as world:
        yield world


def instant() -> dt.datetime:
    return dt.datetime.fromtimestamp(SystemClock().now_s(), dt.UTC)


async def test_the_same_id_replaces_and_never_uses_a_subject_again(either: World) -> None:
    schedules, target = either.schedules, either.target()
    first = await schedules.at(target, FAR, b"1", id="a")
    second = await schedules.every(target, "1h", b"2", id="a")
    third = await schedules.at(target, FAR, b"3", id="a")
    assert [one.replaced for one in (first, second, third)] == [False, True, True]
    assert len({first.subject, second.subject, third.subject}) == 3
    assert first.revision < second.revision < third.revision
    assert [(one.body, one.sequence) async for one in schedules.list()] == [(b"3", third.sequence)]
    other = await schedules.at(either.target("other"), FAR, b"4", id="a")
    assert not other.replaced
    assert await first.cancel()  # a handle stands for the id, whichever revision is there
    assert not await third.cancel()
    again = await schedules.at(target, FAR, b"5", id="a")
    assert not again.replaced
    assert again.subject not in {first.subject, second.subject, third.subject}


async def test_replacing_is_one_write_on_the_stream(world: World) -> None:
    first = await world.schedules.at(world.target(), FAR, b"1", id="a")
    second = await world.schedules.at(world.target(), FAR, b"2", id="a")
    assert second.sequence == first.sequence + 1
    assert await world.subjects() == {second.subject: 1}


async def test_of_many_who_write_the_same_id_exactly_one_stays(either: World) -> None:
    async def write(number: int) -> Handle:
        return await either.schedules.at(either.target(), FAR, b"%d" % number, id="a")

    handles = await asyncio.gather(*(write(number) for number in range(8)))
    assert sum(not handle.replaced for handle in handles) == 1
    last = max(handles, key=lambda handle: handle.sequence)
    assert await either.subjects() == {last.subject: 1}
    assert max(handle.revision for handle in handles) == last.revision


async def test_who_is_overtaken_too_often_is_told_that_nothing_happened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = Link.newest
    overtaken = 0

    async def slow(link: Link, subjects: str) -> Entry | None:
        nonlocal overtaken
        found = await newest(link, subjects)
        overtaken += 1
        headers = {"Nats-Schedule": "@at 2090-01-01T00:00:00Z", "Nats-Schedule-Target": world.target()}
        await world.js.publish(subjects.replace("*", f"r{overtaken}"), b"theirs", headers=headers)
        return found

    await world.schedules.at(world.target(), FAR, b"mine", id="a")
    monkeypatch.setattr(Link, "newest", slow)
    with pytest.raises(StorageUnavailableError, match=f"others changed it {TRIES} times"):
        await world.schedules.at(world.target(), FAR, b"mine", id="a")
    with pytest.raises(StorageUnavailableError, match="others changed it"):
        await world.schedules.cancel(world.target(), "a", publish=Publication(world.target("x"), b"no"))
    assert await world.count("x") == 0


async def test_cancelling_long_before_leaves_nothing(either: World) -> None:
    handle = await either.schedules.at(either.target(), FAR, id="a")
    assert await either.schedules.cancel(either.target(), "a")
    assert await either.subjects() == {}
    assert not await handle.cancel()
    assert not await either.schedules.cancel(either.target(), "never-there")


async def test_cancelling_near_the_time_leaves_a_trace_that_is_no_schedule(either: World) -> None:
    schedules = either.schedules
    handle = await schedules.at(either.target(), "in 50s", id="a")
    assert await handle.cancel()
    [trace] = await either.subjects()
    assert trace != handle.subject
    assert await handle.get() is None
    assert [one async for one in schedules.list()] == []
    assert not await handle.cancel()
    again = await schedules.at(either.target(), FAR, b"again", id="a")
    assert not again.replaced
    assert again.revision > handle.revision
    assert set(await either.subjects()) == {trace, again.subject}
    assert await again.cancel()
    assert set(await either.subjects()) == {trace}


async def test_a_trace_goes_by_itself(world: World) -> None:
    schedules = MessageScheduler(world.nc, world.schedules.stream, world.schedules.prefix, remember="1s")
    handle = await schedules.at(world.target(), "in 50s", id="a")
    assert await handle.cancel()
    assert len(await world.subjects()) == 1
    async with asyncio.timeout(WAIT_S):
        while await world.subjects():  # noqa: ASYNC110 - the server tells nobody that a message has expired
            await asyncio.sleep(0.1)
    await schedules.close()


async def test_a_message_that_is_no_schedule_does_not_hide_the_one_before_it(world: World) -> None:
    """The server may leave a marker where a trace expired, and other programs what they like."""
    schedules = world.schedules
    first = await schedules.at(world.target(), "in 50s", b"1", id="a")
    assert await first.cancel()
    [trace] = await world.subjects()
    second = await schedules.at(world.target(), FAR, b"2", id="a")
    await world.js.publish(trace, b"", headers={"X-Marker": "1"})
    stored = await second.get()
    assert stored is not None
    assert stored.body == b"2"
    third = await schedules.at(world.target(), FAR, b"3", id="a")
    assert third.replaced
    await world.js.publish(trace, b"")
    assert await third.cancel()
    assert not await third.cancel()
    assert await third.get() is None


async def test_another_message_is_published_in_the_step_that_cancels_and_only_if_it_does(either: World) -> None:
    schedules, target = either.schedules, either.target()
    for when in (FAR, "in 50s"):
        handle = await schedules.at(target, when, b"ship it", id="order-1")
        note = Publication(either.target("log"), "order 1 was cancelled", headers={"X": "1"}, ttl="1h")
        assert await handle.cancel(publish=note)
        message = await either.receive("log")
        assert message.data == b"order 1 was cancelled"
        assert message.headers is not None
        assert (message.headers["X"], message.headers["Nats-TTL"]) == ("1", "3600s")
        fired = await schedules.receive(message)
        assert fired == Fired(sequence=message.metadata.sequence.stream)
        assert not await handle.cancel(publish=note)
        assert await handle.get() is None
    assert await either.count("log") == 2


async def test_a_single_message_is_published_now_instead_of_later(either: World) -> None:
    handle = await either.schedules.at(either.target(), FAR, b"x", id="a", headers={"X": "1"}, ttl="5m")
    sequence = await handle.publish_now()
    message = await either.receive()
    assert message.metadata.sequence.stream == sequence
    assert (message.data, (message.headers or {})["X"], (message.headers or {})["Nats-TTL"]) == (b"x", "1", "300s")
    fired = await either.schedules.receive(message)
    assert fired is not None
    assert (fired.id, fired.revision, fired.manual) == ("a", handle.revision, False)
    assert await handle.publish_now() is None
    assert await either.subjects() == {}


async def test_a_recurring_message_is_published_now_as_well(world: World) -> None:
    handle = await world.schedules.every(world.target(), "1h", b"tick", rollup=True)
    await handle.publish_now()
    fired = await world.schedules.receive(await world.receive())
    assert fired is not None
    assert (fired.id, fired.manual, fired.stale) == (handle.id, True, False)
    assert fired.due is not None
    assert abs(fired.due - instant()) < dt.timedelta(minutes=1)
    assert await handle.get() is not None
    await handle.publish_now(keep=False)
    assert await handle.get() is None
    assert await world.count("orders") == 1


async def test_a_single_message_can_be_published_now_and_stay(world: World) -> None:
    handle = await world.schedules.at(world.target(), FAR, b"x")
    assert await handle.publish_now(keep=True) is not None
    assert await handle.get() is not None


async def test_a_sample_is_taken_now(world: World) -> None:
    handle = await world.schedules.sample(world.target("out"), source=world.target("in"), every="1h")
    await handle.publish_now()
    empty = await world.schedules.receive(await world.receive("out"))
    assert empty is not None
    assert empty.empty_sample
    await world.js.publish(world.target("in"), b"21 C", headers={"Sensor": "7"})
    await handle.publish_now()
    message = await world.receive("out")
    assert (message.data, (message.headers or {})["Sensor"]) == (b"21 C", "7")


BURST = 1_000
FILLER = 10_000


async def raced(world: World) -> tuple[list[Handle], dt.datetime]:
    """Messages that are due in the same moment behind many others, so that storing them all takes a while."""
    due = instant() + dt.timedelta(seconds=5)
    filled = await world.schedules.at_many((world.target("filler"), due) for _ in range(FILLER))
    assert filled.scheduled == FILLER
    outcomes = [
        one async for one in world.schedules.at_many((world.target(), due, b"old", f"id-{n}") for n in range(BURST))
    ]
    assert all(one.error is None for one in outcomes)
    assert instant() < due
    handles = [one.handle for one in outcomes if one.handle is not None]
    handles.reverse()  # the last one is stored last
    return handles, due


async def until(due: dt.datetime, early_s: float) -> None:
    """The clock is what is raced against."""
    await asyncio.sleep(max(0.0, (due - instant()).total_seconds() - early_s))


async def gone(world: World, handles: list[Handle]) -> None:
    """Until none of these stands in the stream: nobody tells."""
    subjects = {handle.subject for handle in handles}
    async with asyncio.timeout(WAIT_S):
        while subjects & set(await world.subjects()):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.1)


async def good(world: World) -> tuple[Counter[tuple[str, bytes]], int]:
    """Of the messages, those that a worker would handle, by id and body; and how many it would drop."""
    gate = asyncio.Semaphore(64)
    messages = await world.drain("orders", await world.count("orders"))

    async def look(message: Msg) -> Fired:
        async with gate:
            return await world.schedules.inspect(message)

    found = await asyncio.gather(*map(look, messages))
    pairs = zip(found, messages, strict=True)
    handled = Counter((fired.id, message.data) for fired, message in pairs if not fired.stale)
    return handled, len(messages) - handled.total()


async def test_a_replacement_that_is_accepted_while_the_old_one_fires_is_not_lost(world: World) -> None:
    before, due = await raced(world)
    gate = asyncio.Semaphore(20)

    async def replace(handle: Handle) -> Handle:
        async with gate:
            return await world.schedules.at(world.target(), "in 1s", b"new", id=handle.id)

    await until(due, 0.3)
    handles = await asyncio.gather(*map(replace, before))
    await gone(world, handles)
    handled, dropped = await good(world)
    for handle in handles:
        assert handled[handle.id, b"new"] == 1, handle
        # It fired before it could be replaced, which the handle says; else its message is stale.
        assert handled[handle.id, b"old"] == (0 if handle.replaced else 1), handle
    replaced = sum(handle.replaced for handle in handles)
    print(f"{replaced} of {BURST} replaced in time, {dropped} of these fired all the same")
    assert replaced > 0


async def test_a_cancelled_message_that_fires_all_the_same_is_dropped(world: World) -> None:
    handles, due = await raced(world)
    gate = asyncio.Semaphore(20)

    async def cancel(handle: Handle) -> bool:
        async with gate:
            return await handle.cancel()

    await until(due, 0.3)
    done = await asyncio.gather(*map(cancel, handles))
    await gone(world, handles)
    # What was collected before it was cancelled is stored before this one, which is collected later.
    last = await world.schedules.at(world.target("last"), "in 1ms")
    await world.receive("last")
    handled, dropped = await good(world)
    for handle, cancelled in zip(handles, done, strict=True):
        assert handled[handle.id, b"old"] == (0 if cancelled else 1), handle
    print(f"{sum(done)} of {BURST} cancelled in time, {dropped} of these fired all the same")
    assert sum(done) > 0
    assert await last.get() is None


async def test_the_message_of_a_revision_that_was_replaced_twice_is_dropped(world: World) -> None:
    """The race by hand: what the server stores after an accepted change, whichever change was the last."""
    schedules, target = world.schedules, world.target()
    first = await schedules.at(target, FAR, b"1", id="a")
    await schedules.at(target, FAR, b"2", id="a")
    late = {"Nats-Scheduler": first.subject, "Nats-Schedule-Next": "purge"}
    await world.js.publish(target, b"1", headers=late)
    third = await schedules.at(target, FAR, b"3", id="a")
    message = await world.receive()
    assert (await schedules.inspect(message)).stale
    assert await schedules.receive(message) is None
    await world.js.publish(target, b"3", headers={"Nats-Scheduler": third.subject, "Nats-Schedule-Next": "purge"})
    assert await schedules.receive(await world.receive()) is not None


async def test_a_message_that_was_stored_before_the_change_is_handled_however_late(world: World) -> None:
    schedules, target = world.schedules, world.target()
    await schedules.at(target, "in 1ms", b"1", id="a")
    message = await world.receive()
    second = await schedules.at(target, FAR, b"2", id="a")
    assert not second.replaced
    fired = await schedules.receive(message)
    assert fired is not None
    ticks = await schedules.every(target, "1s", b"t", id="t")
    tick = await world.receive()
    await ticks.cancel()
    assert await schedules.receive(tick) is not None


async def test_a_schedule_behind_the_trace_of_its_own_replacement_is_found_replaced_and_cancelled(world: World) -> None:
    schedules, target = world.schedules, world.target()
    first = await schedules.at(target, "in 50s", b"1", id="a")
    second = await schedules.at(target, "in 55s", b"2", id="a")
    assert len(await world.subjects()) == 2  # the second, and the trace of the first
    link = schedules._link
    state = await current(link, same_id(schedules.prefix, target, "a"))
    assert state.newest is not None
    assert state.live is not None
    assert state.newest.seq > state.live.seq == second.sequence
    stored = await second.get()
    assert stored is not None
    assert stored.body == b"2"
    late = {"Nats-Scheduler": first.subject, "Nats-Schedule-Next": "purge"}
    await world.js.publish(target, b"1", headers=late)
    assert await schedules.receive(await world.receive()) is None
    third = await schedules.at(target, FAR, b"3", id="a")
    assert third.replaced
    await world.js.publish(target, b"1", headers=late)
    assert await schedules.receive(await world.receive()) is None
    # The second was good until the third was written, trace or no trace.
    assert second.subject not in await world.subjects()
    assert await third.cancel()
    assert await second.get() is None


async def test_the_message_of_one_that_replaced_in_time_is_good_after_it_was_replaced_itself(world: World) -> None:
    schedules, target = world.schedules, world.target()
    await schedules.at(target, "in 50s", b"1", id="a")
    second = await schedules.at(target, "in 55s", b"2", id="a")
    await second.publish_now()
    message = await world.receive()
    await schedules.at(target, FAR, b"3", id="a")
    fired = await schedules.receive(message)
    assert fired is not None
    assert fired.revision == second.revision


async def test_on_2_12_where_two_writes_are_needed_a_crash_between_them_is_mended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The level is set by hand: the server in this environment is a new one, which takes what an old one takes."""
    schedules, target = world.schedules, world.target()
    link = schedules._link
    facts = await link.facts()
    old = type(facts)(type(facts.server)(3, "2.12.8"), facts.allow_ttl, facts.allow_direct)
    monkeypatch.setattr(link, "_facts", old)

    async def crash(*_: object, **__: object) -> int:
        raise StorageUnavailableError("the process is gone")

    first = await schedules.at(target, FAR, b"1", id="a")
    second = await schedules.at(target, FAR, b"2", id="a")
    assert await world.subjects() == {second.subject: 1}
    with monkeypatch.context() as between:
        between.setattr("natscron.messages.changes.purge", crash)
        third = await schedules.at(target, FAR, b"3", id="a")
    assert set(await world.subjects()) == {second.subject, third.subject}
    stored = await third.get()
    assert stored is not None
    assert stored.body == b"3"
    late = {"Nats-Scheduler": second.subject, "Nats-Schedule-Next": "purge"}
    await world.js.publish(target, b"2", headers=late)
    assert await schedules.receive(await world.receive()) is None
    fourth = await schedules.at(target, FAR, b"4", id="a")
    assert await world.subjects() == {fourth.subject: 1}
    assert await fourth.cancel()
    assert await world.subjects() == {}
    assert first.revision < fourth.revision


async def test_without_time_to_live_a_cancellation_leaves_no_trace_and_says_so_beforehand(
    shared_nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with world_on(shared_nats.url, create=False) as world:
        config = {
            "name": world.name.upper(),
            "subjects": [f"{world.name}.>"],
            "allow_msg_schedules": True,
            "allow_direct": True,
        }
        await world.connection.js_request(f"STREAM.CREATE.{world.name.upper()}", config)
        handle = await world.schedules.at(world.target(), "in 50s", id="a")
        assert "leaves no trace" in caplog.text
        assert await handle.cancel()
        assert await world.subjects() == {}
        assert await purge(world.connection, world.name.upper(), f"{world.name}.>") == 0
