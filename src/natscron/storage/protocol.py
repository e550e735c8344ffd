"""WHERE: the seam between the engine and a store. Three small roles, bundled by :class:`Storage`.

A store of the service has these; one of the library has a run queue too (:mod:`natscron.storage.queue`).

Who is authoritative: the store. Its sequence numbers order all writes to one of its streams (jobs; state), and its own
timestamps are the one clock for all writers. An instance holds copies, kept hot by watches.

The leader does all that ordering depends on through a :class:`LeaderLink`, which has no reconnect and no buffer of its
own: when it breaks, it stays broken, and the leader takes the lease again under a new epoch. Everything else (API,
watches, history) uses the storage's shared connection, which reconnects for ever.

What a caller may rely on, in every implementation:

* A method that raises :class:`~natscron.errors.StorageUncertainError` may have written; one that raises any other
  error has not.
* A sink's methods are called in the event loop, in the order of the store's sequence, never concurrently.
* ``close`` may be called twice, and before ``initialize``.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

from natscron.model import (
    Calendar,
    Delivery,
    Job,
    Lease,
    LeaseRecord,
    Ms,
    Node,
    Note,
    NoteRef,
    OpenRow,
    QueuedRun,
    Run,
    RunStatus,
)


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a store can do; the conformance suite asks these instead of the store's name."""

    durable: bool
    """What was written survives the process."""
    shared: bool
    """Several processes may use it at once."""
    subjects: bool
    """It can publish messages (targets that are subjects)."""
    queue: bool = False
    """It has a run queue (targets that are handlers)."""
    timers: bool = False
    """It can time jobs by itself (:class:`natscron.storage.timers.TimerStore`)."""
    lease_ms: Ms = 10_000
    """The leader's lease that suits a store that is shared."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message as a target encodes it. ``token`` non-empty asks for replies, handed back under it."""

    subject: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    token: str = ""


class Staged(msgspec.Struct, frozen=True):
    """An :class:`Outgoing` or a queued run in the link's own form, made ahead of its instant; ``size`` in bytes."""

    data: Any
    size: int


class Reply(msgspec.Struct, frozen=True):
    """What came back for a token: a worker's reply, a stream's acknowledgement, or a 503 for nobody there.

    ``status`` is the NATS inline status (``"503"`` = no responders), "" for an ordinary message.
    """

    token: str
    status: str
    headers: Mapping[str, str]
    data: bytes


class StateSnapshot(msgspec.Struct, frozen=True):
    """What a new leader reads below its barrier: the journal after a mark, in order, and the open rows.

    ``known``: ids of runs that were queued before, though their slots may be due after the mark.
    """

    notes: tuple[Note, ...]
    rows: tuple[OpenRow, ...]
    known: tuple[str, ...] = ()


OnReply: TypeAlias = Callable[[Reply], None]


