"""What holds of every cron schedule whatever it says, and cronsim as a second opinion where the dialects agree."""

import datetime as dt
import random
import re

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.cron_corpus import Corpus
from tests.support.cron_oracle import DAY, FOLDS, GAPS

from natscron.errors import InvalidCronExpressionError
from natscron.model import ScheduleSpec
from natscron.schedule import Schedule, compile_schedule
from natscron.schedule.base import MAX_MS, ScheduleBase

ZONES = (
    None,
    "America/New_York",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Beirut",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Antarctica/Troll",
)
YEAR_MS = 366 * DAY * 1000

checked = settings(max_examples=250, derandomize=True)


def compiled(text: str, tz: str | None, gap: str | None = None, fold: str | None = None) -> Schedule | None:
    spec = ScheduleSpec(cron=text, tz=tz, dst_gap=gap, dst_fold=fold)
    try:
        return compile_schedule(spec, anchor_ms=0, seed=text).schedule
    except InvalidCronExpressionError as error:
        if "never matches" not in str(error):
            raise
        return None  # drawn so that no day matches, such as 31 April


expressions = st.randoms(use_true_random=False).map(lambda draw: Corpus(str(draw.random())).expression())
schedules = st.builds(
    compiled, expressions, st.sampled_from(ZONES), st.sampled_from(GAPS), st.sampled_from(FOLDS)
).filter(lambda schedule: schedule is not None)
instants = st.integers(0, 140 * YEAR_MS) | st.integers(0, MAX_MS)


@checked
@given(schedule=schedules, t=instants)
def test_the_next_slot_is_strictly_later_and_looking_back_from_it_finds_it(schedule: Schedule, t: int) -> None:
    slot = schedule.next_after_ms(t)
    if slot is None:
        return
    assert slot > t
    assert schedule.last_at_or_before_ms(slot) == slot
    assert schedule.next_after_ms(slot - 1) == slot
    before = schedule.last_at_or_before_ms(slot - 1)
    assert before is None or before <= t


@checked
@given(schedule=schedules, t=instants)
def test_no_slot_lies_between_the_last_one_and_the_next(schedule: Schedule, t: int) -> None:
    last, following = schedule.last_at_or_before_ms(t), schedule.next_after_ms(t)
    assert last is None or last <= t
    if last is not None:
        assert schedule.next_after_ms(last) == following
        assert schedule.next_after_ms(last - 1) == last
    if following is not None and last is not None:
        assert schedule.count(last, following, 9) == 1
        assert schedule.count(last, following - 1, 9) == 0
        assert schedule.last_at_or_before_ms(following - 1) == last


@checked
@given(schedule=schedules, t=instants)
def test_walking_forwards_and_then_backwards_comes_through_the_same_slots(schedule: Schedule, t: int) -> None:
    forwards: list[int] = []
    slot = schedule.next_after_ms(t)
    while slot is not None and len(forwards) < 12:
        forwards.append(slot)
        slot = schedule.next_after_ms(slot)
    assert forwards == sorted(set(forwards))
    if not forwards:
        return
    backwards: list[int] = []
    slot = forwards[-1]
    while slot is not None and len(backwards) < len(forwards):
        backwards.append(slot)
        slot = schedule.last_at_or_before_ms(slot - 1)
    assert backwards == forwards[::-1]


@checked
@given(schedule=schedules, t=instants, spans=st.tuples(st.integers(0, YEAR_MS), st.integers(0, YEAR_MS)))
def test_counting_is_walking_and_parts_add_up(schedule: Schedule, t: int, spans: tuple[int, int]) -> None:
    middle, end = t + spans[0], t + sum(spans)
    cap = 2_000
    walked = ScheduleBase.count(schedule, t, end, cap)  # type: ignore[arg-type]  # the general way, on purpose
    assert schedule.count(t, end, cap) == walked
    endless = 10**12
    parts = schedule.count(t, middle, endless) + schedule.count(middle, end, endless)
    assert schedule.count(t, end, endless) == parts


@checked
@given(schedule=schedules, t=instants, later=st.integers(0, YEAR_MS))
def test_a_later_question_never_has_an_earlier_answer(schedule: Schedule, t: int, later: int) -> None:
    first, second = schedule.next_after_ms(t), schedule.next_after_ms(t + later)
    assert first is None or second is None or first <= second
    before, after = schedule.last_at_or_before_ms(t), schedule.last_at_or_before_ms(t + later)
    assert before is None or after is None or before <= after


@checked
@given(text=expressions, zone=st.sampled_from(ZONES), t=st.integers(0, 140 * YEAR_MS), fold=st.sampled_from(FOLDS))
def test_skipping_gaps_only_takes_slots_away(text: str, zone: str | None, t: int, fold: str | None) -> None:
    skipping, after = compiled(text, zone, "skip", fold), compiled(text, zone, "run_after", fold)
    assume(skipping is not None and after is not None)
    assert skipping is not None
    assert after is not None
    slot = skipping.next_after_ms(t)
    if slot is not None:
        assert after.last_at_or_before_ms(slot) == slot


def test_counting_ten_years_of_seconds_takes_no_walk() -> None:
    for tz in (None, "Europe/Berlin"):
        schedule = compiled("* * * * * *", tz)
        assert schedule is not None
        assert schedule.count(0, 10 * 365 * 86_400_000, 10**12) == 10 * 365 * 86_400
        assert schedule.count(-1, 10 * 365 * 86_400_000, 10**12) == 10 * 365 * 86_400 + 1
        assert schedule.count(-1, 10 * 365 * 86_400_000, 7) == 7
        assert schedule.count(5_000, 4_000, 7) == 0


def test_what_is_hashed_stays_the_same_from_version_to_version() -> None:
    """Instances of two versions agree on a job's slots, and an update moves none."""
    spec = ScheduleSpec(cron="H H H * *")
    expected = dt.datetime(2026, 1, 21, 12, 1, tzinfo=dt.UTC)
    schedule = compile_schedule(spec, anchor_ms=0, seed="reports.daily").schedule
    assert schedule.next_after(dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) == expected


def other_opinion(text: str, start: int) -> CronSim | None:
    """cronsim, unless it does not know the expression or reads it differently: wrap-around, star bit, a dow step."""
    *_, dom, _month, dow = text.split()
    if any("*" in day and day != "*" for day in (dom, dow)) or "/" in dow:
        return None
    if any(int(low) >= int(high) for low, high in re.findall(r"([0-9]+)-([0-9]+)", text)):
        return None
    try:
        return CronSim(text, dt.datetime.fromtimestamp(start, dt.UTC))
    except CronSimError:
        return None


SEEN = 1_500


@pytest.mark.parametrize("part", range(2))
def test_in_utc_the_next_slots_are_those_of_cronsim(part: int) -> None:
    corpus = Corpus(f"cronsim {part}")
    draw = random.Random(part)  # noqa: S311 - a test's input, repeatable
    compared = 0
    while compared < SEEN:
        text = corpus.expression()
        schedule = compiled(text, None)
        start = draw.randrange(2**31)
        other = other_opinion(text, start)
        if schedule is None or other is None:
            continue
        slot: int | None = start * 1000
        for _ in range(5):
            assert slot is not None
            slot = schedule.next_after_ms(slot)
            assert slot is not None
            assert dt.datetime.fromtimestamp(slot / 1000, dt.UTC) == next(other), (text, start)
            compared += 1
