"""The slowest schedules that can be found: what is given may be hostile, and one job must not hold up the others.

Run: ``python benchmarks/worst.py [--seconds 60]``. hypothesis draws schedules and instants from the whole dialect and
is told how long each took, so that it looks on where it was slow. Printed are the slowest of each shape: reading a
schedule (with cold caches), the first search (the zone not read yet), and a search after it, forwards and backwards.
Aim: nothing takes more than 5 ms of a processor, each figure the best of three.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.cron_corpus import Corpus

from natscron.errors import InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, days, fields
from natscron.schedule.base import MAX_MS
from natscron.schedule.zones import clear_cache

AIM_MS: Final = 5.0
NOW: Final = 1_800_000_000_000
SHOWN: Final = 2
WIDTH: Final = 400
ZONES: Final = (None, "Europe/Berlin", "America/New_York", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Apia")
HARD: Final = (
    "0 0 29 2 *",
    "0 0 * 2 1#5",
    "30 2 * 3 0#2",
    "30 2 * 3 0L",
    "0 0 31W 12 *",
    "59 59 23 31 12 *",
    "0 0 1W 2 *",
    "* * * * * *",
    ",".join(["0-59"] * 128) + " * * * *",
    ",".join(["H(0-59)/7"] * 100) + " * * * *",
    "0 0 "
    + ",".join(f"{n}W,L-{n}" for n in range(1, 31))
    + " * "
    + ",".join(f"{n % 7}#{n % 5 + 1}" for n in range(35)),
)
RULES: Final = (
    "FREQ=YEARLY;BYWEEKNO=53;BYDAY=SU",
    "FREQ=YEARLY;INTERVAL=4;BYMONTHDAY=29;BYMONTH=2",
    "FREQ=HOURLY;INTERVAL=7",
)

crons = st.one_of(
    st.randoms(use_true_random=False).map(lambda draw: Corpus(str(draw.random())).expression()), st.sampled_from(HARD)
)
plain = st.one_of(
    crons.map(lambda cron: ScheduleSpec(cron=cron)),
    crons.map(lambda cron: ScheduleSpec(cron=cron)),
    st.integers(10, 10**9).map(lambda ms: ScheduleSpec(every=f"{ms}ms")),
    st.sampled_from(RULES).map(lambda rule: ScheduleSpec(rrule=rule)),
)
parts = st.builds(
    lambda one, tz: msgspec.structs.replace(one, tz=tz) if one.cron or one.rrule else one, plain, st.sampled_from(ZONES)
)
lists = st.lists(parts, min_size=1, max_size=8).map(tuple)


@st.composite
def schedules(draw: st.DrawFn) -> ScheduleSpec:
    """A schedule of any shape."""
    around: dict[str, Any] = {
        "tz": draw(st.sampled_from(ZONES)),
        "dst_gap": draw(st.sampled_from([None, "skip", "shift", "run_after"])),
        "dst_fold": draw(st.sampled_from([None, "first", "last", "both"])),
    }
    if draw(st.booleans()):
        around["except_"] = draw(lists)
    if draw(st.integers(0, 3)) == 0:
        around["jitter"] = draw(st.sampled_from(["1s", "24h"]))
    if draw(st.integers(0, 2)) == 0:
        return ScheduleSpec(any=draw(lists), **around)
    one = draw(plain)
    return ScheduleSpec(cron=one.cron, every=one.every, rrule=one.rrule, **around)


def cost_ms(prepare: Callable[[], object], act: Callable[[], object], enough: float) -> float:
    """Milliseconds of a processor, the best of three; of one if that is little."""
    best = float("inf")
    for _ in range(3):
        prepare()
        begun = time.process_time()
        act()
        best = min(best, (time.process_time() - begun) * 1000)
        if best < enough:
            break
    return best


def cold() -> None:
    """Forget what was read of fields, days and zones."""
    fields._read_shared.cache_clear()  # noqa: SLF001 - a measurement from nothing
    days.day_set.cache_clear()
    clear_cache()


class Slowest:
    """The slowest few of each kind."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[float, str]]] = {}
        self.seen = 0

    def note(self, kind: str, ms: float, spec: ScheduleSpec, t: int) -> None:
        """Keep it if it is one."""
        heap = self.found.setdefault(kind, [])
        if len(heap) < SHOWN or ms > heap[-1][0]:
            heap.append((ms, f"at {t}: {msgspec.json.encode(spec).decode()}"))
            heap.sort(reverse=True)
            del heap[SHOWN:]

    def measure(self, spec: ScheduleSpec, t: int) -> float:
        """All kinds of one schedule; the most that one took."""
        self.seen += 1
        made: list[Schedule] = []

        def compiled() -> None:
            made[:] = [compile_schedule(spec, anchor_ms=NOW, seed=str(random.random())).schedule]  # noqa: S311 - no cache

        try:
            costs = {"parse": cost_ms(cold, compiled, 1.0)}
        except InvalidScheduleError:
            return 0.0
        whole = made[0].dues
        costs["first search"] = cost_ms(clear_cache, lambda: whole.next_after_ms(t), 1.0)
        costs["next"] = cost_ms(lambda: None, lambda: whole.next_after_ms(t), 0.5)
        whole.last_at_or_before_ms(t)
        costs["last"] = cost_ms(lambda: None, lambda: whole.last_at_or_before_ms(t), 0.5)
        shape = "union" if spec.any else "cron" if spec.cron else "interval" if spec.every else "rule"
        shape += " with except" if spec.except_ else ""
        for kind, ms in costs.items():
            self.note(f"{shape}: {kind}", ms, spec, t)
        return max(costs.values())


def main() -> int:
    """Search, and print; 1 if anything took longer than the aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    slowest = Slowest()
    over = time.monotonic() + seconds

    while time.monotonic() < over:

        @settings(
            max_examples=300,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.target],
            suppress_health_check=list(HealthCheck),
        )
        @given(spec=schedules(), t=st.sampled_from([0, NOW, 4_102_444_800_000]) | st.integers(0, MAX_MS))
        def look(spec: ScheduleSpec, t: int) -> None:
            if time.monotonic() < over:
                target(slowest.measure(spec, t))

        look()
    worst = 0.0
    for kind, heap in sorted(slowest.found.items()):
        for ms, shown in heap:
            print(f"{kind:34}{ms:9.3f} ms  {shown[:WIDTH]}")
            worst = max(worst, ms)
    print(f"{slowest.seen} schedules; the slowest took {worst:.2f} ms, the aim is {AIM_MS:.0f} ms")
    return 1 if worst > AIM_MS else 0


if __name__ == "__main__":
    sys.exit(main())
