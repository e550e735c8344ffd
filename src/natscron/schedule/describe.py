"""Schedules in plain English, read off the compiled masks, so that the sentence cannot say more than what will fire."""

from typing import Final

from natscron.durations import format_duration
from natscron.model import ScheduleSpec, Solar
from natscron.schedule.base import ms_of
from natscron.schedule.compile import inherited, jitter_ms_of
from natscron.schedule.cron import CronSchedule
from natscron.schedule.days import DayFields
from natscron.schedule.instants import format_instant, resolve_instant
from natscron.schedule.interval import IntervalSchedule
from natscron.schedule.once import OnceSchedule
from natscron.schedule.plain import Context, compile_plain, shown

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


def _solar(solar: Solar) -> str:
    north, east = solar.latitude, solar.longitude
    latitude = f"{abs(north):g}\N{DEGREE SIGN}{'N' if north >= 0 else 'S'}"
    longitude = f"{abs(east):g}\N{DEGREE SIGN}{'E' if east >= 0 else 'W'}"
    text = f"{solar.event} at {latitude} {longitude}"
    if solar.offset:
        early = solar.offset.startswith("-")
        text = f"{solar.offset.lstrip('+-')} {'before' if early else 'after'} {text}"
    return f"every day, {text}"


def _one(spec: ScheduleSpec, context: Context) -> str:
    """A schedule of one kind."""
    schedule = compile_plain(spec, context).schedule
    if isinstance(schedule, CronSchedule):
        return _cron(schedule, spec)
    if isinstance(schedule, IntervalSchedule):
        text = f"every {format_duration(schedule.interval_ns, short=True)}"
        return f"{text}, starting at {format_instant(ms_of(schedule.start_at))}" if schedule.start_at else text
    if isinstance(schedule, OnceSchedule):
        at = (spec.at or "").strip()
        return f"once, {at}" if at.startswith("in") else f"once, at {format_instant(schedule.at_ms)}"
    if spec.solar is not None:
        return _solar(spec.solar)
    if spec.rrule:
        text = f"by the recurrence rule {' '.join(spec.rrule.split())}, {spec.tz or 'UTC'}"
        return f"{text}, starting at {_shown_instant(spec.start_at)}" if spec.start_at else text
    return f"as '{spec.kind}' says" + (f" of '{shown(spec.config)}'" if spec.config else "")


def _shown_instant(text: str) -> str:
    """An instant in UTC; one that is still relative as it is."""
    return text.strip() if text.strip().startswith("in") else format_instant(resolve_instant(text, 0))


def _parts(items: tuple[ScheduleSpec, ...], whole: ScheduleSpec, context: Context) -> str:
    texts = [_one(inherited(item, whole), context) for item in items]
    # A sentence holds commas and the word "and", so several are told apart by numbers.
    return texts[0] if len(texts) == 1 else "; ".join(f"({i}) {text}" for i, text in enumerate(texts, 1))


def _around(spec: ScheduleSpec, context: Context) -> list[str]:
    """What stands around the kind or the union."""
    texts = []
    if spec.run_at_start:
        texts.append("and once when it is created")
    if named := [shown(item.calendar) for item in spec.except_ if item.calendar]:
        texts.append(f"except within the calendar{'s' if len(named) > 1 else ''} {_joined(named)}")
    if slots := tuple(item for item in spec.except_ if not item.calendar):
        texts.append(f"except when these have a slot: {_parts(slots, spec, context)}")
    if spec.not_before:
        texts.append(f"not before {_shown_instant(spec.not_before)}")
    if spec.not_after:
        texts.append(f"not after {_shown_instant(spec.not_after)}")
    if spec.max_runs is not None:
        texts.append("once in all" if spec.max_runs == 1 else f"{spec.max_runs} times in all")
    if spec.last_slot:
        texts.append(f"the last one at {_shown_instant(spec.last_slot)}")
    if spec.jitter:
        texts.append(f"each up to {format_duration(jitter_ms_of(spec.jitter) * 1_000_000, short=True)} later")
    return texts


def describe(spec: ScheduleSpec, *, seed: str = "", lenient: bool = False) -> str:
    """What the schedule says, in English: ``at 09:00 on Monday, Europe/Berlin``, ``every 30s``.

    Calendars are named, not looked up. ``seed`` is the job's id, which ``H`` depends on; ``lenient`` as in compiling.
    Raises :class:`~natscron.errors.InvalidScheduleError` as compiling does, as far as one part of it is wrong.
    """
    context = Context(0, seed, lenient=lenient)
    text = _parts(spec.any, spec, context) if spec.any else _one(spec, context)
    if len(spec.any) > 1:
        text = f"whenever one of these says so: {text}"
    separator = "; " if spec.any or any(not item.calendar for item in spec.except_) else ", "
    return separator.join([text, *_around(spec, context)])
