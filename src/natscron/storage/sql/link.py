"""A leader's link: what it writes, in order, each transaction fenced by the lease.

Who is authoritative: the lease's row. Every transaction of a link first touches it under the epoch and nonce that this
link wrote there, so it has the lease until COMMIT, or somebody else has it and nothing is written: then the link
breaks. A link that never took the lease may write only as long as there is none at all.

One task does what waits, in the order in which it was asked for; commits that wait together are one transaction, which
is either there whole or not at all: queued runs, rows, notes. What failed is found out by the next leadership from the
notes and run ids that are there.

States: *whole*, then *broken* for ever. It breaks when the database refuses or is lost, when the lease is somebody
else's, by :meth:`SqlLink.abort`, by :meth:`SqlLink.close`. What waits then ends with LeadershipLostError, what was
under way with the error it met, or StorageUncertainError when it was cut off; a transaction whose COMMIT was not sent
yet is rolled back, by cutting its connection. On PostgreSQL and MySQL that connection is the link's own; on SQLite
there is one that writes, which the link shares.

Conflicts (a deadlock, a lock that took too long) are tried again as in
:meth:`~natscron.storage.sql.database.Database.run`. There is no time-out of its own: the leader's trust in its lease
bounds all of it, and the leader aborts.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from natscron.errors import (
    LeadershipLostError,
    LimitExceededError,
    NatscronError,
    StorageError,
    StorageUnavailableError,
    StorageUncertainError,
)
from natscron.model import Lease, LeaseRecord, Ms, NoteRef, OpenRow, QueuedRun, Run
from natscron.storage.protocol import LeaderLink, Outgoing, Staged, StateSnapshot
from natscron.storage.sql.apart import Apart  # noqa: TC001 - one import block reads better than two
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import ATTEMPTS, Database, Work
from natscron.storage.sql.failures import is_transient
from natscron.storage.sql.jobs import SqlJobs
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.state import Statements

__all__ = ["MAX_PAYLOAD", "RunEntry", "SqlLink"]

log = logging.getLogger("natscron.storage")

T = TypeVar("T")

MAX_PAYLOAD: Final = 1024 * 1024
_RUN_SIZE: Final = 128
"""What a queued run counts as, besides its payload."""
_RUNS: Final = 1_024
_COMMITS: Final = 64
"""The most runs, and commits, that make one transaction."""
_BACKLOG: Final = 32
"""While more commits wait, :meth:`SqlLink.drain` does."""
_CLOSE_S: Final = 5.0
_PAUSE_S: Final = 0.005


class RunEntry(Protocol):
    """What a link needs of the run queue."""

    async def enter(self, connection: AnyConnection, runs: Sequence[QueuedRun], now_ms: Ms) -> Sequence[Run]:
        """Queue runs within a fenced transaction; the records of those left out."""
        ...

    def entered(self, left_out: Sequence[Run]) -> None:
        """It is committed."""
        ...


class _Commit:
    """Runs, rows and a note, to be stored together."""

    def __init__(
        self, note: NoteRef, runs: Sequence[QueuedRun], run_ids: Sequence[str], rows: Sequence[OpenRow]
    ) -> None:
        self.note = note
        self.runs = runs
        self.run_ids = run_ids
        self.rows = rows
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Op:
    """Anything else that has its place in the order."""

    def __init__(self, work: Work[Any], done: Callable[[Any], None], *, reading: bool) -> None:
        self.work = work
        self.done = done
        self.reading = reading
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class SqlLink(LeaderLink):
    """See the module's prose. Made by :meth:`open`."""

    def __init__(
        self, database: Database, signals: Signals, statements: Statements, store: SqlJobs, queue: RunEntry
    ) -> None:
        self.broken = asyncio.Event()
        self._database = database
        self._signals = signals
        self._statements = statements
        self._store = store
        self._queue = queue
        self._apart: Apart | None = None
        self._held: tuple[int, str] | None = None
        self._released = False
        self._waiting: deque[_Commit | _Op] = deque()
        self._under_way: Sequence[_Commit | _Op] = ()
        self._woken = asyncio.Event()
        self._drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> "SqlLink":
        """Connect. Raises StorageUnavailableError."""
        if self._database.name != "sqlite":
            self._apart = await self._database.connect_apart()
        self._task = asyncio.create_task(self._run(), name="natscron link")
        return self

    @property
    def max_payload(self) -> int:
        """1 MiB, as a NATS server has by default."""
        return MAX_PAYLOAD

    def stage(self, message: Outgoing | QueuedRun) -> Staged:
        """Keep it as it is, if it is not too large."""
        if isinstance(message, QueuedRun):
            size = _RUN_SIZE
            if message.payload is not msgspec.UNSET:
                size += len(msgspec.json.encode(message.payload))
        else:
            size = len(message.body) + sum(len(k) + len(v) + 4 for k, v in message.headers)
        if size > MAX_PAYLOAD:
            raise LimitExceededError(f"a message of {size} bytes is over the maximum payload of {MAX_PAYLOAD}")
        return Staged(message, size)

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Have runs, rows and note stored in one transaction; the future resolves when it is committed."""
        self._ensure_whole()
        runs = [one.data for one in staged]
        if not all(isinstance(run, QueuedRun) for run in runs):
            raise TypeError("a SQL storage publishes no messages: it has a run queue")
        commit = _Commit(note, runs, run_ids, rows)
        self._put(commit)
        return commit.future

    async def drain(self) -> None:
        """Wait until no more than a few commits wait."""
        await asyncio.sleep(0)
        while len(self._waiting) > _BACKLOG and not self.broken.is_set():
            self._drained.clear()
            await self._drained.wait()
        self._ensure_whole()

    async def save_rows(self, rows: Sequence[OpenRow]) -> None:
        """Write or overwrite open rows."""

        async def work(connection: AnyConnection) -> None:
            await self._fence(connection)
            await self._statements.save_rows(connection, rows)

        await self._ordered(work)
        self._signals.ring(Topic.STATE)

    async def delete_rows(self, run_ids: Sequence[str]) -> None:
        """Delete open rows, also after the lease was released."""

        async def work(connection: AnyConnection) -> None:
            if not self._released:
                await self._fence(connection)
            await self._statements.delete_rows(connection, run_ids)

        await self._ordered(work)
        self._signals.ring(Topic.STATE)

    async def read_lease(self) -> LeaseRecord | None:
        """The lease as it is."""
        return await self._ordered(self._statements.read_lease, reading=True)

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """Compare-and-set. Raises WrongRevisionError when refused, StorageUncertainError when no answer came."""

        async def work(connection: AnyConnection) -> int:
            return await self._statements.write_lease(connection, lease, expected_revision)

        def written(_revision: int) -> None:
            self._released = lease.holder is None
            self._held = None if lease.holder is None else (lease.epoch, lease.holder.nonce)

        revision = await self._ordered(work, done=written)
        self._signals.ring(Topic.STATE)
        return revision

    async def read_state(self, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes and rows below the barrier."""
        return await self._ordered(
            lambda connection: self._statements.read_state(connection, after, barrier), reading=True
        )

    async def purge_notes(self, upto: NoteRef) -> None:
        """Remove covered notes."""
        await self._ordered(lambda connection: self._statements.purge_notes(connection, upto))

    async def jobs_seq(self) -> int:
        """The number of the last write to jobs; beside the link's order, which has no part in it."""
        self._ensure_whole()
        return await self._store.last_jobs_seq()

    def abort(self) -> None:
        """Cut the link; what was not committed is rolled back. Idempotent."""
        if self._task is not None and not self.broken.is_set():
            self._task.cancel()
            if self._apart is not None:
                self._apart.cut()
        self._break(StorageUncertainError("the link was cut while it was written"))

    async def close(self) -> None:
        """Let what waits be stored, within 5 s, then cut. Idempotent; never raises."""
        if not self.broken.is_set():
            with contextlib.suppress(NatscronError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._ordered(_nothing, reading=True)
        self.abort()
        if self._task is not None:
            await asyncio.wait([self._task])

    # The task.

    def _ensure_whole(self) -> None:
        if self.broken.is_set():
            raise LeadershipLostError("the link was cut")

    def _put(self, item: "_Commit | _Op") -> None:
        self._waiting.append(item)
        self._woken.set()

    async def _ordered(
        self,
        work: Work[T],
        *,
        reading: bool = False,
        done: Callable[[T], None] = lambda _: None,
    ) -> T:
        """Have ``work`` done after all that was asked for before; ``done`` is called before what comes after it."""
        self._ensure_whole()
        op = _Op(work, done, reading=reading)
        self._put(op)
        result: T = await op.future
        return result

    async def _run(self) -> None:
        try:
            while True:
                while not self._waiting:
                    self._woken.clear()
                    await self._woken.wait()
                first = self._waiting.popleft()
                if isinstance(first, _Commit):
                    await self._do_commits(self._together(first))
                elif not first.future.done():
                    await self._do(first)
                self._under_way = ()
                if len(self._waiting) <= _BACKLOG:
                    self._drained.set()
        except (StorageError, LeadershipLostError) as error:
            log.warning("a leader's transaction failed", extra={"error": str(error)})
            self._break(error)
        except Exception as error:
            log.exception("a leader's transaction failed")
            self._break(StorageUncertainError(f"a leader's transaction failed: {type(error).__name__}"))
        finally:
            self._break(StorageUncertainError("the link was cut while it was written"))
            if self._apart is not None:
                await self._apart.close()

    def _together(self, first: _Commit) -> list[_Commit]:
        """The commits that make one transaction."""
        commits, runs = [first], len(first.runs)
        while self._waiting and len(commits) < _COMMITS:
            following = self._waiting[0]
            if not isinstance(following, _Commit) or runs + len(following.runs) > _RUNS:
                break
            self._waiting.popleft()
            commits.append(following)
            runs += len(following.runs)
        return commits

    async def _do_commits(self, commits: Sequence[_Commit]) -> None:
        self._under_way = commits
        runs = [run for commit in commits for run in commit.runs]
        rows = [row for commit in commits for row in commit.rows]
        written = [(commit.note, commit.run_ids) for commit in commits if commit.run_ids]

        async def work(connection: AnyConnection) -> Sequence[Run]:
            revision = await self._fence(connection)
            now = await self._database.now_ms(connection)
            left_out = await self._queue.enter(connection, runs, now) if runs else ()
            await self._statements.save_rows(connection, rows)
            await self._statements.write_note(connection, written, revision, now)
            return left_out

        left_out = await self._transact(work)
        for commit in commits:
            if not commit.future.done():
                commit.future.set_result(None)
        if runs:
            self._queue.entered(left_out)
        if rows:
            self._signals.ring(Topic.STATE)

    async def _do(self, op: _Op) -> None:
        self._under_way = (op,)
        try:
            result = await self._transact(op.work, reading=op.reading)
        except (StorageError, LeadershipLostError):
            raise
        except NatscronError as error:
            # Refused, or unreadable: nothing was written, and the link is as good as before.
            if not op.future.done():
                op.future.set_exception(error)
            return
        op.done(result)
        if not op.future.done():
            op.future.set_result(result)

    async def _transact(self, work: Work[T], *, reading: bool = False) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(work, reading=reading)
            except StorageUnavailableError as error:
                if attempt == ATTEMPTS or not is_transient(error.__cause__):
                    raise
                log.debug("a leader's transaction is repeated", extra={"error": str(error), "attempt": attempt})
            await asyncio.sleep(_PAUSE_S * attempt)
        raise AssertionError  # the last attempt returned or raised

    async def _attempt(self, work: Work[T], *, reading: bool) -> T:
        if self._apart is None:
            return await (self._database.look(work) if reading else self._database.write(work))
        async with self._database.transaction_on(self._apart.connection) as connection:
            return await work(connection)

    async def _fence(self, connection: AnyConnection) -> int:
        """Have the lease until the end of the transaction; its revision. Raises LeadershipLostError."""
        revision = None if self._released else await self._statements.fence(connection, self._held)
        if revision is None:
            raise LeadershipLostError("the lease is not this link's any more: nothing was written")
        return revision

    def _break(self, error: NatscronError) -> None:
        """``error``: what became of what is under way."""
        if self.broken.is_set():
            return
        self.broken.set()
        self._drained.set()
        under_way, self._under_way = self._under_way, ()
        for item in under_way:
            _fail(item.future, error)
        while self._waiting:
            _fail(self._waiting.popleft().future, LeadershipLostError("the link was cut"))


async def _nothing(_connection: AnyConnection) -> None:
    """Wait for what was asked for before."""


def _fail(future: "asyncio.Future[Any]", error: NatscronError) -> None:
    if not future.done():
        future.set_exception(type(error)(*error.args))
        future.exception()  # marks it retrieved: the leader may have stopped waiting
