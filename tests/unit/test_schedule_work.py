"""How much work a search and a compilation are, in looks at patterns, months and zones: not in time, which varies.

The expressions are the slowest that benchmarks/worst.py found.
"""

import random
from collections import Counter
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.support.cron_corpus import Corpus

from natscron.errors import InvalidCronExpressionError
from natscron.model import ScheduleSpec
from natscron.schedule import compile_schedule
from natscron.schedule.days import DaySet
from natscron.schedule.fields import _Read
from natscron.schedule.pattern import Pattern
from natscron.schedule.zones import REPEATS_FROM, Zone

NOW = 1_800_000_000_000
ASKED = (0, NOW, 4_102_444_800_000, 253_402_300_000_000)
NEVER_THERE = "30 2 * 3 0#2"  # second Sunday of March: when New York's clocks skip that time
HARD = ("0 0 29 2 *", "0 0 * 2 1#5", NEVER_THERE, "30 2 * 3 0L", "0 0 31W 12 *", "59 59 23 31 12 *", "* * * * * *")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts looks: at patterns (forwards and back), at a month's days, at a zone's offset, and numbers read."""
    counted: Counter[str] = Counter()

    def count(owner: type, method: str, name: str) -> None:
        original: Any = getattr(owner, method)

        def counting(*args: Any) -> Any:  # noqa: ANN401 - whatever the method takes
            counted[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, method, counting)

    count(Pattern, "after", "pattern")
    count(Pattern, "before", "pattern")
    count(DaySet, "_mask", "month")
    count(Zone, "_offset", "zone")
    count(_Read, "number", "number")
    return counted


def searched(cron: str, tz: str | None, gap: str | None, fold: str | None, t: int, work: Counter[str]) -> None:
    spec = ScheduleSpec(cron=cron, tz=tz, dst_gap=gap, dst_fold=fold)
    schedule = compile_schedule(spec, anchor_ms=0, seed=cron).schedule
    work.clear()
    schedule.next_after_ms(t)
    schedule.last_at_or_before_ms(t)


def test_an_ordinary_search_looks_at_its_pattern_a_few_times(work: Counter[str]) -> None:
    corpus = Corpus("work")
    looked = []
    for _ in range(300):
        cron = corpus.expression()
        try:
            searched(cron, "Europe/Berlin", None, None, NOW, work)
        except InvalidCronExpressionError:
            continue  # drawn so that no day matches
        looked.append(work["pattern"])
    looked.sort()
    assert looked[len(looked) // 2] <= 4
    assert looked[-1] <= 12


@pytest.mark.parametrize("cron", HARD)
@pytest.mark.parametrize("gap", ["skip", "shift", "run_after"])
def test_the_hardest_search_is_bounded_by_the_clock_changes_of_fifty_years(
    cron: str, gap: str, work: Counter[str]
) -> None:
    draw = random.Random(cron)  # noqa: S311 - a test's input, repeatable
    for tz in (None, "America/New_York", "Africa/Casablanca"):
        for t in (*ASKED, draw.randrange(NOW)):
            for fold in ("first", "last", "both"):
                searched(cron, tz, gap, fold, t, work)
                assert work["pattern"] <= 2 * 2 * 51  # two looks a year each way
                assert work["month"] <= 2 * 600


COMPOSITES = (
    ScheduleSpec(
        any=tuple(ScheduleSpec(cron=f"{i} */{i % 5 + 1} * * * *") for i in range(8)),
        except_=tuple(ScheduleSpec(cron=f"{i} * {i} * * *") for i in range(8)),
        tz="Europe/Berlin",
    ),
    ScheduleSpec(
        cron="* * * * * *", except_=tuple(ScheduleSpec(cron=f"{i * 7}-{i * 7 + 6} * * * * *") for i in range(8))
    ),
    ScheduleSpec(
        cron="* * * * * *",
        tz="Europe/Berlin",
        except_=(ScheduleSpec(cron="* * * * 1-11 *"), ScheduleSpec(cron="* * * 1-23,25-31 * *")),
    ),
    ScheduleSpec(
        any=(ScheduleSpec(cron=NEVER_THERE), ScheduleSpec(cron="0 0 * * *")),
        except_=(ScheduleSpec(every="10ms", start_at="2027-01-01T00:00:00Z"),),
        tz="America/New_York",
        dst_gap="skip",
    ),
)


@pytest.mark.parametrize("spec", COMPOSITES)
def test_a_composite_search_is_bounded_whatever_its_parts(spec: ScheduleSpec, work: Counter[str]) -> None:
    schedule = compile_schedule(spec, anchor_ms=0).schedule
    for t in ASKED:
        for search in (schedule.next_after_ms, schedule.last_at_or_before_ms):
            work.clear()
            search(t)
            assert work["pattern"] <= 200
            assert work["month"] <= 4 * 600


def test_a_zone_is_read_with_a_bounded_number_of_looks() -> None:
    zone = Zone("America/New_York", ZoneInfo("America/New_York"))
    looks = Counter[str]()
    original = zone._offset

    def counting(second: int) -> int:
        looks["zone"] += 1
        return original(second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Zone, "_offset", lambda _self, second: counting(second))
        zone.around(NOW // 1000)
        assert looks["zone"] <= 2 * 21 * 14  # two decades, 21 changes in each, and halving to a second
        looks.clear()
        zone.around(NOW // 1000)
        assert looks["zone"] == 0
        zone.around(REPEATS_FROM * 2)  # a far century: no more than a near one
        assert looks["zone"] <= 2 * 21 * 14


def test_the_longest_expression_that_is_read_is_read_once(work: Counter[str]) -> None:
    cron = ",".join(["0-59"] * 128) + " * * * *"
    compile_schedule(ScheduleSpec(cron=cron, tz="Asia/Tokyo"), anchor_ms=0)
    assert work["number"] <= 2 * 128
    work.clear()
    compile_schedule(ScheduleSpec(cron=cron, tz="Asia/Seoul"), anchor_ms=0)
    assert work["number"] == 0
