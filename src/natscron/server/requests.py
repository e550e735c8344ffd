"""What the API's requests look like, and how they are read.

Field names match in any case, null is as good as absent and unknown fields are ignored, as in the Go version. Jobs
themselves are read by :mod:`natscron.codec`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, get_type_hints

import msgspec
import msgspec.inspect
from msgspec import UNSET, Meta

from natscron.codec.gojson import as_object, decode, fold, go_type_error, normalise
from natscron.errors import ValidationError
from natscron.model import JobState, Overlap, RunStatus

__all__ = [
    "BackfillRequest",
    "BackfillsRequest",
    "CalendarRequest",
    "CalendarsRequest",
    "CancelRequest",
    "ListRequest",
    "PatternRequest",
    "PauseRequest",
    "PreviewRequest",
    "ReportRequest",
    "ResumeRequest",
    "RunRequest",
    "RunsRequest",
    "SkipRequest",
    "SubjectRequest",
    "TriggerRequest",
    "fields_of",
    "not_valid",
    "read",
    "revision_of",
]

Input: TypeAlias = bytes | str | Mapping[str, Any]
_Request = TypeVar("_Request", bound=msgspec.Struct)

_Revision: TypeAlias = Annotated[
    int | str, Meta(description="refuse unless the row is at this revision; 0 expects that there is none")
]
_MAX_REVISION: Final = (1 << 63) - 1
_Subject: TypeAlias = Annotated[str, Meta(description="the job's subject, which is its id")]


class SubjectRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job: ``jobs.get``, ``jobs.delete``."""

    subject: _Subject = ""
    expected_revision: _Revision | None = None


