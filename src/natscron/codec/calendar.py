"""Calendars: as values of their KV rows, as API input, and as replies.

A calendar lies beside the jobs, so that one sequence orders the writes to both. Its key begins with ``_cal.``, which no
job's key does (:mod:`natscron.codec.keys`). As with a job's row, what the writer cannot know is left out, and a reader
takes it from the row's own message.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from natscron.codec.gojson import as_object, decode, fold, normalise
from natscron.codec.row import needs_newer, own_stamp
from natscron.codec.times import ms_to_text
from natscron.errors import InvalidCalendarError, LimitExceededError, NatscronError, ValidationError
from natscron.model import Calendar, CalendarSpec, CalendarVersion, Stamp, Weekly

__all__ = [
    "MAX_CALENDAR_BYTES",
    "MAX_DATES",
    "MAX_WEEKLY",
    "PREFIX",
    "ParsedCalendar",
    "calendar_key",
    "calendar_name_of",
    "calendar_to_json",
    "calendar_view",
    "check_calendar_name",
    "decode_calendar",
    "encode_calendar",
    "parse_calendar",
]

PREFIX: Final = "_cal."
MAX_CALENDAR_BYTES: Final = 300 * 1024
"""The most bytes of a calendar's content as JSON: with an earlier content or two it fits in a message of 1 MiB."""
MAX_DATES: Final = 1_000
"""The most dates, as when it is compiled."""
MAX_WEEKLY: Final = 100
"""The most weekly windows, as when it is compiled."""
READER: Final = 2
"""Calendars came with this reader version."""

JSON: TypeAlias = Any
Input: TypeAlias = bytes | str | Mapping[str, Any]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEY: Final = re.compile(r"[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")
_MAX_KEY: Final = 255
_TYPE: Final = "Calendar"
_SPEC_KEYS: Final = {name: name for name in ("dates", "weekly", "ical", "tz", "note")}
_WEEKLY_KEYS: Final = {name: name for name in ("days", "start", "end")}
_VIEW_KEYS: Final = {name: name for name in ("revision", "updated_at", "invalid", "jobs")}
"""What replies add: ignored on input, so that what was shown can be put again."""
_INPUT_KEYS: Final = {"name": "name", "expected_revision": "expected_revision", **_SPEC_KEYS, **_VIEW_KEYS}


class ParsedCalendar(msgspec.Struct, frozen=True):
    """A calendar read from input; ``expected_revision`` as it was given (None: not given)."""

    calendar: Calendar
    expected_revision: Any = None


class _Owned(msgspec.Struct, omit_defaults=True):
    reader: int = 0
    counts_from: Stamp | None = None
    previous: tuple[CalendarVersion, ...] = ()


def check_calendar_name(name: str) -> None:
    """Raise InvalidCalendarError unless ``name`` has 1 to 63 characters out of ``a-z 0-9 -``, the first no dash."""
    if _NAME.fullmatch(name) is None:
        raise InvalidCalendarError(
            f"invalid calendar name {name[:64]!r}: at most 63 of a-z, 0-9 and -, and not a dash at the front"
        )


def calendar_key(name: str) -> str:
    """The key of a calendar. Raises InvalidCalendarError if ``name`` makes none.

    Also names that no calendar may be given (a foreign row's) make a key, so that such a row can be read and deleted.
    """
    if _KEY.fullmatch(name) is None or len(name) > _MAX_KEY:
        check_calendar_name(name)
    return PREFIX + name


def calendar_name_of(key: str) -> str | None:
    """The name of the calendar that ``key`` holds; None: it holds a job."""
    return key[len(PREFIX) :] if key.startswith(PREFIX) else None


def encode_calendar(calendar: Calendar) -> bytes:
    """The row. ``counts_from`` empty: counts from this write. Raises InvalidCalendarError for a name that may not be.

    Raises LimitExceededError over :data:`MAX_CALENDAR_BYTES` of content.
    """
    check_calendar_name(calendar.name)
    _check_size(calendar.spec)
    own = _Owned(
        reader=READER,
        counts_from=None if calendar.counts_from == Stamp() else calendar.counts_from,
        previous=calendar.previous,
    )
    return msgspec.json.encode({"calendar": calendar.spec, "natscron": own})


