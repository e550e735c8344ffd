"""Schedules of one kind each: the parts that unions, exclusions, bounds and jitter are put around."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from natscron.durations import format_duration, parse_duration
from natscron.errors import (
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    ValidationError,
)
from natscron.model import ScheduleSpec
from natscron.schedule.base import Schedule
from natscron.schedule.cron import CronSchedule, Fold, Gap, ZonedCronSchedule
from natscron.schedule.days import NEVER, day_set
from natscron.schedule.fields import parse_fields
from natscron.schedule.instants import resolve_instant
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.kinds import compile_kind
from natscron.schedule.once import OnceSchedule
from natscron.schedule.pattern import Pattern
from natscron.schedule.zones import zone_named

__all__ = [
    "DEFAULT_MIN_INTERVAL_NS",
    "HASHED",
    "MAX_EXPRESSION",
    "Compiled",
    "Context",
    "check_words",
    "compile_plain",
    "kind_of",
    "shown",
    "zone_of",
]

DEFAULT_MIN_INTERVAL_NS: Final = 10_000_000
MAX_EXPRESSION: Final = 1024
"""Characters of the longest cron expression that is looked at."""

_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_MAX_SHOWN: Final = 64
UTC_NAMES: Final = frozenset({"", "UTC", "Etc/UTC", "Zulu", "Etc/Zulu", "GMT", "Etc/GMT"})
_PREFIX: Final = re.compile(r"(?:CRON_)?TZ=(\S*)(?:\s+(.*))?", re.DOTALL)
HASHED: Final = re.compile(r"(?<![A-Za-z])H(?![A-Za-z])|~")  # not the H of THU, which all jobs can share
_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY: Final = "@every "
_KINDS: Final = ("every", "cron", "at", "rrule", "solar", "any", "kind", "calendar")
_LAYOUT: Final = "minute hour day-of-month month day-of-week; a sixth field, the seconds, comes first"
_FIELD_COUNTS: Final = (5, 6)
_FIRST_DAY: Final = 10_957  # 2000-01-01; 50 years from there hold every shape of month, 29 February on each weekday too
_SPACING_SLOTS: Final = 500


class Compiled(NamedTuple):
    """A schedule, and what its author should know about it."""

    schedule: Schedule
    warnings: tuple[str, ...] = ()


def shown(text: str) -> str:
    """A user's text as errors show it: its beginning, if it is long."""
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class Context(NamedTuple):
    """What a schedule depends on beside its own text."""

    anchor_ms: int
    """The job's creation."""
    seed: str = ""
    """The job's id."""
    min_interval_ns: int = DEFAULT_MIN_INTERVAL_NS
    lenient: bool = False


def _rule(kind: type[Gap] | type[Fold], name: str, value: str | None) -> None:
    if value is not None and value not in list(kind):
        raise InvalidScheduleError(f"{name} '{shown(value)}' is not known: use one of {', '.join(kind)}")


@lru_cache(maxsize=8192)
def _cron(expression: str, zone_name: str, gap: str | None, fold: str | None, seed: str, lenient: bool) -> Compiled:  # noqa: FBT001, PLR0913, PLR0917 - the cache keys on positions
    """The shared schedule of equal settings; ``seed`` is empty unless the expression hashes it."""
    texts = _ALIASES.get(expression.lower(), expression).split()
    if not texts:
        raise ValidationError(f"empty spec string (expected {_LAYOUT})")
    if texts[0].startswith("@"):
        raise ValidationError(f"unrecognized descriptor: {shown(expression)} (known: {' '.join(_ALIASES)} @every)")
    if len(texts) not in _FIELD_COUNTS:
        raise ValidationError(
            f"expected exactly 5 fields, found {len(texts)}: [{shown(' '.join(texts))}] (or 6; {_LAYOUT})"
        )
    fields, warnings = parse_fields(texts, seed=seed, lenient=lenient)
    if day_set(fields.days).on_or_after(_FIRST_DAY) == NEVER:
        raise ValidationError("it never matches: no such day comes within 50 years; check day of month and month")
    pattern = Pattern(fields.seconds, fields.minutes, fields.hours, fields.days)
    if zone_name in UTC_NAMES:
        return Compiled(CronSchedule(expression, pattern), tuple(warnings))
    by_class = (Gap.SKIP, Fold.BOTH) if fields.by_instant else (Gap.RUN_AFTER, Fold.FIRST)
    schedule = ZonedCronSchedule(
        expression,
        pattern,
        zone_named(zone_name),
        Gap(gap) if gap else by_class[0],
        Fold(fold) if fold else by_class[1],
    )
    return Compiled(schedule, tuple(warnings))


