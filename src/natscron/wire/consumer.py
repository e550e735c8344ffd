"""Reading a stream by an own consumer: a watch that notices when it is deaf, and a bounded read.

Who is authoritative: the stream. A watch is a copy in motion; each of its *editions* is one ephemeral push consumer
(acknowledges nothing, one replica, in memory, flow control, idle heartbeat every 0.5 s) with an inbox of its own.

A new edition is made when

* the consumer sequence has a gap, or a heartbeat names a later one than we saw (something was lost),
* nothing at all came for two heartbeats (the node that hosted the consumer died; the client need not notice),
* the link came up again (the consumer may have gone with the server), or :meth:`Watch.renew` was called.

The old consumer is deleted, best effort; a server deletes one without an interested client after 5 s by itself, so none
leaks. Making one is tried again with 50 ms to 1 s between tries, for as long as the watch lives.

A ``last_per_subject`` edition begins with :meth:`Sink.on_reset` and a full set, whose end is :meth:`Sink.on_complete`.
The other starts go on behind the last sequence they handed over, without a reset, unless the stream itself is another.

Callbacks run in the client's read loop: synchronous, in the stream's order, never concurrently. An exception out of one
is logged and the next message handed over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from natscron.errors import NatscronError, StorageUnavailableError
from natscron.wire.connection import Connection
from natscron.wire.failures import Message
from natscron.wire.line import Line, Subscription

__all__ = ["Edition", "Start", "Watch", "WatchSink", "is_replicated", "parse_ack", "stream_state"]

logger = logging.getLogger("natscron.wire")

HEARTBEAT_S: Final = 0.5
MISSED: Final = 2
INACTIVE_S: Final = 5
CREATE_TIMEOUT_S: Final = 1.0
"""For one try; doubled after each that failed, up to 5 s: a node that just died may still be given the consumer."""
MAX_CREATE_TIMEOUT_S: Final = 5.0
BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0
_TICKS: Final = 2
"""Looks at the silence a heartbeat interval."""
_FLOOD: Final = 2_000
"""Messages between two looks; as many come while a large bucket is read on the same connection."""
_FLOODED_TICKS: Final = 40
_OLD_ACK_TOKENS: Final = 9
_ACK_TOKENS: Final = 11
_NS: Final = 1_000_000_000


class Start(StrEnum):
    """Where a watch begins."""

    LAST_PER_SUBJECT = "last_per_subject"
    """The last message of each subject, then what comes."""
    NEW = "new"
    """What is stored after the watch was made."""
    ALL = "all"
    """Everything that the stream holds, then what comes."""


class WatchSink(Protocol):
    """Receives a watch."""

    def on_reset(self) -> None:
        """A full set begins: what is not handed over again before :meth:`on_complete` is gone."""
        ...

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        """A message of the stream, with the stream's sequence and time of it."""
        ...

    def on_complete(self, seq: int) -> None:
        """Everything up to the stream's sequence ``seq`` was handed over (also after each live message)."""
        ...


def parse_ack(reply: str) -> tuple[int, int, int, int]:
    """Stream sequence, consumer sequence, timestamp (ns) and messages pending, out of an acknowledgement subject.

    Both forms: with 9 tokens, and with domain and account (11 or more). Raises ValueError for anything else.
    """
    parts = reply.split(".")
    if parts[:2] != ["$JS", "ACK"] or (len(parts) != _OLD_ACK_TOKENS and len(parts) < _ACK_TOKENS):
        msg = f"not an acknowledgement subject: {reply!r}"
        raise ValueError(msg)
    if len(parts) == _OLD_ACK_TOKENS:
        return int(parts[5]), int(parts[6]), int(parts[7]), int(parts[8])
    return int(parts[7]), int(parts[8]), int(parts[9]), int(parts[10])


