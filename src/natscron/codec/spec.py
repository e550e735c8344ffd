"""A schedule as JSON: reading with errors that name the place (``schedule.any[2].cron``), and writing.

Types, names of fields, counts and nesting are checked here: members of ``any`` and ``except`` have no members of their
own, so there is no depth to bound. What the texts say, and whether exactly one kind is given, is decided above: stored
rows of the Go version hold odd schedules that are kept as they are.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeAlias

import msgspec

from natscron.codec.gojson import fold, go_type_error
from natscron.errors import ValidationError
from natscron.model import ScheduleSpec, Solar

__all__ = ["MAX_MEMBERS", "MAX_RUNS", "read_schedule", "schedule_json", "uses_later"]

JSON: TypeAlias = Any

MAX_MEMBERS: Final = 8
"""The most members of ``any``, and of ``except``."""
MAX_RUNS: Final = 10_000

_TEXTS: Final = frozenset(
    {
        *("every", "cron", "at", "tz", "start_at", "dst_gap", "dst_fold", "rrule", "kind", "config"),
        *("calendar", "not_before", "not_after", "last_slot", "jitter", "timer"),
    }
)
_PLAIN: Final = (*("every", "cron", "at", "rrule", "solar", "kind", "config", "tz", "start_at", "dst_gap", "dst_fold"),)
"""What a member of a schedule may have."""
_WHOLE: Final = (
    *("every", "cron", "at", "rrule", "solar", "any", "kind", "config", "tz", "start_at", "run_at_start", "dst_gap"),
    *("dst_fold", "except", "not_before", "not_after", "max_runs", "last_slot", "jitter", "timer"),
)
_EXCEPT: Final = (*_PLAIN, "calendar")
_KEYS: Final = {name: name for name in (*_WHOLE, "calendar")}
_SOLAR_KEYS: Final = {name: name for name in ("event", "latitude", "longitude", "offset")}
_FIRST: Final = frozenset({"every", "cron", "at", "tz", "start_at", "run_at_start", "dst_gap", "dst_fold"})
_later: Final = attrgetter(*(name for name in ScheduleSpec.__struct_fields__ if name not in _FIRST))
_NOTHING_LATER: Final = _later(ScheduleSpec())


def read_schedule(value: JSON) -> ScheduleSpec | None:
    """The schedule as data. null is none; an empty text, and null in a field, count as absent, as in Go.

    Raises MalformedInputError for a wrong JSON type and ValidationError for anything else.
    """
    return None if value is None else _spec(value, "schedule", _WHOLE)


def _spec(value: JSON, where: str, known: tuple[str, ...]) -> ScheduleSpec:
    go_name = "JobDefinition.schedule" if where == "schedule" else f".{where}"
    if not isinstance(value, dict):
        raise go_type_error(value, go_name, "struct")
    kept: dict[str, Any] = {}
    for name, item in fold(value, _KEYS).items():
        if name not in known and (item is not None or name not in _KEYS):
            raise _unwanted(name, where, known)
        if name in _TEXTS:
            kept[name] = _text(item, f".{where}.{name}") or None
        elif item is not None:
            kept["except_" if name == "except" else name] = _OTHERS[name](item, f"{where}.{name}")
    return ScheduleSpec(**kept)


def _unwanted(name: str, where: str, known: tuple[str, ...]) -> ValidationError:
    if name not in _KEYS:
        inside = "" if where == "schedule" else f" in {where}"
        return ValidationError(f"unknown schedule field {name[:64]!r}{inside}; known are {', '.join(known)}")
    if name == "calendar":
        return ValidationError(f'{where}.calendar has its place in "except" only')
    return ValidationError(f"{where}.{name} is not possible there; set it beside 'any' or 'except'")


def _flag(value: JSON, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise go_type_error(value, f".{where}", "bool")


def _members(value: JSON, where: str, known: tuple[str, ...]) -> tuple[ScheduleSpec, ...]:
    if not isinstance(value, list):
        raise go_type_error(value, f".{where}", "[]struct")
    if not 1 <= len(value) <= MAX_MEMBERS:
        raise ValidationError(f"{where} must have from 1 to {MAX_MEMBERS} members; got {len(value)}")
    return tuple(_spec(item, f"{where}[{index}]", known) for index, item in enumerate(value))


def _solar(value: JSON, where: str) -> Solar:
    if not isinstance(value, dict):
        raise go_type_error(value, f".{where}", "struct")
    found = fold(value, _SOLAR_KEYS)
    for name in found:
        if name not in _SOLAR_KEYS:
            raise ValidationError(f"unknown field {name[:64]!r} in {where}; known are {', '.join(_SOLAR_KEYS)}")
    event = _text(found.get("event"), f".{where}.event")
    if not event:
        raise ValidationError(f"{where}.event is required: dawn, sunrise, noon, sunset or dusk")
    return Solar(
        event=event,
        latitude=_degrees(found.get("latitude"), f"{where}.latitude", 90),
        longitude=_degrees(found.get("longitude"), f"{where}.longitude", 180),
        offset=_text(found.get("offset"), f".{where}.offset") or None,
    )


def _degrees(value: JSON, where: str, most: int) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and -most <= value <= most:
        return float(value)
    raise ValidationError(f"{where} must be a number from -{most} to {most}; got {repr(value)[:64]}")


def _count(value: JSON, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RUNS:
        return value
    raise ValidationError(f"{where} must be a whole number from 1 to {MAX_RUNS}; got {repr(value)[:64]}")


def _text(value: JSON, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise go_type_error(value, where, "string")


_OTHERS: Final[dict[str, Callable[[JSON, str], Any]]] = {
    "run_at_start": _flag,
    "max_runs": _count,
    "solar": _solar,
    "any": lambda value, where: _members(value, where, _PLAIN),
    "except": lambda value, where: _members(value, where, _EXCEPT),
}
"""Readers of the fields that are no texts."""


def schedule_json(spec: ScheduleSpec) -> dict[str, Any]:
    """The fields that are set, the Go version's first."""
    found: dict[str, Any] = msgspec.to_builtins(spec)
    for name in ("any", "except"):
        if name in found:
            found[name] = list(found[name])
    return found


def uses_later(spec: ScheduleSpec | None) -> bool:
    """Whether the schedule says anything that instances with reader version 1 cannot honour."""
    return spec is not None and _later(spec) != _NOTHING_LATER
