"""What nats-server is told for a schedule, and what it cannot be told: exactly, or not at all."""

import datetime as dt
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.errors import InvalidScheduleError
from natscron.model import ScheduleSpec
from natscron.schedule import compile_schedule, cron, daily_at, every, once, union
from natscron.schedule.servercron import parse_server_cron
from natscron.schedule.servertiming import on_server_grid, server_timing

NOW = 1_790_000_123_456
DIVISORS = [
    *(second for second in range(1, 60) if 60 % second == 0),
    *(minute * 60 for minute in range(1, 60) if 60 % minute == 0),
    *(hour * 3_600 for hour in range(1, 25) if 24 % hour == 0),
]


def timed(spec: ScheduleSpec) -> ScheduleSpec:
    return msgspec.structs.replace(spec, timer="server")


@given(st.sampled_from(DIVISORS), st.integers(0, 90_000_000))
def test_an_interval_is_the_same_grid_to_the_server_as_to_us(seconds: int, later_ms: int) -> None:
    spec = on_server_grid(timed(every(seconds)), NOW + later_ms)
    server = parse_server_cron(server_timing(spec, NOW).text, None)
    ours = compile_schedule(spec, anchor_ms=0).schedule
    at = ours.next_after_ms(NOW + 2 * 86_400_000)
    assert at is not None
    assert at % 1_000 == 0
    for _ in range(40):
        following = server.next_after(at // 1_000)
        assert following is not None
        assert following * 1_000 == ours.next_after_ms(at)
        at = following * 1_000


def test_an_interval_begins_one_interval_after_the_next_whole_second() -> None:
    spec = on_server_grid(timed(every("5m")), NOW)
    slot = compile_schedule(spec, anchor_ms=0).schedule.next_after_ms(NOW)
    assert slot == NOW - 456 + 1_000 + 300_000


def test_the_start_of_an_interval_stays_when_nothing_else_changes() -> None:
    stored = on_server_grid(timed(every("5m")), NOW)
    assert on_server_grid(timed(every("5m")), NOW + 77_777, stored) == stored
    # Also when the leader goes on, and the server again.
    by_leader = on_server_grid(every("5m"), NOW + 77_777, stored)
    assert by_leader == msgspec.structs.replace(stored, timer=None)
    assert on_server_grid(every("10m"), NOW, stored) == every("10m")


def test_an_interval_that_the_leader_timed_keeps_its_steps_but_for_the_rounding() -> None:
    anchor = NOW - 1_000_000
    spec = on_server_grid(timed(every("5m")), NOW, every("5m"), anchor)
    slot = compile_schedule(spec, anchor_ms=0).schedule.next_after_ms(NOW)
    assert slot is not None
    assert 0 <= slot - (anchor + 4 * 300_000) < 1_000


@pytest.mark.parametrize(
    ("spec", "text", "tz"),
    [
        (cron("30 9 * * MON-FRI"), "0 30 9 * * 1-5", ""),
        (cron("30 9 * * *", tz="America/New_York"), "0 30 9 * * *", "America/New_York"),
        (daily_at(23, 15), "0 15 23 * * *", ""),
        (cron("@hourly"), "@hourly", ""),
        (once(dt.datetime(2030, 1, 31, 9, 0, 0, 250_000, dt.UTC)), "@at 2030-01-31T09:00:00.250Z", ""),
    ],
)
def test_cron_and_instants_are_said_in_the_servers_words(spec: ScheduleSpec, text: str, tz: str) -> None:
    timing = server_timing(spec, NOW)
    assert (timing.text, timing.tz) == (text, tz)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (every("7s"), "an interval of 7s: its steps must come at the same places of every minute, hour or day"),
        (every("90s"), "an interval of 90s"),
        (every("48h"), "an interval of 48h"),
        (every("1500ms"), "an interval of 1500ms: nats-server fires at whole seconds"),
        (
            every("5m", start_at=dt.datetime(2030, 1, 1, 0, 0, 0, 1_000, dt.UTC)),
            "the start 2030-01-01T00:00:00.001Z: nats-server fires at whole seconds",
        ),
        (ScheduleSpec(cron="@every 5m"), "without a start"),
        (cron("0 9 * * *", jitter="5m"), "a schedule with jitter"),
        (every("1h", max_runs=3), "a schedule with max_runs"),
        (every("1h", except_=cron("0 9 * * *")), "a schedule with 'except'"),
        (union(every("1h"), cron("0 9 * * *")), "a schedule with a union"),
        (ScheduleSpec(every="1h", run_at_start=True), "a schedule with run_at_start"),
        (cron("0 0 L * *"), "'0 0 L * *'"),
        (cron("30 2 * * *", tz="Europe/Berlin"), "a slot falls at 02:30:00, which the clock change"),
        (cron("0 30 2 * * *", tz="Europe/Berlin"), "a slot falls at 02:30:00, which the clock change"),
    ],
)
def test_what_cannot_be_said_exactly_is_refused_with_the_rule_and_the_remedy(spec: ScheduleSpec, told: str) -> None:
    with pytest.raises(InvalidScheduleError, match=re.escape(told)) as raised:
        server_timing(on_server_grid(timed(spec), NOW), NOW)
    assert str(raised.value).startswith("timer 'server' is not possible for ")
    assert str(raised.value).endswith("; change that, or use timer='leader'")
    assert "take its rules" not in str(raised.value)


@pytest.mark.parametrize(("timer", "jitter"), [("moon", None), ("leader", None), ("server", "1s")])
def test_no_other_timer_is_stored_with_a_schedule(timer: str, jitter: str | None) -> None:
    spec = ScheduleSpec(every="1h", timer=timer, jitter=jitter)
    with pytest.raises(InvalidScheduleError, match="timer"):
        compile_schedule(spec, anchor_ms=0)


@given(st.integers(0, 200_000), st.integers(0, 20_000))
def test_the_leader_goes_through_the_same_slots_three_seconds_later(at: int, more: int) -> None:
    plain = compile_schedule(ScheduleSpec(every="1s"), anchor_ms=5_000).schedule
    lagging = compile_schedule(ScheduleSpec(every="1s", timer="server"), anchor_ms=5_000).schedule
    assert lagging.next_after_ms(at) == plain.next_after_ms(at)
    dues = lagging.dues
    due = dues.next_after_ms(at)
    assert due is not None
    assert due == dues.due_of(dues.slot_of(due)) == (plain.next_after_ms(at - 3_000) or 0) + 3_000
    last = plain.last_at_or_before_ms(at - 3_000)
    assert dues.last_at_or_before_ms(at) == (None if last is None else last + 3_000)
    assert dues.count(at, at + more, 1 << 30) == plain.count(at - 3_000, at + more - 3_000, 1 << 30)
