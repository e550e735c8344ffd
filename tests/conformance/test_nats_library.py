"""The library's NATS storage does what every storage with a run queue has to, on a real server."""

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from natscron.storage.nats import LibraryOptions, NATSStorage
from natscron.testing.conformance import (
    CalendarChecks,
    JobStoreChecks,
    LeaseStoreChecks,
    LifecycleChecks,
    RunQueueChecks,
    SortedHistoryChecks,
)
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

_numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def fresh(server: NatsServer) -> AsyncIterator[NATSStorage]:
    """A storage of an empty store, not initialized: each has names of its own."""
    storage = NATSStorage(server.url, LibraryOptions(prefix=f"CONFORMANCE{next(_numbers)}"))
    yield storage
    await storage.close()


@pytest.fixture
async def storage(fresh: NATSStorage) -> NATSStorage:
    await fresh.initialize()
    return fresh


class TestLife(LifecycleChecks):
    pass


class TestJobs(JobStoreChecks):
    pass


class TestCalendars(CalendarChecks):
    pass


class TestLease(LeaseStoreChecks):
    pass


class TestRuns(SortedHistoryChecks):
    pass


class TestQueue(RunQueueChecks):
    pass
