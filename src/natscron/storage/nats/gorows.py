"""Rows of the Go library in the bucket of jobs: JSON with ``schedule_type`` and ``schedule_config``.

A job that was written since is a row of our own. A once job that was not run is due, in the past too.
"""

from typing import Final

import msgspec

from natscron.codec import GoJob, decode_row, invalid_row, job_of_go, schedule_from_text, text_to_ms
from natscron.codec.keys import id_of
from natscron.errors import MalformedInputError, NatscronError
from natscron.model import Job, Ms, ScheduleSpec, Stamp

__all__ = ["decode_library_row"]

_MARK: Final = b'"schedule_type"'
_DONE: Final = frozenset({"completed"})


class _GoRow(msgspec.Struct):
    """As the Go library writes it; times are RFC 3339, its zero time is the year 1."""

    id: str
    schedule_type: str
    schedule_config: str = ""
    status: str = ""
    next_run: str | None = None
    last_run: str | None = None
    created_at: str | None = None
    metadata: dict[str, str] | None = None


_decoder: Final = msgspec.json.Decoder(_GoRow)


def decode_library_row(key: str, value: bytes, stamp: Stamp) -> Job:
    """The job stored under ``key``, in either format. Never raises: see ``Job.invalid``."""
    if _MARK not in value:
        return decode_row(key, value, stamp)
    try:
        row = _decoder.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return decode_row(key, value, stamp)  # the words stand in a payload, or it is broken: told as such
    try:
        if row.id not in {key, id_of(key)}:
            raise MalformedInputError(f"the row's id {row.id!r:.80} is not that of its key")
        spec = schedule_from_text(row.schedule_type, row.schedule_config)
        job = GoJob(
            id=id_of(row.id),
            schedule=spec,
            labels=row.metadata,
            status=row.status,
            created_ms=_instant_ms(row.created_at),
            undecided_ms=_undecided_ms(row, spec),
            adopted=stamp,
        )
        return job_of_go(key, job)
    except (NatscronError, ValueError) as error:
        return invalid_row(key, stamp, error)


def _undecided_ms(row: _GoRow, spec: ScheduleSpec) -> Ms | None:
    """A once job has one instant, and the Go library notes there as its last run that it ran."""
    following = _instant_ms(row.next_run)
    if spec.at is None:
        return following
    at, last = text_to_ms(spec.at), _instant_ms(row.last_run)
    return None if row.status in _DONE or (last is not None and last >= at - 1) else at


def _instant_ms(text: str | None) -> Ms | None:
    """None for none, and for Go's zero time."""
    if not text or text.startswith("0001-"):
        return None
    return text_to_ms(text)
