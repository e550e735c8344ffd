"""From a schedule as data to one that can be asked. Every rule about what a schedule may say is checked here.

From the inside out: each kind of schedule (:mod:`~natscron.schedule.plain`), minus what ``except`` takes away, united,
with the slot of ``run_at_start``, cut by the bounds, and delayed by the jitter. What depends on neither the job's id
nor its creation is compiled once for all jobs that say the same.
"""

from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from natscron.durations import parse_duration_ms
from natscron.errors import (
    InvalidCalendarError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    UnknownCalendarError,
    ValidationError,
)
from natscron.model import CalendarSpec, ScheduleSpec, Timer
from natscron.schedule.base import MAX_MS, Schedule
from natscron.schedule.bounds import BoundedSchedule
from natscron.schedule.cron import ZonedCronSchedule
from natscron.schedule.exclusion import Exclusion, Taken, never_meet, taken_by_calendar, taken_by_schedule
from natscron.schedule.instants import format_instant, resolve_instant
from natscron.schedule.jitter import JitteredSchedule
from natscron.schedule.once import OnceSchedule, WithStart
from natscron.schedule.plain import (
    DEFAULT_MIN_INTERVAL_NS,
    HASHED,
    MAX_EXPRESSION,
    Compiled,
    Context,
    check_words,
    compile_plain,
    kind_of,
    shown,
    zone_of,
)
from natscron.schedule.servertimed import ServerTimedSchedule
from natscron.schedule.union import UnionSchedule
from natscron.schedule.work import MAX_MEMBERS, UNITS, Meter, check_affordable, check_parts

__all__ = [
    "DEFAULT_MIN_INTERVAL_NS",
    "MAX_EXPRESSION",
    "MAX_JITTER_MS",
    "MAX_MEMBERS",
    "MAX_RUNS",
    "NO_CALENDARS",
    "Compiled",
    "check_max_runs",
    "compile_metered",
    "compile_schedule",
    "forget_composites",
    "inherited",
    "jitter_ms_of",
]

MAX_RUNS: Final = 10_000
"""The most that ``max_runs`` counts."""
MAX_JITTER_MS: Final = 86_400_000
"""The longest ``jitter``, in milliseconds: 24 hours."""

NO_CALENDARS: Final[Mapping[str, CalendarSpec]] = MappingProxyType({})

_PROBED_FROM: Final = 1_767_225_600_000  # 2026-01-01: where the zones' tables are needed anyway
_LOST: Final = 4
"""Slots of a member in a row that clock changes may drop before a search gives up."""
_BESIDE_KIND: Final = frozenset({"tz", "dst_gap", "dst_fold", "start_at", "config"})
_OF_KINDS: Final = frozenset({"every", "cron", "at", "rrule", "solar", "kind"})
_DEFAULT: Final = ScheduleSpec()
_READ: Final = frozenset({"cron", "at", "tz", "dst_gap", "dst_fold"})
_beside: Final = attrgetter(*(name for name in ScheduleSpec.__struct_fields__ if name not in _READ))
"""All that a schedule says besides an expression or an instant, and how that is read."""
_NOTHING_BESIDE: Final = _beside(_DEFAULT)


def _given(spec: ScheduleSpec) -> set[str]:
    """The fields that say something."""
    return {name for name in spec.__struct_fields__ if getattr(spec, name) != getattr(_DEFAULT, name)}


def inherited(member: ScheduleSpec, whole: ScheduleSpec) -> ScheduleSpec:
    """A member of ``any`` or ``except`` with the zone and the rules that it leaves to the whole."""
    kind = kind_of(member)[0]
    if kind not in {"cron", "rrule"}:
        return member
    tz = member.tz or (None if kind == "cron" and zone_of(member) else zone_of(whole))
    gap, fold = member.dst_gap or whole.dst_gap, member.dst_fold or whole.dst_fold
    if (tz, gap, fold) == (member.tz, member.dst_gap, member.dst_fold):
        return member
    return msgspec.structs.replace(member, tz=tz, dst_gap=gap, dst_fold=fold)


