"""What is settled once, when a schedule is saved: relative instants, and the last slot that max_runs comes to."""

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.errors import InvalidScheduleError, InvalidScheduleTimeError
from natscron.model import ScheduleSpec
from natscron.schedule import compile_schedule, format_instant, next_slots, parse_instant, preview, resolve_spec
from natscron.schedule.base import instant_of

NOON = parse_instant("2030-01-01T12:00:00Z")
HOUR = 3_600_000

SPECS = [
    ScheduleSpec(every="5m"),
    ScheduleSpec(every="333ms"),
    ScheduleSpec(every="1h", start_at="2030-03-01T00:00:00Z"),
    ScheduleSpec(cron="*/7 * * * *", tz="Europe/Berlin"),
    ScheduleSpec(cron="30 2 * * *", tz="Europe/Berlin", dst_gap="skip"),
    ScheduleSpec(cron="0 9 * * *", not_before="2030-02-01T00:00:00Z"),
    ScheduleSpec(cron="0 9 * * *", not_after="2030-01-05T00:00:00Z"),
    ScheduleSpec(any=(ScheduleSpec(cron="@hourly"), ScheduleSpec(every="45m"))),
    ScheduleSpec(cron="* * * * *", except_=(ScheduleSpec(cron="*/2 * * * *"), ScheduleSpec(every="5m"))),
    ScheduleSpec(at="2030-01-02T00:00:00Z"),
    ScheduleSpec(cron="* * * * *", jitter="5m"),
]


def slots_of(spec: ScheduleSpec, anchor_ms: int, after_ms: int, n: int) -> list[int]:
    schedule = compile_schedule(spec, anchor_ms=anchor_ms).schedule
    found: list[int] = []
    slot = schedule.next_after_ms(after_ms)
    while slot is not None and len(found) < n:
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SPECS), st.integers(1, 60), st.integers(0, 10**10), st.none() | st.integers(0, 5_000))
def test_exactly_max_runs_slots_are_left_for_whoever_reads_the_row(
    spec: ScheduleSpec, max_runs: int, more: int, late: int | None
) -> None:
    now = NOON + more
    anchor = NOON - 10**8
    endless = resolve_spec(msgspec.structs.replace(spec, max_runs=None), now)
    spec = msgspec.structs.replace(spec, max_runs=max_runs)
    saved = resolve_spec(spec, now, anchor_ms=anchor if late is None else None)
    created = anchor if late is None else now
    there_are = slots_of(endless, created, now, max_runs)
    # The store stamps the row a little later than its writer has resolved it; pinned intervals must not care.
    stored_at = created + (late or 0)
    try:
        found = slots_of(saved, stored_at, now, max_runs + 5)
    except InvalidScheduleError as error:
        assert "never runs" in str(error)  # noqa: PT017 - nothing was left to count
        assert not there_are
        return
    assert found == there_are
    assert resolve_spec(saved, now + 10**9, anchor_ms=stored_at) is saved


@pytest.mark.parametrize("late", [0, 1, 250, 4_000])
def test_the_slot_at_the_creation_counts(late: int) -> None:
    for max_runs, left in ((1, []), (2, [NOON + 300_000]), (3, [NOON + 300_000, NOON + 600_000])):
        spec = resolve_spec(ScheduleSpec(every="5m", run_at_start=True, max_runs=max_runs), NOON)
        assert slots_of(spec, NOON + late, NOON - 1, 9) == [NOON + late, *left]
    daily = resolve_spec(ScheduleSpec(cron="0 13 * * *", run_at_start=True, max_runs=2), NOON)
    assert slots_of(daily, NOON + late, NOON - 1, 9) == [NOON + late, NOON + HOUR]


@pytest.mark.parametrize(
    "taken",
    [
        ScheduleSpec(except_=(ScheduleSpec(cron="* * 12 * * *"),)),
        ScheduleSpec(not_before="in 1m"),
    ],
)
def test_a_slot_at_the_creation_that_is_taken_away_does_not_count(taken: ScheduleSpec) -> None:
    taken = msgspec.structs.replace(taken, cron="30 0 * * * *", run_at_start=True, max_runs=2)
    spec = resolve_spec(taken, NOON)
    assert slots_of(spec, NOON, NOON - 1, 9) == [NOON + HOUR + 30_000, NOON + 2 * HOUR + 30_000]


def test_an_unchanged_file_does_not_count_again() -> None:
    for spec in SPECS:
        wanted = msgspec.structs.replace(spec, max_runs=5)
        saved = resolve_spec(wanted, NOON)
        assert resolve_spec(wanted, NOON + 10 * HOUR, anchor_ms=NOON + 5, before=saved) is saved
        assert resolve_spec(saved, NOON + 10 * HOUR, anchor_ms=NOON + 5, before=saved) is saved
    east = ScheduleSpec(every="1h", start_at="2030-03-01T02:00:00+02:00", max_runs=5)
    saved = resolve_spec(east, NOON)
    assert resolve_spec(east, NOON + HOUR, before=saved) is saved


