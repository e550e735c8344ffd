"""Several scheduler processes on NATS; they, and the servers, are killed: nothing is lost, doubled or unsaid."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from natscron.clock import SystemClock
from natscron.model import Ms, Run, RunStatus
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Account, Crew, account
from natscron.testing.nats import NatsCluster, NatsServer

pytestmark = pytest.mark.anyio

JOBS = [f"job-{n}" for n in range(20)]
CLOCK = SystemClock()


def soon(seconds: int) -> dt.datetime:
    """A whole second at least that far ahead."""
    return dt.datetime.fromtimestamp(CLOCK.now_ms() // 1000 + seconds + 1, dt.UTC)


async def until(moment: dt.datetime) -> None:
    await asyncio.sleep(max(moment.timestamp() - CLOCK.now_s(), 0))


async def settled(crew: Crew, scheduler: Scheduler, due: Sequence[tuple[str, Ms]]) -> Account:
    """The account, as soon as there is nothing wrong in it; after 30 s as it is then."""
    found = account((), (), due, ())
    for _ in range(60):
        runs: list[Run] = list(
            itertools.chain.from_iterable([await scheduler.list_runs(job, limit=10_000) for job in JOBS])
        )
        found = account(await asyncio.to_thread(crew.calls), runs, due, crew.killed)
        if not found.wrong:
            break
        await asyncio.sleep(0.5)
    return found


async def a_story(
    url: str, folder: Path, seconds: int, events: Sequence[tuple[int, Callable[[Crew], None]]], **options: str
) -> Account:
    """Three members, each job due every second for a while, and what happens meanwhile, in which second."""
    given = {"lease": "2s", "worker_lease": "2s", "work_s": "0.05"} | options
    with Crew(url, folder, **given) as crew:
        for name in ("m0", "m1", "m2"):
            await asyncio.to_thread(crew.start, name)
        async with Scheduler(url, worker=False, plan=False, instance="driver") as scheduler:
            begin = soon(2)
            schedule = every("1s", start_at=begin, not_after=begin + dt.timedelta(seconds=seconds - 1))
            await asyncio.gather(*(scheduler.add_job(job, schedule, overlap="allow") for job in JOBS))
            for second, event in events:
                # In the midst of the slot's runs, each of which takes a moment.
                await until(begin + dt.timedelta(seconds=second, milliseconds=30))
                await asyncio.to_thread(event, crew)
            await until(begin + dt.timedelta(seconds=seconds))
            first = int(begin.timestamp() * 1000)
            due = [(job, first + 1000 * n) for job in JOBS for n in range(seconds)]
            found = await settled(crew, scheduler, due)
            assert found.calls >= found.slots == len(due)
            await asyncio.to_thread(crew.stop)
            return found


def replaced(old: str, new: str) -> Callable[[Crew], None]:
    """A member is killed, and another started."""

    def act(crew: Crew) -> None:
        crew.kill(old)
        crew.start(new)

    return act


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
