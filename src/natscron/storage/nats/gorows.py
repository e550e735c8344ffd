"""Rows of the Go library in the bucket of jobs.

They are JSON with ``schedule_type`` and ``schedule_config``; a job that was written since is a row of our own. The Go
library keeps what is next in the row: ``next_run`` is decided by nobody yet, all before it is. So such a job counts
from just before that instant, and an interval's grid goes on from it: a slot that was missed while nothing ran is
caught up with as the job's policy says, and what the Go library ran does not run again. A once job that was not run is
due, in the past too.
"""

from typing import Any, Final

import msgspec

from natscron.codec import decode_row, schedule_from_text, schedule_json, text_to_ms
from natscron.codec.keys import id_of
from natscron.durations import parse_duration_ms
from natscron.errors import MalformedInputError, NatscronError
from natscron.model import Job, Ms, Overlap, ScheduleSpec, Stamp

__all__ = ["decode_library_row"]

_MARK: Final = b'"schedule_type"'
_DISABLED: Final = "disabled"
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
        content = _content(row, stamp)
    except (NatscronError, ValueError) as error:
        invalid = decode_row(key, b"{}", stamp)
        return msgspec.structs.replace(invalid, invalid=str(error) or type(error).__name__)
    return decode_row(key, msgspec.json.encode(content), stamp)


def _content(row: _GoRow, stamp: Stamp) -> dict[str, Any]:
    spec = schedule_from_text(row.schedule_type, row.schedule_config)
    created, following = _instant_ms(row.created_at), _instant_ms(row.next_run)
    # Sequence 0: every leader has seen it, so it is planned from the mark, and nothing of the past is.
    counts_from = Stamp(stamp.at_ms, 0)
    anchor = created if created is not None else stamp.at_ms
    if spec.at is not None:
        if not _has_run(row, spec):
            counts_from = Stamp(max(text_to_ms(spec.at) - 1, 0), stamp.seq)
    elif following is not None:
        counts_from = Stamp(max(following - 1, 0), stamp.seq)
        if spec.every is not None and spec.start_at is None:
            anchor = following - parse_duration_ms(spec.every)
    return {
        "subject": id_of(row.id),
        "schedule": schedule_json(spec),
        "labels": row.metadata or {},
        "paused": row.status == _DISABLED,
        # As the Go library has it: a job runs at most once at a time.
        "overlap": Overlap.SKIP,
        "natscron": {
            "reader": 1,
            "generation": 0,
            "created_at": created if created is not None else stamp.at_ms,
            "anchor": max(0, anchor),
            "counts_from": counts_from,
        },
    }


def _has_run(row: _GoRow, spec: ScheduleSpec) -> bool:
    """A once job has one instant, and the Go library notes there as its last run that it ran."""
    assert spec.at is not None  # noqa: S101 - asked by the caller
    last = _instant_ms(row.last_run)
    return row.status in _DONE or (last is not None and last >= text_to_ms(spec.at) - 1)


def _instant_ms(text: str | None) -> Ms | None:
    """None for none, and for Go's zero time."""
    if not text or text.startswith("0001-"):
        return None
    return text_to_ms(text)