def decode_calendar(key: str, value: bytes, stamp: Stamp, limit: int | None = None) -> Calendar:
    """The calendar stored under ``key`` by the message with ``stamp``. Never raises: see ``Calendar.invalid``.

    ``limit`` is the most bytes a row may have (default: the decoder's own).
    """
    name = calendar_name_of(key)
    if name is None:
        name = key
    try:
        if limit is not None and len(value) > limit:
            raise ValidationError(f"row of {len(value)} bytes is over the limit of {limit}")
        found = as_object(decode(value), _TYPE)
        own = found.pop("natscron", None)
        # A later version may have changed the shape of all the rest, the rules of names too.
        newer = needs_newer(own)
        if newer is not None:
            return _unreadable(name, newer, stamp, newer=True)
        check_calendar_name(name)
        owned = msgspec.convert({} if own is None else own, _Owned)
        spec = read_spec(_object(found.get("calendar"), "calendar"), "calendar.")
        unknown = [field for field in found if field != "calendar"]
        if unknown or "calendar" not in found:
            raise ValidationError("a calendar's row has one field, 'calendar', and 'natscron' beside it")
        return Calendar(
            name=name,
            spec=spec,
            revision=stamp.seq,
            updated_at_ms=stamp.at_ms,
            counts_from=own_stamp(owned.counts_from, stamp),
            previous=tuple(
                msgspec.structs.replace(version, since=own_stamp(version.since, stamp)) for version in owned.previous
            ),
        )
    except (NatscronError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _unreadable(name, str(error) or type(error).__name__, stamp, newer=False)


def _unreadable(name: str, why: str, stamp: Stamp, *, newer: bool) -> Calendar:
    return Calendar(
        name=name, invalid=why, newer=newer, revision=stamp.seq, updated_at_ms=stamp.at_ms, counts_from=stamp
    )


def parse_calendar(data: Input) -> ParsedCalendar:
    """A calendar from ``{"name", ...CalendarSpec, "expected_revision"}``.

    Types, the name, sizes and names of fields are checked here; what dates and windows say is read by
    :mod:`natscron.schedule`. Raises MalformedInputError, InvalidCalendarError and LimitExceededError.
    """
    value = normalise(dict(data)) if isinstance(data, Mapping) else decode(data)
    found = fold(as_object(value, _TYPE), _INPUT_KEYS)
    name = _text(found.get("name"), "name")
    if not name:
        raise InvalidCalendarError("calendar name is required")
    check_calendar_name(name)
    unknown = [field for field in found if field not in _INPUT_KEYS]
    if unknown:
        raise InvalidCalendarError(
            f"unknown calendar field {unknown[0][:64]!r}; known are name, {', '.join(_SPEC_KEYS)}, expected_revision"
        )
    spec = read_spec({field: item for field, item in found.items() if field in _SPEC_KEYS}, "")
    _check_size(spec)
    return ParsedCalendar(Calendar(name=name, spec=spec), found.get("expected_revision"))


def read_spec(value: Mapping[str, JSON], where: str) -> CalendarSpec:
    """The content of a calendar; ``where`` leads the names of its fields in errors. Raises InvalidCalendarError."""
    found = fold(value, _SPEC_KEYS)
    _only(found, _SPEC_KEYS, where)
    return CalendarSpec(
        dates=tuple(
            _text(item, f"{where}dates[{index}]")
            for index, item in enumerate(_entries(found.get("dates"), where + "dates", MAX_DATES))
        ),
        weekly=tuple(
            _weekly(item, f"{where}weekly[{index}]")
            for index, item in enumerate(_entries(found.get("weekly"), where + "weekly", MAX_WEEKLY))
        ),
        ical=_text(found.get("ical"), where + "ical") or None,
        tz=_text(found.get("tz"), where + "tz") or None,
        note=_text(found.get("note"), where + "note"),
    )


def calendar_to_json(calendar: Calendar) -> dict[str, Any]:
    """Name and content as the API shows them; :func:`parse_calendar` reads it back. Defaults are left out."""
    content: dict[str, Any] = msgspec.to_builtins(calendar.spec)
    for name in ("dates", "weekly"):
        if name in content:
            content[name] = list(content[name])
    return {"name": calendar.name, **content}


def calendar_view(calendar: Calendar) -> dict[str, Any]:
    """:func:`calendar_to_json` and what replies add: ``revision``, ``updated_at``, ``invalid`` (if it is)."""
    shown = calendar_to_json(calendar)
    shown["revision"] = calendar.revision
    shown["updated_at"] = ms_to_text(calendar.updated_at_ms) if calendar.updated_at_ms else None
    if calendar.invalid is not None:
        shown["invalid"] = calendar.invalid
    return shown


def _check_size(spec: CalendarSpec) -> None:
    size = len(msgspec.json.encode(spec))
    if size > MAX_CALENDAR_BYTES:
        raise LimitExceededError(f"calendar of {size} bytes is over the limit of {MAX_CALENDAR_BYTES}")


def _weekly(value: JSON, where: str) -> Weekly:
    found = fold(_object(value, where), _WEEKLY_KEYS)
    _only(found, _WEEKLY_KEYS, where + ".")
    texts = {field: _text(item, f"{where}.{field}") for field, item in found.items()}
    return Weekly(**{field: item for field, item in texts.items() if item})


def _object(value: JSON, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidCalendarError(f"{where} must be an object; got {repr(value)[:64]}")


def _entries(value: JSON, where: str, most: int) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidCalendarError(f"{where} must be a list; got {repr(value)[:64]}")
    if len(value) > most:
        raise LimitExceededError(
            f"{where} has {len(value)} entries; at most {most}: write ranges, or split the calendar"
        )
    return value


def _text(value: JSON, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise InvalidCalendarError(f"{where} must be a text; got {repr(value)[:64]}")


def _only(found: Mapping[str, Any], known: Mapping[str, str], where: str) -> None:
    for field in found:
        if field not in known:
            raise InvalidCalendarError(f"unknown calendar field {where}{field[:64]!r}; known are {', '.join(known)}")
