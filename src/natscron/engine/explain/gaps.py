"""What lies between slots: those that exclusions take away, and lines that say the same, as ranges. Pure."""

from typing import Final

import msgspec

from natscron.engine.explain.lines import Line, What, Why
from natscron.engine.explain.slots import Stretch
from natscron.model import Ms
from natscron.schedule import Schedule

__all__ = ["COUNTED_MAX", "count_slots", "excluded", "merged", "slots_text"]

MAX_BETWEEN: Final = 64
"""Candidates between two slots that are named one by one; the rest is a range."""
COUNTED_MAX: Final = 1_000
"""Slots of a cut range are counted up to this many; those of an interval exactly."""


def slots_text(count: int) -> str:
    """``1 slot``, ``2 slots``."""
    return f"{count:,} slot{'' if count == 1 else 's'}"


def excluded(stretch: Stretch, base: Schedule, after_ms: Ms, until_ms: Ms, what: What) -> list[Line]:
    """The slots in (after, until] that exclusions take away: one line for each stretch with one cause."""
    found: list[Line] = []
    verb = "taken away" if what is What.NOT_RUN else "will not run: taken away"
    slot = base.next_after_ms(after_ms)
    looked = 0
    while slot is not None and slot <= until_ms:
        looked += 1
        source = stretch.excluded_by(slot)
        if source:
            text = f"{verb} by {source}"
            found.append(
                Line(
                    what=what,
                    reason=Why.EXCLUDED,
                    text=text,
                    at_ms=slot,
                    local=stretch.wall.local(slot),
                    source=source,
                )
            )
        if looked >= MAX_BETWEEN:
            more = count_slots(base, slot, until_ms)
            following = base.next_after_ms(slot)
            if more and following is not None:
                last = base.last_at_or_before_ms(until_ms) or following
                found.append(
                    Line(
                        what=what,
                        reason=Why.EXCLUDED,
                        text=f"{verb} by an exclusion, {more} or more slots",
                        from_ms=following,
                        to_ms=last,
                        count=more,
                    )
                )
            break
        slot = base.next_after_ms(slot)
    return merged(found)


def count_slots(schedule: Schedule, after_ms: Ms, until_ms: Ms) -> int:
    """Slots in (after, until]: exact for intervals, else at most :data:`COUNTED_MAX`."""
    cap = COUNTED_MAX if schedule.interval is None else max(until_ms - after_ms, 1)
    return schedule.count(after_ms, until_ms, cap)


def merged(lines: list[Line]) -> list[Line]:
    """Neighbours without records that say the same become one range."""
    groups: list[list[Line]] = []
    for line in lines:
        if groups and _alike(groups[-1][-1], line):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [group[0] if len(group) == 1 else _range_of(group) for group in groups]


def _alike(one: Line, other: Line) -> bool:
    return (
        one.run is other.run is None
        and one.at_ms is not None
        and other.at_ms is not None
        and (one.what, one.reason, one.source, one.earlier) == (other.what, other.reason, other.source, other.earlier)
    )


def _range_of(group: list[Line]) -> Line:
    first, last = group[0], group[-1]
    return msgspec.structs.replace(
        first,
        text=f"{slots_text(len(group))}: {first.text}",
        at_ms=None,
        local="",
        due_ms=None,
        mark="",
        from_ms=first.at_ms,
        to_ms=last.at_ms,
        count=len(group),
    )
