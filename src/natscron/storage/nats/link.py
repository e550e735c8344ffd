"""The leader's side of the state bucket: journal, open rows and lease on a connection of its own.

Who is authoritative: the state bucket's stream. Its sequences order lease, notes and rows, and everything here goes
over one socket in the order it was given, so a stored note proves that the messages before it reached the server.

Failures: the link breaks once and for ever (see :mod:`natscron.wire.leader_link`); what waits for an answer then ends
with StorageUncertainError, every later call raises LeadershipLostError. Questions to JetStream and awaited writes are
bounded by :data:`ANSWER_S`; a commit's future has no bound of its own, it ends with the link, and the leader ends the
link when its trust ends.

Notes are purged by the sequence of the last one that the mark covers. The link remembers the sequences of the notes it
wrote and of those it read at the takeover, until they are purged.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from natscron.codec import state as records
from natscron.errors import LimitExceededError, MalformedInputError, StorageUncertainError, WrongRevisionError
from natscron.model import Lease, LeaseRecord, Note, NoteRef, OpenRow, QueuedRun
from natscron.storage.nats.keys import StateKeys
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.state import MARKER_TTL, TTL, TTL_OFF
from natscron.storage.protocol import OnReply, Outgoing, Reply, Staged, StateSnapshot
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError
from natscron.wire.kv import cas_headers, delete_headers, get_last, is_deleted, is_wrong_sequence, last_seq, purge
from natscron.wire.leader_link import LeaderConnection
from natscron.wire.reading import read_range

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

__all__ = ["NatsLeaderLink", "open_link"]

_T = TypeVar("_T")

logger = logging.getLogger("natscron.storage")

ANSWER_S: Final = 5.0
READ_S: Final = 10.0
ROWS_AT_ONCE: Final = 1_000
"""Open rows written or deleted before their acknowledgements are awaited."""
_HEADER_BASE: Final = 12
"""``NATS/1.0`` and the two line ends of an empty header block."""


async def open_link(connection: Connection, options: NatsStorageOptions, on_reply: OnReply) -> "NatsLeaderLink":
    """Open a link to where ``connection`` leads. Raises StorageUnavailableError."""

    def hand_over(token: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
        on_reply(Reply(token, status, headers, data))

    return NatsLeaderLink(await LeaderConnection.open(connection.known_dial(), hand_over), options)


class NatsLeaderLink:
    """See :class:`natscron.storage.protocol.LeaderLink`."""

    def __init__(self, connection: LeaderConnection, options: NatsStorageOptions) -> None:
        self.broken = connection.broken
        self._connection = connection
        self._options = options
        self._keys = StateKeys(options)
        self._written: deque[tuple[NoteRef, int]] = deque()
        self._tombstone = 0
        """The sequence of a deletion that somebody laid over the lease; 0: none."""
        self._marker = {**delete_headers(), TTL: MARKER_TTL}

    @property
    def max_payload(self) -> int:
        """The most bytes that one message (headers and body) may have."""
        return self._connection.max_payload

    def stage(self, message: Outgoing | QueuedRun) -> Staged:
        """Encode for :meth:`commit`.

        Raises LimitExceededError over ``max_payload``, MalformedInputError for what would break the protocol.
        """
        if isinstance(message, QueuedRun):
            raise MalformedInputError("this storage publishes to subjects and has no run queue for handlers")
        raw = self._connection.encode(message.subject, message.headers, message.body, message.token)
        size = len(raw)
        if size > self.max_payload:
            size = len(message.body) + _header_size(message)
            if size > self.max_payload:
                raise LimitExceededError(
                    f"message on {message.subject} has {size} bytes with its headers; the server takes "
                    f"{self.max_payload} at most"
                )
        return Staged(raw, size)

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        """Messages, rows and note in one socket write; the future ends with the acknowledgements of the latter."""
        parts: list[bytes] = [item.data for item in staged]
        acks: list[asyncio.Future[PubAck]] = []
        for row in rows:
            raw, ack = self._connection.encode_acked(self._keys.row(row.run_id), records.encode_row(row))
            parts.append(raw)
            acks.append(ack)
        if run_ids:
            value = records.encode_note(run_ids)
            raw, ack = self._connection.encode_acked(self._keys.note(note), value)
            ack.add_done_callback(lambda done: self._remember(note, done))
            parts.append(raw)
            acks.append(ack)
        self._connection.write(b"".join(parts))
        return _all(acks) if acks else asyncio.ensure_future(self._connection.flush())

    async def drain(self) -> None:
        """Wait until the socket takes more bytes."""
        await self._connection.drain()

    async def save_rows(self, rows: Sequence[OpenRow]) -> None:
        """Write or overwrite open rows; returns when all are stored."""
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            chunk = rows[begin : begin + ROWS_AT_ONCE]
            await self._put([(self._keys.row(row.run_id), records.encode_row(row)) for row in chunk], {})

    async def delete_rows(self, run_ids: Sequence[str]) -> None:
        """Delete open rows; unknown ones are no error. Returns when it is done."""
        for begin in range(0, len(run_ids), ROWS_AT_ONCE):
            gone = [(self._keys.row(run_id), b"") for run_id in run_ids[begin : begin + ROWS_AT_ONCE]]
            try:
                await self._put(gone, self._marker)
            except ApiError as error:
                if error.err_code != TTL_OFF or TTL not in self._marker:
                    raise
                # A bucket on which time-to-live could not be switched on; provisioning has said so.
                self._marker = delete_headers()
                await self._put(gone, self._marker)

    async def read_lease(self) -> LeaseRecord | None:
        """The lease as the stream's leader has it. Raises MalformedInputError for one of a newer version."""
        found = await get_last(self._connection, self._options.state_stream, self._keys.lease)
        if found is None:
            return None
        if is_deleted(found.headers):
            self._tombstone = found.seq
            return None
        return LeaseRecord(records.decode_lease(found.data), found.seq, found.timestamp_ns // 1_000_000)

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """Compare-and-set; 0 expects that there is none. Returns the new revision.

        Raises WrongRevisionError when refused and StorageUncertainError when no answer came in time.
        """
        headers = cas_headers(expected_revision or self._tombstone)
        ack = self._connection.publish_acked(self._keys.lease, records.encode_lease(lease), headers)
        try:
            return (await _answer(ack, "the lease")).seq
        except ApiError as error:
            if is_wrong_sequence(error):
                raise WrongRevisionError(f"the lease is not at revision {expected_revision}") from error
            raise

    async def read_state(self, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes after ``after`` and all open rows, both with revisions below ``barrier``.

        Raises MalformedInputError for a row of a newer version; rows and notes that nobody could read are left out.
        """
        keys = self._keys
        # The lease stands at the barrier: having come to it, the read is over at once.
        filters = [keys.lease, keys.notes, keys.rows]
        stream = self._options.state_stream
        entries = await read_range(self._connection, stream, filters, 1, barrier, timeout_s=READ_S)
        notes: list[Note] = []
        rows: list[OpenRow] = []
        read: list[tuple[NoteRef, int]] = []
        for entry in entries:
            if entry.seq >= barrier or is_deleted(entry.headers):
                continue
            try:
                ref = keys.note_of(entry.subject)
                if ref is not None:
                    read.append((ref, entry.seq))
                    if ref > after:
                        notes.append(records.decode_note(ref, entry.data, entry.timestamp_ns // 1_000_000))
                elif keys.row_of(entry.subject) is not None:
                    rows.append(records.decode_row(entry.data))
            except records.NewerRecordError:
                raise
            except MalformedInputError as error:
                logger.warning("state record %s is left out: %s", entry.subject, error)
        self._written = deque(sorted({*read, *self._written}, key=lambda item: item[1]))
        return StateSnapshot(tuple(sorted(notes, key=lambda note: note.ref)), tuple(rows))

    async def purge_notes(self, upto: NoteRef) -> None:
        """Remove the notes up to and including ``upto``, of that epoch and earlier ones."""
        seq = max((seq for ref, seq in self._written if ref <= upto), default=0)
        while self._written and self._written[0][1] <= seq:
            self._written.popleft()
        if seq:
            await purge(self._connection, self._options.state_stream, self._keys.notes, below_seq=seq + 1)

    async def jobs_seq(self) -> int:
        """The jobs stream's last sequence, from its leader."""
        return await last_seq(self._connection, self._options.jobs_stream)

    def abort(self) -> None:
        """Cut the connection at once; bytes not yet taken by the socket are thrown away. Idempotent."""
        self._connection.abort()

    async def close(self) -> None:
        """Flush and close. Idempotent."""
        await self._connection.close()

    def _remember(self, note: NoteRef, ack: "asyncio.Future[PubAck]") -> None:
        if not ack.cancelled() and ack.exception() is None:
            self._written.append((note, ack.result().seq))

    async def _put(self, values: Sequence[tuple[str, bytes]], headers: Mapping[str, str]) -> None:
        if not values:
            return
        encoded = [self._connection.encode_acked(subject, value, headers) for subject, value in values]
        self._connection.write(b"".join(raw for raw, _ in encoded))
        await _answer(_all([ack for _, ack in encoded]), "open rows")


async def _answer(future: "asyncio.Future[_T]", what: str) -> "_T":
    try:
        async with asyncio.timeout(ANSWER_S):
            return await future
    except TimeoutError:
        raise StorageUncertainError(f"{what}: no answer within {ANSWER_S} s") from None


def _all(acks: "Sequence[asyncio.Future[PubAck]]") -> "asyncio.Future[None]":
    """A future that ends when all have, with the first failure if there was one.

    Cancelling it stops nobody from sending; it only stops the waiting.
    """
    whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = len(acks)
    failure: BaseException | None = None

    def ended(ack: "asyncio.Future[PubAck]") -> None:
        nonlocal left, failure
        left -= 1
        if failure is None and not ack.cancelled():
            failure = ack.exception()
        if left == 0 and not whole.done():
            if failure is None:
                whole.set_result(None)
            else:
                whole.set_exception(failure)
                whole.exception()  # marks it retrieved: the leader may have stopped waiting

    for ack in acks:
        ack.add_done_callback(ended)
    return whole


def _header_size(message: Outgoing) -> int:
    if not message.headers:
        return 0
    return _HEADER_BASE + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in message.headers)