class Edition:
    """One consumer and what has come out of it."""

    def __init__(self, stream: str, line: Line) -> None:
        self.stream = stream
        self.name = "natscron-" + line.new_inbox().rpartition(".")[2]
        self.subscription: Subscription | None = None
        self.consumer_seq = 0
        self.began = False
        self.complete = False
        self.heard = True
        self.stale = False
        """Something was lost; nothing more is taken from it."""
        self.timeout_s = MAX_CREATE_TIMEOUT_S
        self.floor = 0
        """The stream's last sequence before the consumer was made."""
        self.replicated = False
        """The consumer may stand on a replica that is behind: only what it says of ``floor`` counts."""

    async def create(
        self,
        line: Line,
        filters: Sequence[str],
        start: dict[str, Any],
        receive: Callable[[Message], None],
        heartbeat_s: float,
    ) -> int:
        """Make it; how many messages wait in it."""
        inbox = line.new_inbox()
        self.subscription = await line.subscribe(inbox, receive)
        config: dict[str, Any] = {
            "name": self.name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(heartbeat_s * _NS),
            "inactive_threshold": INACTIVE_S * _NS,
            "mem_storage": True,
            "num_replicas": 1,
            **start,
        }
        if len(filters) == 1:
            config["filter_subject"] = filters[0]
        elif filters:
            config["filter_subjects"] = list(filters)
        request = {"stream_name": self.stream, "config": config, "action": "create"}
        api = f"CONSUMER.CREATE.{self.stream}.{self.name}"
        reply = await line.js_request(api, request, timeout_s=self.timeout_s)
        return int(reply.get("num_pending", 0))

    async def delete(self, line: Line) -> None:
        """Take it away, best effort; never raises."""
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            await subscription.unsubscribe()
        with contextlib.suppress(NatscronError):
            await line.js_request(f"CONSUMER.DELETE.{self.stream}.{self.name}", timeout_s=self.timeout_s)


def stream_state(info: dict[str, Any]) -> tuple[int, int]:
    """First and last sequence, out of a STREAM.INFO reply."""
    state = info.get("state", {})
    return int(state.get("first_seq", 0)), int(state.get("last_seq", 0))


def is_replicated(info: dict[str, Any]) -> bool:
    """Whether a stream has more than one replica, out of a STREAM.INFO reply."""
    return int(info.get("config", {}).get("num_replicas", 1)) > 1


