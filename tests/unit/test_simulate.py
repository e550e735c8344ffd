"""Jobs on virtual time: what the simulation decides is what a leader would decide."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.codec import text_to_ms
from natscron.engine.simulate import Decision, Event, Outage, Simulation
from natscron.engine.table import Entry
from natscron.model import CatchUp, CatchUpPolicy, Job, Overlap, Reason, ScheduleSpec, Skip, Stamp, Trigger
from natscron.schedule import compile_schedule

BEGIN = text_to_ms("2027-06-15T00:00:00Z")
MINUTE = 60_000
HOUR = 60 * MINUTE


def entry(spec: ScheduleSpec, job_id: str = "a", *, before: bool = False, **more: Any) -> Entry:  # noqa: ANN401 - fields
    seq = Simulation.seq_of(created_before=before)
    job = Job(
        id=job_id, schedule=spec, generation=seq, revision=seq, anchor_ms=BEGIN, counts_from=Stamp(BEGIN, seq), **more
    )
    return Entry(job, compile_schedule(spec, anchor_ms=BEGIN, seed=job_id).schedule, ())


def run(*entries: Entry, minutes: int = 10, **more: Any) -> list[Event]:  # noqa: ANN401 - what is assumed
    return list(Simulation(entries, from_ms=BEGIN, to_ms=BEGIN + minutes * MINUTE, **more).events())


def brief(events: list[Event]) -> list[tuple[int, str]]:
    """Minutes after the beginning, and decisions."""
    return [((event.at_ms - BEGIN) // MINUTE, event.decision.value) for event in events]


EVERY_MINUTE = ScheduleSpec(every="1m")


def test_every_slot_runs_at_its_instant_the_end_included() -> None:
    events = run(entry(EVERY_MINUTE), minutes=3)
    assert brief(events) == [(1, "run"), (2, "run"), (3, "run")]
    assert all(event.at_ms == event.slot_ms == event.due_ms for event in events)


def test_several_jobs_are_in_the_order_of_time_and_priority() -> None:
    slow = entry(ScheduleSpec(every="2m"), "slow", priority=5)
    events = run(entry(EVERY_MINUTE, "fast"), slow, minutes=2)
    assert [event.job for event in events] == ["fast", "slow", "fast"]


def test_a_job_runs_at_its_start_and_a_once_job_once() -> None:
    first = entry(ScheduleSpec(every="1h", run_at_start=True))
    once = entry(ScheduleSpec(at="2027-06-15T00:05:00Z"), "b")
    assert [(event.job, event.at_ms - BEGIN) for event in run(first, once)] == [("a", 0), ("b", 5 * MINUTE)]


def test_a_job_that_was_there_before_does_not_start_again() -> None:
    assert run(entry(ScheduleSpec(every="1h", run_at_start=True), before=True)) == []


def test_nothing_comes_of_jobs_that_are_paused_or_of_none() -> None:
    assert run(entry(EVERY_MINUTE, paused=True)) == []
    assert run() == []


def test_a_pause_that_ends_is_told_of_when_it_is_over() -> None:
    events = run(entry(EVERY_MINUTE, paused=True, paused_until_ms=BEGIN + 8 * MINUTE + 1))
    assert brief(events)[-2:] == [(9, "run"), (10, "run")]
    assert {event.reason for event in events if event.decision is Decision.SKIP} == {Reason.PAUSED}


def test_slots_that_were_asked_to_be_left_out_are_left_out() -> None:
    events = run(entry(EVERY_MINUTE, skip=Skip(BEGIN, BEGIN + 2 * MINUTE)), minutes=3)
    assert [event.at_ms for event in events if event.decision is Decision.RUN] == [BEGIN + 3 * MINUTE]
    assert {event.reason for event in events if event.decision is Decision.SKIP} == {Reason.SKIP_NEXT}


def test_clock_changes_come_as_they_come() -> None:
    begin = text_to_ms("2028-03-25T12:00:00Z")
    spec = ScheduleSpec(cron="30 2 * * *", tz="Europe/Berlin")
    found = Simulation([entry(spec, before=True)], from_ms=begin, to_ms=begin + 48 * HOUR).events()
    assert [event.slot_ms for event in found] == [
        text_to_ms("2028-03-26T01:00:00Z"),
        text_to_ms("2028-03-27T00:30:00Z"),
    ]


# Outages.

FROM_1_TO_7 = (Outage(BEGIN + MINUTE, BEGIN + 7 * MINUTE + 30_000),)


@pytest.mark.parametrize(
    ("policy", "slots_run", "reason"),
    [
        (CatchUp(), [7], Reason.CATCHUP_LATEST),
        (CatchUp(policy=CatchUpPolicy.NONE), [], Reason.CATCHUP_NONE),
        (CatchUp(policy=CatchUpPolicy.ALL, limit=3), [5, 6, 7], Reason.CATCHUP_LIMIT),
        (CatchUp(policy=CatchUpPolicy.ALL, window_ms=2 * MINUTE), [6, 7], Reason.CATCHUP_WINDOW),
    ],
)
def test_after_an_outage_the_next_leader_catches_up_as_the_policy_says(
    policy: CatchUp, slots_run: list[int], reason: Reason
) -> None:
    events = run(entry(EVERY_MINUTE, catchup=policy), minutes=8, outages=FROM_1_TO_7)
    caught = [event for event in events if event.trigger is Trigger.CATCHUP]
    assert [((event.slot_ms or 0) - BEGIN) // MINUTE for event in caught] == slots_run
    assert {event.at_ms for event in events[:-1]} == {FROM_1_TO_7[0].to_ms}
    [skipped] = [event for event in events if event.decision is Decision.SKIP]
    assert (skipped.reason, skipped.count) == (reason, 7 - len(slots_run))
    assert brief(events)[-1] == (8, "run")


def test_outages_that_touch_are_one_and_one_past_the_end_leaves_its_slots_undecided() -> None:
    outages = (Outage(BEGIN + 5 * MINUTE, BEGIN + HOUR), Outage(BEGIN + 2 * MINUTE, BEGIN + 5 * MINUTE))
    assert brief(run(entry(EVERY_MINUTE), outages=outages)) == [(1, "run")]


def test_an_outage_longer_than_the_window_is_one_range() -> None:
    events = run(
        entry(ScheduleSpec(every="1s"), catchup=CatchUp(window_ms=HOUR)),
        minutes=48 * 60,
        outages=(Outage(BEGIN, BEGIN + 48 * HOUR),),
    )
    assert sum(event.count or 1 for event in events) == 48 * 3_600
    assert len(events) < 20


# Overlaps.


@pytest.mark.parametrize(
    ("overlap", "decisions"),
    [
        (Overlap.ALLOW, [(1, "run"), (2, "run"), (3, "run"), (4, "run"), (5, "run")]),
        (Overlap.SKIP, [(1, "run"), (2, "skip"), (3, "skip"), (4, "run"), (5, "skip")]),
        (Overlap.BUFFER_ONE, [(1, "run"), (2, "wait"), (3, "skip"), (3, "run"), (4, "wait"), (5, "skip")]),
        (Overlap.BUFFER_ALL, [(1, "run"), (2, "wait"), (3, "wait"), (3, "run"), (4, "wait"), (5, "wait")]),
        (Overlap.CANCEL_OTHER, [(1, "run"), (2, "replace"), (3, "replace"), (4, "replace"), (5, "replace")]),
    ],
)
def test_runs_that_last_meet_the_overlap_policy(overlap: Overlap, decisions: list[tuple[int, str]]) -> None:
    assert brief(run(entry(EVERY_MINUTE, overlap=overlap), minutes=5, duration_ms=150_000)) == decisions


def test_what_waited_says_so_when_it_starts_and_a_job_may_last_as_long_as_it_likes() -> None:
    events = run(entry(EVERY_MINUTE, overlap=Overlap.BUFFER_ONE), minutes=4, durations_ms={"a": 90_000})
    assert [(event.slot_ms or 0, event.waited) for event in events if event.decision is Decision.RUN] == [
        (BEGIN + MINUTE, False),
        (BEGIN + 2 * MINUTE, True),
        (BEGIN + 3 * MINUTE, True),
    ]


def test_a_buffer_that_is_full_drops_what_comes() -> None:
    events = run(entry(EVERY_MINUTE, overlap=Overlap.BUFFER_ALL), minutes=200, duration_ms=HOUR * 24)
    assert [event.decision for event in events].count(Decision.WAIT) == 100
    assert {event.reason for event in events if event.decision is Decision.SKIP} == {Reason.BUFFER_FULL}


# Bounds.


def test_more_events_than_the_limit_are_cut_and_it_says_where() -> None:
    simulation = Simulation([entry(EVERY_MINUTE)], from_ms=BEGIN, to_ms=BEGIN + HOUR, limit=3)
    assert len(list(simulation.events())) == 3
    assert simulation.cut_ms == BEGIN + 4 * MINUTE


def test_a_simulation_that_was_not_cut_says_so() -> None:
    simulation = Simulation([entry(EVERY_MINUTE)], from_ms=BEGIN, to_ms=BEGIN + 3 * MINUTE, limit=3)
    assert len(list(simulation.events())) == 3
    assert simulation.cut_ms is None


# Nothing is lost.

_spans = st.tuples(st.integers(0, 60), st.integers(1, 40)).map(
    lambda pair: Outage(BEGIN + pair[0] * MINUTE, BEGIN + (pair[0] + pair[1]) * MINUTE)
)


@given(
    every=st.integers(1, 9),
    overlap=st.sampled_from(Overlap),
    policy=st.sampled_from(CatchUpPolicy),
    limit=st.integers(1, 4),
    window=st.integers(1, 50),
    duration=st.integers(0, 25),
    outages=st.lists(_spans, max_size=3),
)
def test_every_slot_is_decided_once_whatever_is_assumed(
    every: int,
    overlap: Overlap,
    policy: CatchUpPolicy,
    limit: int,
    window: int,
    duration: int,
    outages: list[Outage],
) -> None:
    catchup = CatchUp(policy=policy, limit=limit, window_ms=window * MINUTE)
    job = entry(ScheduleSpec(every=f"{every}m"), overlap=overlap, catchup=catchup)
    end = BEGIN + HOUR
    events = list(Simulation([job], from_ms=BEGIN, to_ms=end, duration_ms=duration * MINUTE, outages=outages).events())
    assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)
    assert all(not (one.from_ms <= event.at_ms < one.to_ms) for event in events for one in outages)
    waiting: set[int] = set()
    decided: list[int] = []
    for event in events:
        if event.from_ms is not None and event.to_ms is not None:
            slots = list(range(event.from_ms, event.to_ms + 1, every * MINUTE))
            assert len(slots) == event.count
            decided += slots
            continue
        assert event.slot_ms is not None
        if event.decision is Decision.WAIT:
            waiting.add(event.slot_ms)
            continue
        assert event.waited is (event.slot_ms in waiting) or event.decision is Decision.SKIP
        waiting.discard(event.slot_ms)
        decided.append(event.slot_ms)
        if event.decision is Decision.REPLACE:
            # What waits is replaced as well.
            decided += waiting
            waiting.clear()
    led = [at for at in range(BEGIN, end + 1, MINUTE) if not any(one.from_ms <= at < one.to_ms for one in outages)]
    last = max(led, default=BEGIN)
    assert sorted([*decided, *waiting]) == [*range(BEGIN + every * MINUTE, last + 1, every * MINUTE)]