def test_a_change_counts_again() -> None:
    saved = resolve_spec(ScheduleSpec(cron="0 * * * *", max_runs=5), NOON)
    assert saved.last_slot == "2030-01-01T17:00:00Z"
    later = NOON + 3 * HOUR
    for changed, last in (
        (ScheduleSpec(cron="0 * * * *", max_runs=6), "2030-01-01T21:00:00Z"),
        (ScheduleSpec(cron="30 * * * *", max_runs=5), "2030-01-01T19:30:00Z"),
        # read, edited and written back: what max_runs came to then is not what was asked for now
        (ScheduleSpec(cron="0 * * * *", max_runs=6, last_slot=saved.last_slot), "2030-01-01T21:00:00Z"),
        (ScheduleSpec(cron="0 * * * *", last_slot=saved.last_slot), None),
        (ScheduleSpec(cron="0 * * * *", max_runs=5, last_slot="2030-01-05T00:00:00Z"), "2030-01-05T00:00:00Z"),
    ):
        assert resolve_spec(changed, later, anchor_ms=NOON, before=saved).last_slot == last


def test_relative_instants_become_absolute_wherever_they_stand() -> None:
    spec = ScheduleSpec(
        any=(ScheduleSpec(at="in 5m"), ScheduleSpec(every="1h", start_at="in 1h")),
        except_=(ScheduleSpec(at="2030-01-01T14:00:00+01:00"),),
        not_before="in 1m",
        not_after="in 24h",
    )
    saved = resolve_spec(spec, NOON)
    assert [saved.any[0].at, saved.any[1].start_at, saved.except_[0].at, saved.not_before, saved.not_after] == [
        "2030-01-01T12:05:00Z",
        "2030-01-01T13:00:00Z",
        "2030-01-01T13:00:00Z",
        "2030-01-01T12:01:00Z",
        "2030-01-02T12:00:00Z",
    ]
    assert resolve_spec(saved, NOON + HOUR) is saved
    with pytest.raises(InvalidScheduleTimeError, match="not_before: invalid instant"):
        resolve_spec(ScheduleSpec(every="1m", not_before="soon"), NOON)


def test_only_a_limit_pins_an_interval() -> None:
    assert resolve_spec(ScheduleSpec(every="5m"), NOON).start_at is None
    assert resolve_spec(ScheduleSpec(every="5m", max_runs=1), NOON).start_at == "2030-01-01T12:05:00Z"
    assert resolve_spec(ScheduleSpec(every="5m", max_runs=1), NOON, anchor_ms=NOON - 1_000).start_at is None


@pytest.mark.parametrize(
    "spec",
    [
        ScheduleSpec(cron="* * * * * *", tz="Europe/Berlin", max_runs=10_000),
        ScheduleSpec(cron="0 0 29 2 *", max_runs=10_000),
        ScheduleSpec(any=(ScheduleSpec(cron="* * * * *"), ScheduleSpec(every="7s")), max_runs=10_000),
        ScheduleSpec(cron="* * * * * *", except_=(ScheduleSpec(cron="0-57 * * * * *"),), max_runs=10_000),
    ],
)
def test_counting_is_bounded(spec: ScheduleSpec) -> None:
    begun = time.process_time()
    saved = resolve_spec(spec, NOON)
    assert time.process_time() - begun < 1.5
    assert saved.last_slot is not None


def test_counting_that_would_take_too_long_is_refused() -> None:
    pieces = tuple(ScheduleSpec(cron=f"{i * 7}-{i * 7 + 6} * * * * *") for i in range(8))
    with pytest.raises(InvalidScheduleError, match="max_runs 10000 takes too long to count"):
        resolve_spec(ScheduleSpec(cron="* * * * * *", except_=pieces, max_runs=10_000), NOON)
    with pytest.raises(InvalidScheduleError, match="max_runs 0 is not within"):
        resolve_spec(ScheduleSpec(every="1m", max_runs=0), NOON)


def test_a_preview_of_what_was_never_saved_counts_from_its_start() -> None:
    spec = ScheduleSpec(cron="0 * * * *", max_runs=2)
    assert [slot.at_ms - NOON for slot in preview(spec, NOON, 10)] == [HOUR, 2 * HOUR]
    assert len(next_slots(spec, instant_of(NOON), 10)) == 2
    saved = resolve_spec(spec, NOON)
    assert [slot.utc for slot in preview(saved, NOON + HOUR, 10)] == [format_instant(NOON + 2 * HOUR)]
