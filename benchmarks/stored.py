"""Many stored jobs: how soon a service runs the first one, and how much memory it takes.

Run: ``python benchmarks/stored.py [--jobs 100000]``. Wanted: from the start of the process to the first run 4 s; a hot
standby's first run 1 s after it got the lease; under 300 MB resident; under 60 MB without jobs.
"""

import asyncio
import signal
import time

import msgspec
import rig as bench

from natscron.clock import SystemClock
from natscron.model import Job, ScheduleSpec
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.storage import NatsStorage
from natscron.wire.failures import Message

EVERY_MS = 100
"""How often the one job runs that is looked at."""


async def stored(jobs: int) -> None:
    """All rows of the table."""
    async with bench.Rig() as rig:
        idle = rig.serve("idle")
        await rig.leading(idle)
        await asyncio.sleep(3)
        bench.report("no jobs: memory of a leader", f"{idle.rss_mb():.0f} MB", "< 60 MB")
        await fill(rig, jobs)
        bench.report(f"{jobs} jobs arriving: memory of a leader", f"{idle.rss_mb():.0f} MB", "< 300 MB")
        idle.end()
        seen: list[float] = []
        leases: dict[str, float] = {}

        def ran(_: Message) -> None:
            seen.append(time.time())

        def leased(message: Message) -> None:
            if ".lease." in message.subject:
                leases.setdefault(msgspec.json.decode(message.data).get("instance", ""), time.time())

        await rig.connection.subscribe("bench.tick", ran)
        await rig.connection.subscribe("$KV.nats-cron-state.>", leased)
        await rig.connection.flush()

        began = time.time()
        cold = rig.serve("cold")
        await first_after(seen, began)
        bench.report(f"{jobs} jobs: cold start to first run", f"{seen[0] - began:.2f} s", "<= 4 s")
        await asyncio.sleep(3)
        peak = f"{cold.rss_mb():.0f} MB (peak {cold.peak_mb():.0f})"
        bench.report(f"{jobs} jobs: memory of the leader", peak, "< 300 MB")
        standby = rig.serve("standby")
        await rig.started(standby)
        await asyncio.sleep(3)
        peak = f"{standby.rss_mb():.0f} MB (peak {standby.peak_mb():.0f})"
        bench.report(f"{jobs} jobs: memory of a standby", peak, "< 300 MB")
        cold.end(signal.SIGKILL)
        killed = time.time()
        while "standby" not in leases and time.time() - killed < 30:  # noqa: PLR2004, ASYNC110 - filled by a callback
            await asyncio.sleep(0.01)
        took = leases["standby"]
        await first_after(seen, took)
        first = min(at for at in seen if at >= took)
        figures = f"{first - took:.2f} s after the lease, {first - killed:.2f} s after the kill"
        bench.report(f"{jobs} jobs: hot standby's first run", figures, "<= 1 s after the lease")


async def first_after(seen: list[float], at: float) -> None:
    """Wait until there was a run after the instant."""
    async with asyncio.timeout(60):
        while not seen or seen[-1] < at:  # noqa: ASYNC110 - filled by a callback
            await asyncio.sleep(0.01)


async def fill(rig: bench.Rig, jobs: int) -> None:
    """Store the jobs past the API: that is measured elsewhere."""
    storage = NatsStorage(rig.connection, NatsStorageOptions(), clock=SystemClock())
    await storage.initialize()
    for begin in range(0, jobs, 1_000):
        made = [
            Job(
                id=f"bench.job.{n}", schedule=ScheduleSpec(cron=f"{n % 60} {n // 60 % 24} * * *"), payload={"number": n}
            )
            for n in range(begin, min(begin + 1_000, jobs))
        ]
        await asyncio.gather(*[storage.put_job(job) for job in made])
    await storage.put_job(Job(id="bench.tick", schedule=ScheduleSpec(every=f"{EVERY_MS}ms")))
    await storage.close()


if __name__ == "__main__":
    asyncio.run(stored(bench.options(__doc__ or "", jobs=100_000).jobs))
