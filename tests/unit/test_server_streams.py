"""The map of the account's streams: kept fresh, and never forgotten because the server is silent."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest

from natscron.errors import StorageUnavailableError
from natscron.model import Delivery
from natscron.server.delivery import StreamMap
from natscron.server.streams import StreamKeeper
from natscron.wire.failures import Message

if TYPE_CHECKING:
    from natscron.wire.connection import Connection

pytestmark = pytest.mark.anyio


class Account:
    """Stands in for a connection: lists streams, sends advisories."""

    def __init__(self) -> None:
        self.streams: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.silent = False
        self.asked = 0
        self.heard: dict[str, Callable[[Message], None]] = {}
        self.listeners: list[object] = []

    def add_listener(self, listener: object) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def subscribe(self, subject: str, cb: Callable[[Message], None], queue: str = "") -> "Account":
        del queue
        await asyncio.sleep(0)
        self.heard[subject] = cb
        return self

    async def unsubscribe(self) -> None:
        await asyncio.sleep(0)
        if self.heard:
            self.heard.popitem()

    async def js_request(self, api: str, payload: object = None, *, timeout_s: float = 5.0) -> dict[str, Any]:
        del payload, timeout_s
        assert api == "STREAM.LIST"
        self.asked += 1
        await asyncio.sleep(0)
        if self.silent:
            raise StorageUnavailableError("nobody there")
        return {"streams": self.streams, "missing": self.missing, "total": len(self.streams) + len(self.missing)}

    def advise(self) -> None:
        for cb in list(self.heard.values()):
            cb(cast("Message", None))


@pytest.fixture
def account() -> Account:
    return Account()


@pytest.fixture
def streams() -> StreamMap:
    return StreamMap()


def listed(name: str, *subjects: str) -> dict[str, Any]:
    return {"config": {"name": name, "subjects": list(subjects)}, "cluster": {"leader": "n1"}}


async def test_an_advisory_brings_the_map_up_to_date(account: Account, streams: StreamMap) -> None:
    keeper = StreamKeeper(cast("Connection", account), streams)
    await keeper.start()
    assert streams.known
    assert streams.resolve("a.b") is Delivery.CORE
    account.streams = [listed("A", "a.>")]
    account.advise()
    async with asyncio.timeout(5):
        while streams.resolve("a.b") is not Delivery.JETSTREAM:  # noqa: ASYNC110 - the map tells nobody
            await asyncio.sleep(0)
    await keeper.stop()
    assert account.heard == {}
    assert account.listeners == []


async def test_a_stream_without_a_leader_stays_as_it_was(account: Account, streams: StreamMap) -> None:
    account.streams = [listed("A", "a.>")]
    keeper = StreamKeeper(cast("Connection", account), streams)
    await keeper.start()
    account.streams, account.missing = [], ["A"]
    await keeper._refresh()
    assert streams.resolve("a.b") is Delivery.JETSTREAM
    account.missing = []
    await keeper._refresh()
    assert streams.resolve("a.b") is Delivery.CORE
    await keeper.stop()


async def test_an_account_that_does_not_answer_leaves_the_map_and_is_named(
    account: Account, streams: StreamMap
) -> None:
    account.streams = [listed("A", "a.>")]
    keeper = StreamKeeper(cast("Connection", account), streams)
    await keeper.start()
    account.silent = True
    await keeper._refresh()
    assert streams.resolve("a.b") is Delivery.JETSTREAM
    assert "STREAM.LIST" in str(keeper.problem)
    account.silent = False
    await keeper._refresh()
    assert keeper.problem is None
    await keeper.stop()


async def test_many_saves_ask_once(account: Account, streams: StreamMap) -> None:
    keeper = StreamKeeper(cast("Connection", account), streams)
    await keeper.start()
    for _ in range(1000):
        keeper.poke()
    for _ in range(100):
        await asyncio.sleep(0)
    assert account.asked == 1
    await keeper.stop()