class Watch:
    """Follows a stream. Starts at once; see :meth:`ready`."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        filters: Sequence[str],
        sink: WatchSink,
        start: Start | int = Start.LAST_PER_SUBJECT,
    ) -> None:
        """``start`` as a number: from that stream sequence on (inclusive)."""
        self._line = connection
        self._connection = connection
        self._stream = stream
        self._filters = tuple(filters)
        self._sink = sink
        self._start = start
        self._seen: int | None = None
        """The last sequence handed over; None: nothing yet, and no edition was made."""
        self._edition: Edition | None = None
        self._silent = 0
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._closed = False
        self._remove = connection.add_listener(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def ready(self) -> None:
        """Wait until the first full set was handed over (for the other starts: until the consumer is there)."""
        await self._ready.wait()

    def renew(self) -> None:
        """Make it anew now."""
        self._wake.set()

    async def close(self) -> None:
        """Stop and delete the consumer; nothing is called afterwards. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._remove()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([self._task])
        edition, self._edition = self._edition, None
        if edition is not None:
            await edition.delete(self._line)

    def on_down(self) -> None:
        """The link is lost; the watch waits for it."""

    def on_up(self) -> None:
        """The link is back; the consumer may be gone with the server."""
        self._wake.set()

    async def _run(self) -> None:
        backoff, patience = BACKOFF_S, CREATE_TIMEOUT_S
        told = ""
        while not self._closed:
            self._wake.clear()
            edition = Edition(self._stream, self._line) if self._connection.is_connected else None
            try:
                if edition is None:
                    raise StorageUnavailableError("no connection")
                old, self._edition = self._edition, edition
                if old is not None:
                    await self._drop(old)
                await self._begin(edition, patience)
            except NatscronError as error:
                text = str(error)
                if self._connection.is_connected and text != told:
                    logger.warning("watch of stream %s: trying again: %s", self._stream, text)
                    told = text
                if edition is not None:
                    await self._drop(edition)
                    patience = min(patience * 2, MAX_CREATE_TIMEOUT_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await self._wake.wait()
                backoff = min(backoff * 2, MAX_BACKOFF_S)
                continue
            backoff, patience, told = BACKOFF_S, CREATE_TIMEOUT_S, ""
            await self._listen(edition)

    async def _drop(self, edition: Edition) -> None:
        """Silence it at once, delete it beside: the new one shall not wait for the old one's host."""
        subscription, edition.subscription = edition.subscription, None
        if subscription is not None:
            await subscription.unsubscribe()
        if self._connection.is_connected:
            self._connection.spawn(edition.delete(self._line))

    async def _begin(self, edition: Edition, timeout_s: float) -> None:
        info = await self._line.js_request(f"STREAM.INFO.{self._stream}", timeout_s=timeout_s)
        first, last = stream_state(info)
        edition.floor = last
        edition.timeout_s = timeout_s
        edition.replicated = is_replicated(info)
        full = self._start is Start.LAST_PER_SUBJECT
        start: dict[str, Any] = {"deliver_policy": "last_per_subject"}
        if not full:
            if self._seen is None:
                self._seen = self._behind(last)
            elif self._seen > last:  # the stream was made anew
                self._seen = max(first - 1, 0)
                self._call(self._sink.on_reset)
            edition.began = True
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self._seen + 1}
        pending = await edition.create(
            self._line, self._filters, start, lambda message: self._receive(edition, message), HEARTBEAT_S
        )
        if not full:
            self._ready.set()
        if pending == 0 and edition.consumer_seq == 0 and not edition.replicated:
            self._finish(edition, edition.floor)

    def _behind(self, last: int) -> int:
        """The sequence that the first edition begins behind."""
        if isinstance(self._start, Start):
            return last if self._start is Start.NEW else 0
        return self._start - 1

    async def _listen(self, edition: Edition) -> None:
        """Until a new edition is needed."""
        silent, received = 0, self._connection.received
        while not self._wake.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S / _TICKS):
                    await self._wake.wait()
            silent = 0 if edition.heard else silent + 1
            edition.heard = False
            before, received = received, self._connection.received
            # Behind so many messages of others a heartbeat may still be on its way.
            flooded = received - before > _FLOOD and silent < _FLOODED_TICKS
            if silent >= MISSED * _TICKS and not flooded:
                logger.warning("watch of stream %s: silent, made anew", self._stream)
                return

    def _receive(self, edition: Edition, message: Message) -> None:
        if edition is not self._edition or edition.stale or self._closed:
            return
        edition.heard = True
        reply = message.reply
        if not reply.startswith("$JS.ACK."):
            self._control(edition, message)
            return
        seq, consumer_seq, timestamp_ns, pending = parse_ack(reply)
        if consumer_seq != edition.consumer_seq + 1:
            self._lost(edition)
            return
        edition.consumer_seq = consumer_seq
        if not edition.began:
            edition.began = True
            self._call(self._sink.on_reset)
        try:
            self._sink.on_message(message.subject, message.headers, message.data, seq, timestamp_ns)
        except Exception:
            logger.exception("watch of stream %s: message %d could not be taken", self._stream, seq)
        self._seen = seq
        if edition.complete:
            self._call(self._sink.on_complete, seq)
        elif pending == 0 and (seq >= edition.floor or not edition.replicated):
            self._finish(edition, max(seq, edition.floor))

    def _lost(self, edition: Edition) -> None:
        edition.stale = True
        self._wake.set()

    def _control(self, edition: Edition, message: Message) -> None:
        headers = message.headers or {}
        if message.reply:  # flow control: the server goes on when we answer
            self._line.publish_soon(message.reply)
            return
        stalled = headers.get("Nats-Consumer-Stalled")
        if stalled:
            self._line.publish_soon(stalled)
            return
        if not headers.get("Nats-Last-Consumer", "").isdigit():
            return
        if int(headers["Nats-Last-Consumer"]) != edition.consumer_seq:
            self._lost(edition)
            return
        seen = headers.get("Nats-Last-Stream", "")
        # The consumer has looked through the stream up to here and found nothing more for us.
        seq = int(seen) if seen.isdigit() else 0
        if not edition.complete:
            if seq >= edition.floor:
                self._finish(edition, seq)
        elif seq > (self._seen or 0):
            self._seen = seq
            self._call(self._sink.on_complete, seq)

    def _finish(self, edition: Edition, seq: int) -> None:
        if not edition.began:
            edition.began = True
            self._call(self._sink.on_reset)
        edition.complete = True
        self._seen = max(seq, self._seen or 0) if self._start is not Start.LAST_PER_SUBJECT else seq
        self._call(self._sink.on_complete, seq)
        self._ready.set()

    def _call(self, fn: Callable[..., None], *args: int) -> None:
        try:
            fn(*args)
        except Exception:
            logger.exception("watch of stream %s: a callback failed", self._stream)
