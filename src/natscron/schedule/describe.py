"""Schedules in plain English, read off the compiled masks, so that the sentence cannot say more than what will fire."""

from typing import Final

from natscron.durations import format_duration
from natscron.model import ScheduleSpec
from natscron.schedule.base import ms_of
from natscron.schedule.compile import compile_schedule
from natscron.schedule.cron import CronSchedule
from natscron.schedule.days import DayFields
from natscron.schedule.instants import format_instant
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import WithStart

__all__ = ["describe"]

_WEEKDAYS: Final = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS: Final = (
    *("", "January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_ORDINALS: Final = ("last", "first", "second", "third", "fourth", "fifth")
_ENDINGS: Final = {2: "nd", 3: "rd"}
_ALL_DOM: Final = (1 << 32) - 2
_ALL_DOW: Final = (1 << 7) - 1
_ALL_MONTHS: Final = (1 << 13) - 2
_MOST_TIMES: Final = 6
_SHORTEST_RUN: Final = 3
_FEWEST_STEPS: Final = 3
_MONDAY_FIRST: Final = (1, 2, 3, 4, 5, 6, 0)
_GAPS: Final = {
    "run_after": "slots skipped by a clock change run right after it",
    "skip": "slots skipped by a clock change are dropped",
    "shift": "slots skipped by a clock change run as late as it moved the clock",
}
_FOLDS: Final = {
    "first": "repeated ones run the first time",
    "last": "repeated ones run the second time",
    "both": "repeated ones run both times",
}


def _values(mask: int) -> list[int]:
    return [value for value in range(mask.bit_length()) if mask >> value & 1]


def _joined(parts: list[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _listed(names: list[tuple[int, str]]) -> str:
    """Numbered names as a list in which three or more in a row are ``a to b``."""
    runs: list[list[tuple[int, str]]] = []
    for number, name in names:
        if runs and runs[-1][-1][0] + 1 == number:
            runs[-1].append((number, name))
        else:
            runs.append([(number, name)])
    parts: list[str] = []
    for run in runs:
        if len(run) >= _SHORTEST_RUN:
            parts.append(f"{run[0][1]} to {run[-1][1]}")
        else:
            parts.extend(name for _, name in run)
    return _joined(parts)


def _numbers(values: list[int]) -> str:
    return _listed([(value, str(value)) for value in values])


def _step(values: list[int], size: int) -> int:
    """N if the values are 0, n, 2n and so on all around a circle of ``size``; else 0."""
    step = values[1] if len(values) > 1 else 0
    return step if step and size % step == 0 and values == list(range(0, size, step)) else 0


def _part(values: list[int], size: int, unit: str, whole: str) -> str:
    """What one time field says within the next larger unit, ``whole``."""
    step = _step(values, size)
    if step == 1:
        return f"every {unit}"
    if step and len(values) >= _FEWEST_STEPS:
        return f"every {step} {unit}s"
    return f"at {unit} {_numbers(values)}{whole}"


def _within(values: list[int], size: int, unit: str) -> str:
    """The larger units in which a smaller one repeats: ``in every 2nd hour``, ``in the hours 9 to 17``."""
    step = _step(values, size)
    if step > 1 and len(values) >= _FEWEST_STEPS:
        return f"in every {step}{_ENDINGS.get(step, 'th')} {unit}"
    return f"in the {unit}s {_numbers(values)}" if len(values) > 1 else f"in {unit} {values[0]}"


def _times(schedule: CronSchedule) -> tuple[str, bool]:
    """The time of day, and whether it is a list of times."""
    pattern = schedule.pattern
    seconds, minutes, hours = _values(pattern.seconds), _values(pattern.minutes), _values(pattern.hours)
    if len(seconds) * len(minutes) * len(hours) <= _MOST_TIMES:
        form = "{:02}:{:02}" if seconds == [0] else "{:02}:{:02}:{:02}"
        return "at " + _joined([form.format(h, m, s) for h in hours for m in minutes for s in seconds]), True
    every_hour, every_minute = len(hours) == 24, len(minutes) == 60  # noqa: PLR2004 - a day, an hour
    parts = []
    if seconds != [0]:
        parts.append(_part(seconds, 60, "second", " of every minute" if every_minute else ""))
    if seconds == [0]:
        parts.append(_part(minutes, 60, "minute", " of every hour" if every_hour else ""))
    elif not every_minute:
        parts.append(_within(minutes, 60, "minute"))
    if not every_hour:
        parts.append(_within(hours, 24, "hour"))
    return ", ".join(parts), False


def _dom(days: DayFields) -> str:
    parts = []
    if days.dom:
        values = _values(days.dom)
        parts.append(f"day{'s' if len(values) > 1 else ''} {_numbers(values)} of the month")
    parts.extend(
        f"{before} days before the last day of the month" if before else "the last day of the month"
        for before in days.last
    )
    parts.extend(
        f"the weekday nearest to day {near}" if near else "the last weekday (Monday to Friday) of the month"
        for near in days.near
    )
    return "on " + _joined(parts)


def _dow(days: DayFields) -> str:
    parts = []
    if days.dow:
        parts.append(_listed([(i, _WEEKDAYS[day]) for i, day in enumerate(_MONDAY_FIRST) if days.dow >> day & 1]))
    parts.extend(f"the {_ORDINALS[k]} {_WEEKDAYS[day]} of the month" for day, k in days.nth)
    return "on " + _joined(parts)


def _days(days: DayFields, *, daily: bool) -> str:
    free = days.dom == _ALL_DOM, days.dow == _ALL_DOW
    if days.both:
        parts = [text for text, is_free in ((_dom(days), free[0]), (_dow(days), free[1])) if not is_free]
    else:
        parts = [] if any(free) else [f"{_dom(days)} or {_dow(days)}"]
    if not parts and daily:
        parts.append("every day")
    if days.month != _ALL_MONTHS:
        parts.append("in " + _listed([(month, _MONTHS[month]) for month in _values(days.month)]))
    return " ".join(parts)


def _cron(schedule: CronSchedule, spec: ScheduleSpec) -> str:
    times, daily = _times(schedule)
    days = _days(schedule.pattern.days, daily=daily)
    text = f"{times}{' ' if daily else ', '}{days}" if days else times
    rules = [words for words in (_GAPS.get(spec.dst_gap or ""), _FOLDS.get(spec.dst_fold or "")) if words]
    return ", ".join([text, schedule.zone_name, *rules])


def describe(spec: ScheduleSpec, *, seed: str = "", lenient: bool = False) -> str:
    """What the schedule says, in English: ``at 09:00 on Monday, Europe/Berlin``, ``every 30s``.

    ``seed`` is the job's id, which ``H`` depends on; ``lenient`` as in compiling. Raises
    :class:`~natscron.errors.InvalidScheduleError` as compiling does.
    """
    schedule = compile_schedule(spec, anchor_ms=0, seed=seed, lenient=lenient).schedule
    inner = schedule.inner if isinstance(schedule, WithStart) else schedule
    if isinstance(inner, CronSchedule):
        text = _cron(inner, spec)
    elif isinstance(inner, IntervalSchedule):
        text = f"every {format_duration(inner.interval_ns, short=True)}"
        if inner.start_at:
            text += f", starting at {format_instant(ms_of(inner.start_at))}"
    elif spec.at and inner.run_at is not None:
        relative = spec.at.strip().startswith("in")
        text = f"once, {spec.at.strip()}" if relative else f"once, at {format_instant(ms_of(inner.run_at))}"
    else:  # pragma: no cover - there are three kinds
        raise AssertionError(spec)
    return f"{text}, and once when it is created" if spec.run_at_start else text
