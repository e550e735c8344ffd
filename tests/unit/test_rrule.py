"""Recurrence rules against a plain walk from their start by python-dateutil, and around clock changes by hand."""

import contextlib
import datetime as dt
import itertools
import sys
import types
from typing import Any
from unittest import mock

import pytest
from dateutil.rrule import rrule, rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidScheduleError
from natscron.schedule.base import Schedule
from natscron.schedule.rrule import compile_rrule

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
HORIZON = dt.timedelta(days=12 * 365)


def ms(moment: dt.datetime) -> int:
    return int(moment.replace(tzinfo=moment.tzinfo or dt.UTC).timestamp()) * 1000


def at(text: str) -> int:
    return ms(dt.datetime.fromisoformat(text))


def texts(slots: list[int]) -> list[str]:
    return [dt.datetime.fromtimestamp(slot / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for slot in slots]


def compiled(rule: str, start: str = "2026-01-15T09:30:00Z", zone: str = "UTC", **rules: str) -> Schedule:
    return compile_rrule(rule, zone_name=zone, start_ms=at(start), gap=rules.get("gap"), fold=rules.get("fold"))


def forwards(schedule: Schedule, after: int, count: int) -> list[int]:
    found: list[int] = []
    slot = schedule.next_after_ms(after)
    while slot is not None and len(found) < count:
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    return found


def backwards(schedule: Schedule, until: int, count: int) -> list[int]:
    found: list[int] = []
    slot = schedule.last_at_or_before_ms(until)
    while slot is not None and len(found) < count:
        found.append(slot)
        slot = schedule.last_at_or_before_ms(slot - 1)
    return found[::-1]


def numbers(low: int, high: int, most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(st.integers(low, high), min_size=1, max_size=most).map(lambda values: ",".join(map(str, values)))


def signed(high: int) -> st.SearchStrategy[str]:
    number = st.integers(1, high) | st.integers(-high, -1)
    return st.lists(number, min_size=1, max_size=3).map(lambda values: ",".join(map(str, values)))


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, dt.datetime]:  # noqa: C901 - one branch for each part of a rule
    """A rule that RFC 5545 allows, and its start."""
    freq = draw(st.sampled_from(["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY"]))
    start = dt.datetime(2000, 1, 1) + dt.timedelta(seconds=draw(st.integers(0, 60 * 365 * 86_400)))  # noqa: DTZ001 - naive for dateutil
    parts = {"FREQ": freq}
    if draw(st.booleans()):
        parts["INTERVAL"] = str(draw(st.integers(1, 40) | st.integers(1, 4)))
    days = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True)
    which = draw(st.integers(0, 63))
    if which & 1:
        parts["BYMONTH"] = draw(numbers(1, 12, 4))
    if which & 2 and freq != "WEEKLY":
        parts["BYMONTHDAY"] = draw(signed(31))
    if which & 4:
        n = draw(st.sampled_from(["", "", "1", "2", "-1", "5"])) if freq in {"YEARLY", "MONTHLY"} else ""
        parts["BYDAY"] = ",".join(n + day for day in draw(days))
    if which & 8 and freq in {"YEARLY", "HOURLY"}:
        parts["BYYEARDAY"] = draw(signed(366))
    if (
        which & 16
        and freq == "YEARLY"
        and not parts.get("BYDAY", "MO")[0].isdigit()
        and parts.get("BYDAY", "")[:1] != "-"
    ):
        parts["BYWEEKNO"] = draw(signed(53))
    setpos = which & 32 and len(parts) > 1 + ("INTERVAL" in parts)
    times = {"BYHOUR": 23, "BYMINUTE": 59, "BYSECOND": 59}
    for name, high in times.items():
        if draw(st.integers(0, 3)) == 0:
            parts[name] = draw(numbers(0, high, 1 if setpos and freq not in {"DAILY", "HOURLY"} else 3))
    if draw(st.booleans()):
        parts["WKST"] = draw(st.sampled_from(WEEKDAYS))
    if setpos:
        parts["BYSETPOS"] = draw(signed(4))
        if freq == "WEEKLY":  # the walk sees only the rest of its first week, the RFC sees all of it: begin with a week
            first = WEEKDAYS.index(parts.get("WKST", "MO"))
            start = (start - dt.timedelta((start.weekday() - first) % 7)).replace(hour=0, minute=0, second=0)
    if draw(st.integers(0, 3)) == 0:
        parts["COUNT"] = str(draw(st.integers(1, 60)))
    return ";".join(f"{name}={value}" for name, value in parts.items()), start


