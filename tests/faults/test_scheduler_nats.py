"""Several scheduler processes on NATS; they, and the servers, are killed: nothing is lost, doubled or unsaid."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.faults.crews import a_story, replaced

from natscron.clock import SystemClock
from natscron.model import RunStatus
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Crew
from natscron.testing.nats import NatsCluster, NatsServer

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()


async def test_every_slot_runs_once_while_leaders_and_workers_are_killed_and_replaced(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        found = await a_story(server.url, tmp_path, 8, [(2, replaced("m0", "m3")), (5, replaced("m1", "m4"))])
    assert found.wrong == ()


async def test_every_slot_runs_once_while_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:

        def restart(_crew: Crew) -> None:
            server.kill()
            server.start()

        found = await a_story(server.url, tmp_path, 8, [(2, restart), (5, restart)], worker_lease="6s")
    assert found.wrong == ()


async def test_every_slot_runs_once_while_a_node_of_three_is_killed(tmp_path: Path) -> None:
    with NatsCluster(tmp_path / "nats") as cluster:

        def kill(_crew: Crew) -> None:
            cluster.servers[0].kill()

        def start(_crew: Crew) -> None:
            cluster.servers[0].start()

        found = await a_story(cluster.url, tmp_path, 12, [(2, kill), (10, start)], lease="10s", worker_lease="10s")
    assert found.wrong == ()


async def test_a_run_whose_worker_is_killed_goes_on_elsewhere_within_its_lease(tmp_path: Path) -> None:
    with (
        NatsServer(tmp_path / "nats") as server,
        Crew(server.url, tmp_path, lease="3s", worker_lease="2s", work_s="3") as crew,
    ):
        await asyncio.to_thread(crew.start, "m0")
        async with Scheduler(server.url, worker=False, plan=False, instance="driver") as scheduler:
            await scheduler.add_job("long", every("1h"))
            run_id = await scheduler.trigger("long")
            while not (calls := crew.calls()):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)
            assert (calls[0].run_id, calls[0].ended) == (run_id, False)
            crew.start("m1")
            crew.kill("m0")
            killed_s = CLOCK.now_s()
            while len(calls := crew.calls()) < 2:  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)
            # Its lease and a third of it; the killed process led as well, and somebody has to follow it first.
            assert CLOCK.now_s() - killed_s < 10
            assert [(call.run_id, call.attempt) for call in calls] == [(run_id, 1), (run_id, 2)]
            while (run := await scheduler.get_run(run_id)).status is not RunStatus.COMPLETED:  # noqa: ASYNC110 - same
                await asyncio.sleep(0.05)
            assert run.attempt == 2
            assert run.instance == "m1"


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["leader", "node", "worker"])
async def test_ten_rounds_of_each_kill_lose_and_double_nothing(kind: str) -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "kills.py"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, str(program), kind, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode == 0, out.decode() + err.decode()
