"""Whole schedules: what they may say, what their parts leave to each other, and how much work they may be."""

import time

import pytest

from natscron.errors import InvalidScheduleError, InvalidScheduleTimeError, UnknownCalendarError
from natscron.model import CalendarSpec, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule, describe, next_slots, parse_instant, preview
from natscron.schedule.base import instant_of

NOON = parse_instant("2030-01-01T12:00:00Z")
DAILY = ScheduleSpec(cron="0 9 * * *")
MINUTELY = ScheduleSpec(cron="* * * * *")
ZONES = ("Europe/Berlin", "Europe/Paris", "Asia/Tokyo", "Asia/Seoul", "America/New_York")


def compiled(spec: ScheduleSpec) -> Schedule:
    return compile_schedule(spec, anchor_ms=NOON, seed="job").schedule


def locals_of(spec: ScheduleSpec, after: str, n: int) -> list[tuple[str, str]]:
    return [(slot.local, slot.mark) for slot in preview(spec, parse_instant(after), n)]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (ScheduleSpec(any=()), "schedule must specify either"),
        (ScheduleSpec(any=(DAILY,), cron="@daily"), "schedule cannot specify both 'cron' and 'any'"),
        (ScheduleSpec(any=(DAILY,) * 9), "'any' has 9 entries: at most 8"),
        (ScheduleSpec(cron="@daily", except_=(DAILY,) * 9), "'except' has 9 entries: at most 8"),
        (
            ScheduleSpec(any=tuple(ScheduleSpec(cron="@daily", tz=zone) for zone in ZONES)),
            "its parts are in 5 different zones: at most 3",
        ),
        (
            ScheduleSpec(cron="@daily", except_=(ScheduleSpec(rrule="FREQ=YEARLY"),) * 4),
            "4 of its parts are an 'rrule', 'solar' or 'kind': at most 3",
        ),
        (
            ScheduleSpec(any=(ScheduleSpec(cron="0," * 300 + "0 * * * *"),) * 2),
            "its expressions and rules are 1218 characters together: at most 1024",
        ),
        (
            ScheduleSpec(any=(ScheduleSpec(cron="0 0 29 2 *"),) * 4, tz="Europe/Berlin"),
            "finding a slot of all 4 schedules under 'any' takes too long",
        ),
        (ScheduleSpec(any=(DAILY, ScheduleSpec())), "any[1]: schedule must specify either"),
        (ScheduleSpec(any=(ScheduleSpec(cron="61 * * * *"),)), "any[0]: invalid cron expression '61 * * * *'"),
        (ScheduleSpec(any=(ScheduleSpec(any=(DAILY,)),)), "any[0]: 'any' cannot stand here"),
        (ScheduleSpec(any=(ScheduleSpec(every="1m", jitter="5s"),)), "any[0]: 'jitter' cannot stand here: give it for"),
        (ScheduleSpec(any=(ScheduleSpec(every="1m", max_runs=2),)), "any[0]: 'max_runs' cannot stand here"),
        (ScheduleSpec(any=(ScheduleSpec(every="1m", run_at_start=True),)), "any[0]: 'run_at_start' cannot stand here"),
        (ScheduleSpec(any=(ScheduleSpec(every="1m", except_=(DAILY,)),)), "any[0]: 'except' cannot stand here"),
        (ScheduleSpec(any=(ScheduleSpec(calendar="x"),)), "any[0]: 'calendar' cannot stand here: give it"),
        (ScheduleSpec(cron="@daily", except_=(ScheduleSpec(every="1m", not_after="in 5m"),)), "except[0]: 'not_after'"),
        (ScheduleSpec(any=(DAILY,), start_at="in 5m"), "'start_at' belongs to a member of 'any'"),
        (ScheduleSpec(any=(DAILY,), config="x"), "'config' belongs to a member"),
        (ScheduleSpec(every="5m", config="x"), "config is for a 'kind'"),
        (ScheduleSpec(any=(DAILY,), tz="Mars/Olympus"), "unknown time zone Mars/Olympus"),
        (ScheduleSpec(calendar="holidays"), "'calendar' stands within 'except' only"),
        (
            ScheduleSpec(cron="@daily", except_=(ScheduleSpec(calendar="x", tz="Asia/Tokyo"),)),
            "except[0]: 'tz' cannot stand beside 'calendar'",
        ),
        (ScheduleSpec(every="1m", max_runs=0), "max_runs 0 is not within 1 to 10000"),
        (ScheduleSpec(every="1m", max_runs=10_001), "max_runs 10001 is not within"),
        (ScheduleSpec(every="1m", jitter="25h"), "jitter '25h' is not above 0 and at most 24h"),
        (ScheduleSpec(every="1m", jitter="0s"), "jitter '0s' is not above 0"),
        (ScheduleSpec(every="1m", jitter="-1s"), "jitter '-1s' is not above 0"),
        (ScheduleSpec(every="1m", jitter="soon"), "jitter 'soon': time: invalid duration"),
        (ScheduleSpec(every="1m", not_before="tomorrow"), "not_before: invalid instant 'tomorrow'"),
        (
            ScheduleSpec(every="1m", not_before="2030-01-02T00:00:00Z", not_after="2030-01-01T00:00:00Z"),
            "not_after 2030-01-01T00:00:00Z lies before not_before 2030-01-02T00:00:00Z",
        ),
        (
            ScheduleSpec(cron="0 9 * * *", not_before="2030-01-01T10:00:00Z", not_after="2030-01-01T11:00:00Z"),
            "it never runs: it has no slot from 2030-01-01T10:00:00Z to 2030-01-01T11:00:00Z",
        ),
        (ScheduleSpec(at="2030-01-01T00:00:00Z", not_before="2031-01-01T00:00:00Z"), "it never runs"),
        (
            ScheduleSpec(at="2030-01-01T00:00:00Z", except_=(ScheduleSpec(cron="@hourly"),)),
            "it never runs: 'except' takes away every slot",
        ),
        (ScheduleSpec(cron="0 9 * * *", except_=(MINUTELY,)), "'except' takes away every slot"),
        (ScheduleSpec(cron="*/5 * * * *", tz="Europe/Berlin", except_=(MINUTELY,)), "'except' takes away every slot"),
        (ScheduleSpec(every="2s", except_=(ScheduleSpec(every="1s"),)), "'except' takes away every slot of"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_value_the_rule_and_the_remedy(
    spec: ScheduleSpec, reason: str
) -> None:
    for lenient in (False, True):
        with pytest.raises(InvalidScheduleError) as caught:
            compile_schedule(spec, anchor_ms=NOON, lenient=lenient)
        assert reason in str(caught.value)


def test_an_unknown_calendar_and_a_wrong_bound_have_errors_of_their_own() -> None:
    with pytest.raises(UnknownCalendarError, match=r"except\[0\]: there is no calendar 'holidays': store it first"):
        compiled(ScheduleSpec(cron="@daily", except_=(ScheduleSpec(calendar="holidays"),)))
    with pytest.raises(InvalidScheduleTimeError, match="last_slot: invalid instant"):
        compiled(ScheduleSpec(cron="@daily", last_slot="x"))


def test_members_and_exclusions_are_in_the_zone_of_the_whole_unless_they_have_their_own() -> None:
    whole = ScheduleSpec(
        any=(DAILY, ScheduleSpec(cron="TZ=Asia/Tokyo 0 9 * * *"), ScheduleSpec(cron="0 10 * * *", tz="UTC")),
        tz="Europe/Berlin",
    )
    assert [slot.utc for slot in preview(whole, NOON, 3)] == [
        "2030-01-02T00:00:00Z", "2030-01-02T08:00:00Z", "2030-01-02T10:00:00Z",
    ]  # fmt: skip
    for main in (
        ScheduleSpec(cron="0 * * * *", tz="Europe/Berlin", except_=(ScheduleSpec(cron="0 0-22 * * *"),)),
        ScheduleSpec(cron="TZ=Europe/Berlin 0 * * * *", except_=(ScheduleSpec(cron="0 0-22 * * *"),)),
    ):
        assert locals_of(main, "2030-01-01T12:00:00Z", 1) == [("2030-01-01T23:00:00+01:00", "")]


def test_members_follow_the_clock_change_rules_of_the_whole_unless_they_have_their_own() -> None:
    members = (ScheduleSpec(cron="30 2 * * *"), ScheduleSpec(cron="45 2 * * *", dst_gap="run_after"))
    whole = ScheduleSpec(any=members, tz="Europe/Berlin", dst_gap="skip")
    assert locals_of(whole, "2030-03-30T12:00:00Z", 3) == [
        ("2030-03-31T03:00:00+02:00", "moved"),
        ("2030-04-01T02:30:00+02:00", ""),
        ("2030-04-01T02:45:00+02:00", ""),
    ]


def test_marks_show_through_unions_exclusions_bounds_and_jitter() -> None:
    whole = ScheduleSpec(
        any=(
            ScheduleSpec(cron="*/30 2 * * *", dst_fold="both"),
            ScheduleSpec(every="6h", start_at="2030-10-27T01:00:00Z"),
        ),
        tz="Europe/Berlin",
        except_=(ScheduleSpec(cron="30 2 * * *", dst_fold="first"),),
        not_after="2030-10-27T20:00:00Z",
        jitter="1m",
    )
    slots = preview(whole, parse_instant("2030-10-26T23:00:00Z"), 9, seed="job")
    assert [(slot.local, slot.mark) for slot in slots][:4] == [
        ("2030-10-27T02:00:00+02:00", ""),
        ("2030-10-27T02:00:00+01:00", ""),  # the interval's as well, which no clock moves
        ("2030-10-27T02:30:00+01:00", "repeated"),
        ("2030-10-27T08:00:00+01:00", ""),
    ]
    assert all(0 <= parse_instant(slot.due) - slot.at_ms <= 60_000 for slot in slots)
    assert any(slot.due != slot.utc for slot in slots)
    assert preview(DAILY, NOON, 1)[0].due == ""


def test_recurrence_rules_and_calendars_are_parts_like_any_other() -> None:
    mondays = ScheduleSpec(rrule="FREQ=WEEKLY;BYDAY=MO", start_at="2030-01-07T09:00:00+01:00")
    daily = ScheduleSpec(cron="0 9 * * *", tz="Europe/Berlin", except_=(mondays, ScheduleSpec(calendar="fair")))
    calendars = {"fair": CalendarSpec(dates=("2030-01-08", "2030-01-10/2030-01-12"), tz="Europe/Berlin")}
    slots = preview(daily, parse_instant("2030-01-05T12:00:00Z"), 4, calendars=calendars)
    assert [slot.local[:10] for slot in slots] == ["2030-01-06", "2030-01-09", "2030-01-13", "2030-01-15"]
    schedule = compile_schedule(daily, anchor_ms=0, calendars=calendars).schedule
    assert schedule.last_at_or_before_ms(slots[3].at_ms - 1) == slots[2].at_ms
    assert schedule.last_at_or_before_ms(slots[1].at_ms - 1) == slots[0].at_ms
    both = ScheduleSpec(any=(mondays, ScheduleSpec(cron="0 12 * * *")), tz="Europe/Berlin", dst_gap="skip")
    assert [slot.local[:16] for slot in preview(both, parse_instant("2030-01-06T12:00:00Z"), 3)] == [
        "2030-01-07T09:00",
        "2030-01-07T12:00",
        "2030-01-08T12:00",
    ]
    wrong = {"fair": CalendarSpec(dates=("2030-02-31",))}
    with pytest.raises(InvalidScheduleError, match=r"except\[1\]: calendar 'fair': "):
        compile_schedule(daily, anchor_ms=0, calendars=wrong)


def test_run_at_start_is_a_slot_like_the_others() -> None:
    started = ScheduleSpec(any=(DAILY,), run_at_start=True)
    assert compiled(started).next_after_ms(NOON - 1) == NOON
    for limits in (
        {"except_": (ScheduleSpec(cron="0 12 * * *"),)},
        {"not_before": "2030-01-01T12:00:00.001Z"},
    ):
        limited = ScheduleSpec(any=(DAILY,), run_at_start=True, **limits)
        assert compiled(limited).next_after_ms(NOON - 1) == NOON + 21 * 3_600_000


def test_both_bounds_are_inclusive() -> None:
    spec = ScheduleSpec(cron="* * * * *", not_before="2030-01-01T12:00:00Z", not_after="2030-01-01T12:02:00Z")
    slots = next_slots(spec, instant_of(0), 10)
    assert [int(slot.timestamp() * 1000) - NOON for slot in slots] == [0, 60_000, 120_000]
    assert compiled(spec).last_at_or_before_ms(NOON - 1) is None


def test_a_member_that_except_takes_away_whole_is_warned_about() -> None:
    spec = ScheduleSpec(any=(ScheduleSpec(cron="0 9 * * *"), ScheduleSpec(cron="30 9 * * *")), except_=(DAILY,))
    assert compile_schedule(spec, anchor_ms=0).warnings == ("any[0] never runs: 'except' takes away every slot of it",)


@pytest.mark.parametrize(
    "spec",
    [
        ScheduleSpec(
            every="20ms",
            start_at="2026-01-01T00:00:00Z",
            except_=(ScheduleSpec(every="10ms", start_at="2027-01-01T00:00:00Z"),),
        ),
        # Clocks changed at that time there from 1987 to 2006.
        ScheduleSpec(any=(ScheduleSpec(cron="30 2 * 4 0#1", dst_gap="skip"),) * 2, tz="America/New_York"),
    ],
)
def test_a_search_that_would_take_too_long_gives_up_and_says_so_until_one_works(spec: ScheduleSpec) -> None:
    schedule = compile_schedule(spec, anchor_ms=0).schedule
    assert schedule.failure is None
    proper, hopeless = "2026-06-01T00:00:00Z", "2030-01-01T00:00:00Z"
    if spec.any:
        hopeless = "1988-01-01T00:00:00Z"
    assert schedule.next_after_ms(parse_instant(hopeless)) is None
    assert "takes too long" in (schedule.failure or "")
    assert schedule.next_after_ms(parse_instant(proper)) is not None
    assert schedule.failure is None
    assert schedule.last_at_or_before_ms(parse_instant(hopeless if spec.every else "2005-01-01T00:00:00Z")) is None
    assert "takes too long" in (schedule.failure or "")


def test_a_due_instant_is_not_told_of_while_an_earlier_one_may_have_been_lost() -> None:
    spec = ScheduleSpec(
        any=(ScheduleSpec(every="20ms", start_at="2026-01-01T00:00:00Z"), ScheduleSpec(at="2030-01-01T00:00:00.005Z")),
        except_=(ScheduleSpec(every="10ms", start_at="2027-01-01T00:00:00Z"),),
        jitter="1s",
    )
    schedule = compile_schedule(spec, anchor_ms=0, seed="a").schedule
    near = parse_instant("2030-01-01T00:00:00Z")
    assert schedule.last_at_or_before_ms(near) is None
    assert schedule.next_after_ms(near) == near + 5
    assert schedule.dues.next_after_ms(near) is None
    assert schedule.dues.failure is not None


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        (ScheduleSpec(every="1h", except_=(ScheduleSpec(cron="* * * * SUN"),)), True),
        (ScheduleSpec(every="1h", start_at="2030-01-01T00:00:00.5Z", except_=(MINUTELY,)), True),
        (ScheduleSpec(every="7m", start_at="2030-01-01T00:00:00Z", except_=(ScheduleSpec(cron="* * * * SUN"),)), False),
        (ScheduleSpec(cron="*/5 * * * *", except_=(ScheduleSpec(cron="*/3 12 * * *"),)), False),
        (ScheduleSpec(cron="0 * * * *", except_=(ScheduleSpec(cron="1 12 * * *"),)), True),
        (ScheduleSpec(cron="5 * * * * *", except_=(ScheduleSpec(cron="* 12 * * *"),)), True),
        (ScheduleSpec(cron="0 * * * *", except_=(ScheduleSpec(cron="0 12 * * *", tz="Asia/Kathmandu"),)), False),
        (ScheduleSpec(any=(DAILY, ScheduleSpec(every="1h")), except_=(ScheduleSpec(cron="0 9 1 * *"),)), False),
    ],
)
def test_an_exclusion_in_vain_is_warned_about(spec: ScheduleSpec, warned: bool) -> None:  # noqa: FBT001 - a parameter of the test
    warnings = compile_schedule(spec, anchor_ms=NOON).warnings
    assert any("except[0] takes away equal slots only" in warning for warning in warnings) is warned


