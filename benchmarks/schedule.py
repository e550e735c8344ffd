"""What one search costs, in microseconds: a realistic mix of expressions, asked at instants spread over five years.

Run: ``python benchmarks/schedule.py``. Aim: next_after at most 5 us in UTC and 12 us in a zone (medians of the mix).
"""

import random
import statistics
import time
from collections.abc import Callable

from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule

MIX = (
    "* * * * *",
    "*/5 * * * *",
    "0 * * * *",
    "30 4 * * *",
    "0 9 * * MON-FRI",
    "0 9-17/2 * * 1-5",
    "15 3 1 * *",
    "0 0 1 1 *",
    "0 12 15 * 5",
    "*/10 8-18 * JAN-JUN *",
    "5,35 6,18 * * 0",
    "0 0 L * *",
    "0 10 * * 1#2",
    "*/15 * * * * *",
    "0 30 2 * * *",
)
RARE = "0 0 29 2 *"
ZONES = (None, "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")
FROM_MS, YEARS_MS = 1_767_225_600_000, 5 * 366 * 86_400_000
ASKED = 2_000


def cost_us(ask: Callable[[int], int | None], instants: list[int]) -> float:
    """Mean microseconds of one call, the best of three rounds."""
    rounds = []
    for _ in range(3):
        begun = time.perf_counter()
        for instant in instants:
            ask(instant)
        rounds.append((time.perf_counter() - begun) / len(instants) * 1e6)
    return min(rounds)


def main() -> None:
    """Print the table."""
    draw = random.Random(1)  # noqa: S311 - a benchmark's input, repeatable
    instants = [FROM_MS + draw.randrange(YEARS_MS) for _ in range(ASKED)]

    def compiled(expression: str, zone: str | None) -> Schedule:
        return compile_schedule(ScheduleSpec(cron=expression, tz=zone), anchor_ms=0).schedule

    print(f"{'zone':24}{'next median':>14}{'next worst':>14}{'last median':>14}{'last worst':>14}{'29 Feb':>10}  (us)")
    for zone in ZONES:
        schedules = [compiled(expression, zone) for expression in MIX]
        following = [cost_us(schedule.next_after_ms, instants) for schedule in schedules]
        last = [cost_us(schedule.last_at_or_before_ms, instants) for schedule in schedules]
        rare = cost_us(compiled(RARE, zone).next_after_ms, instants)
        figures = (statistics.median(following), max(following), statistics.median(last), max(last))
        print(f"{zone or 'UTC':24}" + "".join(f"{figure:14.2f}" for figure in figures) + f"{rare:10.2f}")
    every = compile_schedule(ScheduleSpec(every="30s"), anchor_ms=FROM_MS).schedule
    print(f"interval: next {cost_us(every.next_after_ms, instants):.2f}, ", end="")
    print(f"last {cost_us(every.last_at_or_before_ms, instants):.2f}")


if __name__ == "__main__":
    main()