def _compile_member(member: ScheduleSpec, whole: ScheduleSpec, context: Context, place: str) -> Compiled:
    try:
        kind_of(member)
        if wrong := sorted(_given(member) - _BESIDE_KIND - _OF_KINDS):
            name = wrong[0].rstrip("_")
            where = "within except only, as its own entry" if name == "calendar" else "for the whole schedule, outside"
            raise InvalidScheduleError(f"'{name}' cannot stand here: give it {where}")  # noqa: TRY301 - gets its place
        compiled = compile_plain(inherited(member, whole), context)
    except InvalidScheduleError as error:
        raise type(error)(f"{place}: {error}") from None
    return compiled._replace(warnings=tuple(f"{place}: {warning}" for warning in compiled.warnings))


def _compile_calendar(item: ScheduleSpec, calendars: Mapping[str, CalendarSpec], place: str) -> Taken:
    name = item.calendar or ""
    if wrong := sorted(_given(item) - {"calendar"}):
        raise InvalidScheduleError(
            f"{place}: '{wrong[0].rstrip('_')}' cannot stand beside 'calendar': a calendar has its own zone and rules"
        )
    spec = calendars.get(name)
    if spec is None:
        raise UnknownCalendarError(f"{place}: there is no calendar '{shown(name)}': store it first")
    from natscron.schedule.calendar import compile_calendar  # noqa: PLC0415 - most schedules need none

    try:
        return taken_by_calendar(compile_calendar(spec))
    except InvalidCalendarError as error:
        raise InvalidScheduleError(f"{place}: calendar '{shown(name)}': {error}") from None


class _Core(NamedTuple):
    """A schedule without what is wrapped around it."""

    schedule: Schedule
    warnings: tuple[str, ...]
    taken: tuple[Taken, ...] = ()
    """What ``except`` takes away."""

    def takes_away(self, slot_ms: int) -> bool:
        """Whether ``except`` takes this instant."""
        return any(taken.takes(slot_ms) for taken in self.taken)


def _members(spec: ScheduleSpec, context: Context) -> list[Compiled]:
    """The schedules that are united; one unless there is an ``any``."""
    kind = kind_of(spec)[0]
    if kind == "calendar":
        raise InvalidScheduleError("'calendar' stands within 'except' only: it says when not to run")
    if kind != "any":
        return [compile_plain(spec, context)]
    check_words(spec)
    for name in ("start_at", "config"):
        if getattr(spec, name):
            raise InvalidScheduleError(f"'{name}' belongs to a member of 'any': move it there")
    return [_compile_member(member, spec, context, f"any[{i}]") for i, member in enumerate(spec.any)]


def _build(
    spec: ScheduleSpec, context: Context, calendars: Mapping[str, CalendarSpec], meter: Meter | None = None
) -> _Core:
    """The kind or the union, minus ``except``."""
    if spec.any or spec.except_:
        check_parts(spec)
    compiled = _members(spec, context)
    warnings = [warning for member in compiled for warning in member.warnings]
    schedules = [member.schedule for member in compiled]
    if not spec.except_ and len(schedules) == 1:
        return _Core(schedules[0], tuple(warnings))
    schedules = [one.patient(_LOST) if isinstance(one, ZonedCronSchedule) else one for one in schedules]
    check_affordable(schedules)
    members = tuple(schedules)
    if not spec.except_:
        union = UnionSchedule(members) if meter is None else Exclusion(members, (), meter=meter)
        return _Core(union, tuple(warnings))
    takes: list[Taken] = []
    in_vain = []
    for i, item in enumerate(spec.except_):
        place = f"except[{i}]"
        if item.calendar:
            takes.append(_compile_calendar(item, calendars, place))
            continue
        taken = _compile_member(item, spec, context, place).schedule
        takes.append(taken_by_schedule(taken, members))
        if all(never_meet(schedule, taken) for schedule in members):
            in_vain.append(
                f"{place} takes away equal slots only and these have none, or few by chance: give an interval its "
                "start_at, or take away spans by a calendar"
            )
    takes.sort(key=lambda taken: taken.price)
    cut = Exclusion(members, tuple(takes), meter=meter)
    return _Core(cut, (*warnings, *_probed(cut), *in_vain), cut.taken)


