"""What it costs to decide about a day's outage: 10,000 every-second jobs, each policy. Prints figures; asserts nothing.

Two figures count: the whole, and the longest single take, because nothing else runs in this thread meanwhile, renewals
of the lease least of all.

    python benchmarks/catchup.py [jobs] [hours]
"""

import sys
import time
from typing import Final

from natscron.engine.planner import Planner
from natscron.engine.table import Entry, compile_entry
from natscron.model import CatchUp, CatchUpPolicy, Job, Mark, ScheduleSpec, Stamp

_GRACE_MS: Final = 12_000
_LIMIT: Final = 1_024
"""As a term takes."""


def _entries(count: int, spec: ScheduleSpec, policy: CatchUpPolicy) -> list[Entry]:
    catchup = CatchUp(policy=policy, limit=100)
    stamp = Stamp(0, 1)
    jobs = (Job(id=f"j{n}", schedule=spec, catchup=catchup, generation=1, counts_from=stamp) for n in range(count))
    return [compile_entry(job, 1) for job in jobs]


def _measure(entries: list[Entry], hours: int) -> str:
    planner = Planner()
    planner.restart(Mark(instant_ms=86_400_000, jobs_seq=1))
    for entry in entries:
        planner.put(entry)
    now = 86_400_000 + hours * 3_600_000
    runs = ranges = takes = 0
    longest = 0.0
    begun = time.perf_counter()
    more = True
    while more:
        before = time.perf_counter()
        window = planner.take(now, 1, reference_ms=now, grace_floor_ms=_GRACE_MS, limit=_LIMIT)
        longest = max(longest, time.perf_counter() - before)
        runs, ranges, takes, more = runs + len(window.due), ranges + len(window.missed), takes + 1, window.more
    whole = time.perf_counter() - begun
    return f"{whole:6.2f} s  longest take {longest * 1e3:5.1f} ms  {takes:5} takes  {runs:8} runs  {ranges:6} ranges"


def main() -> None:
    """Print a line for each schedule and policy."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    hours = int(sys.argv[2]) if len(sys.argv) > 2 else 24  # noqa: PLR2004 - the second argument
    zoned = ScheduleSpec(cron="* * * * * *", tz="Europe/Berlin")
    for name, spec in (
        ("cron", ScheduleSpec(cron="* * * * * *")),
        ("zoned cron", zoned),
        ("every", ScheduleSpec(every="1s")),
        ("jittered", ScheduleSpec(every="1s", jitter="500ms")),
    ):
        for policy in CatchUpPolicy:
            print(f"{count} x {name:10} {policy.value:7} {_measure(_entries(count, spec, policy), hours)}")


if __name__ == "__main__":
    main()
