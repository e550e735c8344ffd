"""From a schedule as data to one that can be asked. Every rule about what a schedule may say is checked here."""

import re
from functools import lru_cache
from typing import Final, NamedTuple

from natscron.durations import format_duration, parse_duration
from natscron.errors import (
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    ValidationError,
)
from natscron.model import ScheduleSpec
from natscron.schedule.base import MAX_MS, Schedule
from natscron.schedule.cron import CronSchedule, Fold, Gap, ZonedCronSchedule
from natscron.schedule.days import NEVER, day_set
from natscron.schedule.fields import parse_fields
from natscron.schedule.instants import format_instant, resolve_instant
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import OnceSchedule, WithStart
from natscron.schedule.pattern import Pattern
from natscron.schedule.zones import zone_named

__all__ = ["DEFAULT_MIN_INTERVAL_NS", "MAX_EXPRESSION", "Compiled", "compile_schedule", "resolve_spec"]

DEFAULT_MIN_INTERVAL_NS: Final = 10_000_000
MAX_EXPRESSION: Final = 1024
"""Characters of the longest cron expression that is looked at."""

_MS: Final = 1_000_000
_SECOND: Final = 1_000_000_000
_MAX_SHOWN: Final = 64
_UTC_NAMES: Final = frozenset({"", "UTC", "Etc/UTC", "Zulu", "Etc/Zulu", "GMT", "Etc/GMT"})
_PREFIX: Final = re.compile(r"(?:CRON_)?TZ=(\S*)(?:\s+(.*))?", re.DOTALL)
_HASHED: Final = re.compile(r"(?<![A-Za-z])H(?![A-Za-z])|~")  # not the H of THU, which all jobs can share
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
_LAYOUT: Final = "minute hour day-of-month month day-of-week; a sixth field, the seconds, comes first"
_FIELD_COUNTS: Final = (5, 6)
_FIRST_DAY: Final = 10_957  # 2000-01-01; 50 years from there hold every shape of month, 29 February on each weekday too
_SPACING_SLOTS: Final = 500


class Compiled(NamedTuple):
    """A schedule, and what its author should know about it."""

    schedule: Schedule
    warnings: tuple[str, ...] = ()


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _rule(kind: type[Gap] | type[Fold], name: str, value: str | None) -> None:
    if value is not None and value not in list(kind):
        raise InvalidScheduleError(f"{name} '{_shown(value)}' is not known: use one of {', '.join(kind)}")


@lru_cache(maxsize=8192)
def _cron(expression: str, zone_name: str, gap: str | None, fold: str | None, seed: str, lenient: bool) -> Compiled:  # noqa: FBT001, PLR0913, PLR0917 - the cache keys on positions
    """The shared schedule of equal settings; ``seed`` is empty unless the expression hashes it."""
    texts = _ALIASES.get(expression.lower(), expression).split()
    if not texts:
        raise ValidationError(f"empty spec string (expected {_LAYOUT})")
    if texts[0].startswith("@"):
        raise ValidationError(f"unrecognized descriptor: {_shown(expression)} (known: {' '.join(_ALIASES)} @every)")
    if len(texts) not in _FIELD_COUNTS:
        raise ValidationError(
            f"expected exactly 5 fields, found {len(texts)}: [{_shown(' '.join(texts))}] (or 6; {_LAYOUT})"
        )
    fields, warnings = parse_fields(texts, seed=seed, lenient=lenient)
    if day_set(fields.days).on_or_after(_FIRST_DAY) == NEVER:
        raise ValidationError("it never matches: no such day comes within 50 years; check day of month and month")
    pattern = Pattern(fields.seconds, fields.minutes, fields.hours, fields.days)
    if zone_name in _UTC_NAMES:
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
        raise ValidationError(f"the zone prefix stands alone: the fields follow it, as in '{_shown(text)} 0 9 * * *'")
    if tz is not None and tz != zone:
        raise ValidationError(f"the prefix says zone '{_shown(zone)}' and tz says '{_shown(tz)}': give one")
    if zone not in _UTC_NAMES:
        try:
            zone_named(zone)
        except ValidationError as error:
            raise ValidationError(f"provided bad location {_shown(zone)}: {error}") from None
    return fields, zone


def _spaced(schedule: Schedule, min_interval_ns: int) -> None:
    """Refuse cron slots that lie closer together than the minimum; only minimums over a second can be broken."""
    if min_interval_ns <= _SECOND:
        return
    slot = schedule.next_after_ms(_FIRST_DAY * 86_400_000)
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
        hashed = seed if _HASHED.search(expression) else ""
        compiled = _cron(expression, zone, spec.dst_gap, spec.dst_fold, hashed, lenient)
        _spaced(compiled.schedule, min_interval_ns)
    except ValidationError as error:
        raise InvalidCronExpressionError(f"invalid cron expression '{_shown(text)}': {error}") from None
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