def _probed(cut: Exclusion) -> list[str]:
    """Refuse an exclusion that leaves nothing, or that takes too long to find out what it leaves."""
    slot, left = cut.search_after(_PROBED_FROM, UNITS)
    if slot is None and left >= 0:
        slot, left = cut.search_before(_PROBED_FROM, left)
    if left < 0:
        raise InvalidScheduleError(
            "'except' takes away every slot of the schedule, or so many in a row that finding one that is left takes "
            "too long: exclude less, or whole spans by a calendar"
        )
    if slot is None and cut.failure is None:
        raise InvalidScheduleError("it never runs: 'except' takes away every slot within 50 years")
    empty = []
    for i in range(len(cut.members) if len(cut.members) > 1 else 0):
        alone, left = cut.search_after(_PROBED_FROM, left, only=i)
        if left < 0:
            break  # nothing can be said
        if alone is None:
            earlier, left = cut.search_before(_PROBED_FROM, left, only=i)
            if left < 0:
                break
            if earlier is None and cut.members[i].failure is None:
                empty.append(f"any[{i}] never runs: 'except' takes away every slot of it")
    return empty


@lru_cache(maxsize=4096)
def _shared_core(spec: ScheduleSpec, context: Context, calendars: tuple[tuple[str, CalendarSpec], ...]) -> _Core:
    return _build(spec, context, dict(calendars))


def forget_composites() -> None:
    """Forget what was compiled for all jobs at once: it holds what was read of zones."""
    _shared_core.cache_clear()


def _same_for_all(spec: ScheduleSpec) -> bool:
    """Whether it means the same for every job: nothing counts from the creation, nothing hashes the id."""
    for part in (spec, *spec.any, *spec.except_):
        if part.kind or (part.cron and HASHED.search(part.cron)):
            return False
        if (part.rrule or part.every) and not part.start_at:
            return False
        if any(text and text.lstrip().startswith("in") for text in (part.at, part.start_at)):
            return False
        if part.cron and kind_of(part)[0] == "every":
            return False
    return True


def _core(spec: ScheduleSpec, context: Context, calendars: Mapping[str, CalendarSpec], meter: Meter | None) -> _Core:
    if meter is not None or not (spec.any or spec.except_) or not _same_for_all(spec):
        return _build(spec, context, calendars, meter)
    named = tuple((name, calendars[name]) for item in spec.except_ if (name := item.calendar) and name in calendars)
    core = msgspec.structs.replace(
        spec,
        run_at_start=False,
        not_before=None,
        not_after=None,
        max_runs=None,
        last_slot=None,
        jitter=None,
        timer=None,
    )
    return _shared_core(core, context._replace(anchor_ms=0, seed=""), named)


def _bounds(spec: ScheduleSpec, anchor_ms: int) -> tuple[int, int] | None:
    """The first and last instant at which slots count; None if nothing bounds them."""
    if spec.not_before is None and spec.not_after is None and spec.last_slot is None:
        return None
    first, last = 0, MAX_MS
    if spec.not_before is not None:
        first = _instant("not_before", spec.not_before, anchor_ms)
    if spec.not_after is not None:
        last = _instant("not_after", spec.not_after, anchor_ms)
        if last < first:
            raise InvalidScheduleError(
                f"not_after {format_instant(last)} lies before not_before {format_instant(first)}: no slot is left"
            )
    if spec.last_slot is not None:
        last = min(last, _instant("last_slot", spec.last_slot, anchor_ms))
    return first, last


def _instant(name: str, text: str, anchor_ms: int) -> int:
    try:
        return resolve_instant(text, anchor_ms)
    except InvalidScheduleTimeError as error:
        raise InvalidScheduleTimeError(f"{name}: {error}") from None


def _bounded(schedule: Schedule, first: int, last: int) -> Schedule:
    bounded = BoundedSchedule(schedule, first, last)
    slot = bounded.next_after_ms(_PROBED_FROM - 1)
    if slot is None and bounded.last_at_or_before_ms(_PROBED_FROM) is None and bounded.failure is None:
        raise InvalidScheduleError(
            f"it never runs: it has no slot from {format_instant(first)} to {format_instant(last)} within 50 years"
        )
    return bounded


def jitter_ms_of(text: str) -> int:
    """The longest delay in milliseconds. Raises InvalidScheduleError if it is none, or out of bounds."""
    try:
        jitter_ms = parse_duration_ms(text)
    except ValidationError as error:
        raise InvalidScheduleError(f"jitter '{shown(text)}': {error} (such as 30s or 5m)") from None
    if not 0 < jitter_ms <= MAX_JITTER_MS:
        raise InvalidScheduleError(f"jitter '{shown(text)}' is not above 0 and at most 24h: leave it out for none")
    return jitter_ms


