"""The NATS storage does what every storage has to, on a real server."""

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from natscron.storage.nats import NatsStorage, NatsStorageOptions
from natscron.testing.conformance import CalendarChecks, ExecutionStoreChecks, JobStoreChecks, LeaseStoreChecks
from natscron.testing.nats import NatsServer
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

_numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def storage(server: NatsServer) -> AsyncIterator[NatsStorage]:
    """An empty storage: each has names of its own."""
    storage = NatsStorage(ConnectOptions(url=server.url), NatsStorageOptions(name=f"conformance-{next(_numbers)}"))
    await storage.initialize()
    yield storage
    await storage.close()


class TestJobs(JobStoreChecks):
    pass


class TestCalendars(CalendarChecks):
    pass


class TestLease(LeaseStoreChecks):
    pass


class TestRuns(ExecutionStoreChecks):
    pass