class LeaderLink(Protocol):
    """One leadership's own connection: ordered, no reconnect, no buffering.

    After :meth:`abort`, or once :attr:`broken` is set, every method raises
    :class:`~natscron.errors.LeadershipLostError` and nothing more is written.
    """

    broken: asyncio.Event
    """Set when the connection is gone, for whatever reason."""

    @property
    def max_payload(self) -> int:
        """The most bytes that one message (headers and body) may have."""
        ...

    def stage(self, message: Outgoing | QueuedRun) -> Staged:
        """Encode for :meth:`commit`. Pure; no I/O, no clock. Raises LimitExceededError over ``max_payload``."""
        ...

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Hand over messages, then ``rows``, then the note, in one socket write, synchronously.

        Without ``run_ids`` no note is written (a retry: its rows are its record). The future resolves when the store
        has all rows and the note, which proves that all the messages before them reached the server.

        Queued runs go into the run queue, in the same transaction as the note where the store has such; one whose id is
        there already changes nothing. :func:`natscron.policy.overlap.enter` decides about each whether it becomes due,
        waits, or is recorded as left out; a run in whose favour others are ended waits until they are.
        """
        ...

    async def drain(self) -> None:
        """Wait until the socket takes more bytes."""
        ...

    async def save_rows(self, rows: Sequence[OpenRow]) -> None:
        """Write or overwrite open rows; returns when all are stored."""
        ...

    async def delete_rows(self, run_ids: Sequence[str]) -> None:
        """Delete open rows; unknown ones are no error. Returns when it is done."""
        ...

    async def read_lease(self) -> LeaseRecord | None:
        """The lease as the stream's leader has it, never from a replica. None: there never was one."""
        ...

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """Compare-and-set; 0 expects that there is none. Returns the new revision.

        Raises WrongRevisionError when refused and StorageUncertainError when no answer came in time.
        """
        ...

    async def read_state(self, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes after ``after`` and all open rows, both with revisions below ``barrier`` (own lease's revision)."""
        ...

    async def purge_notes(self, upto: NoteRef) -> None:
        """Remove the notes up to and including ``upto``, of that epoch and earlier ones."""
        ...

    async def jobs_seq(self) -> int:
        """The jobs stream's last sequence, from its leader."""
        ...

    def abort(self) -> None:
        """Cut the connection at once; bytes not yet taken by the socket are thrown away. Idempotent."""
        ...

    async def close(self) -> None:
        """Flush and close. Idempotent; never raises."""
        ...


class JobSink(Protocol):
    """Receives the jobs of a watch."""

    def reset(self) -> None:
        """A fresh watch begins: what is not put again before :meth:`complete` is gone."""
        ...

    def put(self, job: Job) -> None:
        """A row was written; ``job.revision`` is its sequence. Invalid rows come with ``job.invalid`` set."""
        ...

    def delete(self, job_id: str, seq: int) -> None:
        """A row was deleted by the write ``seq``."""
        ...

    def put_calendar(self, calendar: Calendar) -> None:
        """A calendar was written; ``calendar.revision`` is its sequence, in the one order of jobs and calendars."""
        ...

    def delete_calendar(self, name: str, seq: int) -> None:
        """A calendar was deleted by the write ``seq``."""
        ...

    def complete(self, seq: int) -> None:
        """Everything up to the jobs stream's sequence ``seq`` has been handed over (also after each live change)."""
        ...


class StateSink(Protocol):
    """Receives what the state watch sees: the lease, open rows written by others, live nodes."""

    def lease(self, record: LeaseRecord) -> None:
        """The lease changed, or was seen first, or was seen again unchanged by a fresh watch (same revision)."""
        ...

    def row(self, row: OpenRow, revision: int) -> None:
        """An open row was written."""
        ...

    def row_gone(self, run_id: str) -> None:
        """An open row was deleted."""
        ...

    def newer(self, record: str, why: str | None) -> None:
        """The lease or an open row needs a later version of this code; None: it is gone, or readable again."""
        ...

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        """An instance announced itself."""
        ...

    def node_gone(self, instance: str, nonce: str) -> None:
        """An instance took its announcement back."""
        ...


class Watch(Protocol):
    """A running watch. It survives reconnects and is made anew by itself when it falls silent."""

    async def ready(self) -> None:
        """Wait until the first full set was handed over."""
        ...

    def renew(self) -> None:
        """Make the watch anew now (the caller found it behind)."""
        ...

    async def close(self) -> None:
        """Stop; nothing is called afterwards. Idempotent."""
        ...


class JobStore(Protocol):
    """The jobs, and the calendars they refer to, in one order.

    Revisions are the store's sequences; ``expected_revision`` None means whatever is there.
    """

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist; its revision. Raises JobAlreadyExistsError."""
        ...

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        ...

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError (nothing is written then) and WrongRevisionError."""
        ...

    async def fetch_job(self, job_id: str) -> Job | None:
        """The job from the store itself, not from a copy."""
        ...

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        ...

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete. Raises CalendarNotFoundError (nothing is written then) and WrongRevisionError."""
        ...

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The calendar from the store itself, not from a copy."""
        ...

    async def last_jobs_seq(self) -> int:
        """The sequence of the last write to the jobs, deletes included."""
        ...

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        ...


class LeaseStore(Protocol):
    """The lease, its journal, open rows and nodes."""

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """Open a leader's own connection. Raises StorageUnavailableError."""
        ...

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow the lease, open rows and nodes."""
        ...

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row for the leader to take up; False if a row under that run id exists already."""
        ...

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row under that run id from the store itself, not from a copy; None: there is none."""
        ...

    async def announce(self, node: Node) -> None:
        """Write or refresh this instance's announcement."""
        ...

    async def retract(self, node: Node) -> None:
        """Take the announcement back."""
        ...


class RunOrder(StrEnum):
    """What records are sorted by. Records without the value in question come first when ascending."""

    RECORDED = "recorded"
    """The record's time, see :func:`recorded_ms`."""
    START_TIME = "start_time"
    END_TIME = "end_time"
    DURATION = "duration"


def recorded_ms(run: Run) -> Ms:
    """The record's time: the start of a run that a handler executes (its slot as long as it waits), else the end."""
    if run.delivery is Delivery.HANDLER:
        return run.started_at_ms or run.scheduled_at_ms or run.finished_at_ms or 0
    return run.finished_at_ms or run.started_at_ms or run.scheduled_at_ms or run.to_ms or 0


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs. ``job`` None: of all jobs. ``since_ms`` inclusive, ``until_ms`` exclusive, by the record's time.

    Newest first unless ``descending`` is False. ``limit`` 1 to 10,000. ``service`` False: where ``job`` is None,
    without the records about the service itself.
    """

    order: RunOrder = RunOrder.RECORDED

    job: str | None = None
    run_id: str | None = None
    status: RunStatus | None = None
    since_ms: Ms | None = None
    until_ms: Ms | None = None
    descending: bool = True
    limit: int = 100
    offset: int = 0
    service: bool = True


def slot_of(run: Run) -> Ms | None:
    """The slot that a record says was run; None for a record about slots that were not."""
    return None if run.status is RunStatus.SKIPPED else run.scheduled_at_ms


class ExecutionStore(Protocol):
    """History: run and range records, bounded by count per job and by age."""

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records; returns when they are stored.

        May store one twice after a retry: readers take the last record of a (run id, attempt).
        """
        ...

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records."""
        ...

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slot of each job's newest run; jobs without one are left out.

        Meant for a page of thousands: cheap, maybe a moment behind, and without jobs whose newest records are all
        about slots that were skipped, where finding an older run would cost too much.
        """
        ...

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        ...


class Storage(JobStore, LeaseStore, ExecutionStore, Protocol):
    """The roles together."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def initialize(self) -> None:
        """Connect and provision; safe when several instances do it at once. Idempotent."""
        ...

    async def close(self) -> None:
        """Release everything it opened; never what the caller handed in. Idempotent."""
        ...

    async def sweep(self) -> None:
        """Housekeeping that one instance at a time does, every few minutes (deletion markers that nobody needs)."""
        ...

    async def health_check(self) -> None:
        """Raise StorageUnavailableError unless the store answers."""
        ...