def check_max_runs(spec: ScheduleSpec) -> None:
    """Raises InvalidScheduleError if ``max_runs`` is out of bounds."""
    if spec.max_runs is not None and not 1 <= spec.max_runs <= MAX_RUNS:
        raise InvalidScheduleError(f"max_runs {spec.max_runs} is not within 1 to {MAX_RUNS}: leave it out for no limit")


def compile_schedule(  # noqa: PLR0913 - what a schedule depends on, each by its name
    spec: ScheduleSpec,
    *,
    anchor_ms: int,
    seed: str = "",
    min_interval_ns: int = DEFAULT_MIN_INTERVAL_NS,
    lenient: bool = False,
    calendars: Mapping[str, CalendarSpec] = NO_CALENDARS,
) -> Compiled:
    """Compile a schedule; what says the same for every job is one object for all of them.

    ``anchor_ms``: the job's creation, what an interval counts from unless ``start_at`` is given. ``seed``: the job's
    id, hashed by ``H``, ``~`` and ``jitter``. ``min_interval_ns``: the shortest interval taken (default 10 ms, at
    least 1 ms). ``lenient``: the row was stored by the Go version; its parser's oddities are taken with a warning.
    ``calendars``: the stored ones that ``except`` can name. ``max_runs`` counts once :func:`resolve_spec` has turned
    it into ``last_slot``.

    Raises the subclass of :class:`~natscron.errors.InvalidScheduleError` that fits, saying what is wrong and what
    would be right; in both modes also for what can never fire, and
    :class:`~natscron.errors.UnknownCalendarError` for a calendar that is not among them.
    """
    if 0 <= anchor_ms <= MAX_MS and _beside(spec) == _NOTHING_BESIDE:
        # Most jobs, and a million at a start: an expression or an instant, and how it is read.
        if spec.cron and not spec.at:
            known = _same_cron(spec.cron, spec.tz, spec.dst_gap, spec.dst_fold, min_interval_ns, lenient)
            if known is not None:
                return known
        elif spec.at and not (spec.cron or spec.tz or spec.dst_gap or spec.dst_fold):
            return Compiled(OnceSchedule(resolve_instant(spec.at, anchor_ms)))
    return compile_metered(spec, Context(anchor_ms, seed, min_interval_ns, lenient), calendars, None)


@lru_cache(maxsize=8192)
def _same_cron(  # noqa: PLR0913, PLR0917 - the cache keys on positions
    cron: str,
    tz: str | None,
    gap: str | None,
    fold: str | None,
    min_interval_ns: int,
    lenient: bool,  # noqa: FBT001 - the cache keys on positions
) -> Compiled | None:
    """What equal expressions compile to; None if that hangs on the job."""
    spec = ScheduleSpec(cron=cron, tz=tz, dst_gap=gap, dst_fold=fold)
    if not _same_for_all(spec):
        return None
    return compile_metered(spec, Context(0, "", min_interval_ns, lenient), NO_CALENDARS, None)


def compile_metered(
    spec: ScheduleSpec, context: Context, calendars: Mapping[str, CalendarSpec], meter: Meter | None
) -> Compiled:
    """As :func:`compile_schedule`; the schedule's exclusions draw on ``meter`` as well."""
    anchor_ms = context.anchor_ms
    if not 0 <= anchor_ms <= MAX_MS:
        raise InvalidScheduleTimeError(f"the anchor {anchor_ms} ms lies outside the years 1970 to 9999")
    check_max_runs(spec)
    bounds = _bounds(spec, anchor_ms)
    jitter_ms = jitter_ms_of(spec.jitter) if spec.jitter is not None else 0
    core = _core(spec, context, calendars, meter)
    schedule = core.schedule
    counted = not spec.start_at and not spec.any and kind_of(spec)[0] == "every"  # its anchor is a slot already
    if spec.run_at_start and not counted and not core.takes_away(anchor_ms):
        schedule = WithStart(schedule, anchor_ms)
    if bounds is not None:
        schedule = _bounded(schedule, *bounds)
    if spec.timer is not None:
        if jitter_ms or spec.timer != Timer.SERVER:
            raise InvalidScheduleError(
                f"timer '{shown(spec.timer)}': only '{Timer.SERVER}' is stored with a schedule, and only without jitter"
            )
        return Compiled(ServerTimedSchedule(schedule), core.warnings)
    if jitter_ms:
        schedule = JitteredSchedule(schedule, jitter_ms, context.seed)
    return Compiled(schedule, core.warnings)