class ResumeRequest(SubjectRequest, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.resume``."""

    note: Annotated[str, Meta(max_length=4096, description="why; replaces the job's note")] | None = None


class PauseRequest(ResumeRequest, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.pause``."""

    until: Annotated[str, Meta(max_length=64, description="when it ends by itself: RFC 3339, or in 2h")] | None = None


class SkipRequest(SubjectRequest, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.skip``: leave out the next slots."""

    count: Annotated[int, Meta(ge=0, le=1000, description="how many; 0 takes a skip back")] = 1


class PatternRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.delete.pattern``."""

    pattern: Annotated[str, Meta(description="subjects to match: * is one token, a last > one or more")] = ""


class ListRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.list``. Without any field: all that fits in one message."""

    pattern: Annotated[str, Meta(description="subjects to match")] = ""
    state: Annotated[JobState, Meta(description="only jobs in this state")] | None = None
    label: Annotated[str, Meta(description="NAME or NAME=VALUE")] = ""
    limit: Annotated[int, Meta(ge=1, le=100_000, description="most jobs in the reply")] | None = None
    cursor: Annotated[str, Meta(max_length=64, description="the next of the previous page")] = ""


class TriggerRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.trigger``: one run now."""

    subject: _Subject = ""
    payload: Any = UNSET
    key: Annotated[str, Meta(max_length=256, description="the same key never makes a second run")] | None = None
    overlap: Annotated[Overlap, Meta(description="for this run, instead of the job's")] | None = None


class PreviewRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``jobs.preview``: when a schedule, or a stored job, is due."""

    subject: _Subject = ""
    schedule: Annotated[dict[str, Any], Meta(description="a schedule as in a job")] | None = None
    after: Annotated[str, Meta(max_length=64, description="RFC 3339, exclusive; default now")] | None = None
    count: Annotated[int, Meta(ge=1, le=1000)] = 5


class RunsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``runs.list``: records, newest first."""

    job: Annotated[str, Meta(description="only this job's")] = ""
    status: RunStatus | None = None
    since: Annotated[str, Meta(max_length=64, description="RFC 3339, inclusive")] | None = None
    until: Annotated[str, Meta(max_length=64, description="RFC 3339, exclusive")] | None = None
    ascending: bool = False
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100
    cursor: Annotated[str, Meta(max_length=64, description="the next of the previous page")] = ""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``runs.get``: one run's records, all attempts."""

    run_id: str = ""
    job: Annotated[str, Meta(description="its job, where known: makes the search short")] = ""


class ReportRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``runs.report``: what a worker says about a run it has received."""

    run_id: str = ""
    job: Annotated[str, Meta(description="its job, where known: makes the search short")] = ""
    status: Literal["running", "completed", "failed"]
    attempt: Annotated[int, Meta(ge=1, le=1000)] = 1
    started_at: Annotated[str, Meta(max_length=64, description="RFC 3339")] | None = None
    code: Annotated[str, Meta(max_length=128, description="the worker's own error code, for retry")] | None = None
    error: Annotated[str, Meta(max_length=4096)] | None = None
    result: Annotated[str, Meta(max_length=4096)] | None = None


class BackfillRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """``jobs.backfill``: run every slot of a past range."""

    subject: _Subject = ""
    from_: Annotated[str, Meta(max_length=64, description="RFC 3339, inclusive")] = ""
    to: Annotated[str, Meta(max_length=64, description="RFC 3339, inclusive; default now")] | None = None
    rate: Annotated[str, Meta(max_length=32, description="most slots a second (10/s), minute (30/m) or hour")] = "10/s"
    overlap: Annotated[Overlap, Meta(description="instead of the job's")] | None = None
    key: Annotated[str, Meta(max_length=256, description="the same key never makes a second backfill")] | None = None
    dry_run: Annotated[bool, Meta(description="only say how many slots there are")] = False


class BackfillsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``backfills.list``: those going on."""

    job: Annotated[str, Meta(description="only this job's")] = ""


class CancelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``backfills.cancel``."""

    id: Annotated[str, Meta(max_length=64, description="the backfill's id")] = ""


class CalendarRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One calendar: ``calendars.get``, ``calendars.delete``."""

    name: Annotated[str, Meta(max_length=255, description="the calendar's name")] = ""
    expected_revision: _Revision | None = None


class CalendarsRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``calendars.list``. Without any field: all that fits in one message."""

    limit: Annotated[int, Meta(ge=1, le=10_000, description="most calendars in the reply")] | None = None
    cursor: Annotated[str, Meta(max_length=255, description="the next of the previous page")] = ""


def fields_of(data: Input) -> dict[str, Any]:
    """The object in ``data``; null is an empty one. Raises MalformedInputError."""
    return as_object(normalise(dict(data)) if isinstance(data, Mapping) else decode(data), "struct")


class _Shape:
    """The fields of a request type, and which of them are strings in Go's sense."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
        self.known = {name: name for name in names.values()}
        hints = get_type_hints(kind)
        self.texts = {name for field, name in names.items() if hints[field] in (str, str | None)}


_SHAPES: Final[dict[type[msgspec.Struct], _Shape]] = {
    kind: _Shape(kind)
    for kind in (
        SubjectRequest,
        ResumeRequest,
        PauseRequest,
        SkipRequest,
        PatternRequest,
        ListRequest,
        TriggerRequest,
        PreviewRequest,
        RunsRequest,
        RunRequest,
        ReportRequest,
        BackfillRequest,
        BackfillsRequest,
        CancelRequest,
        CalendarRequest,
        CalendarsRequest,
    )
}


def read(kind: type[_Request], data: Input, *, empty_is_default: bool = False) -> _Request:
    """The request in ``data``. Raises MalformedInputError and ValidationError, with Go's texts where it has any."""
    if empty_is_default and not data:
        return kind()
    shape = _SHAPES[kind]
    given = {}
    for name, value in fold(fields_of(data), shape.known).items():
        if value is None or name not in shape.known:
            continue
        if name in shape.texts and not isinstance(value, str):
            raise go_type_error(value, f".{name}", "string")
        given[name] = value
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise not_valid(kind, given, error) from None


def not_valid(kind: type[msgspec.Struct], given: Mapping[str, Any], error: msgspec.ValidationError) -> ValidationError:
    """An error that names field, rule and value, for one that names the types of a library."""
    if missing := re.search(r"missing required field `(\w+)`", str(error)):
        return ValidationError(f"{missing[1]} is required")
    found = re.fullmatch(r"(.*) - at `\$\.(\w+)`", str(error))
    field = next((one for one in msgspec.structs.fields(kind) if found and one.encode_name == found[2]), None)
    if found is None or field is None or found[2] not in given:
        return ValidationError(f"the request is not valid: {error}")
    rule = _rule(msgspec.inspect.type_info(field.type))
    return ValidationError(f"{found[2]} must be {rule}; got {repr(given[found[2]])[:64]}")


def _rule(kind: msgspec.inspect.Type) -> str:
    """What a value has to be, in words."""
    match kind:
        case msgspec.inspect.Metadata():
            words = _rule(kind.type)
        case msgspec.inspect.UnionType():
            words = " or ".join(_rule(one) for one in kind.types if not isinstance(one, msgspec.inspect.NoneType))
        case msgspec.inspect.IntType():
            bounds = [] if kind.ge is None else [f"at least {kind.ge}"]
            bounds += [] if kind.le is None else [f"at most {kind.le}"]
            words = "a whole number" + (f" of {' and '.join(bounds)}" if bounds else "")
        case msgspec.inspect.StrType():
            words = "text" if kind.max_length is None else f"text of at most {kind.max_length} characters"
        case msgspec.inspect.EnumType():
            words = f"one of {', '.join(one.value for one in kind.cls)}"
        case msgspec.inspect.LiteralType():
            words = f"one of {', '.join(map(str, kind.values))}"
        case _:
            words = "true or false" if isinstance(kind, msgspec.inspect.BoolType) else "an object"
    return words


def revision_of(value: Any) -> int | None:  # noqa: ANN401 - any JSON value
    """``expected_revision`` as a number: replies give revisions as text, so both are taken. None: not given."""
    if value is None:
        return None
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - 64 bits
        number = int(value)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= _MAX_REVISION:
        return number
    raise ValidationError(f"expected_revision must be a whole number from 0 to {_MAX_REVISION}; got {repr(value)[:64]}")
