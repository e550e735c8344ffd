"""Keeps apart what nobody ran and what a leader before us sent without getting round to moving the mark. Pure.

The planner knows the mark only. Past the grace it reports all slots after it as missed, also those that stand in the
journal: these were sent, so they are decided like any other slot of the journal (a core run is done, a jetstream run
goes out again under its id), and no record may call them missed.
"""

from collections.abc import Callable
from typing import Final

from natscron.engine.planner import Cursor, Due, Missed, cursors_of
from natscron.model import Mark, Ms
from natscron.policy.catchup import COUNT_CAP, Skipped

WALK_MAX: Final = 1_000
"""Slots of one range that are looked up; what the journal holds is a few seconds' worth."""


def without_sent(
    missed: Missed, mark: Mark, was_sent: Callable[[Ms], bool], *, until_ms: Ms
) -> tuple[list[Due], list[Skipped]]:
    """Split one range: the slots that were sent, and the ranges that are left.

    ``mark`` is the one that this leadership began with, ``was_sent`` tells of a slot of the job whether the journal has
    it, ``until_ms`` is the last slot that the journal can have.
    """
    skipped = missed.skipped
    cursors = cursors_of(missed.entry, mark)
    sent: list[Due] = []
    left: list[Skipped] = []
    begin = skipped.from_ms - 1
    at = begin
    for _ in range(WALK_MAX):
        at, cursor = _next(cursors, at)
        if cursor is None or at > min(skipped.to_ms, until_ms):
            break
        if was_sent(at):
            sent.append(Due(at, at, cursor))
            _leave(left, skipped, cursors, begin, at - 1)
            begin = at
    if not sent:
        return [], [skipped]
    _leave(left, skipped, cursors, begin, skipped.to_ms)
    return sent, left


def _next(cursors: list[Cursor], after_ms: Ms) -> tuple[Ms, Cursor | None]:
    """The first slot later than ``after_ms``, and whose it is."""
    found = [(slot, i) for i, cursor in enumerate(cursors) if (slot := cursor.next_after(after_ms)) is not None]
    if not found:
        return after_ms, None
    slot, i = min(found)
    return slot, cursors[i]


def _leave(left: list[Skipped], of: Skipped, cursors: list[Cursor], after_ms: Ms, until_ms: Ms) -> None:
    """Add what lies in (after, until], if any slot does."""
    first, cursor = _next(cursors, after_ms)
    if cursor is None or first > until_ms:
        return
    lasts = [slot for one in cursors if (slot := one.last_at_or_before(until_ms)) is not None]
    # Exact where an interval counts by arithmetic; capped elsewhere, as the whole range was.
    count = max(1, sum(one.count(after_ms, until_ms, max(COUNT_CAP, of.count)) for one in cursors))
    left.append(Skipped(first, max(lasts), count, of.reason))
