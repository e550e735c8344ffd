"""The future of an explanation: the next slots, and what the policies of now make of them. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from natscron.engine.explain.gaps import count_slots, excluded, slots_text
from natscron.engine.explain.lines import Line, What, Why
from natscron.engine.explain.slots import Stretch
from natscron.engine.explain.words import length
from natscron.engine.table import Entry
from natscron.model import Job, Ms, Overlap, Reason
from natscron.policy.overlap import Verdict, decide
from natscron.schedule import format_instant

__all__ = ["foretell"]

_IF_GOING: Final = {
    Verdict.START: "",
    Verdict.SKIP: "left out if the run going on now has not ended by then",
    Verdict.BUFFER: "waits if the run going on now has not ended by then",
    Verdict.DROP: "left out if the runs going on and waiting have not ended by then",
    Verdict.REPLACE: "takes the place of the run going on now if that has not ended by then",
}
_ENDS: Final = {
    Why.ONCE: "the only one",
    Why.MAX_RUNS: "the last one (max_runs)",
    Why.NOT_AFTER: "the last one before not_after",
    Why.LAST: "the last one",
}
_MOVED: Final = {"moved": "moved by a clock change", "repeated": "the second pass of a clock change"}


def foretell(entry: Entry, stretches: Sequence[Stretch], *, now_ms: Ms, count: int, going: int = 0) -> list[Line]:
    """Lines for the next ``count`` slots, and for what lies between them; ``going``: runs of the job going on now."""
    if not stretches or count <= 0:
        return []
    lines: list[Line] = []
    told = 0
    for line, counts in _all(entry, stretches, now_ms, going):
        if counts and told >= count:
            break
        lines.append(line)
        told += counts
        if told >= count and line.what is What.WILL_RUN and not line.reason:
            break
    return lines


def _all(entry: Entry, stretches: Sequence[Stretch], now_ms: Ms, going: int) -> Iterator[tuple[Line, bool]]:
    """Lines, and whether each counts as one of the slots asked for."""
    job = entry.job
    any_slot = False
    running = going
    for stretch in stretches:
        if stretch.paused and stretch.until_ms is not None:
            if stretch.until_ms > now_ms:
                yield from _pause(stretch, now_ms)
            continue
        before = max(now_ms, stretch.after_ms)
        for slot, due in stretch.forth(now_ms):
            any_slot = True
            if stretch.base is not None and not stretch.paused:
                yield from ((one, False) for one in _between(stretch, before, slot))
            before = slot
            line = _slot(stretch, slot, due)
            if stretch.paused:
                line = _not(line, Reason.PAUSED, "would be due; the job is paused, so not until it is resumed")
            elif _skipped(job, slot):
                line = _not(line, Reason.SKIP_NEXT, "left out: that was asked for (skip next)")
            else:
                line = _runs(stretch, line, due, job.overlap, running)
                running = 0
            yield line, True
    last = stretches[-1]
    if last.base is not None and not last.paused:
        start = last.schedule.last_at_or_before_ms(1 << 52)
        yield from ((one, False) for one in _after_the_end(last, max(now_ms, start or 0)))
    if not any_slot or last.schedule.interval is None:
        yield Line(what=What.END, reason=_end(last), text=_end_text(last, any_slot=any_slot)), False


def _slot(stretch: Stretch, slot: Ms, due: Ms) -> Line:
    return Line(
        what=What.WILL_RUN,
        text="",
        at_ms=slot,
        local=stretch.wall.local(slot),
        due_ms=due if due != slot else None,
        mark=stretch.schedule.mark(slot),
    )


def _not(line: Line, reason: Reason, text: str) -> Line:
    return msgspec.structs.replace(line, what=What.WILL_NOT_RUN, reason=reason, text=text)


def _runs(stretch: Stretch, line: Line, due: Ms, overlap: Overlap, running: int) -> Line:
    parts = ["runs"]
    slot = line.at_ms or 0
    if line.mark:
        parts.append(_MOVED.get(line.mark, line.mark))
    if line.due_ms is not None:
        parts.append(f"{length(due - slot)} later (jitter)")
    reason = ""
    if stretch.until_ms is None and stretch.schedule.next_after_ms(slot) is None:
        why = _end(stretch)
        reason = why.value
        parts.append(_ENDS[why])
    verdict = decide(overlap, running=running, waiting=0)
    if _IF_GOING[verdict]:
        parts.append(_IF_GOING[verdict])
    return msgspec.structs.replace(
        line,
        text="; ".join(parts),
        reason=reason,
        if_going=verdict.value if running and verdict is not Verdict.START else "",
    )


def _skipped(job: Job, slot: Ms) -> bool:
    return job.skip is not None and job.skip.from_ms < slot <= job.skip.until_ms


def _pause(stretch: Stretch, now_ms: Ms) -> Iterator[tuple[Line, bool]]:
    """A pause with an end, as one range."""
    until = stretch.until_ms or 0
    first = next(stretch.forth(now_ms), None)
    if first is None:
        return
    count = count_slots(stretch.schedule.dues, now_ms, until)
    last = stretch.schedule.last_at_or_before_ms(until) or first[0]
    yield (
        Line(
            what=What.WILL_NOT_RUN,
            reason=Reason.PAUSED,
            text=f"{slots_text(count)}: the job is paused until {format_instant(until)}",
            from_ms=first[0],
            to_ms=max(first[0], last),
            count=count,
        ),
        False,
    )


def _between(stretch: Stretch, before: Ms, slot: Ms) -> list[Line]:
    assert stretch.base is not None  # noqa: S101 - the caller looked
    return excluded(stretch, stretch.base, before, slot - 1, What.WILL_NOT_RUN)


def _after_the_end(stretch: Stretch, before: Ms) -> list[Line]:
    """The first of what exclusions take away behind the last slot."""
    assert stretch.base is not None  # noqa: S101 - the caller looked
    first = stretch.base.next_after_ms(before)
    return [] if first is None else excluded(stretch, stretch.base, before, first, What.WILL_NOT_RUN)


def _end(stretch: Stretch) -> Why:
    spec = stretch.spec
    if spec.at is not None:
        return Why.ONCE
    if spec.last_slot is not None:
        return Why.MAX_RUNS
    return Why.NOT_AFTER if spec.not_after is not None else Why.LAST


def _end_text(stretch: Stretch, *, any_slot: bool) -> str:
    if stretch.schedule.failure is not None:
        return f"no slot can be worked out: {stretch.schedule.failure}"
    last = stretch.schedule.last_at_or_before_ms(1 << 52)
    if any_slot or last is None:
        return "no slot follows"
    why = {
        Why.ONCE: "it has one slot",
        Why.MAX_RUNS: f"max_runs was reached: {stretch.spec.max_runs or 'all'} slots",
        Why.NOT_AFTER: f"it ends at {stretch.spec.not_after}",
        Why.LAST: "the schedule has no more",
    }[_end(stretch)]
    return f"no slot follows: {why}, the last one at {format_instant(last)}"
