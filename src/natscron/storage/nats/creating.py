"""Rows that a leader creates, many at a time, and the answers to them.

Each is written over the leader's own connection and answered by itself; an answer is taken in the read loop, without a
task or a future for each, because a burst has ten thousand. States of a row: *sent*, then *stored*, *there* (the store
had a row of that run already) or *failed*. What has no answer after :data:`ACK_S`, or is told that the stream has no
leader, is sent again under the same id, until the link breaks.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from natscron.errors import LeadershipLostError, StorageError
from natscron.storage.nats.runrow import RunRow
from natscron.storage.nats.view import QueueView
from natscron.storage.protocol import OnReply, Reply
from natscron.wire.failures import ApiError, NoRespondersError
from natscron.wire.kv import is_wrong_sequence
from natscron.wire.leader_link import LeaderConnection
from natscron.wire.replies import PubAck, decode_ack

if TYPE_CHECKING:
    from natscron.model import Run
    from natscron.storage.nats.lines import Open

__all__ = ["Answers", "Batch", "Entry"]

ACK_S: Final = 1.0
_BUSY: Final = 503


class _Answer(NamedTuple):
    """As much of a message as an acknowledgement is read from."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


class Entry:
    """One row. ``record``: of a run that is left out. ``replaces``: runs that end in its favour."""

    __slots__ = ("headers", "one", "raw", "record", "replaces", "row", "settled", "subject", "there", "token")

    def __init__(self, row: RunRow, raw: bytes, subject: str, headers: Mapping[str, str]) -> None:
        self.row = row
        self.raw = raw
        self.subject = subject
        self.headers = headers
        self.one: Open | None = None
        self.record: Run | None = None
        self.replaces: Sequence[str] = ()
        self.token = ""
        self.settled = False
        self.there = False


class Answers:
    """Who waits for which answer on one link; what nobody waits for is the engine's."""

    def __init__(self, on_reply: OnReply) -> None:
        self._on_reply = on_reply
        self._waiting: dict[str, tuple[Batch, Entry]] = {}
        self._next = 0

    def take(self, token: str, status: str, headers: Mapping[str, str], data: bytes) -> None:
        """An answer came. Called in the read loop."""
        found = self._waiting.pop(token, None)
        if found is None:
            if "." in token:  # else it is of a row that was sent again
                self._on_reply(Reply(token, status, headers, data))
            return
        batch, entry = found
        batch.answered(entry, decode_ack(entry.subject, _Answer("", "", data, dict(headers) or None)))

    def expect(self, batch: "Batch", entry: Entry) -> str:
        """A token for the answer to a row. The engine's tokens have a dot in them."""
        self._waiting.pop(entry.token, None)
        self._next += 1
        entry.token = f"{self._next:x}"
        self._waiting[entry.token] = batch, entry
        return entry.token

    def forget(self, entry: Entry) -> None:
        """Nobody waits any more."""
        self._waiting.pop(entry.token, None)


class Batch:
    """Rows that are created together."""

    def __init__(self, connection: LeaderConnection, answers: Answers, view: QueueView) -> None:
        self.entries: list[Entry] = []
        self._connection = connection
        self._answers = answers
        self._view = view
        self._left = 0
        self._failure: StorageError | None = None
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, entry: Entry) -> None:
        """One more, before :meth:`send`."""
        self.entries.append(entry)

    def send(self) -> None:
        """Write all, in one go."""
        self._left = len(self.entries)
        if self.entries:
            self._write(self.entries)
        else:
            self._done.set_result(None)

    def _write(self, entries: Sequence[Entry]) -> None:
        connection, answers = self._connection, self._answers
        connection.write(
            b"".join(
                [
                    connection.encode(entry.subject, entry.headers.items(), entry.raw, answers.expect(self, entry))
                    for entry in entries
                ]
            )
        )

    def answered(self, entry: Entry, outcome: PubAck | StorageError) -> None:
        """What the store said of a row."""
        if isinstance(outcome, PubAck):
            self._view.apply(entry.row, outcome.seq)
        elif is_wrong_sequence(outcome):
            entry.there = True
        elif isinstance(outcome, NoRespondersError) or (isinstance(outcome, ApiError) and outcome.status == _BUSY):
            return  # the stream has no leader at the moment
        else:
            self._failure = outcome
        entry.settled = True
        self._left -= 1
        if (self._left == 0 or self._failure is not None) and not self._done.done():
            self._done.set_result(None)

    async def stored(self, broken: "asyncio.Future[bool]") -> None:
        """Wait until all are. Raises LeadershipLostError when the link breaks, and what the store refused with."""
        try:
            while not self._done.done():
                either: list[asyncio.Future[Any]] = [self._done, broken]
                await asyncio.wait(either, timeout=ACK_S, return_when=asyncio.FIRST_COMPLETED)
                if broken.done() and not self._done.done():
                    raise LeadershipLostError("the leader's connection ended")
                if not self._done.done():
                    self._write([entry for entry in self.entries if not entry.settled])
            if self._failure is not None:
                raise self._failure
        finally:
            for entry in self.entries:
                if not entry.settled or entry.there:
                    self._answers.forget(entry)
                    undo(self._view, entry)


def undo(view: QueueView, entry: Entry) -> None:
    """It is not known to be stored: nothing is known of it."""
    if entry.one is not None:
        view.withdraw(entry.one)
    elif view.over.get(entry.row.run_id) == 0:
        del view.over[entry.row.run_id]