def test_warnings_come_out_of_members_with_their_place() -> None:
    spec = ScheduleSpec(any=(DAILY, ScheduleSpec(cron="* */15 * * * *")))
    assert [w[:34] for w in compile_schedule(spec, anchor_ms=0).warnings] == ["any[1]: the seconds field is '*': "]
    idle = ScheduleSpec(any=(ScheduleSpec(every="1m", dst_gap="skip"), DAILY), dst_fold="both")
    assert compile_schedule(idle, anchor_ms=0).warnings == (
        "any[0]: dst_gap and dst_fold are about cron expressions: they change nothing here",
    )


def test_jobs_that_say_the_same_share_what_is_compiled() -> None:
    spec = ScheduleSpec(any=(DAILY, MINUTELY), except_=(ScheduleSpec(cron="0 9 * * MON"),), tz="Europe/Berlin")
    first = compile_schedule(spec, anchor_ms=0, seed="a").schedule
    assert compile_schedule(spec, anchor_ms=NOON, seed="b").schedule is first
    anchored = ScheduleSpec(any=(DAILY, ScheduleSpec(every="7m")))
    one = compile_schedule(anchored, anchor_ms=0).schedule
    assert compile_schedule(anchored, anchor_ms=NOON).schedule.next_after_ms(NOON) == NOON + 420_000
    assert one.next_after_ms(0) == 420_000
    hashed = ScheduleSpec(any=(ScheduleSpec(cron="H H * * *"),))
    assert len({compile_schedule(hashed, anchor_ms=0, seed=f"{i}").schedule.next_after_ms(0) for i in range(50)}) > 40


