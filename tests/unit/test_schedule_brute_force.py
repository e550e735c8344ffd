"""Cron schedules against the oracle: at every clock change of twelve zones from 1970 to 2037, and all over time in UTC.

Each comparison is one expression at one instant: the next slot, the last one, and a count. The input is the same at
each run. ``PER_CHANGE`` and ``ZONES`` say how many comparisons there have to be, and the tests hold them to it.
"""

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pytest
from tests.support.cron_corpus import Corpus
from tests.support.cron_oracle import DAY, FOLDS, GAPS, HOUR, Change, Oracle, clocks_of

from natscron.errors import InvalidCronExpressionError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule

ZONES = {
    "America/New_York": 134,
    "Europe/Berlin": 114,
    "Australia/Lord_Howe": 112,
    "Europe/Dublin": 131,
    "Africa/Cairo": 100,
    "America/Sao_Paulo": 66,
    "Pacific/Apia": 21,
    "Asia/Tehran": 67,
    "Africa/Casablanca": 80,
    "Asia/Kathmandu": 1,
    "Pacific/Chatham": 125,
    "Antarctica/Troll": 60,
}
"""The zones, and how many clock changes each has at least from 1970 to 2037."""

UNTIL = int(dt.datetime(2038, 1, 1, tzinfo=dt.UTC).timestamp())
EXPRESSIONS = 3
STARTS = 2
PER_CHANGE = EXPRESSIONS * len(GAPS) * len(FOLDS) * STARTS
IN_UTC, UTC_PARTS, UTC_STARTS = 700, 4, 8


def compiled(text: str, tz: str | None, gap: str | None = None, fold: str | None = None) -> Schedule | None:
    spec = ScheduleSpec(cron=text, tz=tz, dst_gap=gap, dst_fold=fold)
    try:
        return compile_schedule(spec, anchor_ms=0, seed=text).schedule
    except InvalidCronExpressionError as error:
        if "never matches" not in str(error):
            raise
        return None  # drawn so that no day matches, such as 31 April


def in_ms(second: int | None) -> int | None:
    return None if second is None else second * 1000


