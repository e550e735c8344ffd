"""The words: enums that every layer shares."""

from enum import StrEnum
from typing import TypeAlias

__all__ = [
    "ANSWERED",
    "SERVICE_JOB",
    "CatchUpPolicy",
    "Delivery",
    "JobState",
    "Ms",
    "OpenState",
    "Overlap",
    "Reason",
    "RunStatus",
    "Timer",
    "Trigger",
]

Ms: TypeAlias = int


SERVICE_JOB = "_service"
"""Under which leader changes, invalid rows and lost history are recorded."""


class Delivery(StrEnum):
    """How a run reaches its subject."""

    AUTO = "auto"
    CORE = "core"
    JETSTREAM = "jetstream"
    REQUEST = "request"
    HANDLER = "handler"
    """Into the run queue, from which a worker takes it and calls the job's handler: the library's own."""


ANSWERED = frozenset({Delivery.JETSTREAM, Delivery.REQUEST})
"""Deliveries whose runs are over for the leader when an answer says so; the others are when they are handed over."""


class Overlap(StrEnum):
    """What happens when a run is due while the job's previous one is still going."""

    ALLOW = "allow"
    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    CANCEL_OTHER = "cancel_other"


class Timer(StrEnum):
    """Who says when a job's slots are due."""

    LEADER = "leader"
    """The elected leader, to the millisecond."""
    SERVER = "server"
    """nats-server, by a schedule that lies in a stream; the leader looks after it."""


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
    OVERLAP_WAIT = "overlap_wait"
    """Not over: it waits for a run of the job that is going to end."""
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
    """The stored row cannot be honoured, or the class of its schedule failed; see the job's error."""
    PAUSED = "paused"
    """The job was paused; recorded as a range when it is resumed."""
    SKIP_NEXT = "skip_next"
    """The user asked for the job's next slots to be left out."""
    BUFFER_FULL = "buffer_full"
    """The job's previous run was still going and its buffer had no more room."""
    REPLACED = "replaced"
    """A newer run took its place: the overlap policy is ``cancel_other``."""
    JOB_REMOVED = "job_removed"
    """The job was removed, or its target changed, before the run could be tried again."""
    FAILURES_PAUSED = "failures_paused"
    """The job was paused: as many runs in a row failed as ``pause_after_failures`` says."""
    BACKFILL_DONE = "backfill_done"
    """A backfill has handed out all its slots."""
    BACKFILL_CANCELLED = "backfill_cancelled"
    """A backfill was cancelled, or its job removed; the slots of the range were not handed out."""
    NO_HANDLER = "no_handler"
    """No process that is alive has the job's handler: the run waits for one, or failed where none was ever set."""
    HANDLER_ERROR = "handler_error"
    """The handler raised; the error is the exception with its traceback, cut in the middle where it is long."""
    WORKER_LOST = "worker_lost"
    """The worker that ran it gave no sign of life for its lease: the process died, or was cut off."""
    WORKER_STOPPED = "worker_stopped"
    """The worker stopped, and the handler did not end within the time that it was given."""
    CANCELLED = "cancelled"
    """The handler was cancelled from outside, by itself or by the program that it runs in."""
    REDRIVEN = "redriven"
    """Not over: a run that had failed for good was asked to be tried once more."""
    RETRY = "retry"
    """Not over: the try before failed, and this one waits for its time."""
    LEADER_CHANGED = "leader_changed"
    """The service: an instance took the lease."""
    LEADER_RELEASED = "leader_released"
    """The service: a leader stopped in order, and released the lease."""
    HISTORY_DROPPED = "history_dropped"
    """The service: so many records (``count``) were dropped because they could not be stored in time."""


class OpenState(StrEnum):
    """What an open row waits for."""

    PENDING = "pending"
    """Not yet sent: a manual trigger that a leader has still to take up."""
    RUNNING = "running"
    """Sent, its outcome not yet known."""
    RETRY = "retry"
    """Failed, to be tried again at ``next_at_ms``."""
    BUFFERED = "buffered"
    """Due while the job's previous run was going: sent when that ends."""
    REPORTED = "reported"
    """Word from a worker for the leader: how the run ``about`` ended."""
    BACKFILL = "backfill"
    """A backfill: ``scheduled_at_ms`` is the last slot that it handed out."""
    CANCEL = "cancel"
    """Word for the leader: the backfill ``about`` is to end."""
    FAILURES = "failures"
    """How many runs of the job failed in a row: ``attempt``."""
