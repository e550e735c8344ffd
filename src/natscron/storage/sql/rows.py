"""Jobs and calendars as rows of their tables, and back."""

import datetime as dt
from typing import Any, Final

import msgspec
from sqlalchemy import Select, select

from natscron.codec import GO_DISABLED, decode_row, encode_row, key_of, schedule_to_text
from natscron.codec.calendar import calendar_key, decode_calendar, encode_calendar
from natscron.errors import EmptyJobIDError, InvalidCalendarError, LimitExceededError, ValidationError
from natscron.model import Calendar, Job, Ms, Stamp
from natscron.storage.sql.gorows import PENDING, job_of_row
from natscron.storage.sql.schema import calendars, jobs

__all__ = [
    "CALENDAR_COLUMNS",
    "GO_COLUMNS",
    "JOB_COLUMNS",
    "calendar_of",
    "calendar_values",
    "check_id",
    "check_name",
    "job_of",
    "job_values",
    "moment",
]

MAX_ID: Final = 255
_TYPE_MAX: Final = 50
_CONFIG_MAX: Final = 65_535
"""Bytes of a TEXT column of MySQL."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

JOB_COLUMNS: Final = (jobs.c.id, jobs.c.row_data, jobs.c.revision, jobs.c.stored_ms)
CALENDAR_COLUMNS: Final = (calendars.c.name, calendars.c.row_data, calendars.c.revision, calendars.c.stored_ms)
GO_COLUMNS: Final[Select[Any]] = select(
    jobs.c.id,
    jobs.c.schedule_type,
    jobs.c.schedule_config,
    jobs.c.status,
    jobs.c.next_run,
    jobs.c.created_at,
    jobs.c.metadata,
)
"""What is read of a row without ``row_data``, besides."""


def check_id(job_id: str, *, database: str = "") -> None:
    """Raise EmptyJobIDError, LimitExceededError over 255 characters, ValidationError for what a column cannot hold."""
    if not job_id:
        raise EmptyJobIDError("job id is empty")
    if len(job_id) > MAX_ID:
        raise LimitExceededError(f"the id {job_id[:40]!r}... has {len(job_id)} characters; at most {MAX_ID}")
    _check_text(job_id)
    if database == "mysql" and job_id.endswith(" "):
        # It compares texts as if they were filled up with spaces.
        raise ValidationError(f"the id {job_id[:64]!r} ends in a space, which MySQL does not tell apart from none")


def check_name(name: str) -> None:
    """Raise InvalidCalendarError for a name that no calendar can have."""
    calendar_key(name)
    if len(name) > MAX_ID:
        raise InvalidCalendarError(f"the calendar name {name[:40]!r}... is too long")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError(f"the id {text[:64]!r} is not Unicode text") from None
    if "\0" in text:
        raise ValidationError(f"the id {text[:64]!r} has a NUL character, which no database column holds")


def moment(ms: Ms) -> dt.datetime:
    """An instant for a column of the Go library."""
    return _EPOCH + dt.timedelta(milliseconds=ms)


def job_values(job: Job, now_ms: Ms, row_data: bytes | None = None) -> dict[str, Any]:
    """The columns of a job written at ``now_ms``, without its number. ``row_data``: encoded already."""
    kind, config = ("", "") if job.schedule is None else schedule_to_text(job.schedule)
    return {
        "id": job.id,
        # For people, and for the Go library; what counts is in the row's own data.
        "schedule_type": kind[:_TYPE_MAX],
        "schedule_config": config if len(config.encode()) <= _CONFIG_MAX else "",
        "status": GO_DISABLED if job.paused else PENDING,
        "next_run": None,
        "created_at": moment(job.created_at_ms or now_ms),
        "updated_at": moment(now_ms),
        "metadata": msgspec.json.encode(job.labels).decode(),
        "row_data": encode_row(job) if row_data is None else row_data,
        "stored_ms": now_ms,
    }


def calendar_values(calendar: Calendar, now_ms: Ms) -> dict[str, Any]:
    """The columns of a calendar written at ``now_ms``, without its number."""
    return {"name": calendar.name, "row_data": encode_calendar(calendar), "stored_ms": now_ms}


def job_of(row: Any, go_row: Any = None) -> Job:  # noqa: ANN401 - rows of queries
    """The job of a row of :data:`JOB_COLUMNS`; ``go_row``, of :data:`GO_COLUMNS`, where its ``row_data`` is NULL."""
    stamp = Stamp(row.stored_ms, row.revision)
    if row.row_data is None:
        return job_of_row(go_row, stamp)
    return decode_row(key_of(row.id), row.row_data, stamp)


def calendar_of(row: Any) -> Calendar:  # noqa: ANN401 - a row of a query
    """The calendar of a row of :data:`CALENDAR_COLUMNS`."""
    return decode_calendar(calendar_key(row.name), row.row_data, Stamp(row.stored_ms, row.revision))