def _split_zone(text: str, tz: str | None) -> tuple[str, str]:
    """The fields and the zone of an expression that may begin with ``CRON_TZ=Zone `` or ``TZ=Zone ``."""
    if len(text) > MAX_EXPRESSION:
        raise ValidationError(f"longer than {MAX_EXPRESSION} characters")
    found = _PREFIX.fullmatch(text)
    if found is None:
        return text, tz or ""
    zone, fields = found.groups()
    if not fields:
        raise ValidationError(f"the zone prefix stands alone: the fields follow it, as in '{shown(text)} 0 9 * * *'")
    if tz is not None and tz != zone:
        raise ValidationError(f"the prefix says zone '{shown(zone)}' and tz says '{shown(tz)}': give one")
    if zone not in UTC_NAMES:
        try:
            zone_named(zone)
        except ValidationError as error:
            raise ValidationError(f"provided bad location {shown(zone)}: {error}") from None
    return fields, zone


def _spaced(schedule: Schedule, min_interval_ns: int, from_ms: int = _FIRST_DAY * 86_400_000) -> None:
    """Refuse slots in whole seconds that lie closer together than the minimum; only one over a second can be broken."""
    if min_interval_ns <= _SECOND:
        return
    slot = schedule.next_after_ms(from_ms - 1)
    for _ in range(_SPACING_SLOTS):
        following = None if slot is None else schedule.next_after_ms(slot)
        if slot is None or following is None:
            return
        if (following - slot) * _MS < min_interval_ns:
            raise ValidationError(
                f"its slots come {format_duration((following - slot) * _MS, short=True)} apart, "
                f"below the minimum of {format_duration(min_interval_ns, short=True)}"
            )
        slot = following


def _compile_cron(spec: ScheduleSpec, text: str, seed: str, min_interval_ns: int, *, lenient: bool) -> Compiled:
    try:
        expression, zone = _split_zone(text, spec.tz or None)
        hashed = seed if HASHED.search(expression) else ""
        compiled = _cron(expression, zone, spec.dst_gap, spec.dst_fold, hashed, lenient)
        _spaced(compiled.schedule, min_interval_ns)
    except ValidationError as error:
        raise InvalidCronExpressionError(f"invalid cron expression '{shown(text)}': {error}") from None
    return compiled


def _interval(text: str, min_interval_ns: int) -> int:
    """The interval in nanoseconds; the errors lack only the text they are about."""
    interval_ns = parse_duration(text)
    if interval_ns <= 0:
        raise ValidationError("the interval must be greater than 0")
    least = max(min_interval_ns, _MS)
    if interval_ns < least:
        raise ValidationError(f"the interval is below the minimum of {format_duration(least, short=True)}")
    return interval_ns


def _compile_every(spec: ScheduleSpec, text: str, context: Context) -> Schedule:
    try:
        interval_ns = _interval(text, context.min_interval_ns)
    except ValidationError as error:
        raise InvalidIntervalError(f"invalid duration '{shown(text)}': {error} (such as 30s, 5m or 1h30m)") from None
    anchor_ms = context.anchor_ms
    if not spec.start_at:
        return IntervalSchedule(interval_ns, anchor_ms, first=0 if spec.run_at_start else 1, explicit=False)
    return IntervalSchedule(interval_ns, resolve_instant(spec.start_at, anchor_ms), first=0, explicit=True)


