"""Many messages at once: every outcome belongs to its message, and nothing is left open."""

import asyncio
import contextlib
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.messages import World, world_on

from natscron.wire.window import PublishWindow

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

from natscron.errors import (
    ConfigError,
    InvalidScheduleTimeError,
    InvalidSubjectError,
    LimitExceededError,
    StorageUnavailableError,
    StorageUncertainError,
    ValidationError,
)
from natscron.messages import At, Bulk, MessageScheduler, Outcome
from natscron.messages.bulk import REPLACING
from natscron.testing.nats import NatsServer, TcpProxy

pytestmark = pytest.mark.anyio

FAR = dt.timedelta(hours=1)


@pytest.fixture
async def world(shared_nats: NatsServer) -> AsyncIterator[World]:
    async with world_on(shared_nats.url) as world:
        yield world


@pytest.fixture(autouse=True)
async def no_task_stays() -> AsyncIterator[None]:
    """Whatever happens in a test, no task of a bulk call outlives it."""
    yield
    left = [task for task in asyncio.all_tasks() if "bulk" in repr(task.get_coro())]
    assert left == []


async def collect(call: Bulk, into: list[Outcome]) -> None:
    """The outcomes, also those before an error."""
    async for one in call:
        into.append(one)  # noqa: PERF401 - a comprehension would lose them to the error


async def test_all_are_stored_and_outcomes_come_in_the_order_of_the_messages(world: World) -> None:
    items = [At(world.target(), FAR, b"%d" % n) for n in range(3_000)]
    outcomes = [one async for one in world.schedules.at_many(items, window=500)]
    assert [one.index for one in outcomes] == list(range(3_000))
    assert [one.item for one in outcomes] == items
    assert all(one.error is None for one in outcomes)
    stored = {one.subject: one.body async for one in world.schedules.list()}
    assert stored == {one.handle.subject: one.item.body for one in outcomes if one.handle is not None}


async def test_tuples_generators_and_nothing_at_all_will_do(world: World) -> None:
    result = await world.schedules.at_many((world.target(), "in 1h") for _ in range(10))
    assert (result.scheduled, result.failed, result.stopped) == (10, (), False)
    assert (await world.schedules.at_many([])).scheduled == 0
    assert [one async for one in world.schedules.at_many(())] == []


async def test_each_error_belongs_to_its_message_and_the_others_are_stored(world: World) -> None:
    target = world.target()
    wrong: dict[int, tuple[Any, type[Exception]]] = {
        3: (At("a.*", FAR), InvalidSubjectError),
        5: (At(target, dt.datetime(2030, 1, 1)), InvalidScheduleTimeError),  # noqa: DTZ001 - that is what is wrong
        7: (At("elsewhere", FAR), InvalidSubjectError),  # the server refuses it
        11: (At(target, FAR, b"x" * (1 << 20)), LimitExceededError),
        13: (At(target, "2020-01-01T00:00:00Z", past="refuse"), InvalidScheduleTimeError),
        17: ("orders", ValidationError),
        19: ((target,), ValidationError),
        23: (At(target, FAR, headers={"X": "y" * 70_000}), LimitExceededError),  # the server refuses it
        29: (At("elsewhere", FAR, id="a"), InvalidSubjectError),  # the same, for one with an id
        31: (At(target, FAR, id=""), ValidationError),
        37: (At(f"{world.schedules.prefix}.x", FAR), InvalidSubjectError),
    }
    items = [wrong[n][0] if n in wrong else At(target, FAR, b"%d" % n) for n in range(40)]
    outcomes = [one async for one in world.schedules.at_many(items)]
    assert {one.index: type(one.error) for one in outcomes if one.error} == {n: kind for n, (_, kind) in wrong.items()}
    assert all((one.handle is None) == (one.error is not None) for one in outcomes)
    assert len(await world.subjects()) == 40 - len(wrong)
    result = await world.schedules.at_many(items)
    assert [one.index for one in result.failed] == sorted(wrong)
    assert (result.scheduled, result.stopped) == (40 - len(wrong), False)


async def test_too_many_failures_end_an_awaited_call(world: World) -> None:
    taken = itertools.count()
    result = await world.schedules.at_many(
        ((f"elsewhere.{next(taken)}", FAR) for _ in itertools.count()), max_failures=7
    )
    assert result.stopped
    assert len(result.failed) >= 7
    assert result.scheduled == 0


