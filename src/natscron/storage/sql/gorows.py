"""Rows of the Go library, as jobs.

The Go library keeps what is next in the row: ``next_run`` is decided by nobody yet, all before it is. So such a job
counts from just before that instant, and an interval's grid goes on from it: a slot that was missed while nothing ran
is caught up with as the job's policy says, and what the Go library ran does not run again. Without ``next_run`` a row
counts from its adoption, as the Go library would do at a start, and a once job whose ``next_run`` the Go library had
moved on has run.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from natscron.codec import decode_row, key_of, schedule_from_text, schedule_json, text_to_ms
from natscron.durations import parse_duration_ms
from natscron.errors import NatscronError
from natscron.model import Job, Ms, Overlap, ScheduleSpec, Stamp

__all__ = ["DISABLED", "PENDING", "instant_ms", "job_of_go"]

PENDING: Final = "pending"
DISABLED: Final = "disabled"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_labels: Final = msgspec.json.Decoder(dict[str, str] | None)


def instant_ms(moment: dt.datetime | None) -> Ms | None:
    """Whole milliseconds since 1970 UTC, rounded up as a slot is; None for none, and for Go's zero time."""
    if moment is None or moment < _EPOCH:
        return None
    return -((_EPOCH - moment) // dt.timedelta(milliseconds=1))


def job_of_go(row: Any, stamp: Stamp) -> Job:  # noqa: ANN401 - a row of a query
    """The job of a row whose ``row_data`` is NULL; ``stamp``: its adoption. Never raises: see ``Job.invalid``."""
    key = key_of(row.id)
    try:
        spec = schedule_from_text(row.schedule_type or "", row.schedule_config or "")
        labels = _labels.decode(row.metadata) if row.metadata else None
        content = _content(row, spec, labels, stamp)
    except (NatscronError, msgspec.MsgspecError, ValueError) as error:
        invalid = decode_row(key, b"{}", stamp)
        return msgspec.structs.replace(invalid, invalid=str(error) or type(error).__name__)
    # By way of a row of our own, whose reader checks all the rest.
    return decode_row(key, msgspec.json.encode(content), stamp)


def _content(row: Any, spec: ScheduleSpec, labels: Mapping[str, str] | None, stamp: Stamp) -> dict[str, Any]:  # noqa: ANN401 - a row
    created = instant_ms(row.created_at)
    following = instant_ms(row.next_run)
    # Sequence 0: every leader has seen it, so it is planned from the mark, and nothing of the past is.
    counts_from = Stamp(stamp.at_ms, 0)
    anchor = created if created is not None else stamp.at_ms
    first = None if following is None else _first_undecided(spec, following)
    if first is not None:
        counts_from = Stamp(first - 1, stamp.seq)
        if spec.every is not None and spec.start_at is None:
            anchor = first - parse_duration_ms(spec.every)
    return {
        "subject": row.id,
        "schedule": schedule_json(spec),
        "labels": labels or {},
        "paused": row.status == DISABLED,
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


def _first_undecided(spec: ScheduleSpec, following: Ms) -> Ms | None:
    """The first slot that the Go library has not run; None: it has run them all.

    A once job has one, which may lie before ``next_run`` (it was past when it was added); when it has run, the Go
    library moves ``next_run`` a century on.
    """
    if spec.at is None:
        return following
    at = text_to_ms(spec.at)
    return None if following > at + _CENTURY_MS // 2 else min(at, following)


_CENTURY_MS: Final[Ms] = 100 * 365 * 86_400_000
