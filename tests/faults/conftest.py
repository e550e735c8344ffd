"""Real processes on a NATS server of the test's own, everything ended by process id."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsServer, TcpProxy


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def fleet(tmp_path: Path, nats_server: NatsServer) -> AsyncIterator[Fleet]:
    """Listening; no service runs yet."""
    async with Fleet(tmp_path / "fleet", nats_server.url, settings={"HISTORY__PER_JOB": "10000"}) as fleet:
        await fleet.listen()
        yield fleet


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[TcpProxy]:
    """A proxy before the test's own server."""
    async with TcpProxy(nats_server.port) as proxy:
        yield proxy
