"""What happens to slots that were due while nobody was leading. Pure.

Slots younger than the grace always run, all of them. Older ones are subject to the job's policy: ``latest`` runs the
newest of them, but only if no slot within the grace is due; ``all`` the newest ``limit`` within the window; ``none``
none. What is not run becomes ranges, never one record per slot.

Ages and the order count from the instants at which slots are due; with jitter these lie behind the slots, and the
ranges name slots.

Work is bounded whatever the outage was: ``latest`` asks for one slot backwards, ``all`` for at most ``limit`` of them,
and counting stops at :data:`COUNT_CAP`.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from natscron.model import CatchUp, CatchUpPolicy, Ms, Reason

COUNT_CAP: Final = 1_000
"""Slots of a range are counted up to this many; intervals, which are counted by arithmetic, exactly."""

_NEVER: Final = -(1 << 62)
_REASONS: Final = {
    CatchUpPolicy.LATEST: Reason.CATCHUP_LATEST,
    CatchUpPolicy.ALL: Reason.CATCHUP_LIMIT,
    CatchUpPolicy.NONE: Reason.CATCHUP_NONE,
}


class Slots(Protocol):
    """A stretch of one schedule whose slots are still undecided, by the instants at which they are due."""

    def next_after(self, t_ms: Ms) -> Ms | None:
        """The first undecided due instant later than ``t_ms``."""
        ...

    def last_at_or_before(self, t_ms: Ms) -> Ms | None:
        """The last undecided due instant at or before ``t_ms``."""
        ...

    def count(self, after_ms: Ms, until_ms: Ms, cap: int) -> int:
        """How many are undecided in (after, until]."""
        ...

    def slot_of(self, due_ms: Ms) -> Ms:
        """The slot that is due at ``due_ms``."""
        ...


class Skipped(msgspec.Struct, frozen=True):
    """A range of slots that are not run; both ends are slots."""

    from_ms: Ms
    to_ms: Ms
    count: int
    reason: Reason


class CatchUpPlan(msgspec.Struct, frozen=True):
    """``run``: when the older slots to run were due, ascending; ``of``: which stretch each is from."""

    run: tuple[Ms, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    of: tuple[int, ...] = ()


def plan(
    stretches: Sequence[Slots], policy: CatchUp, *, reference_ms: Ms, boundary_ms: Ms, young_due: bool
) -> CatchUpPlan:
    """Decide about the slots due at or before ``boundary_ms`` (= reference - grace).

    ``reference_ms`` is the instant that ages count from: now, or the takeover instant in the lease, so that a second
    crash decides as the first did. ``young_due``: a slot within the grace is due as well.
    """
    wanted = {CatchUpPolicy.LATEST: 0 if young_due else 1, CatchUpPolicy.ALL: policy.limit, CatchUpPolicy.NONE: 0}[
        policy.policy
    ]
    oldest_allowed = reference_ms - policy.window_ms
    left = [x.last_at_or_before(boundary_ms) for x in stretches]
    chosen = _chosen(stretches, left, wanted, oldest_allowed)
    # What is left of each stretch is what lies up to ``left``: in the window, skipped by the policy; else too old.
    cut = min(oldest_allowed, boundary_ms)
    aged, rest = _Range(Reason.CATCHUP_WINDOW), _Range(_REASONS[policy.policy])
    for x, last in zip(stretches, left, strict=True):
        if last is None:
            continue
        first = x.next_after(_NEVER)
        if first is not None and first <= cut:
            aged.add(x, _NEVER, first, last if last <= cut else x.last_at_or_before(cut))
            first = x.next_after(cut) if last > cut else None
        if first is not None and last > cut:
            rest.add(x, cut, first, last)
    skipped = tuple(one.skipped() for one in (aged, rest) if one.count)
    return CatchUpPlan(tuple(due for due, _ in chosen), skipped, tuple(i for _, i in chosen))


def _chosen(stretches: Sequence[Slots], left: list[Ms | None], wanted: int, floor: Ms) -> list[tuple[Ms, int]]:
    """The newest due instants later than ``floor``, ascending, and whose they are; ``left`` moves behind them."""
    chosen: list[tuple[Ms, int]] = []
    while len(chosen) < wanted:
        newest, at = floor, -1
        for i, due in enumerate(left):
            if due is not None and due > newest:
                newest, at = due, i
        if at < 0:
            break
        chosen.append((newest, at))
        left[at] = stretches[at].last_at_or_before(newest - 1)
    chosen.reverse()
    return chosen


class _Range:
    """Grows by what each stretch has of it."""

    __slots__ = ("_from", "_reason", "_to", "count")

    def __init__(self, reason: Reason) -> None:
        self._reason = reason
        self._from = self._to = 0
        self.count = 0

    def add(self, of: Slots, after_ms: Ms, first: Ms, last: Ms | None) -> None:
        """Take in what is due in (after, last]; ``first`` is the first of it."""
        if last is None:
            return
        low, high = of.slot_of(first), of.slot_of(last)
        self._from = min(self._from, low) if self.count else low
        self._to = max(self._to, high) if self.count else high
        self.count += max(1, of.count(after_ms, last, COUNT_CAP))

    def skipped(self) -> Skipped:
        return Skipped(self._from, self._to, self.count, self._reason)
