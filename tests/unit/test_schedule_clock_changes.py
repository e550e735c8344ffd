"""Cron schedules against a naive walk over every minute or second, in UTC and around clock changes of many zones.

The walk knows nothing of the implementation: it asks zoneinfo for the wall time at each instant, compares fields with
sets, and applies the gap and fold rules one instant at a time.
"""

import datetime as dt
from bisect import bisect_left, bisect_right
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidCronExpressionError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule
from natscron.schedule.base import ScheduleBase

HOUR = 3600
ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Africa/Cairo",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Asia/Tehran",
    "Africa/Casablanca",
    "Pacific/Chatham",
    "Antarctica/Troll",
    "Asia/Beirut",
)
FROM = 0
UNTIL = int(dt.datetime(2037, 12, 31, tzinfo=dt.UTC).timestamp())

checked = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Wanted(NamedTuple):
    """An expression as sets of values, and the same as text."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    dom: frozenset[int]
    months: frozenset[int]
    dow: frozenset[int]
    either_day: bool
    by_instant: bool

    def __repr__(self) -> str:
        return repr(self.text)

    def matches(self, wall: dt.datetime) -> bool:
        dom, dow = wall.day in self.dom, wall.isoweekday() % 7 in self.dow
        return (
            wall.second in self.seconds
            and wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.month in self.months
            and (dom or dow if self.either_day else dom and dow)
        )


class Item(NamedTuple):
    text: str
    values: frozenset[int]
    star: bool
    unrestricted: bool


def _plain(low: int, high: int) -> st.SearchStrategy[Item]:
    span = high - low + 1

    def ranged(ends: tuple[int, int], step: int) -> Item:
        first, last = ends
        values = [first]
        while values[-1] != last:  # wraps around by itself
            values.append(low + (values[-1] - low + 1) % span)
        text = f"{first}-{last}" + (f"/{step}" if step > 1 else "")
        return Item(text, frozenset(values[::step]), star=False, unrestricted=False)

    def starred(step: int) -> Item:
        text = "*" if step == 1 else f"*/{step}"
        return Item(text, frozenset(range(low, high + 1, step)), star=True, unrestricted=step == 1)

    def opened(first: int, step: int) -> Item:
        return Item(f"{first}/{step}", frozenset(range(first, high + 1, step)), star=False, unrestricted=False)

    value, step = st.integers(low, high), st.integers(1, span)
    return st.one_of(
        st.sets(value, min_size=1, max_size=4).map(
            lambda drawn: Item(",".join(map(str, sorted(drawn))), frozenset(drawn), star=False, unrestricted=False)
        ),
        st.builds(ranged, st.tuples(value, value), step),
        st.builds(starred, st.one_of(st.just(1), step)),
        st.builds(opened, value, step),
    )


@st.composite
def expressions(draw: st.DrawFn, hours: st.SearchStrategy[Item] | None = None, *, six: bool = False) -> Wanted:
    every = Item("*", frozenset(range(32)), star=True, unrestricted=True)
    zero = Item("0", frozenset({0}), star=False, unrestricted=False)
    often = st.booleans()
    second = draw(_plain(0, 59)) if six else zero
    minute = draw(_plain(0, 59))
    hour = draw(_plain(0, 23) if hours is None else hours)
    dom = draw(_plain(1, 31)) if draw(often) and draw(often) else every
    month = draw(_plain(1, 12)) if draw(often) and draw(often) else every
    dow = draw(_plain(0, 6)) if draw(often) else every
    fields = [minute, hour, dom, month, dow]
    return Wanted(
        text=" ".join(item.text for item in ([second, *fields] if six else fields)),
        seconds=second.values,
        minutes=minute.values,
        hours=hour.values,
        dom=dom.values,
        months=month.values,
        dow=dow.values,
        either_day=not (dom.unrestricted or dow.unrestricted),
        by_instant=minute.star or hour.star,
    )


@cache
def changes_of(name: str) -> tuple[int, ...]:
    """The instants at which the zone's offset changes, by probing every two hours."""
    zone, found = ZoneInfo(name), []

    def offset(second: int) -> dt.timedelta | None:
        return dt.datetime.fromtimestamp(second, zone).utcoffset()

    before = offset(FROM)
    for second in range(FROM, UNTIL, 2 * HOUR):
        after = offset(second)
        if after != before:
            found.append(next(s for s in range(second - 2 * HOUR, second + 1, 60) if offset(s) == after))
            before = after
    return tuple(found)


