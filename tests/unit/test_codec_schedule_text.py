"""Schedules in the Go library's form, both ways."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.dialect import specs

from natscron.codec import schedule_from_text, schedule_to_text
from natscron.errors import InvalidIntervalError, InvalidScheduleError, InvalidScheduleTimeError
from natscron.model import ScheduleSpec


@pytest.mark.parametrize(
    ("kind", "config", "spec"),
    [
        ("interval", "1h30m1.5s", ScheduleSpec(every="1h30m1.5s")),
        ("interval", "1.5µs", ScheduleSpec(every="1.5µs")),
        ("interval", "2562047h47m16.854775807s", ScheduleSpec(every="2562047h47m16.854775807s")),
        ("once", "2026-11-20T09:00:00Z", ScheduleSpec(at="2026-11-20T09:00:00Z")),
        ("once", "2026-11-20T09:00:00.123456789Z", ScheduleSpec(at="2026-11-20T09:00:00.123456789Z")),
        (
            "start_at_interval",
            "2026-11-20T09:00:00.5Z|1m0s",
            ScheduleSpec(every="1m0s", start_at="2026-11-20T09:00:00.5Z"),
        ),
        ("cron", "*/5 * * * *", ScheduleSpec(cron="*/5 * * * *")),
        ("cron", " 0  9 * * mon-fri ", ScheduleSpec(cron=" 0  9 * * mon-fri ")),
        ("cron", "CRON_TZ=Europe/Berlin 0 9 * * *", ScheduleSpec(cron="CRON_TZ=Europe/Berlin 0 9 * * *")),
        ("cron", "TZ=UTC 0 9 * * *", ScheduleSpec(cron="TZ=UTC 0 9 * * *")),
        ("myapp.lunar", "full|moon", ScheduleSpec(kind="myapp.lunar", config="full|moon")),
        ("myapp.lunar", "", ScheduleSpec(kind="myapp.lunar")),
    ],
)
def test_what_the_go_library_stored_is_read_and_written_back_as_it_was(
    kind: str, config: str, spec: ScheduleSpec
) -> None:
    assert schedule_from_text(kind, config) == spec
    assert schedule_to_text(spec) == (kind, config)


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        (ScheduleSpec(every="90m"), ("interval", "1h30m0s")),
        (ScheduleSpec(every="1d"), ("interval", "24h0m0s")),
        (ScheduleSpec(every="1500ms"), ("interval", "1.5s")),
        (ScheduleSpec(at="2026-11-20T10:00:00.500+01:00"), ("once", "2026-11-20T09:00:00.5Z")),
        (ScheduleSpec(at="2026-11-20T09:00:00.000000001Z"), ("once", "2026-11-20T09:00:00.000000001Z")),
        (
            ScheduleSpec(every="1m", start_at="2026-11-20T10:00:00+01:00"),
            ("start_at_interval", "2026-11-20T09:00:00Z|1m0s"),
        ),
    ],
)
def test_durations_and_instants_are_written_as_go_writes_them(spec: ScheduleSpec, stored: tuple[str, str]) -> None:
    assert schedule_to_text(spec) == stored
    assert schedule_to_text(schedule_from_text(*stored)) == stored


@pytest.mark.parametrize(
    "spec",
    [
        ScheduleSpec(every="1m", run_at_start=True),
        ScheduleSpec(every="soon"),
        ScheduleSpec(every="-1s"),
        ScheduleSpec(every="1m", start_at="yesterday"),
        ScheduleSpec(at="in 5m"),
        ScheduleSpec(at="2026-11-20T09:00:00.0000000001Z"),
        ScheduleSpec(cron="0 9 * * *", tz="Europe/Berlin"),
        ScheduleSpec(cron="0 0 9 * * *"),
        ScheduleSpec(cron="@daily"),
        ScheduleSpec(every="1m", cron="* * * * *"),
        ScheduleSpec(kind="lunar", config="x"),
        ScheduleSpec(kind="myapp.lunar", jitter="1m"),
        ScheduleSpec(rrule="FREQ=DAILY"),
        ScheduleSpec(),
    ],
)
def test_what_the_go_types_cannot_say_is_stored_as_json(spec: ScheduleSpec) -> None:
    kind, config = schedule_to_text(spec)
    assert kind == "natscron"
    assert isinstance(json.loads(config), dict)
    assert schedule_from_text(kind, config) == spec


@given(specs())
def test_every_schedule_survives_the_trip(spec: ScheduleSpec) -> None:
    stored = schedule_to_text(spec)
    back = schedule_from_text(*stored)
    assert schedule_to_text(back) == stored
    if stored[0] == "natscron":
        assert back == spec


@pytest.mark.parametrize(
    ("kind", "config", "error"),
    [
        ("interval", "", InvalidScheduleError),
        ("interval", "30", InvalidIntervalError),
        ("interval", "0s", InvalidIntervalError),
        ("interval", "-1s", InvalidIntervalError),
        ("once", "2026-11-20T09:00:00", InvalidScheduleTimeError),
        ("start_at_interval", "|", InvalidScheduleTimeError),
        ("start_at_interval", "2026-11-20T09:00:00Z", InvalidScheduleError),
        ("start_at_interval", "2026-11-20T09:00:00Z|1m|2m", InvalidScheduleError),
        ("start_at_interval", "2026-11-20T09:00:00Z|", InvalidIntervalError),
        ("start_at_interval", "|1m", InvalidScheduleTimeError),
        ("cron", "  ", InvalidScheduleError),
        ("natscron", "null", InvalidScheduleError),
        ("natscron", "{", InvalidScheduleError),
        ("natscron", '{"any":[]}', InvalidScheduleError),
        ("natscron", "[" * 10_000, InvalidScheduleError),
        ("sundial", "noon", InvalidScheduleError),
        ("", "", InvalidScheduleError),
    ],
)
def test_what_cannot_be_read_says_so(kind: str, config: str, error: type[Exception]) -> None:
    with pytest.raises(InvalidScheduleError) as caught:
        schedule_from_text(kind, config)
    assert type(caught.value) is error or issubclass(type(caught.value), error)
    assert str(caught.value)


@given(st.text(max_size=40), st.text(max_size=60))
def test_no_text_raises_anything_else(kind: str, config: str) -> None:
    for one in (kind, "interval", "once", "start_at_interval", "cron", "natscron"):
        try:
            spec = schedule_from_text(one, config)
        except InvalidScheduleError:
            continue
        assert schedule_from_text(*schedule_to_text(spec)) is not None