async def test_large_messages_and_those_with_everything_go_too(world: World) -> None:
    large = b"x" * 200_000
    items = [
        At(world.target(), FAR, large),
        At(world.target(), FAR, large, id="a"),
        At(world.target(), FAR, "text", id="b", headers={"X": "\u00e9"}, ttl="1h", rollup=True),
    ]
    for _ in range(2):
        result = await world.schedules.at_many(items)
        assert (result.scheduled, result.failed) == (3, ())
    found = [one async for one in world.schedules.list()]
    assert sorted((len(one.body), one.id in {"a", "b"}) for one in found) == [
        (4, True),
        (200_000, False),
        (200_000, False),
        (200_000, True),
    ]
    [full] = [one for one in found if one.id == "b"]
    assert (full.headers, full.ttl, full.rollup) == ({"X": "\u00e9"}, "3600s", True)


async def test_ids_that_are_taken_are_replaced_also_within_one_call(world: World) -> None:
    await world.schedules.at(world.target(), FAR, b"before", id="a")
    items = [At(world.target(), FAR, b"%d" % n, id="abc"[n % 3]) for n in range(30 * REPLACING)]
    outcomes = [one async for one in world.schedules.at_many(items)]
    assert all(one.error is None for one in outcomes)
    handles = [one.handle for one in outcomes if one.handle is not None]
    assert sum(not handle.replaced for handle in handles) == 2  # b and c were new
    # Of those with one id the last in the iterable is written last.
    last = {handle.id: handle for handle in handles}
    assert await world.subjects() == {handle.subject: 1 for handle in last.values()}


async def test_an_endless_iterable_is_taken_from_only_as_outcomes_are_taken(world: World) -> None:
    taken = 0

    def endless() -> Iterator[At]:
        nonlocal taken
        while True:
            taken += 1
            yield At(world.target(), FAR)

    async with contextlib.aclosing(aiter(world.schedules.at_many(endless(), window=50))) as outcomes:
        got = 0
        async for outcome in outcomes:
            got += 1
            assert outcome.error is None
            assert taken - got <= 50
            if got == 500:
                break
    await world.connection.flush()
    stopped = taken
    await world.schedules.at(world.target(), FAR)  # the loop has turned, and nobody took more
    assert taken == stopped <= 551


async def test_outcomes_do_not_wait_for_the_next_message(world: World) -> None:
    gates: asyncio.Queue[None] = asyncio.Queue()

    async def slow() -> AsyncIterator[At]:
        for _ in range(3):
            await gates.get()
            yield At(world.target(), FAR)

    outcomes = aiter(world.schedules.at_many(slow()))
    for number in range(3):
        gates.put_nowait(None)
        outcome: Outcome = await asyncio.wait_for(anext(outcomes), 10)
        assert (outcome.index, outcome.error) == (number, None)
    assert [one async for one in outcomes] == []


async def test_what_the_iterable_raises_comes_after_the_outcomes_before_it(world: World) -> None:
    def broken() -> Iterator[At]:
        for _ in range(5):
            yield At(world.target(), FAR)
        raise LookupError("no more")

    outcomes: list[Outcome] = []
    with pytest.raises(LookupError, match="no more"):
        await collect(world.schedules.at_many(broken()), outcomes)
    assert [one.error for one in outcomes] == [None] * 5


async def test_a_cancelled_call_stops_at_once_and_the_scheduler_lives_on(world: World) -> None:
    started = asyncio.Event()

    def endless() -> Iterator[At]:
        for n in itertools.count():
            if n == 1_000:
                started.set()
            yield At(world.target(), FAR, id=f"i{n % 50}")

    call = asyncio.ensure_future(world.schedules.at_many(endless())._all())
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await world.schedules.at_many([(world.target(), FAR)] * 10)).scheduled == 10


@pytest.mark.parametrize("window", [0, -1, 100_001])
async def test_a_window_of_another_size_is_refused(world: World, window: int) -> None:
    with pytest.raises(ValidationError, match="window"):
        world.schedules.at_many([], window=window)


async def test_a_stream_that_is_not_there_is_told_before_anything_is_taken(world: World) -> None:
    other = MessageScheduler(world.nc, "NOWHERE")
    items = iter([("orders", FAR)])
    with pytest.raises(ConfigError, match="does not exist"):
        await other.at_many(items)
    assert next(items) == ("orders", FAR)
    await other.close()


