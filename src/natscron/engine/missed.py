"""Keeps apart what nobody ran and what a leader before us sent without getting round to moving the mark. Pure.

The planner knows the mark only. Past the grace it reports all slots after it as missed, also those that stand in the
journal: these were sent, so they are decided like any other slot of the journal (a core run is done, a jetstream run
goes out again under its id), and no record may call them missed. The same holds for slots that a user asked to be left
out, or paused, while the leader before us had not yet heard of it.

Ranges and the journal name slots; cursors count in due instants.
"""

from collections.abc import Callable, Iterator
from typing import Final

from natscron.engine.cursors import Cursor, cursors_of
from natscron.engine.planner import Due, Missed
from natscron.model import Mark, Ms, Reason
from natscron.policy.catchup import COUNT_CAP, Skipped

WALK_MAX: Final = 1_000
"""Slots of one range that are looked up; what the journal holds is a few seconds' worth."""
_SILENT: Final = frozenset({Reason.SKIP_NEXT, Reason.PAUSED})


def without_sent(
    missed: Missed, mark: Mark, was_sent: Callable[[Ms], bool], *, until_ms: Ms
) -> tuple[list[Due], list[Skipped]]:
    """Split one range: the slots that were sent, and the ranges that are left.

    ``mark`` is the one that this leadership began with, ``was_sent`` tells of a slot of the job whether the journal has
    it, ``until_ms`` is the last slot that the journal can have.
    """
    skipped = missed.skipped
    reason = skipped.reason if skipped.reason in _SILENT else None
    cursors = [cursor for cursor in cursors_of(missed.entry, mark) if cursor.reason is reason]
    sent: list[Due] = []
    left: list[Skipped] = []
    begin = skipped.from_ms - 1
    for slot, due, cursor in _slots(cursors, skipped.from_ms, min(skipped.to_ms, until_ms)):
        if was_sent(slot):
            sent.append(Due(due, slot, cursor))
            _leave(left, skipped, cursors, begin, slot - 1)
            begin = slot
    if not sent:
        return [], [skipped]
    _leave(left, skipped, cursors, begin, skipped.to_ms)
    return sent, left


def _slots(cursors: list[Cursor], from_ms: Ms, to_ms: Ms) -> Iterator[tuple[Ms, Ms, Cursor]]:
    """The slots in [from, to] with their due instants, version by version, at most :data:`WALK_MAX`."""
    walked = 0
    for cursor in cursors:
        due = cursor.next_after(cursor.bound(from_ms - 1))
        while due is not None and (slot := cursor.slot_of(due)) <= to_ms:
            if walked == WALK_MAX:
                return
            walked += 1
            yield slot, due, cursor
            due = cursor.next_after(due)


def _leave(left: list[Skipped], of: Skipped, cursors: list[Cursor], after_ms: Ms, until_ms: Ms) -> None:
    """Add what lies in (after, until], if any slot does."""
    firsts: list[Ms] = []
    lasts: list[Ms] = []
    count = 0
    for cursor in cursors:
        after, until = cursor.bound(after_ms), cursor.bound(until_ms)
        first, last = cursor.next_after(after), cursor.last_at_or_before(until)
        if first is None or last is None or first > until:
            continue
        firsts.append(cursor.slot_of(first))
        lasts.append(cursor.slot_of(last))
        # Exact where an interval counts by arithmetic; capped elsewhere, as the whole range was.
        count += cursor.count(after, until, max(COUNT_CAP, of.count))
    if firsts:
        left.append(Skipped(min(firsts), max(lasts), max(1, count), of.reason))
