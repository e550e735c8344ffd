"""What the stories of scheduler processes share: jobs that are due every second, and what happens meanwhile."""

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

from natscron.clock import SystemClock
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Account, Crew, settled

CLOCK = SystemClock()


async def _until(moment: dt.datetime) -> None:
    await asyncio.sleep(max(moment.timestamp() - CLOCK.now_s(), 0))


async def a_story(
    url: str,
    folder: Path,
    seconds: int,
    events: Sequence[tuple[int, Callable[[Crew], None]]],
    *,
    jobs: int = 20,
    **options: str,
) -> Account:
    """Three members, each job due every second for a while, and what happens meanwhile, in which second."""
    names = [f"job-{n}" for n in range(jobs)]
    given = {"lease": "2s", "worker_lease": "2s", "work_s": "0.05"} | options
    with Crew(url, folder, **given) as crew:
        for name in ("m0", "m1", "m2"):
            await asyncio.to_thread(crew.start, name)
        async with Scheduler(url, worker=False, plan=False, instance="driver") as scheduler:
            begin = dt.datetime.fromtimestamp(CLOCK.now_ms() // 1000 + 3, dt.UTC)
            schedule = every("1s", start_at=begin, not_after=begin + dt.timedelta(seconds=seconds - 1))
            await asyncio.gather(*(scheduler.add_job(name, schedule, overlap="allow") for name in names))
            for second, event in events:
                # In the midst of the slot's runs, each of which takes a moment.
                await _until(begin + dt.timedelta(seconds=second, milliseconds=30))
                await asyncio.to_thread(event, crew)
            await _until(begin + dt.timedelta(seconds=seconds))
            first = int(begin.timestamp() * 1000)
            due = [(name, first + 1000 * n) for name in names for n in range(seconds)]
            found, _ = await settled(crew, scheduler, due)
            assert found.left_out == 0
            assert found.calls >= found.slots == len(due)
            await asyncio.to_thread(crew.stop)
            return found


def replaced(old: str, new: str) -> Callable[[Crew], None]:
    """A member is killed, and another started."""

    def act(crew: Crew) -> None:
        crew.kill(old)
        crew.start(new)

    return act
