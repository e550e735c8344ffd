"""The sun's events against published times, at the poles, and forwards as backwards."""

import datetime as dt
import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidScheduleError
from natscron.model import Solar
from natscron.schedule.solar import EVENTS, compile_solar

DAY = 86_400_000
BERLIN = (52.52, 13.405)
TROMSO = (69.65, 18.96)


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp()) * 1000


def text(slot: int | None) -> str:
    return "never" if slot is None else dt.datetime.fromtimestamp(slot / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("event", "place", "published"),
    [
        ("sunrise", BERLIN, "2026-06-21T02:43:00Z"),
        ("sunset", BERLIN, "2026-06-21T19:33:00Z"),
        ("noon", (51.4779, 0.0), "2026-11-03T11:43:34Z"),  # the equation of time is at its most: 16 min 26 s
        ("sunrise", (0.0, 0.0), "2026-03-20T06:04:00Z"),
        ("sunset", (0.0, 0.0), "2026-03-20T18:10:40Z"),
        ("sunset", (40.7128, -74.006), "2026-12-21T21:32:00Z"),
        ("sunset", (-33.87, 151.21), "2026-12-21T09:05:00Z"),
    ],
)
def test_events_come_within_a_minute_of_published_times(event: str, place: tuple[float, float], published: str) -> None:
    schedule = compile_solar(Solar(event=event, latitude=place[0], longitude=place[1]))
    slot = schedule.next_after_ms(at(published) - 3_600_000)
    assert slot is not None
    assert abs(slot - at(published)) <= 60_000, text(slot)


def test_the_events_of_a_day_come_in_order_and_civil_dawn_half_an_hour_before_sunrise_at_the_equator() -> None:
    slots = [
        compile_solar(Solar(event=event, latitude=0, longitude=0)).next_after_ms(at("2026-03-20T00:00:00Z")) or 0
        for event in EVENTS
    ]
    assert slots == sorted(slots)
    assert 20 * 60_000 < slots[1] - slots[0] < 24 * 60_000


@pytest.mark.parametrize(("offset", "moved"), [("30m", 1800), ("-1h30m", -5400), ("-12h", -43_200), ("1500ms", 1)])
def test_an_offset_moves_the_slot_by_whole_seconds(offset: str, moved: int) -> None:
    plain = compile_solar(Solar(event="sunset", latitude=BERLIN[0], longitude=BERLIN[1]))
    other = compile_solar(Solar(event="sunset", latitude=BERLIN[0], longitude=BERLIN[1], offset=offset))
    slot = plain.next_after_ms(at("2026-06-21T12:00:00Z"))
    assert slot is not None
    assert other.last_at_or_before_ms(slot + moved * 1000) == slot + moved * 1000
    assert slot % 1000 == 0


def test_days_on_which_the_sun_does_not_rise_are_skipped_in_both_directions() -> None:
    schedule = compile_solar(Solar(event="sunrise", latitude=TROMSO[0], longitude=TROMSO[1]))
    summer = schedule.next_after_ms(at("2026-06-01T00:00:00Z"))
    winter = schedule.next_after_ms(at("2026-12-15T00:00:00Z"))
    assert (text(summer)[:7], text(winter)[:7]) == ("2026-07", "2027-01")
    assert text(schedule.last_at_or_before_ms(at("2026-12-15T00:00:00Z")))[:7] == "2026-11"


@given(
    st.sampled_from(EVENTS),
    st.floats(-90, 90),
    st.floats(-180, 180) | st.sampled_from([-180.0, 180.0, 90.0, -90.0]),
    st.sampled_from([None, "-12h", "12h", "-45m"]),
    st.integers(0, 16_000_000_000_000),
)
@settings(max_examples=60)
def test_slots_come_once_a_day_and_are_the_same_backwards(
    event: str, latitude: float, longitude: float, offset: str | None, t: int
) -> None:
    try:
        schedule = compile_solar(Solar(event=event, latitude=latitude, longitude=longitude, offset=offset))
    except InvalidScheduleError as error:
        assert abs(latitude) > 85, error  # noqa: PT017 - elsewhere the sun rises and sets
        return
    slots: list[int] = []
    slot = schedule.next_after_ms(t)
    while slot is not None and len(slots) < 40:
        assert slot > (slots[-1] if slots else t)
        slots.append(slot)
        slot = schedule.next_after_ms(slot)
    assert slots
    for before, after in itertools.pairwise(slots):
        assert schedule.last_at_or_before_ms(after - 1) == before
        if abs(latitude) < 60 or event == "noon":
            assert abs(after - before - DAY) < DAY // 24
    assert schedule.last_at_or_before_ms(slots[-1]) == slots[-1]


@pytest.mark.parametrize("t", [-1, 0, 253_402_300_799_999, 10**20])
def test_any_instant_may_be_asked_about(t: int) -> None:
    schedule = compile_solar(Solar(event="dusk", latitude=0, longitude=-180))
    following, before = schedule.next_after_ms(t), schedule.last_at_or_before_ms(t)
    assert following is None or following > t
    assert before is None or 0 <= before <= t


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Solar(event="moonrise", latitude=0, longitude=0), "use one of dawn, sunrise, noon, sunset, dusk"),
        (Solar(event="noon", latitude=90.5, longitude=0), "give degrees from -90 to 90"),
        (Solar(event="noon", latitude=0, longitude=float("nan")), "give degrees from -180 to 180"),
        (Solar(event="noon", latitude=0, longitude=0, offset="soon"), "such as 30m, or -1h30m for before"),
        (Solar(event="noon", latitude=0, longitude=0, offset="-12h1s"), "over 12h"),
        (Solar(event="sunrise", latitude=90, longitude=0), "does not come within two years at latitude 90"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused_with_the_reason(spec: Solar, said: str) -> None:
    with pytest.raises(InvalidScheduleError) as refused:
        compile_solar(spec)
    assert said in str(refused.value)


@given(st.text(max_size=12), st.floats(), st.floats(), st.none() | st.text(max_size=12))
@settings(max_examples=200)
def test_nothing_raises_anything_but_the_documented_error(
    event: str, latitude: float, longitude: float, offset: str | None
) -> None:
    for name in (event, "sunset"):
        try:
            compile_solar(Solar(event=name, latitude=latitude, longitude=longitude, offset=offset))
        except InvalidScheduleError:
            continue


def test_without_the_extra_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(InvalidScheduleError, match=r"pip install 'natscron\[solar\]'"):
        compile_solar(Solar(event="noon", latitude=0, longitude=0))
