"""What was decided already is neither run again nor called missed, whoever decided it."""

from natscron.engine.missed import without_sent
from natscron.engine.planner import Missed, Planner
from natscron.engine.table import Entry, compile_entry
from natscron.model import CatchUp, CatchUpPolicy, Job, Mark, NoteRef, Reason, ScheduleSpec, Stamp
from natscron.policy.catchup import Skipped


def entry(policy: CatchUpPolicy = CatchUpPolicy.ALL, schedule: ScheduleSpec | None = None) -> Entry:
    job = Job(
        id="a",
        schedule=schedule or ScheduleSpec(every="1s"),
        generation=1,
        anchor_ms=0,
        counts_from=Stamp(0, 1),
        catchup=CatchUp(policy=policy, grace_ms=0),
    )
    return compile_entry(job, 1)


def mark(instant_ms: int) -> Mark:
    return Mark(instant_ms=instant_ms, jobs_seq=1, note=NoteRef())


def taken(planner: Planner, now_ms: int, grace_ms: int) -> list[int]:
    """All slots of a wake-up."""
    slots: list[int] = []
    while True:
        window = planner.take(now_ms, 1, reference_ms=now_ms, grace_floor_ms=grace_ms)
        assert window.missed == ()
        slots += [due.slot_ms for due in window.due]
        if not window.more:
            return slots


def test_a_follower_that_takes_over_late_does_not_reach_back_behind_the_mark_it_followed() -> None:
    planner = Planner()
    planner.restart(mark(0))
    planner.put(entry())
    for instant in (5_500, 10_500):
        planner.follow(mark(instant))
    planner.ready()
    assert taken(planner, 60_000, 45_000) == list(range(11_000, 61_000, 1_000))


def test_what_a_leader_took_is_not_caught_up_with_again() -> None:
    planner = Planner()
    planner.restart(mark(0))
    planner.put(entry())
    assert taken(planner, 3_000, 10_000) == [1_000, 2_000, 3_000]
    assert taken(planner, 30_000, 10_000) == list(range(4_000, 31_000, 1_000))
    assert taken(planner, 60_000, 10_000) == list(range(31_000, 61_000, 1_000))


def split(
    sent: set[int], *, until_ms: int = 1 << 60, high: int = 10_000
) -> tuple[list[int], list[tuple[int, int, int]]]:
    missed = Missed(entry(), Skipped(1_000, high, high // 1_000, Reason.CATCHUP_LATEST))
    found, left = without_sent(missed, mark(0), sent.__contains__, until_ms=until_ms)
    assert all(skipped.reason is Reason.CATCHUP_LATEST for skipped in left)
    return [due.slot_ms for due in found], [(skipped.from_ms, skipped.to_ms, skipped.count) for skipped in left]


def test_a_range_without_anything_sent_stays_whole() -> None:
    assert split(set()) == ([], [(1_000, 10_000, 10)])


def test_what_was_sent_at_the_beginning_shortens_the_range() -> None:
    assert split({1_000, 2_000}) == ([1_000, 2_000], [(3_000, 10_000, 8)])


def test_what_was_sent_in_the_middle_splits_the_range() -> None:
    assert split({4_000, 5_000}) == ([4_000, 5_000], [(1_000, 3_000, 3), (6_000, 10_000, 5)])


def test_a_range_that_was_sent_whole_leaves_nothing() -> None:
    assert split(set(range(1_000, 11_000, 1_000))) == (list(range(1_000, 11_000, 1_000)), [])


def test_nothing_is_looked_up_behind_the_journals_last_slot_or_the_bound() -> None:
    asked: list[int] = []

    def was_sent(slot: int) -> bool:
        asked.append(slot)
        return False

    missed = Missed(entry(), Skipped(1_000, 10_000_000, 10_000, Reason.CATCHUP_LATEST))
    assert without_sent(missed, mark(0), was_sent, until_ms=3_500) == ([], [missed.skipped])
    assert asked == [1_000, 2_000, 3_000]
    asked.clear()
    without_sent(missed, mark(0), was_sent, until_ms=10_000_000)
    assert len(asked) == 1_000
