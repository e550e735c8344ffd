"""The library against APScheduler 3, in one process: jobs due at one instant, once jobs, adds, an idle table, drift.

Run: ``python benchmarks/handlers.py NAME [--storage URL] [--jobs N] [--runs N]``, NAME one of ``due once add idle
drift``, URL ``memory://``, ``sqlite`` (a file in a temporary folder, synchronous NORMAL), ``nats`` (a server of its
own, empty, in a temporary folder) or any URL of a Scheduler.
Aims: 10,000 due at once in memory all done in 0.6 s with their history; 1,000 on SQLite in 0.5 s; once jobs p50 1 ms
and p99 3 ms in memory, 2 and 8 ms on SQLite; 2,500 adds a second with 32 at a time; 100,000 idle jobs under 1 % of a
core; an interval of a second without drift.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.jobstores.base import BaseJobStore  # noqa: TC002 - one import block reads better than two
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger

from natscron.model import RunStatus
from natscron.schedule import cron, every, once
from natscron.scheduler import Scheduler
from natscron.testing.nats import NatsServer

AT_ONCE = 32
AHEAD_S = 3.0
_ended: list[float] = []
_all = asyncio.Event()
_wanted = 0


async def handler(_event: object = None) -> None:
    """Do nothing, and note when."""
    _ended.append(time.time())
    if len(_ended) == _wanted:
        _all.set()


def _expect(runs: int) -> None:
    global _all, _wanted
    _ended.clear()
    _all, _wanted = asyncio.Event(), runs


async def _at_once(work: Callable[[int], Awaitable[object]], count: int) -> float:
    """Seconds for ``count`` calls, :data:`AT_ONCE` at a time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await work(number)

    begun = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return time.perf_counter() - begun


def _soon(seconds: float) -> dt.datetime:
    """A whole second at least that far ahead."""
    return dt.datetime.fromtimestamp(int(time.time() + seconds) + 1, dt.UTC)


def _ms(values: list[float]) -> str:
    ordered = sorted(values)
    return f"p50 {ordered[len(ordered) // 2] * 1e3:.2f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.2f} ms"


def _theirs(storage: str, folder: str) -> AsyncIOScheduler:
    store: BaseJobStore = MemoryJobStore()
    if storage != "memory://":
        store = SQLAlchemyJobStore(url=f"sqlite:///{folder}/apscheduler.db")
    return AsyncIOScheduler(
        jobstores={"default": store},
        executors={"default": AsyncIOExecutor()},
        job_defaults={"misfire_grace_time": None},
        timezone="UTC",
    )


async def due(url: str, jobs: int, theirs: AsyncIOScheduler | None) -> None:
    """All jobs are due at one second; how long until the last has ended, and is recorded."""
    scheduler = Scheduler(url, handler)
    told: list[float] = []
    scheduler.on("run_finished", lambda _run: told.append(time.time()))
    async with scheduler:
        _expect(jobs)
        at = _soon(AHEAD_S)
        schedule = cron(f"{at.second} {at.minute} * * * *")
        await _at_once(lambda n: scheduler.add_job(f"job-{n}", schedule), jobs)
        if time.time() > at.timestamp() - 1:
            at = _soon(AHEAD_S)
            schedule = cron(f"{at.second} {at.minute} * * * *")
            await _at_once(lambda n: scheduler.update_job_schedule(f"job-{n}", schedule), jobs)
        await _all.wait()
        ran = _ended[-1] - at.timestamp()
        # Of an ending is told when it is stored, and its record with it; that all are there is asked once, at the end.
        while len(told) < jobs:  # noqa: ASYNC110 - one look at a time
            await asyncio.sleep(0.002)
        recorded = told[-1] - at.timestamp()
        found = await _completed(scheduler, jobs)
        assert found == jobs, f"{found} of {jobs} runs are recorded"  # noqa: S101 - the figure would be none
    print(f"natscron     {jobs} due at once: last ended after {ran:.3f} s, all recorded after {recorded:.3f} s")
    if theirs is None:
        return
    theirs.start()
    _expect(jobs)
    # So many can be added in a second, at the least: in memory, and with a commit for each.
    at = _soon(AHEAD_S + jobs / (1_500 if url == "memory://" else 150))
    for n in range(jobs):
        theirs.add_job(handler, CronTrigger(second=at.second, minute=at.minute), id=f"job-{n}")
    assert time.time() < at.timestamp(), "the adds took too long"  # noqa: S101 - the figure would be none
    await _all.wait()
    print(f"APScheduler  {jobs} due at once: last ended after {_ended[-1] - at.timestamp():.3f} s, nothing recorded")
    theirs.shutdown(wait=False)


async def _completed(scheduler: Scheduler, most: int) -> int:
    found = 0
    for offset in range(0, most, 10_000):
        found += len(await scheduler.list_runs(status=RunStatus.COMPLETED, limit=10_000, offset=offset))
    return found


