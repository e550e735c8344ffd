"""Several scheduler processes on one database, killed and replaced: nothing is lost, doubled or unsaid."""

import asyncio
import datetime as dt
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from natscron.clock import SystemClock
from natscron.model import Ms, Run
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Account, Crew, account

pytestmark = pytest.mark.anyio

JOBS = [f"job-{n}" for n in range(40)]
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


async def test_every_slot_runs_once_while_members_are_killed_and_replaced(sql_url: str, tmp_path: Path) -> None:
    seconds = 8
    with Crew(sql_url, tmp_path, lease="2s", worker_lease="2s", work_s="0.05") as crew:
        for name in ("m0", "m1", "m2"):
            await asyncio.to_thread(crew.start, name)
        async with Scheduler(sql_url, worker=False, plan=False, instance="driver") as scheduler:
            begin = soon(2)
            schedule = every("1s", start_at=begin, not_after=begin + dt.timedelta(seconds=seconds - 1))
            await asyncio.gather(*(scheduler.add_job(job, schedule, overlap="allow") for job in JOBS))
            for second, number in ((2, 3), (5, 4)):
                # In the midst of the slot's runs, each of which takes a moment.
                await until(begin + dt.timedelta(seconds=second, milliseconds=30))
                crew.kill(crew.members[0])
                await asyncio.to_thread(crew.start, f"m{number}")
            await until(begin + dt.timedelta(seconds=seconds))
            first = int(begin.timestamp() * 1000)
            due = [(job, first + 1000 * n) for job in JOBS for n in range(seconds)]
            found = await settled(crew, scheduler, due)
            assert found.wrong == ()
            assert len(crew.killed) == 2
            assert found.calls >= found.slots == len(due)
            await asyncio.to_thread(crew.stop)


async def test_a_run_whose_handler_ends_its_process_is_taken_over_and_given_up_in_the_end(
    sqlite_url: str, tmp_path: Path
) -> None:
    program = f"""
import asyncio, os, sys
from natscron import Scheduler

async def handler(event):
    with open({str(tmp_path / "attempts")!r}, "a") as file:
        file.write(f"{{event.attempt}}\\n")
    os._exit(3)

scheduler = Scheduler({sqlite_url!r}, handler, lease="1s", worker_lease="1s")
asyncio.run(scheduler.run_forever())
"""
    async with Scheduler(sqlite_url, worker=False, plan=False, instance="driver") as scheduler:
        await scheduler.add_job("deadly", every("1h"))
        run_id = await scheduler.trigger("deadly")
        for _ in range(40):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            run = await scheduler.get_run(run_id)
            if run.status == "dead":
                break
        assert (run.status, run.reason, run.attempt) == ("dead", "worker_lost", 5)
        assert (tmp_path / "attempts").read_text().split() == ["1", "2", "3", "4", "5"]
