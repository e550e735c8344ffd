"""Many jobs due at one instant: how late they reach the server.

Run: ``python benchmarks/burst.py [--jobs 10000] [--runs 5]``. Wanted: 10,000 jobs p50 at most 35 ms and the last at
most 80 ms; 50,000 jobs the last at most 300 ms. History is kept, delivery is core, messages are captured in a stream.

The row *NATS alone* is what the server needs for the same messages when one write brings them all: with the capturing
stream, its deduplication and a new subject for each message, it is the greater part of the figures above it. Where
other work shares the processors, the least of several runs says more than their median.
"""

import asyncio
import statistics
import time

import rig as bench

from natscron.codec import ms_to_text
from natscron.ids import ulid
from natscron.wire.publisher import encode

AHEAD_S = 4
"""The jobs are encoded ahead of their instant; there has to be time for it."""


async def burst(jobs: int, runs: int) -> None:
    """Create the jobs over the API, all for the same second, and look at some of its returns."""
    async with bench.standing() as (rig, service):
        # Six fields: every tenth second, so that the runs lie far apart.
        made = [
            {"subject": f"bench.{n}", "schedule": {"cron": "*/10 * * * * *"}, "delivery": "core"} for n in range(jobs)
        ]
        await rig.create(made)
        p50s, lasts, cpus = [], [], []
        for _ in range(runs + 1):
            slot_ms = (int(time.time()) // 10 + 1) * 10_000
            if slot_ms / 1000 - time.time() < AHEAD_S:
                slot_ms += 10_000
            await bench.sleep_until(slot_ms - 5_000)
            await rig.capture()
            before = service.cpu_s()
            await bench.sleep_until(slot_ms + 4_000)
            late = [run.late_ms for run in await rig.captured() if run.slot_ms == slot_ms]
            if len(late) != jobs:
                raise RuntimeError(f"{len(late)} of {jobs} runs were captured")
            p50s.append(bench.percentile(late, 0.5))
            lasts.append(max(late))
            cpus.append(service.cpu_s() - before)
        # The first one warms up what is kept per job.
        p50s, lasts = p50s[1:], lasts[1:]
        wanted = {10_000: "p50 <= 35, last <= 80 ms", 50_000: "last <= 300 ms"}.get(jobs, "")
        bench.report(f"{jobs} jobs at one instant, p50", _figures(p50s), wanted)
        bench.report(f"{jobs} jobs at one instant, last", _figures(lasts), wanted)
        alone = [await floor(rig, jobs) for _ in range(runs)]
        bench.report("  NATS alone: p50", _figures([p50 for p50, _ in alone]))
        bench.report("  NATS alone: last", _figures([last for _, last in alone]))
        bench.report("  service: processor time per burst", f"{statistics.median(cpus):.2f} s")
        bench.report("  service: memory after", f"{service.rss_mb():.0f} MB")


async def floor(rig: bench.Rig, jobs: int) -> tuple[float, float]:
    """The same messages, made before and written at once by a client that does nothing else: p50 and last."""
    await rig.capture()
    slot_ms = int(time.time() * 1000)
    made = []
    for n in range(jobs):
        run_id = ulid(slot_ms)
        headers = {
            "Nats-Msg-Id": run_id,
            "Nats-Cron-Job": f"bench.{n}",
            "Nats-Cron-Run": run_id,
            "Nats-Cron-Scheduled-At": ms_to_text(slot_ms),
            "Nats-Cron-Attempt": "1",
        }
        made.append(encode(f"bench.{n}", headers.items(), run_id.encode()))
    whole = b"".join(made)
    await asyncio.sleep(0.5)
    began_ms = time.time() * 1000
    rig.connection.enqueue(whole)
    await rig.connection.flush()
    await asyncio.sleep(1)
    # Runs of the service's own jobs fall in between now and then.
    late = [run.at_ms - began_ms for run in await rig.captured() if run.slot_ms == slot_ms]
    return bench.percentile(late, 0.5), max(late)


def _figures(values: list[float]) -> str:
    return (
        f"median {statistics.median(values):.1f}  min {min(values):.1f}  max {max(values):.1f} ms ({len(values)} runs)"
    )


if __name__ == "__main__":
    given = bench.options(__doc__ or "", jobs=10_000, runs=5)
    asyncio.run(burst(given.jobs, given.runs))
