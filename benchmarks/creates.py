"""How many jobs a second the API creates, the client, the service and NATS each being a process of its own.

Run: ``python benchmarks/creates.py [--jobs 20000] [--flight 64] [--runs 3]``. Wanted: 4,000 creates a second with 64 in
flight. The client here does as little as it can for each request; its processor time is shown beside the service's.
"""

import asyncio
import statistics
import time

import rig as bench

ZONES = ("UTC", "Europe/Berlin", "America/New_York")


async def creates(jobs: int, flight: int, runs: int) -> None:
    """Create different jobs: crons in some zones, with payload and headers as jobs have them."""
    async with bench.standing() as (rig, service):
        rates, slow, used, ours = [], [], [], []
        for run in range(runs):
            made = [
                {
                    "subject": f"bench.{run}.{n}",
                    "schedule": {"cron": f"{n % 60} {n // 60 % 24} * * *", "tz": ZONES[n % len(ZONES)]},
                    "payload": {"type": "text", "data": f"job {n}"},
                }
                for n in range(jobs)
            ]
            await asyncio.sleep(1)
            cpu, own, began = service.cpu_s(), time.process_time(), time.perf_counter()
            took = await rig.create(made, flight)
            rates.append(jobs / (time.perf_counter() - began))
            slow.append(bench.percentile(took, 0.99))
            used.append((service.cpu_s() - cpu) / jobs * 1e6)
            ours.append((time.process_time() - own) / jobs * 1e6)
        figures = f"median {statistics.median(rates):.0f}  min {min(rates):.0f}  max {max(rates):.0f} /s ({runs} runs)"
        bench.report(f"creates over the API, {flight} in flight", figures, ">= 4,000/s")
        bench.report("  answer, p99", f"{statistics.median(slow):.1f} ms")
        figures = f"service {statistics.median(used):.0f}, client {statistics.median(ours):.0f} us"
        bench.report("  processor time per create", figures)


if __name__ == "__main__":
    given = bench.options(__doc__ or "", jobs=20_000, flight=64, runs=3)
    asyncio.run(creates(given.jobs, given.flight, given.runs))
