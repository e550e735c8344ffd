"""Jitter: due instants, against the definition slot by slot."""

import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.model import ScheduleSpec
from natscron.schedule import MAX_MS, Schedule, compile_schedule, parse_instant

NOON = parse_instant("2030-01-01T12:00:00Z")

SPECS = st.sampled_from(
    [
        ScheduleSpec(cron="*/5 * * * *", jitter="10m"),
        ScheduleSpec(cron="*/5 * * * *", jitter="30s"),
        ScheduleSpec(cron="* * * * * *", jitter="24h"),
        ScheduleSpec(every="40ms", jitter="1h"),
        ScheduleSpec(every="1ms", jitter="24h"),
        ScheduleSpec(at="2030-01-01T12:00:10Z", jitter="1m"),
        ScheduleSpec(any=(ScheduleSpec(every="7s"), ScheduleSpec(cron="* * * * *")), jitter="5s"),
        ScheduleSpec(cron="* * * * *", except_=(ScheduleSpec(cron="*/2 * * * *"),), jitter="90s"),
        ScheduleSpec(cron="* * * * *", not_after="2030-01-01T12:01:00Z", jitter="90s", run_at_start=True),
    ]
)


def compiled(spec: ScheduleSpec, seed: str) -> Schedule:
    return compile_schedule(spec, anchor_ms=NOON + 5, seed=seed, min_interval_ns=1).schedule


def walked(schedule: Schedule, start: int, end: int) -> list[int]:
    found: list[int] = []
    slot = schedule.next_after_ms(start)
    while slot is not None and slot <= end and len(found) < 400:
        found.append(slot)
        slot = schedule.next_after_ms(slot)
    return found


@settings(max_examples=150, deadline=None)
@given(SPECS, st.text(max_size=8), st.integers(-120_000, 120_000), st.integers(0, 100_000))
def test_dues_are_the_slots_in_their_order_each_before_the_next_slot(
    spec: ScheduleSpec, seed: str, at: int, more: int
) -> None:
    schedule = compiled(spec, seed)
    jitter_ms = {"10m": 600_000, "30s": 30_000, "24h": 86_400_000, "1h": 3_600_000}.get(spec.jitter or "", 90_000)
    dues = schedule.dues
    t = NOON + at
    start = t - 700_000 if spec.every is None else t - 500
    slots = walked(schedule, start, t + 700_000)
    due_of = {}
    for slot, following in zip(slots, [*slots[1:], MAX_MS], strict=True):
        due = dues.next_after_ms(slot - 1)
        assert due is not None
        assert slot <= due <= slot + jitter_ms
        assert due < following or due == MAX_MS
        assert dues.slot_of(due) == slot
        assert dues.last_at_or_before_ms(due) == due
        due_of[slot] = due
    known = sorted(due_of.values())
    if known and t <= known[-1]:
        after = [due for due in known if due > t]
        assert dues.next_after_ms(t) == (after[0] if after else dues.next_after_ms(known[-1]))
        before = [due for due in known if due <= t]
        if before:
            assert dues.last_at_or_before_ms(t) == before[-1]
            until = min(t + more, known[-1])
            assert dues.count(t, until, 10_000) == sum(t < due <= until for due in known)
            assert dues.count(t, until, 1) == min(1, sum(t < due <= until for due in known))


def test_slots_do_not_change_and_without_jitter_dues_are_the_schedule_itself() -> None:
    plain = compiled(ScheduleSpec(cron="0 9 * * *"), "a")
    jittered = compiled(ScheduleSpec(cron="0 9 * * *", jitter="1h"), "a")
    assert walked(jittered, NOON, NOON + 10**9) == walked(plain, NOON, NOON + 10**9)
    assert plain.dues is plain
    assert plain.slot_of(77) == 77
    assert jittered.dues.dues is jittered.dues


def test_the_delay_is_the_same_each_time_spread_evenly_and_differs_from_job_to_job() -> None:
    spec = ScheduleSpec(cron="0 * * * *", jitter="10m")
    delays = []
    for job in range(400):
        due = compiled(spec, f"job-{job}").dues.next_after_ms(NOON - 1)
        assert due == compiled(spec, f"job-{job}").dues.next_after_ms(NOON - 1)
        assert due is not None
        delays.append(due - NOON)
    assert len(set(delays)) > 390
    assert 270_000 < statistics.mean(delays) < 330_000
    assert min(delays) < 30_000
    assert max(delays) > 570_000


def test_a_delay_never_leaves_the_years_that_there_are() -> None:
    spec = ScheduleSpec(at="9999-12-31T23:59:59.990Z", jitter="24h")
    due = compiled(spec, "a").dues.next_after_ms(0)
    assert due is not None
    assert due <= MAX_MS