def walked(rule: str, start: dt.datetime, count: int) -> list[int]:
    """What python-dateutil gives in its own way, from the start to twelve years later."""
    kept = [part for part in rule.split(";") if not part.startswith("COUNT=")]
    if "WKST" not in rule:
        kept.append("WKST=MO")
    found: Any = rrulestr(";".join(kept), dtstart=start)
    assert isinstance(found, rrule)
    limit = [int(part[6:]) for part in rule.split(";") if part.startswith("COUNT=")]
    # A walk that finds nothing goes on to the last year there is: make that an early one.
    years = types.SimpleNamespace(**{**vars(dt), "MAXYEAR": (start + HORIZON).year})
    with mock.patch("dateutil.rrule.datetime", years):
        listed = [ms(moment) for moment in itertools.islice(found.replace(until=start + HORIZON), count)]
    return listed[: limit[0] if limit else None]


@given(rules())
@settings(max_examples=400)
def test_a_rule_gives_what_a_walk_from_its_start_gives_in_both_directions(case: tuple[str, dt.datetime]) -> None:
    rule, start = case
    try:
        expected = walked(rule, start, 60)
    except ValueError:  # dateutil found by itself that it never matches
        expected = []
    if not expected:
        with contextlib.suppress(InvalidScheduleError):
            assert (compiled(rule, f"{start.isoformat()}Z").next_after_ms(0) or 0) > ms(start + HORIZON)
        return
    try:
        schedule = compiled(rule, f"{start.isoformat()}Z")
    except InvalidScheduleError as error:
        too_long = "COUNT reaches over 400 years" in str(error)
        assert too_long, error  # noqa: PT017 - most rules are no error
        return
    assert forwards(schedule, ms(start) - 1, len(expected)) == expected
    assert backwards(schedule, expected[-1], 100) == expected
    for slot, following in itertools.pairwise(expected):
        assert schedule.next_after_ms((slot + following) // 2) == following
        assert schedule.last_at_or_before_ms(following - 1) == slot
    assert schedule.count(expected[0] - 1, expected[-1], 1000) == len(expected)


@given(rules(), st.sampled_from(["Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo"]), st.integers(0, 400))
@settings(max_examples=150)
def test_in_a_zone_both_directions_give_the_same_slots(case: tuple[str, dt.datetime], zone: str, day: int) -> None:
    try:
        schedule = compile_rrule(case[0], zone_name=zone, start_ms=ms(case[1]), gap=None, fold=None)
    except InvalidScheduleError:
        return
    found = forwards(schedule, ms(case[1]) + day * 86_400_000, 40)
    assert all(a < b for a, b in itertools.pairwise(found))
    if found:
        assert backwards(schedule, found[-1], len(found)) == found
        assert schedule.count(found[0] - 1, found[-1], 1000) == len(found)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        ({"gap": "shift"}, ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]),
        ({"gap": "skip"}, ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]),
    ],
)
def test_a_daily_rule_in_a_gap_runs_after_it_unless_told_otherwise(rules: dict[str, str], expected: list[str]) -> None:
    schedule = compiled("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", "2026-03-01T00:00:00Z", "Europe/Berlin", **rules)
    assert texts(forwards(schedule, at("2026-03-28T00:00:00Z"), 3)) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ({"fold": "last"}, ["2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]),
        ({"fold": "both"}, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
    ],
)
def test_a_daily_rule_in_a_fold_runs_in_its_first_pass_unless_told_otherwise(
    rules: dict[str, str], expected: list[str]
) -> None:
    schedule = compiled("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", "2026-03-01T00:00:00Z", "Europe/Berlin", **rules)
    assert texts(forwards(schedule, at("2026-10-25T00:00:00Z"), 2)) == expected


def test_an_hourly_rule_runs_in_both_passes_of_a_fold_and_invents_nothing_in_a_gap() -> None:
    schedule = compiled("FREQ=HOURLY", "2026-01-01T00:15:00Z", "Europe/Berlin")
    fold = ["2026-10-24T23:15:00Z", "2026-10-25T00:15:00Z", "2026-10-25T01:15:00Z", "2026-10-25T02:15:00Z"]
    assert texts(forwards(schedule, at("2026-10-24T23:00:00Z"), 4)) == fold
    assert schedule.mark(at("2026-10-25T01:15:00Z")) == "repeated"
    gap = ["2026-03-29T00:15:00Z", "2026-03-29T01:15:00Z", "2026-03-29T02:15:00Z"]
    assert texts(forwards(schedule, at("2026-03-29T00:00:00Z"), 3)) == gap


def test_the_start_is_a_wall_time_of_the_zone() -> None:
    schedule = compiled("FREQ=DAILY", "2026-07-01T07:00:00Z", "Europe/Berlin")
    assert texts(forwards(schedule, at("2026-12-01T00:00:00Z"), 1)) == ["2026-12-01T08:00:00Z"]
    assert schedule.zone_name == "Europe/Berlin"
    assert schedule.next_after_ms(0) == at("2026-07-01T07:00:00Z")
    assert schedule.last_at_or_before_ms(at("2026-07-01T07:00:00Z") - 1) is None


def test_weekdays_with_and_without_numbers_mean_either() -> None:
    schedule = compiled("FREQ=MONTHLY;BYDAY=MO,1TU", "2026-02-01T09:00:00Z")
    days = [text[8:10] for text in texts(forwards(schedule, 0, 5))]
    assert days == ["02", "03", "09", "16", "23"]


def test_positions_pick_times_within_a_day_and_within_an_hour() -> None:
    daily = compiled("FREQ=DAILY;BYHOUR=8,12,18;BYMINUTE=0;BYSETPOS=-1", "2026-01-15T00:00:00Z")
    assert texts(forwards(daily, 0, 2)) == ["2026-01-15T18:00:00Z", "2026-01-16T18:00:00Z"]
    hourly = compiled("FREQ=HOURLY;BYMINUTE=5,20,35;BYSETPOS=2", "2026-01-15T00:00:00Z")
    assert texts(forwards(hourly, 0, 2)) == ["2026-01-15T00:20:00Z", "2026-01-15T01:20:00Z"]


@pytest.mark.parametrize(
    ("until", "last"),
    [
        ("20260117", "2026-01-17T22:30:00Z"),
        ("20260117T233000", "2026-01-17T22:30:00Z"),
        ("20260117T232959", "2026-01-16T22:30:00Z"),
        ("20260117T223000Z", "2026-01-17T22:30:00Z"),
        ("20260117T222959Z", "2026-01-16T22:30:00Z"),
    ],
)
def test_until_is_inclusive_on_the_wall_or_in_utc(until: str, last: str) -> None:
    schedule = compiled(f"FREQ=DAILY;UNTIL={until}", "2026-01-15T22:30:00Z", "Europe/Berlin")
    assert schedule.last_at_or_before_ms(at("2300-01-01T00:00:00Z")) == at(last)
    assert schedule.next_after_ms(at(last)) is None


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_an_old_rule_is_as_quick_as_a_new_one_because_it_expands_no_more_years(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = compiled("FREQ=WEEKLY;INTERVAL=3;BYDAY=TU,SA;BYMONTH=3,9", "1971-01-01T09:00:00Z", zone)
    expanded: list[int] = []
    expand = sys.modules["natscron.schedule.recurring"]._Expansion._expand

    def counted(self: object, year: int) -> int:
        expanded.append(year)
        return int(expand(self, year))

    monkeypatch.setattr("natscron.schedule.recurring._Expansion._expand", counted)
    for year in range(1975, 2300, 5):
        moment = at(f"{year}-06-15T00:00:00Z")
        assert schedule.next_after_ms(moment) is not None
        assert schedule.last_at_or_before_ms(moment) is not None
    assert len(expanded) <= 14


def test_rules_go_on_right_where_zones_repeat_and_until_the_end_of_time() -> None:
    schedule = compiled("FREQ=DAILY;INTERVAL=5", "2026-01-15T08:00:00Z", "Europe/Berlin")
    for text in ("2500-01-15T00:00:00Z", "2899-06-15T00:00:00Z", "9000-06-15T00:00:00Z"):
        slot = schedule.next_after_ms(at(text))
        assert slot is not None
        local = (slot - at("2026-01-15T08:00:00Z")) // 1000 + (3600 if text[5:7] == "06" else 0)
        assert local % (5 * 86_400) == 0
        assert schedule.last_at_or_before_ms(slot) == slot
    end = at("9999-12-31T23:00:00Z")
    last = schedule.last_at_or_before_ms(end)
    assert last is not None
    assert schedule.next_after_ms(last) is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=SECONDLY;COUNT=3", ["2026-01-15T09:30:00Z", "2026-01-15T09:30:01Z", "2026-01-15T09:30:02Z"]),
        (
            "FREQ=MINUTELY;INTERVAL=45;COUNT=3;BYHOUR=11,12",
            ["2026-01-15T11:00:00Z", "2026-01-15T11:45:00Z", "2026-01-15T12:30:00Z"],
        ),
        (
            "FREQ=SECONDLY;INTERVAL=40;BYMINUTE=31;BYDAY=FR;COUNT=2",
            ["2026-01-16T00:31:20Z", "2026-01-16T01:31:20Z"],
        ),
    ],
)
def test_minutes_and_seconds_are_counted_out(rule: str, expected: list[str]) -> None:
    schedule = compiled(rule)
    assert texts(forwards(schedule, 0, 9)) == expected
    walk: Any = rrulestr(rule, dtstart=dt.datetime(2026, 1, 15, 9, 30, tzinfo=dt.UTC))
    assert [ms(moment) for moment in walk] == [at(text) for text in expected]
    assert schedule.last_at_or_before_ms(at("2200-01-01T00:00:00Z")) == at(expected[-1])


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "expected parts such as FREQ=DAILY"),
        ("FREQ=FORTNIGHTLY", "FREQ must be one of"),
        ("INTERVAL=2", "FREQ must be one of"),
        ("FREQ=MINUTELY", "needs a COUNT of at most 1000"),
        ("FREQ=SECONDLY;UNTIL=20260117", "needs a COUNT of at most 1000"),
        ("FREQ=DAILY;COUNT=1001", "COUNT takes numbers from 1 to 1000"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20260117", "give one"),
        ("DTSTART:20260101T000000Z\nRRULE:FREQ=DAILY", "give the start as 'start_at'"),
        ("FREQ=DAILY\nEXDATE:20260101T000000Z", "put the dates into a calendar under 'except'"),
        ("FREQ=DAILY\nFREQ=WEEKLY", "several rules go under 'any'"),
        ("FREQ=DAILY;BYEASTER=0", "unknown part BYEASTER"),
        ("FREQ=DAILY;FREQ=DAILY", "given twice"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL takes numbers from 1"),
        ("FREQ=DAILY;INTERVAL=\u0661", "INTERVAL takes numbers from 1"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR takes numbers from 0 to 23; it has '24'"),
        ("FREQ=DAILY;BYHOUR=-1", "BYHOUR takes numbers from 0 to 23; it has '-1'"),
        ("FREQ=MONTHLY;BYMONTHDAY=0", "or -31 to -1"),
        ("FREQ=WEEKLY;BYDAY=1MO", "needs MONTHLY or YEARLY"),
        ("FREQ=MONTHLY;BYDAY=XX", "BYDAY takes MO, TU"),
        ("FREQ=MONTHLY;BYWEEKNO=1", "does not go with FREQ=MONTHLY"),
        ("FREQ=DAILY;BYSETPOS=1", "add one, such as BYDAY"),
        ("FREQ=MONTHLY;BYDAY=MO;BYHOUR=1,2;BYSETPOS=1", "give one time of day"),
        ("FREQ=DAILY;UNTIL=tomorrow", "UNTIL takes a date"),
        ("FREQ=DAILY;UNTIL=20260230", "UNTIL takes a date"),
        ("FREQ=DAILY;UNTIL=20250101", "no occurrence within 50 years"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "no occurrence within 50 years"),
        ("FREQ=HOURLY;INTERVAL=24;BYHOUR=3", "meets no hour of BYHOUR"),
        ("FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30;COUNT=1", "no occurrence within 50 years"),
        ("FREQ=SECONDLY;INTERVAL=86399;BYSECOND=7;BYMINUTE=7;BYHOUR=7;COUNT=1000", "too far apart to be counted"),
        ("FREQ=YEARLY;COUNT=500", "COUNT reaches over 400 years"),
        ("FREQ=DAILY;" + "X" * 5000, "longer than 2048 characters"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused_with_the_reason(rule: str, said: str) -> None:
    with pytest.raises(InvalidScheduleError, match="invalid rrule") as refused:
        compiled(rule)
    assert said in str(refused.value)


def test_without_the_extra_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dateutil.rrule", None)
    with pytest.raises(InvalidScheduleError, match=r"pip install 'natscron\[rrule\]'"):
        compiled("FREQ=DAILY")


TOKENS = st.sampled_from(
    [
        *("FREQ=", "DAILY", "SECONDLY", "YEARLY", ";", "=", ",", "BYDAY=", "MO", "-1", "BYSETPOS=", "COUNT=", "UNTIL="),
        *("INTERVAL=", "99999", "0", "BYMONTHDAY=", "31", "BYWEEKNO=", "53", "BYYEARDAY=", "-366", "\n", "RRULE:", "Z"),
    ]
)


@given(st.lists(TOKENS, max_size=24).map("".join) | st.text(max_size=60), st.integers(0, 253_402_300_799_999))
@settings(max_examples=300)
def test_no_text_raises_anything_but_the_documented_error(text: str, start_ms: int) -> None:
    for zone in ("UTC", "Africa/Casablanca"):
        try:
            schedule = compile_rrule(text, zone_name=zone, start_ms=start_ms, gap=None, fold=None)
        except InvalidScheduleError:
            continue
        for t in (-1, 0, start_ms, 253_402_300_799_999):
            slot = schedule.next_after_ms(t)
            assert slot is None or slot > t
            before = schedule.last_at_or_before_ms(t)
            assert before is None or before <= t