def compare(
    schedule: Schedule, oracle: Oracle, t_ms: int, until_ms: int, gap: str | None = None, fold: str | None = None
) -> None:
    second = t_ms // 1000
    found = (
        schedule.next_after_ms(t_ms),
        schedule.last_at_or_before_ms(t_ms),
        schedule.count(t_ms, until_ms, 10**9),
    )
    wanted = (
        in_ms(oracle.next(second, gap, fold)),
        in_ms(oracle.last(second, gap, fold)),
        oracle.count(second, until_ms // 1000, gap, fold),
    )
    assert found == wanted, (schedule.expression, gap, fold, t_ms, until_ms)


def corpus_near(change: Change, zone: ZoneInfo, seed: str) -> Corpus:
    """Expressions whose hours and days have something to do with the change."""
    shown = [dt.datetime.fromtimestamp(change.at + hours * HOUR, zone) for hours in range(-4, 5)]
    lost = dt.datetime.fromtimestamp(change.at + change.before, dt.UTC)  # the wall clock at the begin of a gap
    days = [(dt.datetime.fromtimestamp(change.at, zone) + dt.timedelta(days=d)).day for d in (-2, -1, 0, 0, 1)]
    hours = [moment.hour for moment in shown[2:-2]] + [lost.hour, lost.hour, (lost.hour + 1) % 24]
    return Corpus(seed, hours, [*days, lost.day], [shown[4].month, lost.month])


def drawn(corpus: Corpus, tz: str | None) -> str:
    while True:
        text = corpus.expression()
        if compiled(text, tz) is not None:
            return text


def test_the_comparisons_around_clock_changes_are_many() -> None:
    assert sum(ZONES.values()) * PER_CHANGE >= 90_000


@pytest.mark.parametrize("name", ZONES)
def test_slots_around_every_clock_change_are_those_of_the_oracle(name: str) -> None:
    changes = [change for change in clocks_of(name).changes if change.at < UNTIL]
    assert len(changes) >= ZONES[name]
    compared = 0
    for change in changes:
        compared += compare_around(change, name)
    assert compared == len(changes) * PER_CHANGE


def compare_around(change: Change, name: str) -> int:
    corpus = corpus_near(change, ZoneInfo(name), f"{name} {change.at}")
    draw = corpus.random
    length = abs(change.after - change.before)
    edges = [change.at + edge + by for edge in (-length, 0, length) for by in (-59, -30, -1, 0, 1)]
    compared = 0
    for _ in range(EXPRESSIONS):
        text = drawn(corpus, name)
        oracle = Oracle(text, name, seed=text)
        for gap in GAPS:
            for fold in FOLDS:
                schedule = compiled(text, name, gap, fold)
                assert schedule is not None
                for _ in range(STARTS):
                    wide = draw.choice([HOUR, 4 * HOUR, 30 * HOUR])
                    start = draw.choice([*edges, *(change.at + draw.randint(-wide, wide) for _ in range(4))])
                    t_ms = max(0, start * 1000 + draw.choice([0, 0, 1, 999]))
                    compare(schedule, oracle, t_ms, t_ms + draw.randrange(60 * HOUR * 1000), gap, fold)
                    compared += 1
    return compared


@pytest.mark.parametrize("part", range(UTC_PARTS))
def test_slots_in_utc_are_those_of_the_oracle(part: int) -> None:
    corpus = Corpus(f"UTC {part}")
    draw = corpus.random
    compared = 0
    for _ in range(IN_UTC):
        text = drawn(corpus, None)
        schedule = compiled(text, None)
        oracle = Oracle(text, None, seed=text)
        assert schedule is not None
        for _ in range(UTC_STARTS):
            t_ms = draw.randrange(draw.choice([140, 140, 2_000]) * 366 * DAY * 1000)
            compare(schedule, oracle, t_ms, t_ms + draw.randrange(20 * DAY * 1000))
            compared += 1
    assert compared * UTC_PARTS == IN_UTC * UTC_STARTS * UTC_PARTS >= 20_000


WALKS = 6


@pytest.mark.parametrize("name", ZONES)
def test_the_oracle_itself_says_what_a_walk_over_every_minute_finds(name: str) -> None:
    zone = ZoneInfo(name)
    draw = random.Random(name)  # noqa: S311 - a test's input, repeatable
    for change in draw.choices(clocks_of(name).changes, k=WALKS):
        corpus = corpus_near(change, zone, f"walk {name} {change.at}")
        text = next(text for _ in range(99) if len((text := drawn(corpus, name)).split()) == 5)
        oracle = Oracle(text, name, seed=text)
        gap, fold = draw.choice(GAPS[1:]), draw.choice(FOLDS[1:])
        start, end = change.at - 30 * HOUR, change.at + 30 * HOUR
        days = range(start // DAY - 3, end // DAY + 4)
        slots = {slot for day in days for slot in oracle.slots_of(day, gap, fold)}
        assert sorted(slot for slot in slots if start <= slot <= end) == walk(oracle, zone, start, end, gap, fold)


def walk(oracle: Oracle, zone: ZoneInfo, start: int, end: int, gap: str | None, fold: str | None) -> list[int]:
    """The slots in [start, end], one minute after the other, by zoneinfo's own word on folds."""
    times = set(oracle.times)

    def matches(wall: dt.datetime) -> bool:
        return (wall.hour * HOUR + wall.minute * 60 + wall.second) in times and oracle.matches(wall.date())

    slots: set[int] = set()
    before = dt.datetime.fromtimestamp(start - 60, zone)
    # Changes before 1972 may come at odd seconds, slots of five fields never do: the walk keeps to the wall's minutes.
    for second in range(start, end + 1, 60):
        wall = dt.datetime.fromtimestamp(second, zone)
        missing = before.replace(tzinfo=None) + dt.timedelta(seconds=60)
        offset = before.utcoffset() or dt.timedelta()
        while missing < wall.replace(tzinfo=None):
            if matches(missing):
                if gap == "run_after":
                    slots.add(second)
                elif gap == "shift":
                    slots.add(round((missing - offset).replace(tzinfo=dt.UTC).timestamp()))
            missing += dt.timedelta(seconds=60)
        twice = wall.replace(fold=0).utcoffset() != wall.replace(fold=1).utcoffset()
        dropped = (fold == "first" and wall.fold == 1) or (fold == "last" and twice and wall.fold == 0)
        if matches(wall) and not dropped:
            slots.add(second)
        before = wall
    return sorted(slot for slot in slots if start <= slot <= end)