def _compile_every(spec: ScheduleSpec, text: str, anchor_ms: int, min_interval_ns: int) -> Schedule:
    try:
        interval_ns = _interval(text, min_interval_ns)
    except ValidationError as error:
        raise InvalidIntervalError(f"invalid duration '{_shown(text)}': {error} (such as 30s, 5m or 1h30m)") from None
    if not spec.start_at:
        return IntervalSchedule(interval_ns, anchor_ms, first=0 if spec.run_at_start else 1, explicit=False)
    schedule = IntervalSchedule(interval_ns, resolve_instant(spec.start_at, anchor_ms), first=0, explicit=True)
    return WithStart(schedule, anchor_ms) if spec.run_at_start else schedule


def _checked(spec: ScheduleSpec, anchor_ms: int) -> None:
    """What can be said of a schedule whatever its kind."""
    _rule(Gap, "dst_gap", spec.dst_gap)
    _rule(Fold, "dst_fold", spec.dst_fold)
    if not 0 <= anchor_ms <= MAX_MS:
        raise InvalidScheduleTimeError(f"the anchor {anchor_ms} ms lies outside the years 1970 to 9999")
    if spec.tz and spec.tz not in _UTC_NAMES:
        try:
            zone_named(spec.tz)
        except ValidationError as error:
            raise InvalidScheduleError(f"{error}: tz takes an IANA name such as Europe/Berlin") from None


def _only(spec: ScheduleSpec) -> tuple[str, str]:
    """The one of ``every``, ``cron`` and ``at`` that is given, and its text; empty text counts as not given.

    An alias says by itself which of the first two it is.
    """
    given = [(name, text) for name in ("every", "cron", "at") if (text := getattr(spec, name))]
    if not given:
        raise InvalidScheduleError("schedule must specify either 'every' or 'cron' (or 'at')")
    if len(given) > 1:
        names = [f"'{name}'" for name, _ in given]
        rest = f" (and {names[2]})" if len(names) > 2 else ""  # noqa: PLR2004 - three can be given
        raise InvalidScheduleError(f"schedule cannot specify both {names[0]} and {names[1]}{rest}: give exactly one")
    name, text = given[0]
    if name == "at":
        return name, text
    text = text.strip()
    prefixed = _PREFIX.fullmatch(text)
    alias = prefixed[2] or "" if prefixed else text  # an interval is the same in every zone
    if alias[: len(_EVERY)].lower() == _EVERY:
        return "every", alias[len(_EVERY) :].strip()
    return "cron" if alias.startswith("@") else name, text


def compile_schedule(
    spec: ScheduleSpec,
    *,
    anchor_ms: int,
    seed: str = "",
    min_interval_ns: int = DEFAULT_MIN_INTERVAL_NS,
    lenient: bool = False,
) -> Compiled:
    """Compile a schedule; equal cron settings share one object.

    ``anchor_ms``: the job's creation, what an interval counts from unless ``start_at`` is given. ``seed``: the job's
    id, hashed by ``H`` and ``~``. ``min_interval_ns``: the shortest interval taken (default 10 ms, at least 1 ms).
    ``lenient``: the row was stored by the Go version; its parser's oddities are taken with a warning.

    Raises the subclass of :class:`~natscron.errors.InvalidScheduleError` that fits, saying what is wrong and what
    would be right; in both modes also for what can never fire.
    """
    _checked(spec, anchor_ms)
    name, text = _only(spec)
    if spec.start_at and name != "every":
        raise InvalidScheduleError(f"start_at anchors an interval: it goes with 'every', not with '{name}'")
    if name == "cron":
        compiled = _compile_cron(spec, text, seed, min_interval_ns, lenient=lenient)
    else:
        idle = (
            ("dst_gap and dst_fold are about cron expressions: they change nothing here",)
            if spec.dst_gap or spec.dst_fold
            else ()
        )
        if name == "every":
            return Compiled(_compile_every(spec, text, anchor_ms, min_interval_ns), idle)
        compiled = Compiled(OnceSchedule(resolve_instant(text, anchor_ms)), idle)
    if spec.run_at_start:
        return compiled._replace(schedule=WithStart(compiled.schedule, anchor_ms))
    return compiled


def resolve_spec(spec: ScheduleSpec, now_ms: int) -> ScheduleSpec:
    """The schedule as it is stored: ``in 5m`` becomes an instant counted from ``now_ms``, instants become UTC text.

    The same object comes back if there is nothing to change. Raises
    :class:`~natscron.errors.InvalidScheduleTimeError` for what is not an instant.
    """
    at = format_instant(resolve_instant(spec.at, now_ms)) if spec.at else spec.at
    start_at = format_instant(resolve_instant(spec.start_at, now_ms)) if spec.start_at else spec.start_at
    if at == spec.at and start_at == spec.start_at:
        return spec
    return ScheduleSpec(
        every=spec.every,
        cron=spec.cron,
        at=at,
        tz=spec.tz,
        start_at=start_at,
        run_at_start=spec.run_at_start,
        dst_gap=spec.dst_gap,
        dst_fold=spec.dst_fold,
    )
