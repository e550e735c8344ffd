"""Jobs that nats-server times on three nodes, which are killed in turn: every slot runs once, or is recorded."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.faults.test_cluster import connected

from natscron.clock import SystemClock
from natscron.model import Ms, Reason, Run, RunStatus
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Crew, settled
from natscron.testing.nats import NatsCluster, NatsServer, replicated
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(500)]

CLOCK = SystemClock()
STEPS: Final = (1, 2, 5)
JOBS: Final = 6
"""Of each step and catch-up policy."""
STREAMS: Final = ("SCHEDULER", "KV_SCHEDULER_STATE", "KV_SCHEDULER_EXECUTIONS", "SCHEDULER_LOG", "KV_SCHEDULER_JOBS")
APART_S: Final = 10.0
LONG_S: Final = 25.0
"""Longer than the grace."""
HEALTHY_S: Final = 60.0


class Rounds:
    """Kills of nodes, and who leads."""

    def __init__(self, cluster: NatsCluster, crew: Crew, watch: Connection) -> None:
        self.leaders: list[str] = []
        """All that ever led, the present one last."""
        self._cluster = cluster
        self._crew = crew
        self._watch = watch

    async def one_at_a_time(self) -> None:
        """Each dead for a while, and the next not before all streams have all their replicas again."""
        for what in (*STREAMS, "leader", "leader"):
            node = self._of_leader() if what == "leader" else await self._leading(what)
            node.kill()
            await asyncio.sleep(APART_S)
            await asyncio.to_thread(node.start)
            await self._healthy()
            await asyncio.sleep(5)

    async def with_hardly_a_pause(self) -> None:
        """Each dead for a while, and the next at once when it is back: no majority for moments."""
        for number in range(9):
            node = self._cluster.servers[number % 3]
            node.kill()
            await asyncio.sleep(APART_S)
            await asyncio.to_thread(node.start)
        await self._healthy()

    async def without_a_majority(self) -> None:
        """Two dead for longer than the grace: what is older than that when they are back goes by the policy."""
        for number in range(3):
            nodes = [self._cluster.servers[(number + n) % 3] for n in range(2)]
            for node in nodes:
                node.kill()
            await asyncio.sleep(LONG_S)
            for node in nodes:
                await asyncio.to_thread(node.start)
            await self._healthy()
            await asyncio.sleep(5)

    def _of_leader(self) -> NatsServer:
        pid = self._crew.pid(self.leaders[-1])
        return next(server for server in self._cluster.servers if connected(pid, server.port))

    async def _leading(self, stream: str) -> NatsServer:
        info = await self._watch.js_request(f"STREAM.INFO.{stream}")
        return self._cluster.named(info["cluster"]["leader"])

    async def _healthy(self) -> None:
        async with asyncio.timeout(HEALTHY_S):
            await replicated(self._watch, STREAMS, len(self._cluster.servers))


@pytest.mark.parametrize("play", [Rounds.one_at_a_time, Rounds.with_hardly_a_pause, Rounds.without_a_majority])
async def test_nodes_that_are_killed_lose_and_double_nothing(
    tmp_path: Path, play: Callable[[Rounds], Awaitable[None]]
) -> None:
    steps = {f"{policy}-{step}-{n}": step for policy in ("all", "latest") for step in STEPS for n in range(JOBS)}
    with NatsCluster(tmp_path / "nats") as cluster, Crew(cluster.url, tmp_path, work_s="0.05") as crew:
        for name in ("m0", "m1", "m2"):
            await asyncio.to_thread(crew.start, name)
        watch = await Connection.connect(ConnectOptions(url=cluster.url))
        rounds = Rounds(cluster, crew, watch)
        scheduler = Scheduler(cluster.url, worker=False, plan=False, instance="driver", timer="server")
        scheduler.on("leader_changed", rounds.leaders.append)
        async with scheduler:
            begin_s = CLOCK.now_ms() // 5_000 * 5 + 10
            begin = dt.datetime.fromtimestamp(begin_s, dt.UTC)
            for name, step in steps.items():
                catchup = name.partition("-")[0]
                await scheduler.add_job(name, every(f"{step}s", start_at=begin), overlap="allow", catchup=catchup)
            await asyncio.sleep(8)
            await play(rounds)
            await asyncio.sleep(8)
            end_ms = CLOCK.now_ms() - 1
            await asyncio.gather(*(scheduler.pause(name) for name in steps))
            due = [(name, slot) for name in steps for slot in range(begin_s * 1_000, end_ms, 1_000 * steps[name])]
            found, runs = await settled(crew, scheduler, due, 60.0)
        calls = crew.calls()
        await asyncio.to_thread(crew.stop)
        await watch.close()
    ran = {(call.job, call.slot_ms) for call in calls}
    assert found.wrong == ()
    assert both(runs, ran) == []
    assert {run.reason for run in runs if run.status is RunStatus.SKIPPED} <= {Reason.CATCHUP_LATEST, Reason.PAUSED}
    assert all(run.job.startswith("latest") for run in runs if run.reason == Reason.CATCHUP_LATEST)
    assert sorted(slot for slot in ran - set(due) if slot[1] < end_ms) == []


def both(runs: Sequence[Run], ran: set[tuple[str, Ms]]) -> list[tuple[str, Ms]]:
    """Slots that ran and that a record says did not."""
    left = [(run.job, run.from_ms or 0, run.to_ms or 0) for run in runs if run.status is RunStatus.SKIPPED]
    return sorted((job, slot) for of, first, last in left for job, slot in ran if job == of and first <= slot <= last)