async def once_jobs(url: str, jobs: int, theirs: AsyncIOScheduler | None) -> None:
    """Once jobs 17 ms apart, with 1,000 others in the table: from the instant to the handler."""
    begun = time.time() + 2
    instants = [dt.datetime.fromtimestamp(begun + 0.017 * n, dt.UTC) for n in range(jobs)]

    def lateness() -> list[float]:
        return [ended - at.timestamp() for ended, at in zip(sorted(_ended), instants, strict=True)]

    async with Scheduler(url, handler) as scheduler:
        await _at_once(lambda n: scheduler.add_job(f"far-{n}", cron("0 0 1 1 *")), 1_000)
        _expect(jobs)
        begun = time.time() + 2
        instants = [dt.datetime.fromtimestamp(int((begun + 0.017 * n) * 1e3) / 1e3, dt.UTC) for n in range(jobs)]
        await _at_once(lambda n: scheduler.add_job(f"once-{n}", once(instants[n])), jobs)
        await _all.wait()
        print(f"natscron     once: {_ms(lateness())}")
    if theirs is None:
        return
    theirs.start()
    for n in range(1_000):
        theirs.add_job(handler, CronTrigger(month=1, day=1, hour=0), id=f"far-{n}")
    _expect(jobs)
    begun = time.time() + 3
    instants = [dt.datetime.fromtimestamp(begun + 0.017 * n, dt.UTC) for n in range(jobs)]
    for n in range(jobs):
        theirs.add_job(handler, DateTrigger(instants[n]), id=f"once-{n}")
    await _all.wait()
    print(f"APScheduler  once: {_ms(lateness())}")
    theirs.shutdown(wait=False)


async def add(url: str, jobs: int, theirs: AsyncIOScheduler | None) -> None:
    """Adds, 32 at a time (APScheduler: one after the other, it has no other way)."""
    async with Scheduler(url, handler) as scheduler:
        took = await _at_once(lambda n: scheduler.add_job(f"job-{n}", cron("0 0 1 1 *")), jobs)
    print(f"natscron     add_job: {jobs / took:,.0f} a second")
    if theirs is None:
        return
    theirs.start()
    begun = time.perf_counter()
    for n in range(jobs):
        theirs.add_job(handler, CronTrigger(month=1, day=1, hour=0), id=f"job-{n}")
    print(f"APScheduler  add_job: {jobs / (time.perf_counter() - begun):,.0f} a second")
    theirs.shutdown(wait=False)


async def idle(url: str, jobs: int, theirs: AsyncIOScheduler | None) -> None:
    """What a table of jobs costs while none is due, in percent of a core over 20 s."""
    del theirs
    async with Scheduler(url, handler) as scheduler:
        await _at_once(lambda n: scheduler.add_job(f"job-{n}", cron("0 0 1 1 *")), jobs)
        await asyncio.sleep(3)
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.sleep(20)
        used = (time.process_time() - cpu) / (time.perf_counter() - wall)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"natscron     {jobs} idle jobs: {used * 100:.2f} % of a core, at most {memory:.0f} MB")


async def drift(url: str, seconds: int, theirs: AsyncIOScheduler | None) -> None:
    """An interval of a second: runs, and how far the last is off the grid of the first."""
    del theirs
    async with Scheduler(url, handler) as scheduler:
        _expect(seconds)
        await scheduler.add_job("tick", every("1s"))
        await _all.wait()
        off = [(at - _ended[0]) - n for n, at in enumerate(_ended)]
        print(
            f"natscron     {len(_ended)} runs of a 1 s interval in {_ended[-1] - _ended[0] + 1:.1f} s; "
            f"off the grid: median {statistics.median(off) * 1e3:.2f} ms, last {off[-1] * 1e3:.2f} ms"
        )


MEASURES: dict[str, tuple[Callable[[str, int, Any], Coroutine[Any, Any, None]], int]] = {
    "due": (due, 10_000),
    "once": (once_jobs, 500),
    "add": (add, 10_000),
    "idle": (idle, 100_000),
    "drift": (drift, 300),
}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(MEASURES))
    parser.add_argument("--storage", default="memory://")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without APScheduler")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    measure, jobs = MEASURES[chosen.name]
    for _ in range(chosen.runs):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "natscron.db"
            url = f"sqlite:///{file}" if chosen.storage == "sqlite" else chosen.storage
            with contextlib.ExitStack() as stack:
                if chosen.storage == "nats":
                    url = stack.enter_context(NatsServer(Path(folder) / "nats")).url
                theirs = None if chosen.alone or chosen.storage == "nats" else _theirs(chosen.storage, folder)
                asyncio.run(measure(url, chosen.jobs or jobs, theirs))


if __name__ == "__main__":
    main()
