"""Several scheduler processes on one database, one of them killed every ten seconds and replaced; then an account.

Run: ``python benchmarks/processes.py URL [--seconds 300] [--jobs 1000] [--members 4]``, URL of an empty database
(``postgresql://...``). Aims, with PostgreSQL: every slot runs, none twice unless a worker died inside it, all recorded.
"""

import argparse
import asyncio
import datetime as dt
import itertools
import resource
import tempfile
import time
from pathlib import Path

from natscron.model import Run
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.testing.crew import Crew, account

SETTLE_S = 30.0
EVERY_S = 1
KILL_EVERY_S = 10.0


async def _history(scheduler: Scheduler, jobs: list[str]) -> list[Run]:
    return list(itertools.chain.from_iterable([await scheduler.list_runs(job, limit=10_000) for job in jobs]))


async def measure(url: str, jobs: int, members: int, seconds: int, folder: Path) -> None:
    """Run, kill, and print what came of it."""
    names = [f"job-{n}" for n in range(jobs)]
    with Crew(url, folder) as crew:
        for n in range(members):
            crew.start(f"m{n}")
        async with Scheduler(url, worker=False, plan=False, instance="driver") as scheduler:
            begin = dt.datetime.fromtimestamp(int(time.time()) + 10, dt.UTC)
            last = begin + dt.timedelta(seconds=seconds - 1)
            schedule = every(EVERY_S, start_at=begin, not_after=last)
            await asyncio.gather(*(scheduler.add_job(name, schedule, overlap="allow") for name in names))
            began = time.time()
            print(f"{jobs} jobs stored, {begin.timestamp() - began:.1f} s before the first slot", flush=True)
            number = members
            await asyncio.sleep(begin.timestamp() - time.time())
            while time.time() < last.timestamp() - 2:
                await asyncio.sleep(KILL_EVERY_S)
                victim = crew.members[0]
                crew.kill(victim)
                await asyncio.to_thread(crew.start, f"m{number}")
                number += 1
            ended = time.time()
            due = [(name, int(begin.timestamp() + n * EVERY_S) * 1000) for name in names for n in range(seconds)]
            while True:
                runs = await _history(scheduler, names)
                found = account(crew.calls(), runs, due, crew.killed)
                if not found.wrong or time.time() - ended > SETTLE_S + 30:
                    break
                await asyncio.sleep(3)
            crew.stop()
            late = sorted(run.lateness_ms for run in runs if run.lateness_ms is not None and run.attempt == 1)
            again = sum(run.attempt > 1 for run in runs)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(
                f"{found.slots} slots, {found.calls} calls, {len(crew.killed)} kills, {again} further attempts, "
                f"lateness p50 {late[len(late) // 2]} p99 {late[int(len(late) * 0.99)]} max {late[-1]} ms, "
                f"processor time of the members {used.ru_utime + used.ru_stime:.0f} s in {seconds} s"
            )
            print("nothing wrong" if not found.wrong else f"{len(found.wrong)} WRONG, the first: {found.wrong[:5]}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--members", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(chosen.url, chosen.jobs, chosen.members, chosen.seconds, Path(folder)))


if __name__ == "__main__":
    main()