def walk(wanted: Wanted, zone: ZoneInfo, start: int, end: int, step: int, gap: str, fold: str) -> list[int]:
    """The slots in [start, end], one instant at a time. ``start`` lies outside gaps and folds."""
    slots: set[int] = set()
    before = dt.datetime.fromtimestamp(start - step, zone)
    for second in range(start, end + 1, step):
        wall = dt.datetime.fromtimestamp(second, zone)
        missing = before.replace(tzinfo=None) + dt.timedelta(seconds=step)
        offset = before.utcoffset() or dt.timedelta()
        while missing < wall.replace(tzinfo=None):
            if wanted.matches(missing):
                if gap == "run_after":
                    slots.add(second)
                elif gap == "shift":
                    slots.add(round((missing - offset).replace(tzinfo=dt.UTC).timestamp()))
            missing += dt.timedelta(seconds=step)
        twice = wall.replace(fold=0).utcoffset() != wall.replace(fold=1).utcoffset()
        dropped = (fold == "first" and wall.fold == 1) or (fold == "last" and twice and wall.fold == 0)
        if wanted.matches(wall) and not dropped:
            slots.add(second)
        before = wall
    return sorted(slot for slot in slots if start <= slot <= end)


def assert_same(schedule: Schedule, slots: list[int], start: int, end: int, asked: list[int]) -> None:
    found, slot = [], schedule.next_after_ms(start * 1000 - 1)
    while slot is not None and slot <= end * 1000:
        found.append(slot)
        following = schedule.next_after_ms(slot)
        assert following is None or following > slot
        slot = following
    assert found == [second * 1000 for second in slots]
    assert schedule.count(start * 1000 - 1, end * 1000, 10**9) == len(slots)
    for second in [*asked, *slots, start, end]:
        if slots and slots[0] <= second:
            assert schedule.last_at_or_before_ms(second * 1000) == slots[bisect_right(slots, second) - 1] * 1000
            assert schedule.last_at_or_before_ms(second * 1000 + 999) == slots[bisect_right(slots, second) - 1] * 1000
            before = bisect_left(slots, second) - 1
            if before >= 0:
                assert schedule.last_at_or_before_ms(second * 1000 - 1) == slots[before] * 1000
        if slots and second < slots[-1]:
            assert schedule.next_after_ms(second * 1000) == slots[bisect_right(slots, second)] * 1000


def hours_near(change: int, zone: ZoneInfo) -> st.SearchStrategy[Item]:
    """Hour fields that have something to do around the change."""
    near = sorted({dt.datetime.fromtimestamp(change + h * HOUR, zone).hour for h in range(-2, 3)})
    chosen = st.sets(st.sampled_from(near), min_size=1, max_size=3)
    return st.one_of(
        chosen.map(lambda s: Item(",".join(map(str, sorted(s))), frozenset(s), star=False, unrestricted=False)),
        _plain(0, 23),
    )


GAPS = st.sampled_from(["run_after", "skip", "shift", None])
FOLDS = st.sampled_from(["first", "last", "both", None])


@pytest.mark.parametrize("name", ZONES)
@checked
@given(data=st.data())
def test_slots_around_a_clock_change_are_those_of_a_walk_over_every_minute(name: str, data: st.DataObject) -> None:
    zone = ZoneInfo(name)
    change = data.draw(st.sampled_from(changes_of(name)), label="change")
    wanted = data.draw(expressions(hours_near(change, zone)), label="expression")
    gap, fold = data.draw(GAPS, label="gap"), data.draw(FOLDS, label="fold")
    _compare(
        wanted,
        name,
        change - 5 * HOUR,
        change + 27 * HOUR if name == "Pacific/Apia" else change + 5 * HOUR,
        60,
        gap,
        fold,
    )


@checked
@given(data=st.data())
def test_six_fields_follow_the_same_rules_second_by_second(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(ZONES), label="zone")
    zone = ZoneInfo(name)
    change = data.draw(st.sampled_from(changes_of(name)), label="change")
    wanted = data.draw(expressions(hours_near(change, zone), six=True), label="expression")
    lengthy = name == "Pacific/Apia"
    if lengthy:
        return
    _compare(
        wanted,
        name,
        change - HOUR - 1800,
        change + HOUR + 1800,
        1,
        data.draw(GAPS, label="gap"),
        data.draw(FOLDS, label="fold"),
    )


