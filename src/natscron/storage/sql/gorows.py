"""Rows of the Go library, as jobs.

Without ``next_run`` a row counts from its adoption, as the Go library would do at a start, and a once job whose
``next_run`` the Go library had moved on has run.
"""

import datetime as dt
from typing import Any, Final

import msgspec

from natscron.codec import GoJob, invalid_row, job_of_go, key_of, schedule_from_text, text_to_ms
from natscron.errors import NatscronError
from natscron.model import Job, Ms, ScheduleSpec, Stamp

__all__ = ["PENDING", "instant_ms", "job_of_row"]

PENDING: Final = "pending"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_CENTURY_MS: Final[Ms] = 100 * 365 * 86_400_000
_labels: Final = msgspec.json.Decoder(dict[str, str] | None)


def instant_ms(moment: dt.datetime | None) -> Ms | None:
    """Whole milliseconds since 1970 UTC, rounded up as a slot is; None for none, and for Go's zero time."""
    if moment is None or moment < _EPOCH:
        return None
    return -((_EPOCH - moment) // dt.timedelta(milliseconds=1))


def job_of_row(row: Any, stamp: Stamp) -> Job:  # noqa: ANN401 - a row of a query
    """The job of a row whose ``row_data`` is NULL; ``stamp``: its adoption. Never raises: see ``Job.invalid``."""
    key = key_of(row.id)
    try:
        spec = schedule_from_text(row.schedule_type or "", row.schedule_config or "")
        job = GoJob(
            id=row.id,
            schedule=spec,
            labels=_labels.decode(row.metadata) if row.metadata else None,
            status=row.status or "",
            created_ms=instant_ms(row.created_at),
            undecided_ms=_undecided_ms(spec, instant_ms(row.next_run)),
            adopted=stamp,
        )
        return job_of_go(key, job)
    except (NatscronError, msgspec.MsgspecError, ValueError) as error:
        return invalid_row(key, stamp, error)


def _undecided_ms(spec: ScheduleSpec, following: Ms | None) -> Ms | None:
    """A once job's slot may lie before ``next_run`` (it was past when it was added).

    When it has run, the Go library moves ``next_run`` a century on.
    """
    if spec.at is None or following is None:
        return following
    at = text_to_ms(spec.at)
    return None if following > at + _CENTURY_MS // 2 else min(at, following)
