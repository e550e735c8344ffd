"""A job of the Go library, whatever it lies in, as a job of ours.

The Go library keeps what is next in the row: ``next_run`` is decided by nobody yet, all before it is. So such a job
counts from just before that instant, and an interval's grid goes on from it: a slot that was missed while nothing ran
is caught up with as the job's policy says, and what the Go library ran does not run again.
"""

from collections.abc import Mapping

import msgspec

from natscron.codec.row import decode_row
from natscron.codec.spec import schedule_json
from natscron.durations import parse_duration_ms
from natscron.model import Job, Ms, Overlap, ScheduleSpec, Stamp

__all__ = ["GO_DISABLED", "GoJob", "invalid_row", "job_of_go"]

GO_DISABLED = "disabled"
"""The status of a job that is paused."""


class GoJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a store read of one. ``undecided_ms``: the first slot that the Go library has not run.

    None: it has run all, or does not say, and the job counts from ``adopted``, when the row was first seen.
    """

    id: str
    schedule: ScheduleSpec
    labels: Mapping[str, str] | None
    status: str
    created_ms: Ms | None
    undecided_ms: Ms | None
    adopted: Stamp


def job_of_go(key: str, row: GoJob) -> Job:
    """By way of a row of our own, whose reader checks all the rest. Never raises: see ``Job.invalid``."""
    adopted, first, spec = row.adopted, row.undecided_ms, row.schedule
    # Sequence 0: every leader has seen it, so it is planned from the mark, and nothing of the past is.
    counts_from = Stamp(adopted.at_ms, 0)
    created = anchor = adopted.at_ms if row.created_ms is None else row.created_ms
    if first is not None:
        counts_from = Stamp(max(first - 1, 0), adopted.seq)
        if spec.every is not None and spec.start_at is None:
            anchor = first - parse_duration_ms(spec.every)
    content = {
        "subject": row.id,
        "schedule": schedule_json(spec),
        "labels": row.labels or {},
        "paused": row.status == GO_DISABLED,
        # As the Go library has it: a job runs at most once at a time.
        "overlap": Overlap.SKIP,
        "natscron": {
            "reader": 1,
            "generation": 0,
            "created_at": created,
            "anchor": max(0, anchor),
            "counts_from": counts_from,
        },
    }
    return decode_row(key, msgspec.json.encode(content), adopted)


def invalid_row(key: str, stamp: Stamp, error: Exception) -> Job:
    """In the place of one that cannot be read, with the reason."""
    invalid = decode_row(key, b"{}", stamp)
    return msgspec.structs.replace(invalid, invalid=str(error) or type(error).__name__)
