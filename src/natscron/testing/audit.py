"""What was owed against what arrived: pure, for tests and benchmarks of failures.

Owed are the slots of schedules over stretches of time. A slot is settled when its run arrived, or when a range record
says why it did not run. Nothing may be lost, nothing may run that no schedule has, and no slot may run under two ids;
the same id may arrive twice, and is counted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from natscron.model import Ms, ScheduleSpec
from natscron.schedule import Schedule, compile_schedule

__all__ = ["Arrival", "Range", "Stretch", "Verdict", "audit"]

_SHOWN: Final = 10


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One message: its headers' ids, and when the server (or else this process) received it, ms since 1970."""

    subject: str
    run_id: str
    slot_ms: Ms
    at_ms: float

    @property
    def late_ms(self) -> float:
        """From the slot to the receipt."""
        return self.at_ms - self.slot_ms


class Range(msgspec.Struct, frozen=True):
    """Slots that a record says were not run; both ends are slots."""

    subject: str
    from_ms: Ms
    to_ms: Ms
    reason: str


class Stretch(msgspec.Struct, frozen=True):
    """A job's schedule in force: slots later than ``after_ms`` and not later than ``until_ms`` (None: still)."""

    subject: str
    schedule: Schedule
    after_ms: Ms
    until_ms: Ms | None = None

    @classmethod
    def of(
        cls, subject: str, spec: ScheduleSpec, *, anchor_ms: Ms, after_ms: Ms, until_ms: Ms | None = None
    ) -> "Stretch":
        """From a schedule as data; ``anchor_ms`` is the job's creation."""
        return cls(subject, compile_schedule(spec, anchor_ms=anchor_ms, seed=subject).schedule, after_ms, until_ms)

    def slots(self, until_ms: Ms) -> Iterable[Ms]:
        """Ascending, up to ``until_ms``."""
        end = until_ms if self.until_ms is None else min(until_ms, self.until_ms)
        at = self.schedule.next_after_ms(self.after_ms)
        while at is not None and at <= end:
            yield at
            at = self.schedule.next_after_ms(at)

    def has(self, slot_ms: Ms) -> bool:
        """Whether the instant is one of its slots."""
        inside = slot_ms > self.after_ms and (self.until_ms is None or slot_ms <= self.until_ms)
        return inside and self.schedule.last_at_or_before_ms(slot_ms) == slot_ms


class Verdict(msgspec.Struct, frozen=True):
    """What the comparison found."""

    owed: int
    settled: int
    lost: list[tuple[str, Ms]]
    """Owed, not arrived, and no record says why."""
    strangers: list[tuple[str, Ms]]
    """Arrived and in no stretch."""
    two_ids: list[tuple[str, Ms]]
    doubles: dict[str, int]
    """Run ids that came more than once: how many times too often."""
    skipped: list[tuple[str, Ms]]
    """Owed and not run, with a record that says so."""
    skipped_and_run: list[tuple[str, Ms]]
    """Run although a record says it was not."""

    @property
    def copies(self) -> int:
        """Messages that came too often, all under the id of the first."""
        return sum(self.doubles.values())

    def broken(self) -> str:
        """Empty if the promise held; else what was broken."""
        parts = [
            f"{len(found)} {name}: {found[:_SHOWN]}"
            for name, found in (
                ("lost", self.lost),
                ("that no schedule has", self.strangers),
                ("under two ids", self.two_ids),
                ("run and recorded as not run", self.skipped_and_run),
            )
            if found
        ]
        return f"of {self.owed} slots: {'; '.join(parts)}" if parts else ""

    def __str__(self) -> str:
        what = self.broken() or f"{self.owed} slots, all settled"
        return f"{what}; {len(self.skipped)} recorded as not run; {self.copies} copies under the same id"


def audit(
    stretches: Sequence[Stretch],
    views: Sequence[Iterable[Arrival]],
    until_ms: Ms,
    ranges: Sequence[Range] = (),
) -> Verdict:
    """Compare everything due up to ``until_ms``.

    ``views`` are looks at the same messages from several places (a stream that drops repeats or a subscriber that was
    away for a while tells only part): an id counts as often as the view that saw it most often says.
    """
    counts: Counter[str] = Counter()
    ids: defaultdict[tuple[str, Ms], set[str]] = defaultdict(set)
    for view in views:
        seen: Counter[str] = Counter()
        for arrival in view:
            seen[arrival.run_id] += 1
            ids[arrival.subject, arrival.slot_ms].add(arrival.run_id)
        counts |= seen
    owed = {(stretch.subject, slot) for stretch in stretches for slot in stretch.slots(until_ms)}
    by_subject: defaultdict[str, list[Stretch]] = defaultdict(list)
    for stretch in stretches:
        by_subject[stretch.subject].append(stretch)
    ranges_of: defaultdict[str, list[Range]] = defaultdict(list)
    for one in ranges:
        ranges_of[one.subject].append(one)

    def recorded(key: tuple[str, Ms]) -> bool:
        return any(one.from_ms <= key[1] <= one.to_ms for one in ranges_of[key[0]])

    missing = sorted(owed - ids.keys())
    skipped = [key for key in missing if recorded(key)]
    lost = [key for key in missing if not recorded(key)]
    return Verdict(
        owed=len(owed),
        settled=len(owed) - len(lost),
        lost=lost,
        strangers=sorted(key for key in ids if not any(s.has(key[1]) for s in by_subject[key[0]])),
        two_ids=sorted(key for key, under in ids.items() if len(under) > 1),
        doubles={run_id: count - 1 for run_id, count in counts.items() if count > 1},
        skipped=skipped,
        skipped_and_run=sorted(key for key in owed & ids.keys() if recorded(key)),
    )
