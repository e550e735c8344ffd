"""The vocabulary: frozen records and enums that every layer shares. No behaviour beyond derivation, no I/O.

Instants are ``int`` milliseconds since 1970 UTC (``*_ms`` or the alias :data:`Ms`); durations are ``int`` milliseconds
too. Text forms (RFC 3339, ``30s``) exist at the edges only, in :mod:`natscron.codec`.
"""

from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

Ms: TypeAlias = int


SERVICE_JOB = "_service"
"""Under which leader changes, invalid rows and lost history are recorded."""


class Delivery(StrEnum):
    """How a run reaches its subject."""

    AUTO = "auto"
    CORE = "core"
    JETSTREAM = "jetstream"
    REQUEST = "request"


class Overlap(StrEnum):
    """What happens when a run is due while the job's previous one is still going."""

    ALLOW = "allow"
    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    CANCEL_OTHER = "cancel_other"


class CatchUpPolicy(StrEnum):
    """Which of the slots older than the grace are run."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class JobState(StrEnum):
    """What a job is doing, as replies and tables show it."""

    ACTIVE = "active"
    PAUSED = "paused"
    DONE = "done"
    INVALID = "invalid"


class RunStatus(StrEnum):
    """Where a run stands. The last five are final."""

    PENDING = "pending"
    RUNNING = "running"
    SENT = "sent"
    STORED = "stored"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    DEAD = "dead"


class Trigger(StrEnum):
    """Why a run exists."""

    SCHEDULE = "schedule"
    CATCHUP = "catchup"
    MANUAL = "manual"
    BACKFILL = "backfill"


class Reason(StrEnum):
    """Why a run ended as it did, or was not made. One line each; a public contract."""

    CATCHUP_LATEST = "catchup_latest"
    """Older than the grace; the policy runs only the newest, and this was not it."""
    CATCHUP_LIMIT = "catchup_limit"
    """Older than the grace and beyond the newest ``limit`` that the policy runs."""
    CATCHUP_NONE = "catchup_none"
    """Older than the grace and the policy runs none of those."""
    CATCHUP_WINDOW = "catchup_window"
    """Older than the catch-up window."""
    FOREIGN_LEADER = "foreign_leader"
    """A Go instance was alive on the account and is taken to have run it."""
    ONCE_PASSED = "once_passed"
    """A once slot that was over when it began to count: before its edit, or while the job was paused."""
    CLOCK_PULLED_BACK = "clock_pulled_back"
    """The mark lay further in the future than the allowed skew and was set back to now."""
    OVERLAP_SKIP = "overlap_skip"
    """The job's previous run was still going and the overlap policy is ``skip``."""
    NO_RESPONDERS = "no_responders"
    """A request found nobody subscribed to the subject."""
    NO_STREAM = "no_stream"
    """No stream captured the subject until the deadline."""
    TIMEOUT = "timeout"
    """The answer did not come within the timeout."""
    STREAM_REFUSED = "stream_refused"
    """The stream answered with an error that trying again does not mend."""
    WORKER_ERROR = "worker_error"
    """The worker answered with an error (micro headers)."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """The leader that sent the request is gone and the deadline passed: it may have run."""
    RESERVED_SUBJECT = "reserved_subject"
    """The job's subject is reserved, malformed or not allowed; nothing was published."""
    TOO_LARGE = "too_large"
    """The message is over the server's maximum payload."""
    INVALID_JOB = "invalid_job"
    """The stored row cannot be honoured; see the job's error."""
    JOB_REMOVED = "job_removed"
    """The job was removed, or its target changed, before the run could be tried again."""
    LEADER_CHANGED = "leader_changed"
    """The service: an instance took the lease."""
    LEADER_RELEASED = "leader_released"
    """The service: a leader stopped in order, and released the lease."""
    HISTORY_DROPPED = "history_dropped"
    """The service: so many records (``count``) were dropped because they could not be stored in time."""


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A schedule as data: exactly one of ``every``, ``cron``, ``at``. Compiled by :mod:`natscron.schedule`.

    ``every`` is Go duration text; ``cron`` five or six fields, an alias, or either behind ``CRON_TZ=Zone ``; ``at`` an
    RFC 3339 instant with an offset (``in 5m`` is resolved when the job is saved). ``tz`` is an IANA zone (default
    UTC). ``start_at`` anchors an interval (default: the job's creation). ``run_at_start`` adds one slot at creation.
    ``dst_gap`` is ``run_after | skip | shift`` and ``dst_fold`` ``first | last | both``; None means by class.
    """

    every: str | None = None
    cron: str | None = None
    at: str | None = None
    tz: str | None = None
    start_at: str | None = None
    run_at_start: bool = False
    dst_gap: str | None = None
    dst_fold: str | None = None


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to slots missed: those younger than ``grace_ms`` all run; ``policy`` decides about older ones."""

    policy: CatchUpPolicy = CatchUpPolicy.LATEST
    window_ms: Ms = 24 * 3_600_000
    limit: int = 100
    grace_ms: Ms = 10_000


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """``attempts`` counts every try, the first included; the n-th wait is backoff x factor^(n-1), at most the cap."""

    attempts: int = 1
    backoff_ms: Ms = 1_000
    factor: float = 2.0
    max_backoff_ms: Ms = 300_000
    jitter: float = 0.1


class Stamp(msgspec.Struct, frozen=True, array_like=True, order=True):
    """The store's own (timestamp, sequence) of one write: one clock for all writers."""

    at_ms: Ms = 0
    seq: int = 0


class Version(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier schedule of a job, in force from ``since`` until the next version's; None while it was paused."""

    schedule: ScheduleSpec | None = None
    since: Stamp = Stamp()


DEFAULT_CATCHUP = CatchUp()
DEFAULT_RETRY = Retry()
DEFAULT_TIMEOUT_MS: Ms = 30_000


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What shall happen: an id, a schedule, a target, and policies. NATS Cron's job id is its subject.

    The fields below ``invalid`` are the store's: ``generation`` (sequence of the creating write, 0 for rows of the Go
    version), ``revision`` (sequence of this row), ``created_at_ms``, ``updated_at_ms``, ``anchor_ms`` (what intervals
    count from), ``counts_from`` (the write that last changed the schedule or paused it) and ``previous`` (schedules
    before that one, oldest first, until the mark has passed them).
    """

    id: str
    schedule: ScheduleSpec | None = None
    payload: Any = msgspec.UNSET
    """The JSON value as given; :func:`natscron.codec.body_of` turns it into bytes. UNSET: none given."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    delivery: Delivery = Delivery.AUTO
    catchup: CatchUp = DEFAULT_CATCHUP
    overlap: Overlap = Overlap.ALLOW
    timeout_ms: Ms | None = None
    retry: Retry = DEFAULT_RETRY
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    paused: bool = False
    note: str = ""
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Unknown fields, kept in the row."""
    old_format: bool = False
    """The row was written in the older form with ``target`` and is written back in it."""
    invalid: str | None = None
    """Why the row cannot be honoured; such a job is listed and never fires."""
    newer: bool = False
    """The row needs a later version of this code: an instance that sees it must not lead."""

    generation: int = 0
    revision: int = 0
    created_at_ms: Ms = 0
    updated_at_ms: Ms = 0
    anchor_ms: Ms = 0
    counts_from: Stamp = Stamp()
    previous: tuple[Version, ...] = ()


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


class OpenState(StrEnum):
    """What an open row waits for."""

    PENDING = "pending"
    """Not yet sent: a manual trigger that a leader has still to take up."""
    RUNNING = "running"
    """Sent, its outcome not yet known."""
    RETRY = "retry"
    """Failed, to be tried again at ``next_at_ms``."""


class OpenRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is not over when the mark passes its slot, laid down so that a successor takes it up."""

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


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run's record, as the API, the CLI, the log stream and the library show it.

    A range record stands for many slots that were not run: it has ``from_ms``, ``to_ms`` (both inclusive) and
    ``count`` instead of ``run_id`` and ``scheduled_at_ms``.
    """

    job: str
    status: RunStatus
    run_id: str | None = None
    scheduled_at_ms: Ms | None = None
    started_at_ms: Ms | None = None
    finished_at_ms: Ms | None = None
    reason: str | None = None
    attempt: int = 1
    trigger: Trigger = Trigger.SCHEDULE
    delivery: Delivery | None = None
    lateness_ms: Ms | None = None
    duration_ms: Ms | None = None
    instance: str = ""
    error: str | None = None
    result: str | None = None
    from_ms: Ms | None = None
    to_ms: Ms | None = None
    count: int | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is alive, as it announces itself."""

    instance: str
    nonce: str
    version: str
    started_at_ms: Ms
    status: str = ""
    """What it is doing: leading, standing by, or why it may not lead."""