def _compare(wanted: Wanted, name: str, start: int, end: int, step: int, gap: str | None, fold: str | None) -> None:
    schedule = _compiled(wanted.text, name, gap, fold)
    if schedule is None:
        return
    by_class = ("skip", "both") if wanted.by_instant else ("run_after", "first")
    slots = walk(wanted, ZoneInfo(name), start, end, step, gap or by_class[0], fold or by_class[1])
    assert_same(schedule, slots, start, end, list(range(start, end, (end - start) // 24)))


def _compiled(text: str, tz: str | None, gap: str | None = None, fold: str | None = None) -> Schedule | None:
    try:
        return compile_schedule(ScheduleSpec(cron=text, tz=tz, dst_gap=gap, dst_fold=fold), anchor_ms=0).schedule
    except InvalidCronExpressionError:
        return None  # drawn so that no day matches, such as 31 April


@checked
@given(wanted=expressions(), day=st.integers(0, 24_000), tz=st.sampled_from([None, "UTC", "Asia/Kolkata"]))
def test_slots_of_two_days_in_steady_zones_are_those_of_a_walk(wanted: Wanted, day: int, tz: str | None) -> None:
    start = 10 * 366 * 86_400 + day * 86_400
    _compare(wanted, tz or "UTC", start, start + 2 * 86_400, 60, None, None)


@checked
@given(wanted=expressions(), start=st.integers(0, 2**31))
def test_in_utc_the_next_slots_are_those_of_cronsim(wanted: Wanted, start: int) -> None:
    texts = wanted.text.split()
    ranges_wrap = any("-" in part and _wraps(part) for field in texts for part in field.split(","))
    starred_step = any("*/" in field and wanted.either_day for field in texts)
    sunday_as_seven = "/" in texts[4] and not texts[4].startswith("*") and "-" not in texts[4]
    schedule = _compiled(wanted.text, None)
    assume(schedule is not None and not (ranges_wrap or starred_step or sunday_as_seven))  # the dialects differ there
    assert schedule is not None
    other = CronSim(wanted.text, dt.datetime.fromtimestamp(start, dt.UTC))
    slot: int | None = start * 1000
    for _ in range(5):
        assert slot is not None
        slot = schedule.next_after_ms(slot)
        assert slot is not None
        assert dt.datetime.fromtimestamp(slot / 1000, dt.UTC) == next(other)


def _wraps(part: str) -> bool:
    low, high = part.split("/", maxsplit=1)[0].split("-")
    return int(low) >= int(high)  # cronsim reads 0-0/2 as 0/2


@checked
@given(data=st.data())
def test_the_next_slot_is_later_and_looking_back_finds_it_again(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(ZONES))
    schedule = _compiled(data.draw(expressions()).text, name, data.draw(GAPS), data.draw(FOLDS))
    if schedule is None:
        return
    start = data.draw(st.integers(0, 200 * 366 * 86_400_000))
    slot = schedule.next_after_ms(start)
    if slot is None:
        return
    assert slot > start
    assert schedule.last_at_or_before_ms(slot) == slot
    earlier = schedule.last_at_or_before_ms(slot - 1)
    assert earlier is None or earlier <= start
    assert schedule.next_after_ms(slot - 1) == slot
    if earlier is not None:
        assert schedule.next_after_ms(earlier) == slot


@checked
@given(data=st.data())
def test_counting_agrees_with_walking_from_slot_to_slot(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([None, *ZONES]))
    schedule = _compiled(data.draw(expressions()).text, name, data.draw(GAPS), data.draw(FOLDS))
    assume(schedule is not None)
    assert schedule is not None
    start = data.draw(st.integers(0, 140 * 366 * 86_400_000))
    end = start + data.draw(st.integers(0, 500 * 86_400_000))
    walked = ScheduleBase.count(schedule, start, end, 3_000)  # type: ignore[arg-type]  # the general way, on purpose
    assert schedule.count(start, end, 3_000) == walked


def test_counting_a_year_of_seconds_takes_no_walk() -> None:
    for tz in (None, "Europe/Berlin"):
        schedule = _compiled("* * * * * *", tz)
        assert schedule is not None
        assert schedule.count(0, 10 * 365 * 86_400_000, 10**12) == 10 * 365 * 86_400
        assert schedule.count(-1, 10 * 365 * 86_400_000, 10**12) == 10 * 365 * 86_400 + 1
        assert schedule.count(-1, 10 * 365 * 86_400_000, 7) == 7
        assert schedule.count(5_000, 4_000, 7) == 0