def test_a_hundred_thousand_equal_unions_compile_at_once() -> None:
    spec = ScheduleSpec(any=(DAILY, MINUTELY), except_=(ScheduleSpec(cron="0 9 * * MON"),), jitter="1m")
    compile_schedule(spec, anchor_ms=0, seed="warm")
    begun = time.process_time()
    for i in range(1_000):
        compile_schedule(spec, anchor_ms=i, seed=f"{i}")
    assert time.process_time() - begun < 0.5, "100,000 would take over 50 s"


def _sixteenths(n: int) -> tuple[ScheduleSpec, ...]:
    return tuple(ScheduleSpec(cron=f"{i * 4}-{min(i * 4 + 3, 59)} * * * * *") for i in range(n))


DENSE = {
    "every second but in business hours": ScheduleSpec(
        cron="* * * * * *", tz="Europe/Berlin", except_=(ScheduleSpec(cron="* * 9-17 * * MON-FRI"),)
    ),
    "one slot in 28 years": ScheduleSpec(
        cron="0 0 29 2 *", tz="Europe/Berlin", except_=(ScheduleSpec(cron="* * * * MON-SAT"),)
    ),
    "one day in seven years": ScheduleSpec(
        cron="* * * * * *",
        tz="Europe/Berlin",
        except_=(ScheduleSpec(cron="* * * * 1-11 *"), ScheduleSpec(cron="* * * 1-23,25-31 * *")),
    ),
    "only in the hour that is repeated": ScheduleSpec(
        cron="* * * * * *", tz="Europe/Berlin", except_=(ScheduleSpec(cron="* * * * * *", dst_fold="first"),)
    ),
    "20 seconds of each minute, piece by piece": ScheduleSpec(cron="* * * * * *", except_=_sixteenths(8)),
    "nothing, piece by piece": ScheduleSpec(cron="* * * * * *", tz="Europe/Berlin", except_=_sixteenths(8)),
    "nothing, by intervals": ScheduleSpec(every="20ms", except_=(ScheduleSpec(every="10ms"),)),
    "another zone": ScheduleSpec(
        cron="* * * * * *",
        tz="Asia/Kathmandu",
        except_=(ScheduleSpec(cron="* * * * 1-11 *", tz="America/New_York"),),
    ),
    "an interval at night": ScheduleSpec(
        every="1m", except_=(ScheduleSpec(cron="* 1-23 * * *", tz="America/New_York"),)
    ),
    "as many as there can be": ScheduleSpec(
        any=tuple(ScheduleSpec(cron=f"{i} */{i % 5 + 1} * * * *") for i in range(8)),
        except_=tuple(ScheduleSpec(cron=f"{i} * {i} * * *") for i in range(8)),
        tz="Europe/Berlin",
    ),
}