async def test_a_lost_link_leaves_what_was_under_way_uncertain_and_the_rest_goes_on(proxy: TcpProxy) -> None:
    async with MessageScheduler(proxy.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        cut = mended = 0

        async def items() -> AsyncIterator[At]:
            nonlocal cut, mended
            for n in range(6_000):
                if n == 2_000:
                    proxy.freeze()  # what is written from here on is not answered
                if n == 2_500:
                    cut = n
                    await proxy.cut()
                    await proxy.mend()
                    mended = n
                yield At("orders", FAR, b"%d" % n)

        outcomes = [one async for one in schedules.at_many(items(), patience="20s")]
        assert [one.index for one in outcomes] == list(range(6_000))
        assert (cut, mended) == (2_500, 2_500)
        unsure = [one for one in outcomes if one.error is not None]
        assert unsure
        assert all(isinstance(one.error, StorageUncertainError) for one in unsure)
        assert all(one.error.may_have_happened for one in unsure if isinstance(one.error, StorageUncertainError))
        assert max(one.index for one in unsure) < 6_000 - 1
        stored = {one.body async for one in schedules.list()}
        # What has a handle is stored; what is unsure may be.
        assert {b"%d" % one.index for one in outcomes if one.handle is not None} <= stored


async def test_a_link_that_stays_away_ends_the_call_after_the_last_outcome(proxy: TcpProxy) -> None:
    async with MessageScheduler(proxy.url, "ORDERS") as schedules:
        await schedules.ensure_stream(["orders"])
        taken = 0

        async def items() -> AsyncIterator[At]:
            nonlocal taken
            for n in itertools.count():
                if n == 1_000:
                    await proxy.cut()
                taken += 1
                yield At("orders", FAR)

        outcomes: list[Outcome] = []
        with pytest.raises(StorageUnavailableError, match=r"did not come back within 0\.5 s"):
            await collect(schedules.at_many(items(), patience="500ms"), outcomes)
        assert len(outcomes) == taken
        assert isinstance(outcomes[-1].error, StorageUnavailableError)
        await proxy.mend()


@pytest.mark.parametrize("name", [None, "a"])
async def test_a_stream_without_a_leader_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """A stream that is away for a moment stands for an election, which takes seconds: nobody takes the messages."""
    stream = world.schedules.stream
    await world.schedules._link.facts()
    config = (await world.connection.js_request(f"STREAM.INFO.{stream}"))["config"]
    await world.connection.js_request(f"STREAM.DELETE.{stream}")
    sent = PublishWindow.publish_block
    tries = 0

    async def publish(window: PublishWindow, subject: str, block: bytes, data: bytes) -> "asyncio.Future[PubAck]":
        nonlocal tries
        tries += 1
        if tries == 102:
            await world.connection.js_request(f"STREAM.CREATE.{stream}", config)
        return await sent(window, subject, block, data)

    monkeypatch.setattr(PublishWindow, "publish_block", publish)
    items = [At(world.target(), FAR, b"%d" % n, id=name and f"{name}{n}") for n in range(450)]
    outcomes = [one async for one in world.schedules.at_many(items, window=100)]
    assert [one.error for one in outcomes] == [None] * 450
    assert tries > 500
    assert len(await world.subjects()) == 450


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_stream_that_stays_away_ends_the_call_and_is_told_for_each_message(
    world: World, *, awaited: bool
) -> None:
    await world.schedules._link.facts()
    await world.connection.js_request(f"STREAM.DELETE.{world.schedules.stream}")
    call = world.schedules.at_many(((world.target(), FAR) for _ in itertools.count()), window=20, patience="300ms")
    outcomes: list[Outcome] = []
    if awaited:
        result = await call
        assert (result.scheduled, result.stopped) == (0, True)
        outcomes.extend(result.failed)
    else:
        with pytest.raises(StorageUnavailableError):
            await collect(call, outcomes)
    assert {type(one.error) for one in outcomes} == {StorageUnavailableError}
    assert [one.index for one in outcomes] == list(range(len(outcomes)))
    with pytest.raises(ConfigError, match="does not exist"):
        await world.schedules.at_many([])


async def test_a_given_client_that_is_closed_ends_the_call(world: World) -> None:
    schedules = MessageScheduler(world.nc, world.schedules.stream, world.schedules.prefix)

    async def items() -> AsyncIterator[At]:
        for n in itertools.count():
            if n == 100:
                await world.nc.close()
            yield At(world.target(), FAR)

    with pytest.raises(StorageUnavailableError):
        await collect(schedules.at_many(items()), [])
    await schedules.close()
