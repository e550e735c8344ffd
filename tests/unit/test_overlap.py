"""What happens to a run that is due while another of its job is going."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from natscron.model import Overlap
from natscron.policy.overlap import BUFFER_MAX, Verdict, decide, leaving

COUNTS = st.integers(0, BUFFER_MAX + 20)
POLICIES = st.sampled_from(list(Overlap))
GOES = {Verdict.START, Verdict.REPLACE}
OUT = {Verdict.SKIP, Verdict.DROP}


@pytest.mark.parametrize(
    ("policy", "running", "waiting", "verdict"),
    [
        (Overlap.ALLOW, 7, 0, Verdict.START),
        (Overlap.SKIP, 0, 0, Verdict.START),
        (Overlap.SKIP, 1, 0, Verdict.SKIP),
        (Overlap.BUFFER_ONE, 1, 0, Verdict.BUFFER),
        (Overlap.BUFFER_ONE, 1, 1, Verdict.DROP),
        (Overlap.BUFFER_ALL, 1, BUFFER_MAX - 1, Verdict.BUFFER),
        (Overlap.BUFFER_ALL, 1, BUFFER_MAX, Verdict.DROP),
        (Overlap.CANCEL_OTHER, 1, 0, Verdict.REPLACE),
        (Overlap.CANCEL_OTHER, 0, 0, Verdict.START),
        # None is going but some wait to be let go: nobody may overtake them.
        (Overlap.BUFFER_ALL, 0, 1, Verdict.BUFFER),
    ],
)
def test_a_due_run_is_decided_by_policy(policy: Overlap, running: int, waiting: int, verdict: Verdict) -> None:
    assert decide(policy, running=running, waiting=waiting) is verdict


@given(POLICIES, COUNTS, COUNTS)
def test_only_allow_ever_starts_a_run_beside_another(policy: Overlap, running: int, waiting: int) -> None:
    verdict = decide(policy, running=running, waiting=waiting)
    if verdict is Verdict.START:
        assert policy is Overlap.ALLOW or running + waiting == 0


@given(POLICIES, COUNTS)
def test_what_waits_stays_bounded(policy: Overlap, arrivals: int) -> None:
    waiting = 0
    for _ in range(arrivals):
        waiting += decide(policy, running=1, waiting=waiting) is Verdict.BUFFER
    assert waiting <= {Overlap.BUFFER_ONE: 1, Overlap.BUFFER_ALL: BUFFER_MAX}.get(policy, 0)


@given(POLICIES, st.integers(0, 3), COUNTS)
def test_when_one_ends_each_that_waits_has_a_verdict_and_none_waits_for_nothing(
    policy: Overlap, running: int, waiting: int
) -> None:
    verdicts = leaving([policy] * waiting, running=running)
    assert len(verdicts) == waiting
    starts = sum(verdict in GOES for verdict in verdicts)
    if waiting and not running:
        assert starts == (waiting if policy is Overlap.ALLOW else 1)
    elif policy not in {Overlap.ALLOW, Overlap.CANCEL_OTHER}:
        assert starts == 0
    # What still waits does so in a room that the present policy has.
    kept = sum(verdict is Verdict.BUFFER for verdict in verdicts)
    rooms = {Overlap.BUFFER_ONE: 1, Overlap.BUFFER_ALL: BUFFER_MAX}
    assert kept <= rooms.get(policy, 0)


@given(st.sampled_from([Overlap.BUFFER_ONE, Overlap.BUFFER_ALL]), st.integers(1, BUFFER_MAX))
def test_the_oldest_goes_first(policy: Overlap, waiting: int) -> None:
    assert leaving([policy] * waiting, running=0)[0] is Verdict.START


@given(st.integers(1, BUFFER_MAX))
def test_cancel_other_lets_the_newest_go(waiting: int) -> None:
    verdicts = leaving([Overlap.CANCEL_OTHER] * waiting, running=0)
    assert verdicts[-1] is Verdict.START
    assert all(verdict in OUT for verdict in verdicts[:-1])


@given(st.lists(POLICIES, max_size=12), st.integers(0, 2))
def test_of_those_that_wait_each_goes_by_its_own_policy(policies: list[Overlap], running: int) -> None:
    verdicts = leaving(policies, running=running)
    assert len(verdicts) == len(policies)
    newest = max((i for i, policy in enumerate(policies) if policy is Overlap.CANCEL_OTHER), default=None)
    for i, (policy, verdict) in enumerate(zip(policies, verdicts, strict=True)):
        beside = running + sum(earlier in GOES for earlier in verdicts[:i])
        kept = sum(earlier is Verdict.BUFFER for earlier in verdicts[:i])
        if newest is not None and i < newest:
            assert verdict is Verdict.DROP
        elif i == newest:
            assert verdict is (Verdict.REPLACE if running else Verdict.START)
        elif policy is Overlap.ALLOW:
            assert verdict is Verdict.START
        else:
            assert verdict is decide(policy, running=beside, waiting=kept) or not beside


def test_a_patient_run_in_front_takes_no_room_from_those_behind_it() -> None:
    line = [Overlap.BUFFER_ONE, Overlap.BUFFER_ALL, Overlap.BUFFER_ALL, Overlap.BUFFER_ALL]
    assert leaving(line, running=0) == [Verdict.START, Verdict.BUFFER, Verdict.BUFFER, Verdict.BUFFER]
