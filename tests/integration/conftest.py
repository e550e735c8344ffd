"""Real servers for the integration tests. Ended by process id, also when a test fails."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from natscron.testing.nats import NatsCluster, NatsServer, TcpProxy
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all tests that do not harm it and keep to names of their own."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own, to be killed and started again."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers for all tests that do not harm them."""
    with NatsCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def connection(shared_nats: NatsServer) -> AsyncIterator[Connection]:
    """A connection to the shared server."""
    connection = await Connection.connect(ConnectOptions(url=shared_nats.url))
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[TcpProxy]:
    """A proxy before the test's own server."""
    async with TcpProxy(nats_server.port) as proxy:
        yield proxy
