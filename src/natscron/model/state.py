"""Who decides, and how far it got: the lease, its journal, open rows, instances."""

from typing import Any

import msgspec

from natscron.model.words import Delivery, Ms, OpenState, Overlap, RunStatus, Trigger

__all__ = ["Backfill", "Holder", "Lease", "LeaseRecord", "Mark", "Node", "Note", "NoteRef", "OpenRow", "Report"]


class NoteRef(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A journal note: the leader's epoch and its running number in it. Ordered."""

    epoch: int = 0
    n: int = 0


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Every slot due at or before ``instant_ms`` of every job revision up to ``jobs_seq`` is decided.

    ``note`` is the last journal note that this covers.
    """

    instant_ms: Ms
    jobs_seq: int = 0
    note: NoteRef = NoteRef()


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease: the instance id and a nonce of the process (two processes may share an instance id)."""

    instance: str
    nonce: str


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """One shard's lease; ``holder`` None: released.

    ``takeover_ms`` is when the present catch-up began, kept by successors until the mark has passed it, so that a
    second crash does not double the storm.
    """

    epoch: int
    mark: Mark
    holder: Holder | None = None
    takeover_ms: Ms | None = None
    duration_ms: Ms = 2_000
    """How long the holder may go without a renewal before others may take it, in their own reckoning."""
    reader: int = 1
    """The lowest reader version that can honour this record."""


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease with the store's revision of it and the store's own time of that write."""

    lease: Lease
    revision: int
    stored_at_ms: Ms


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A journal note: the run ids whose messages were handed over before it, and the store's time of it."""

    ref: NoteRef
    run_ids: tuple[str, ...]
    stored_at_ms: Ms


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run ended, as its worker says. ``status``: COMPLETED or FAILED. ``code``: the worker's own error code."""

    status: RunStatus
    attempt: int = 1
    started_at_ms: Ms | None = None
    finished_at_ms: Ms = 0
    code: str | None = None
    error: str | None = None
    result: str | None = None


class Backfill(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every slot in [from, to], one each ``every_ms`` at the most. ``done`` of ``total`` were handed out."""

    from_ms: Ms
    to_ms: Ms
    every_ms: Ms = 100
    total: int = 0
    done: int = 0


class OpenRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is not over when the mark passes its slot, laid down so that a successor takes it up.

    Also what else must survive a leader: triggers, backfills, counters, and word for the leader. ``run_id`` is the
    row's key: for BACKFILL the backfill's id, for REPORTED and CANCEL ``about`` with ``=end`` after it, for FAILURES a
    hash of job and generation.
    """

    run_id: str
    job_id: str
    generation: int
    scheduled_at_ms: Ms
    state: OpenState
    trigger: Trigger = Trigger.SCHEDULE
    delivery: Delivery = Delivery.CORE
    attempt: int = 1
    next_at_ms: Ms = 0
    deadline_ms: Ms = 0
    epoch: int = 0
    payload: Any = msgspec.UNSET
    """A trigger's own payload, instead of the job's."""
    overlap: Overlap | None = None
    """A trigger's or a backfill's own policy, instead of the job's."""
    message: int = 1
    """Which of the attempts first had the present message: the stream knows its later copies by it."""
    stored: bool = False
    """The stream has the message; what is awaited is the worker's report."""
    about: str = ""
    report: Report | None = None
    backfill: Backfill | None = None
    reader: int = 1
    """The lowest reader version that can honour this row."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is alive, as it announces itself."""

    instance: str
    nonce: str
    version: str
    started_at_ms: Ms
    status: str = ""
    """What it is doing: leading, standing by, or why it may not lead."""
