"""Several scheduler processes on one database, killed and replaced: nothing is lost, doubled or unsaid."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.faults.crews import a_story, replaced

from natscron.schedule import every
from natscron.scheduler import Scheduler

pytestmark = pytest.mark.anyio


async def test_every_slot_runs_once_while_members_are_killed_and_replaced(sql_url: str, tmp_path: Path) -> None:
    found = await a_story(sql_url, tmp_path, 8, [(2, replaced("m0", "m3")), (5, replaced("m1", "m4"))], jobs=40)
    assert found.wrong == ()


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
