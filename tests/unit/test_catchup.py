"""What happens to slots that were due while nobody was leading."""

from hypothesis import given, settings
from hypothesis import strategies as st

from natscron.model import CatchUp, CatchUpPolicy, Reason
from natscron.policy.catchup import COUNT_CAP, CatchUpPlan, Skipped, plan

NOW = 100_000


class Listed:
    """A stretch with these slots; counts how often it is asked."""

    def __init__(self, *slots: int) -> None:
        self.slots = sorted(slots)
        self.asked = 0

    def next_after(self, t_ms: int) -> int | None:
        self.asked += 1
        return min((s for s in self.slots if s > t_ms), default=None)

    def last_at_or_before(self, t_ms: int) -> int | None:
        self.asked += 1
        return max((s for s in self.slots if s <= t_ms), default=None)

    def count(self, after_ms: int, until_ms: int, cap: int) -> int:
        return min(sum(after_ms < s <= until_ms for s in self.slots), cap)

    def slot_of(self, due_ms: int) -> int:
        return due_ms


def decided(
    policy: CatchUpPolicy,
    *slots: int,
    window_ms: int = 50_000,
    limit: int = 3,
    boundary_ms: int = NOW - 10_000,
    young_due: bool = False,
) -> CatchUpPlan:
    catchup = CatchUp(policy=policy, window_ms=window_ms, limit=limit)
    made = plan([Listed(*slots)], catchup, reference_ms=NOW, boundary_ms=boundary_ms, young_due=young_due)
    assert made.of == (0,) * len(made.run)
    return CatchUpPlan(made.run, made.skipped)


def test_latest_runs_the_newest_and_says_what_it_left() -> None:
    assert decided(CatchUpPolicy.LATEST, 60_000, 70_000, 80_000) == CatchUpPlan(
        (80_000,), (Skipped(60_000, 70_000, 2, Reason.CATCHUP_LATEST),)
    )


def test_latest_runs_nothing_old_when_a_slot_within_the_grace_is_due() -> None:
    assert decided(CatchUpPolicy.LATEST, 60_000, 70_000, young_due=True) == CatchUpPlan(
        (), (Skipped(60_000, 70_000, 2, Reason.CATCHUP_LATEST),)
    )


def test_all_runs_the_newest_up_to_the_limit_oldest_first() -> None:
    assert decided(CatchUpPolicy.ALL, 55_000, 60_000, 70_000, 80_000, 90_000) == CatchUpPlan(
        (70_000, 80_000, 90_000), (Skipped(55_000, 60_000, 2, Reason.CATCHUP_LIMIT),)
    )
    assert decided(CatchUpPolicy.ALL, 70_000, 80_000, young_due=True) == CatchUpPlan((70_000, 80_000), ())


def test_none_runs_none_and_says_so() -> None:
    assert decided(CatchUpPolicy.NONE, 60_000, 80_000) == CatchUpPlan(
        (), (Skipped(60_000, 80_000, 2, Reason.CATCHUP_NONE),)
    )


def test_slots_older_than_the_window_never_run_and_are_a_range_of_their_own() -> None:
    for policy, run, rest in (
        (CatchUpPolicy.ALL, (60_000,), ()),
        (CatchUpPolicy.LATEST, (60_000,), ()),
        (CatchUpPolicy.NONE, (), (Skipped(60_000, 60_000, 1, Reason.CATCHUP_NONE),)),
    ):
        assert decided(policy, 30_000, 40_000, 50_000, 60_000) == CatchUpPlan(
            run, (Skipped(30_000, 50_000, 3, Reason.CATCHUP_WINDOW), *rest)
        )
    assert decided(CatchUpPolicy.LATEST, 30_000) == CatchUpPlan(
        (), (Skipped(30_000, 30_000, 1, Reason.CATCHUP_WINDOW),)
    )


def test_a_window_shorter_than_the_grace_leaves_all_old_slots() -> None:
    assert decided(CatchUpPolicy.ALL, 80_000, 90_000, 95_000, window_ms=5_000) == CatchUpPlan(
        (), (Skipped(80_000, 90_000, 2, Reason.CATCHUP_WINDOW),)
    )


def test_slots_within_the_grace_are_left_to_the_caller() -> None:
    found = decided(CatchUpPolicy.ALL, 80_000, 90_000, 90_001)
    assert found == CatchUpPlan((80_000, 90_000), ())


def test_nothing_due_is_nothing_decided() -> None:
    for policy in CatchUpPolicy:
        assert decided(policy) == CatchUpPlan()


def test_the_work_is_bounded_whatever_was_missed() -> None:
    # 100,000 slots, of which a handful is looked at.
    for policy, most in ((CatchUpPolicy.LATEST, 20), (CatchUpPolicy.ALL, 20), (CatchUpPolicy.NONE, 20)):
        many = Listed(*range(0, 90_000, 1))
        catchup = CatchUp(policy=policy, window_ms=1 << 40, limit=3)
        made = plan([many], catchup, reference_ms=NOW, boundary_ms=NOW - 10_000, young_due=False)
        assert many.asked <= most
        assert [skipped.count for skipped in made.skipped] == [COUNT_CAP]


@settings(max_examples=300, derandomize=True)
@given(
    stretches=st.lists(st.sets(st.integers(0, 110), max_size=12), min_size=1, max_size=3),
    policy=st.sampled_from(CatchUpPolicy),
    window=st.integers(1, 120),
    limit=st.integers(1, 5),
    grace=st.integers(0, 60),
    young_due=st.booleans(),
)
def test_every_old_slot_is_run_or_stands_in_exactly_one_range(
    stretches: list[set[int]],
    policy: CatchUpPolicy,
    window: int,
    limit: int,
    grace: int,
    young_due: bool,  # noqa: FBT001 - drawn
) -> None:
    # Versions of a schedule follow each other: no slot is in two of them.
    disjoint = [s - set().union(*stretches[:i]) for i, s in enumerate(stretches)]
    boundary = 100 - grace
    catchup = CatchUp(policy=policy, window_ms=window, limit=limit)
    made = plan([Listed(*s) for s in disjoint], catchup, reference_ms=100, boundary_ms=boundary, young_due=young_due)
    old = sorted(s for s in set().union(*disjoint) if s <= boundary)
    fresh = [s for s in old if s > 100 - window]
    wanted = {"latest": 0 if young_due else 1, "all": limit, "none": 0}[policy]
    assert list(made.run) == fresh[len(fresh) - wanted if wanted < len(fresh) else 0 :]
    left = [s for s in old if s not in made.run]
    for skipped in made.skipped:
        inside = [s for s in left if skipped.from_ms <= s <= skipped.to_ms]
        assert (inside[0], inside[-1], len(inside)) == (skipped.from_ms, skipped.to_ms, skipped.count)
        assert (skipped.reason is Reason.CATCHUP_WINDOW) == (skipped.to_ms <= 100 - window)
        left = [s for s in left if s not in inside]
    assert left == []
