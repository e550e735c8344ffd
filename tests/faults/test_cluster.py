"""Three nodes: the death of one delays, and loses nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsCluster, NatsServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

BUCKETS = ("KV_nats-cron-jobs", "KV_nats-cron-state", "NATS_CRON_LOG")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    with NatsCluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
async def fleet(tmp_path: Path, cluster: NatsCluster) -> AsyncIterator[Fleet]:
    """Not listening yet: the cluster is empty, and the services are the first to ask anything of it."""
    settings = {"HISTORY__PER_JOB": "10000"}
    async with Fleet(tmp_path / "fleet", cluster.url, replicas=3, settings=settings) as fleet:
        yield fleet


async def started(fleet: Fleet, cluster: NatsCluster) -> None:
    """Three services at once on the empty cluster, then jobs."""
    services = [fleet.start(name) for name in ("a", "b", "c")]
    await asyncio.gather(*(service.says("started") for service in services))
    await fleet.listen([server.url for server in cluster.servers])
    await fleet.create([*every_second(20), *every_second(10, delivery="jetstream")])
    await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())


async def replicas_of(fleet: Fleet, stream: str) -> int:
    info = await fleet.connection.js_request(f"STREAM.INFO.{stream}")
    return int(info["config"]["num_replicas"])


async def state_leader(fleet: Fleet, cluster: NatsCluster) -> NatsServer:
    info = await fleet.connection.js_request("STREAM.INFO.KV_nats-cron-state")
    return cluster.named(str(info["cluster"]["leader"]))


async def test_the_death_of_the_node_that_leads_the_state_is_survived(fleet: Fleet, cluster: NatsCluster) -> None:
    await started(fleet, cluster)
    assert [await replicas_of(fleet, stream) for stream in BUCKETS] == [3, 3, 3]
    node = await state_leader(fleet, cluster)
    node.kill()
    await fleet.passed(fleet.clock.now_ms())
    node.start()
    verdict = await assert_kept(fleet, crashes=2)
    assert verdict.skipped == []
    assert len(await fleet.leading()) == 1


async def test_the_death_of_the_node_that_the_leader_is_connected_to_is_survived(
    fleet: Fleet, cluster: NatsCluster
) -> None:
    await started(fleet, cluster)
    leader = await fleet.leader()
    node = next(server for server in cluster.servers if connected(leader.pid, server.port))
    node.kill()
    await fleet.passed(fleet.clock.now_ms())
    node.start()
    verdict = await assert_kept(fleet, crashes=2)
    assert verdict.skipped == []
    assert len(await fleet.leading()) == 1


def connected(pid: int, port: int) -> bool:
    """Whether the process has a connection to that local port, as the kernel says."""
    sockets = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        remote, inode = fields[2], fields[9]
        if int(remote.split(":")[1], 16) == port and f"socket:[{inode}]" in sockets:
            return True
    return False
