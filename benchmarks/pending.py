"""Many stored far-future jobs on NATS: how soon a Scheduler runs, its memory, and a 1 s job beside them.

Run: ``python benchmarks/pending.py [--jobs 5000 100000] [--kind once|cron|mixed] [--runs 3] [--seconds 30]``. The jobs
are written by the library's own row writer, once, with an id, a payload and (``once``) an instant of its own each; then
each run starts a new process with a Scheduler on them, beside which the server goes on. Wanted: ``start()`` returns
after 150 ms with 5,000 jobs and 2.5 s with 100,000; with 1,000,000 less than 1.5 GB are resident, and the 1 s job is as
late as without them (``--jobs 0``). A million takes some 15 minutes with three runs; ``--runs 1`` is enough there.

MB are 10^6 bytes. "late" is from the slot to the handler's first line, without the runs of the first second.
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import rig as bench

from natscron import Scheduler
from natscron.clock import SystemClock
from natscron.model import Job, Overlap, ScheduleSpec
from natscron.storage.nats import NATSStorage
from natscron.testing.nats import NatsServer

AT_ONCE: Final = 1_000
FAR: Final = dt.datetime(2090, 1, 1, tzinfo=dt.UTC)
MB: Final = 1e6


def rows(count: int, kind: str) -> Iterator[Job]:
    """Far-future jobs."""
    for n in range(count):
        if kind == "once" or (kind == "mixed" and n % 2):
            schedule = ScheduleSpec(at=(FAR + dt.timedelta(seconds=7 * n)).strftime("%Y-%m-%dT%H:%M:%SZ"))
        else:
            schedule = ScheduleSpec(cron=f"{n % 60} {n // 60 % 24} 1 1 *")
        yield Job(
            id=f"customers.{n % 1000}.reminder-{n}", schedule=schedule, payload={"number": n}, overlap=Overlap.SKIP
        )


async def fill(url: str, jobs: int, kind: str) -> float:
    """Store them; rows a second."""
    storage = NATSStorage(url, clock=SystemClock())
    await storage.initialize()
    begun = time.perf_counter()
    these = rows(jobs, kind)
    while some := [job for job, _ in zip(these, range(AT_ONCE), strict=False)]:
        await asyncio.gather(*[storage.put_job(job) for job in some])
    took = time.perf_counter() - begun
    await storage.put_job(Job(id="tick", schedule=ScheduleSpec(every="1s"), overlap=Overlap.SKIP))
    await storage.close()
    return jobs / took


async def beside(url: str, seconds: float) -> dict[str, Any]:
    """In a process of its own: start, and look at the 1 s job."""
    late: list[float] = []
    first = asyncio.Event()

    def handler(event: Any) -> None:  # noqa: ANN401 - JobEvent
        raise RuntimeError(event.id)

    async def tick(event: Any) -> None:  # noqa: ANN401 - JobEvent
        late.append(time.time() - event.scheduled_at.timestamp())
        first.set()

    scheduler = Scheduler(url, handler)
    begun, cpu = time.perf_counter(), time.process_time()
    scheduler.set_handler(tick)
    await scheduler.start()
    started, start_cpu = time.perf_counter() - begun, time.process_time() - cpu
    async with asyncio.timeout(60):
        await first.wait()
    ran = time.perf_counter() - begun
    await asyncio.sleep(1)
    late.clear()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    used = (time.process_time() - cpu) / (time.perf_counter() - wall)
    found = {"start": started, "start_cpu": start_cpu, "first": ran, "late": list(late), "cpu": used, **memory()}
    await scheduler.stop()
    return found


def memory() -> dict[str, float]:
    """Resident now, and the most so far, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[key].split()[0]) * 1024 / MB for name, key in (("rss", "VmRSS"), ("peak", "VmHWM"))}


def measure(jobs: int, kind: str, runs: int, seconds: float) -> None:
    """All figures of so many jobs."""
    with tempfile.TemporaryDirectory(prefix="natscron-bench-") as folder, NatsServer(Path(folder)) as server:
        rate = asyncio.run(fill(server.url, jobs, kind))
        bench.report(f"{jobs} {kind} jobs stored", f"{rate:,.0f} rows/s")
        found = []
        for _ in range(runs):
            load = os.getloadavg()[0]
            command = [sys.executable, __file__, "--beside", server.url, "--seconds", str(seconds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - own list
            found.append({**json.loads(done.stdout), "load": load})
    for name, wanted in (("start", "150 ms at 5,000, 2.5 s at 100,000"), ("start_cpu", ""), ("first", "")):
        values = [run[name] * 1e3 for run in found]
        text = " ".join(f"{value:.0f}" for value in values)
        bench.report(f"  {name}, ms", f"median {statistics.median(values):.0f} of {text}", wanted)
    for run in found:
        late = sorted(run["late"])
        bench.report(
            f"  1 s job, {len(late)} runs in {seconds:g} s",
            f"late p50 {bench.percentile(late, 0.5) * 1e3:.1f} max {late[-1] * 1e3:.1f} ms, "
            f"{run['cpu'] * 100:.2f} % of a core",
        )
        figures = f"{run['rss']:.0f} MB (peak {run['peak']:.0f})"
        bench.report("  memory", figures, "< 1500 MB at 1,000,000" if jobs else "")
    bench.report("  load before each run", " ".join(f"{run['load']:.1f}" for run in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--kind", choices=("once", "cron", "mixed"), default="once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--beside", metavar="URL", help="what each run's own process does")
    given = parser.parse_args()
    if given.beside:
        print(json.dumps(asyncio.run(beside(given.beside, given.seconds))))
    else:
        for number in given.jobs:
            measure(number, given.kind, given.runs, given.seconds)
