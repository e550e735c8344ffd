"""What happens to slots that were due while nobody was leading. Pure.

Slots younger than the grace always run, all of them. Older ones are subject to the job's policy: ``latest`` runs the
newest of them, but only if no slot within the grace is due; ``all`` the newest ``limit`` within the window; ``none``
none. What is not run becomes ranges, never one record per slot.

Work is bounded whatever the outage was: ``latest`` asks for one slot backwards, ``all`` for at most ``limit`` of them,
and counting stops at :data:`COUNT_CAP`.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from natscron.model import CatchUp, CatchUpPolicy, Ms, Reason

COUNT_CAP: Final = 1_000
"""Slots of a range are counted up to this many; intervals, which are counted by arithmetic, exactly."""


class Slots(Protocol):
    """A stretch of one schedule whose slots are still undecided."""

    def next_after(self, t_ms: Ms) -> Ms | None:
        """The first undecided slot later than ``t_ms``."""
        ...

    def last_at_or_before(self, t_ms: Ms) -> Ms | None:
        """The last undecided slot at or before ``t_ms``."""
        ...

    def count(self, after_ms: Ms, until_ms: Ms, cap: int) -> int:
        """Undecided slots in (after, until]."""
        ...


class Skipped(msgspec.Struct, frozen=True):
    """A range of slots that are not run; both ends are slots."""

    from_ms: Ms
    to_ms: Ms
    count: int
    reason: Reason


class CatchUpPlan(msgspec.Struct, frozen=True):
    """``run``: the older slots to run, ascending. ``skipped``: ranges, ascending."""

    run: tuple[Ms, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def plan(
    stretches: Sequence[Slots], policy: CatchUp, *, reference_ms: Ms, boundary_ms: Ms, young_due: bool
) -> CatchUpPlan:
    """Decide about the slots at or before ``boundary_ms`` (= reference - grace).

    ``reference_ms`` is the instant that ages count from: now, or the takeover instant in the lease, so that a second
    crash decides as the first did. ``young_due``: a slot within the grace is due as well.
    """
    chosen = _chosen(stretches, policy, reference_ms, boundary_ms, young_due=young_due)
    oldest_allowed = reference_ms - policy.window_ms
    run = tuple(slot for slot in chosen if slot > oldest_allowed)
    skipped: list[Skipped] = []
    cut = min(oldest_allowed, boundary_ms)
    if (aged := _range(stretches, None, cut, Reason.CATCHUP_WINDOW)) is not None:
        skipped.append(aged)
    reason = {
        CatchUpPolicy.LATEST: Reason.CATCHUP_LATEST,
        CatchUpPolicy.ALL: Reason.CATCHUP_LIMIT,
        CatchUpPolicy.NONE: Reason.CATCHUP_NONE,
    }[policy.policy]
    # Everything in the window before the first chosen slot is skipped; nothing lies between chosen ones.
    end = run[0] - 1 if run else boundary_ms
    if (rest := _range(stretches, cut, end, reason)) is not None:
        skipped.append(rest)
    return CatchUpPlan(run, tuple(skipped))


def _chosen(
    stretches: Sequence[Slots], policy: CatchUp, reference_ms: Ms, boundary_ms: Ms, *, young_due: bool
) -> list[Ms]:
    """The newest slots at or before the boundary that the policy would run, ascending; the window is not applied."""
    if policy.policy is CatchUpPolicy.NONE:
        return []
    wanted = policy.limit
    if policy.policy is CatchUpPolicy.LATEST:
        wanted = 0 if young_due else 1
    floor = reference_ms - policy.window_ms
    chosen: list[Ms] = []
    at: Ms | None = boundary_ms
    while len(chosen) < wanted and at is not None and at > floor:
        at = max((s for x in stretches if (s := x.last_at_or_before(at)) is not None), default=None)
        if at is not None:
            chosen.append(at)
            at -= 1
    chosen.reverse()
    return chosen


def _range(stretches: Sequence[Slots], after_ms: Ms | None, until_ms: Ms, reason: Reason) -> Skipped | None:
    """All undecided slots in (after, until] as one range; None if there are none."""
    floor = after_ms if after_ms is not None else -(1 << 62)
    firsts = [s for x in stretches if (s := x.next_after(floor)) is not None and s <= until_ms]
    if not firsts:
        return None
    lasts = [s for x in stretches if (s := x.last_at_or_before(until_ms)) is not None and s > floor]
    count = sum(x.count(floor, until_ms, COUNT_CAP) for x in stretches)
    return Skipped(min(firsts), max(lasts), max(count, 1), reason)
