"""What is settled about a schedule once, when it is saved: relative instants, and what ``max_runs`` comes to.

``max_runs`` counts slots, and slots are a function of the schedule alone, so the last one is known at save. Stored as
``last_slot`` it needs no counter that a failover could lose. An interval that counts from a creation that is still to
come is given its start as well, so that whoever reads the row finds the same slots as its writer.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from natscron.durations import parse_duration_ms
from natscron.errors import InvalidScheduleError, InvalidScheduleTimeError, ValidationError
from natscron.model import CalendarSpec, ScheduleSpec
from natscron.schedule.base import MAX_MS, Schedule
from natscron.schedule.bounds import BoundedSchedule
from natscron.schedule.compile import NO_CALENDARS, check_max_runs, compile_metered
from natscron.schedule.cron import CronSchedule
from natscron.schedule.instants import format_instant, resolve_instant
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import WithStart
from natscron.schedule.plain import Context, kind_of
from natscron.schedule.work import Meter

__all__ = ["resolve_spec"]

_UNITS: Final = 1_000_000  # less than a second of searching
_FAR_AHEAD_MS: Final = 4_000_000_000_000  # 2096: from 2100 on, cron schedules in zones are counted one by one
_INSTANTS: Final = ("at", "start_at", "not_before", "not_after", "last_slot")


def _absolute(spec: ScheduleSpec, now_ms: int) -> ScheduleSpec:
    """Every instant as UTC text; the same object if they are already."""
    changes: dict[str, object] = {}
    for name in _INSTANTS:
        text = getattr(spec, name)
        if text:
            try:
                changes[name] = format_instant(resolve_instant(text, now_ms))
            except InvalidScheduleTimeError as error:
                raise error if name in {"at", "start_at"} else InvalidScheduleTimeError(f"{name}: {error}") from None
    for name in ("any", "except_"):
        changes[name] = tuple(_absolute(part, now_ms) for part in getattr(spec, name))
    changes = {name: value for name, value in changes.items() if value != getattr(spec, name)}
    return msgspec.structs.replace(spec, **changes) if changes else spec


def _pinned(spec: ScheduleSpec, now_ms: int, *, outer: bool = True) -> ScheduleSpec:
    """Whatever would count from the creation counts from ``now_ms``."""
    kind, text = ("any", "") if spec.any else ("calendar", "") if spec.calendar else kind_of(spec)
    changes: dict[str, object] = {}
    if outer and (spec.any or spec.except_):
        changes["any"] = tuple(_pinned(part, now_ms, outer=False) for part in spec.any)
        changes["except_"] = tuple(_pinned(part, now_ms, outer=False) for part in spec.except_)
    if not spec.start_at and kind in {"every", "rrule"}:
        try:
            start_ms = now_ms + (parse_duration_ms(text) if kind == "every" else 0)
            if start_ms <= MAX_MS:
                changes["start_at"] = format_instant(start_ms)
        except ValidationError:
            return spec  # compiling says what is wrong with it
    return msgspec.structs.replace(spec, **changes) if changes else spec


def _unresolved(spec: ScheduleSpec, like: ScheduleSpec) -> ScheduleSpec:
    """``spec`` without what resolving can have added to ``like``."""
    changes: dict[str, object] = {"last_slot": like.last_slot}
    if not like.start_at:
        changes["start_at"] = like.start_at
    for name in ("any", "except_"):
        parts, others = getattr(spec, name), getattr(like, name)
        if len(parts) == len(others):
            changes[name] = tuple(
                part if other.start_at else msgspec.structs.replace(part, start_at=other.start_at)
                for part, other in zip(parts, others, strict=True)
            )
    return msgspec.structs.replace(spec, **changes)


def resolve_spec(  # noqa: PLR0913 - what a schedule depends on, each by its name
    spec: ScheduleSpec,
    now_ms: int,
    *,
    anchor_ms: int | None = None,
    seed: str = "",
    calendars: Mapping[str, CalendarSpec] = NO_CALENDARS,
    before: ScheduleSpec | None = None,
) -> ScheduleSpec:
    """The schedule as it is stored: relative instants become absolute UTC text, ``max_runs`` becomes ``last_slot``.

    ``now_ms``: what ``in 5m`` counts from, and the instant after which ``max_runs`` counts slots. ``anchor_ms``: the
    job's creation, None if it is being created; an interval without a start then gets one, an interval from now.
    ``seed`` and ``calendars`` as in compiling. ``before``: the schedule that is stored. If ``spec`` is the same but
    for what resolving adds, ``before`` comes back unchanged, so saving a file twice counts once; a ``last_slot`` that
    belongs to another ``max_runs`` of ``before`` is worked out anew. Any other ``last_slot`` is kept.

    The same object comes back if there is nothing to change. Raises
    :class:`~natscron.errors.InvalidScheduleError` as compiling does if there is a ``max_runs``, else only its
    subclass :class:`~natscron.errors.InvalidScheduleTimeError` for what is not an instant.
    """
    spec = _absolute(spec, now_ms)
    check_max_runs(spec)
    if before is not None and before.max_runs is not None:
        if spec.max_runs != before.max_runs and spec.last_slot == before.last_slot:
            spec = msgspec.structs.replace(spec, last_slot=None)
        elif spec.last_slot in {None, before.last_slot} and _unresolved(before, spec) == spec:
            return before
    if spec.max_runs is None or spec.last_slot is not None:
        return spec
    max_runs = spec.max_runs
    creating = anchor_ms is None
    if anchor_ms is None:
        # A pinned interval's start is not its creation, which run_at_start then adds as a slot of its own.
        spec, anchor_ms = _pinned(spec, now_ms), now_ms
    meter = Meter(_UNITS)
    context = Context(anchor_ms, seed, min_interval_ns=1)
    schedule = compile_metered(spec, context, calendars, meter).schedule
    wanted = max_runs
    if creating and spec.run_at_start and schedule.last_at_or_before_ms(now_ms) == now_ms:
        # Unless it is taken away, the slot at the creation is one of them; when it is to be, is known only roughly.
        wanted -= 1
        regular = msgspec.structs.replace(spec, run_at_start=False)
        schedule = compile_metered(regular, context, calendars, meter).schedule
    if wanted:
        last_ms = _nth(schedule, now_ms, wanted, meter)
    else:
        # Only the slot at the creation, which is near but not known: up to right before the next one.
        following = schedule.next_after_ms(now_ms)
        last_ms = MAX_MS if following is None else following - 1
    return msgspec.structs.replace(spec, last_slot=format_instant(last_ms))


def _nth(schedule: Schedule, after_ms: int, n: int, meter: Meter) -> int:
    """The n-th slot after ``after_ms``; the last one if there are fewer, or ``after_ms`` itself if there is none."""
    if _counts_fast(schedule):
        end = after_ms + 3_600_000
        while end < _FAR_AHEAD_MS and schedule.count(after_ms, end, n) < n:
            end = after_ms + (end - after_ms) * 4
        if end < _FAR_AHEAD_MS:
            low = after_ms
            while end - low > 1:
                middle = (low + end) // 2
                if schedule.count(after_ms, middle, n) < n:
                    low = middle
                else:
                    end = middle
            return end
    slot = after_ms
    for _ in range(n):
        following = schedule.next_after_ms(slot)
        if meter.left < 0:
            raise InvalidScheduleError(
                f"max_runs {n} takes too long to count: 'except' takes away too many slots in a row; "
                "use a smaller number, or not_after"
            )
        if following is None:
            if (failure := schedule.failure) is not None:
                raise InvalidScheduleError(f"max_runs {n} cannot be counted: {failure}")
            break
        slot = following
    return slot


def _counts_fast(schedule: Schedule) -> bool:
    """Whether counting takes much less than a search for each slot."""
    while isinstance(schedule, (BoundedSchedule, WithStart)):
        schedule = schedule.inner
    return isinstance(schedule, (CronSchedule, IntervalSchedule))
