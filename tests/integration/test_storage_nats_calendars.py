"""Rows under calendars' keys that somebody else wrote, on a real server and in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest

from natscron.clock import SystemClock
from natscron.errors import CalendarNotFoundError, JobNotFoundError
from natscron.model import CalendarSpec
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.nats import NatsStorage, NatsStorageOptions
from natscron.storage.protocol import Storage
from natscron.testing.conformance.sinks import Jobs, fails
from natscron.testing.nats import NatsServer
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

_numbers = count(1)
Write = Callable[[str, bytes], Awaitable[None]]


@pytest.fixture(params=["nats", "memory"])
async def store(request: pytest.FixtureRequest, shared_nats: NatsServer) -> AsyncIterator[tuple[Storage, Write]]:
    """A storage, and a way to write whatever there."""
    if request.param == "memory":
        cluster = MemoryCluster(SystemClock())

        async def put(key: str, value: bytes) -> None:
            cluster.put_row(key, value)

        yield MemoryStorage(cluster), put
        return
    options = NatsStorageOptions(name=f"calendars-{next(_numbers)}")
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    await storage.initialize()

    async def publish(key: str, value: bytes) -> None:
        await storage.connection.request(options.jobs_prefix + key, value)

    yield storage, publish
    await storage.close()


ROWS = {
    "_cal.sound": b'{"calendar":{"dates":["12-25"]}}',
    "_cal.broken": b"nope",
    "_cal.newer": b'{"moons":5,"natscron":{"reader":99}}',
    "_cal.Name": b'{"calendar":{}}',
    "_cal.a.job": b'{"subject":"_cal.a.job","schedule":{"every":"30s"}}',
}


async def test_whatever_lies_under_a_calendars_key_is_a_calendar_and_can_be_deleted(
    store: tuple[Storage, Write],
) -> None:
    storage, write = store
    for key, value in ROWS.items():
        await write(key, value)
    sink = Jobs()
    watch = storage.watch_jobs(sink)
    await watch.ready()
    assert sink.jobs == {}
    assert {name for name, one in sink.calendars.items() if one.invalid is None} == {"sound"}
    assert {name for name, one in sink.calendars.items() if one.newer} == {"newer"}
    assert "99" in (sink.calendars["newer"].invalid or "")
    sound = sink.calendars["sound"]
    assert sound.spec == CalendarSpec(dates=("12-25",))
    # A row without what the store owns counts from its own message, as a job's does.
    assert sound.counts_from.seq == sound.revision
    for key in ROWS:
        name = key.removeprefix("_cal.")
        assert await storage.fetch_calendar(name) == sink.calendars[name]
        assert await storage.fetch_job(key) is None
        await fails(JobNotFoundError, storage.delete_job(key))
        await storage.delete_calendar(name)
        await fails(CalendarNotFoundError, storage.delete_calendar(name))
    await sink.until(lambda: not sink.calendars)
    await watch.close()


async def test_a_row_that_becomes_readable_is_told_of(store: tuple[Storage, Write]) -> None:
    storage, write = store
    sink = Jobs()
    watch = storage.watch_jobs(sink)
    await watch.ready()
    await write("_cal.a", ROWS["_cal.newer"])
    await sink.until(lambda: "a" in sink.calendars and sink.calendars["a"].newer)
    await write("_cal.a", ROWS["_cal.sound"])
    await sink.until(lambda: sink.calendars["a"].invalid is None)
    await watch.close()