@pytest.mark.parametrize("spec", DENSE.values(), ids=DENSE.keys())
def test_no_combination_takes_more_than_milliseconds(spec: ScheduleSpec) -> None:
    limit = 0.015  # three times what is promised, for slow machines
    compile_in_any_case(spec)  # zones and days are read once for all schedules
    begun = time.process_time()
    schedule = compile_in_any_case(spec)
    assert time.process_time() - begun < limit
    if schedule is None:
        return
    for text in ("2026-03-29T00:59:59Z", "2026-06-01T00:00:00Z", "2026-10-25T00:30:00Z", "2027-02-11T12:00:00Z"):
        t = parse_instant(text)
        schedule.next_after_ms(t)
        schedule.last_at_or_before_ms(t)
        begun = time.process_time()
        found = schedule.next_after_ms(t)
        assert time.process_time() - begun < limit
        assert found is not None
        begun = time.process_time()
        schedule.last_at_or_before_ms(t)
        assert time.process_time() - begun < limit


def compile_in_any_case(spec: ScheduleSpec) -> Schedule | None:
    # another seed and anchor would not matter: these mean the same for every job
    from natscron.schedule.compile import _shared_core  # noqa: PLC0415 - so that it is really compiled

    _shared_core.cache_clear()
    try:
        return compiled(spec)
    except InvalidScheduleError:
        return None


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (
            ScheduleSpec(any=(DAILY, ScheduleSpec(every="90m")), tz="Europe/Berlin", run_at_start=True),
            [
                "whenever one of these says so: (1) at 09:00 every day, Europe/Berlin",
                "(2) every 1h30m",
                "and once when it is created",
            ],
        ),
        (
            ScheduleSpec(
                cron="0 9 * * *",
                except_=(ScheduleSpec(calendar="holidays"), ScheduleSpec(calendar="fairs")),
                not_before="2030-01-01T01:00:00+01:00",
                not_after="2031-01-01T00:00:00Z",
            ),
            [
                (
                    "at 09:00 every day, UTC, except within the calendars holidays and fairs, "
                    "not before 2030-01-01T00:00:00Z, not after 2031-01-01T00:00:00Z"
                )
            ],
        ),
        (
            ScheduleSpec(cron="30 * * * *", tz="Asia/Tokyo", except_=(ScheduleSpec(cron="30 9 * * *"),), jitter="300s"),
            [
                "at minute 30 of every hour, Asia/Tokyo",
                "except when these have a slot: at 09:30 every day, Asia/Tokyo",
                "each up to 5m later",
            ],
        ),
        (
            ScheduleSpec(every="5m", max_runs=3, last_slot="2030-01-01T00:15:00Z"),
            ["every 5m, 3 times in all, the last one at 2030-01-01T00:15:00Z"],
        ),
        (
            ScheduleSpec(rrule="FREQ=WEEKLY;BYDAY=MO", tz="Asia/Tokyo", start_at="2030-01-07T09:00:00+09:00"),
            ["by the recurrence rule FREQ=WEEKLY;BYDAY=MO, Asia/Tokyo, starting at 2030-01-07T00:00:00Z"],
        ),
        (ScheduleSpec(every="5m", max_runs=1, not_before="in 1h"), ["every 5m, not before in 1h, once in all"]),
    ],
)
def test_whole_schedules_in_english(spec: ScheduleSpec, parts: list[str]) -> None:
    assert describe(spec) == "; ".join(parts)