def check_words(spec: ScheduleSpec) -> None:
    """What can be said of a schedule whatever its kind."""
    _rule(Gap, "dst_gap", spec.dst_gap)
    _rule(Fold, "dst_fold", spec.dst_fold)
    if spec.tz and spec.tz not in UTC_NAMES:
        try:
            zone_named(spec.tz)
        except ValidationError as error:
            raise InvalidScheduleError(f"{error}: tz takes an IANA name such as Europe/Berlin") from None


def kind_of(spec: ScheduleSpec) -> tuple[str, str]:
    """The one kind of schedule that is given, and its text if it is text; empty text counts as not given.

    An alias says by itself whether it is ``every`` or ``cron``. Raises InvalidScheduleError unless there is one kind.
    """
    given = [name for name in _KINDS if getattr(spec, name)]
    if not given:
        raise InvalidScheduleError(
            "schedule must specify either 'every' or 'cron' (or 'at'); 'rrule', 'solar', 'any' and 'kind' will do, too"
        )
    if len(given) > 1:
        names = [f"'{name}'" for name in given]
        rest = f" (and {', '.join(names[2:])})" if len(names) > 2 else ""  # noqa: PLR2004 - the text names two
        raise InvalidScheduleError(f"schedule cannot specify both {names[0]} and {names[1]}{rest}: give exactly one")
    name = given[0]
    if name not in {"every", "cron"}:
        return name, getattr(spec, name) if name in {"at", "rrule", "kind", "calendar"} else ""
    text = getattr(spec, name).strip()
    prefixed = _PREFIX.fullmatch(text)
    alias = prefixed[2] or "" if prefixed else text  # an interval is the same in every zone
    if alias[: len(_EVERY)].lower() == _EVERY:
        return "every", alias[len(_EVERY) :].strip()
    return "cron" if alias.startswith("@") else name, text


def zone_of(spec: ScheduleSpec) -> str | None:
    """The zone that a schedule gives, by ``tz`` or before its cron expression; None if it gives none."""
    found = _PREFIX.fullmatch(spec.cron.strip()) if spec.cron and not spec.tz else None
    return found[1] if found else spec.tz or None


def compile_plain(spec: ScheduleSpec, context: Context) -> Compiled:
    """Compile what the one kind of schedule says, and nothing around it."""
    check_words(spec)
    name, text = kind_of(spec)
    if spec.start_at and name not in {"every", "rrule"}:
        raise InvalidScheduleError(f"start_at anchors an interval or an rrule: it does not go with '{name}'")
    if spec.config is not None and name != "kind":
        raise InvalidScheduleError(f"config is for a 'kind' that the application registered: not for '{name}'")
    if name == "cron":
        return _compile_cron(spec, text, context.seed, context.min_interval_ns, lenient=context.lenient)
    if name == "rrule":
        from natscron.schedule.rrule import compile_rrule  # noqa: PLC0415 - the extra is loaded by those who use it

        start_ms = resolve_instant(spec.start_at, context.anchor_ms) if spec.start_at else context.anchor_ms
        zone = "UTC" if (spec.tz or "") in UTC_NAMES else spec.tz or "UTC"
        rule = compile_rrule(text, zone_name=zone, start_ms=start_ms, gap=spec.dst_gap, fold=spec.dst_fold)
        try:
            _spaced(rule, context.min_interval_ns, start_ms)
        except ValidationError as error:
            raise InvalidScheduleError(f"invalid rrule '{shown(text)}': {error}") from None
        return Compiled(rule)
    idle = (
        ("dst_gap and dst_fold are about cron expressions: they change nothing here",)
        if spec.dst_gap or spec.dst_fold
        else ()
    )
    if name == "every":
        return Compiled(_compile_every(spec, text, context), idle)
    if name == "at":
        return Compiled(OnceSchedule(resolve_instant(text, context.anchor_ms)), idle)
    if name == "kind":
        return Compiled(compile_kind(text, spec.config or ""), idle)
    if name == "solar" and spec.solar is not None:
        from natscron.schedule.solar import compile_solar  # noqa: PLC0415 - as above

        return Compiled(compile_solar(spec.solar), idle)
    raise InvalidScheduleError(f"'{name}' cannot stand here")
