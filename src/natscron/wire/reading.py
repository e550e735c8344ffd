"""A bounded read of a stream's range, by an own consumer that is deleted afterwards.

The consumer has one replica and may stand on a node whose copy of the stream is behind. So the read is over only when
the consumer itself has come to ``until_seq``: it delivered that message, or said in a heartbeat that it looked there.
On a stream with one replica the server's count of what is pending is enough.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from natscron.errors import StorageUnavailableError
from natscron.wire.consumer import Edition, is_replicated, parse_ack, stream_state
from natscron.wire.failures import Message
from natscron.wire.line import Line

__all__ = ["Entry", "read_range"]

_HEARTBEAT_S: Final = 0.1
DEFAULT_TIMEOUT_S: Final = 10.0


class Entry(msgspec.Struct, frozen=True):
    """A message of a stream: ``timestamp_ns`` is the stream's own time of it, nanoseconds since 1970 UTC."""

    subject: str
    headers: dict[str, str] | None
    data: bytes
    seq: int
    timestamp_ns: int


class _Reader:
    def __init__(self, line: Line, until_seq: int, edition: Edition) -> None:
        self.line = line
        self.until_seq = until_seq
        self.edition = edition
        self.found: list[Entry] = []
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, *, whole: bool) -> None:
        if not self.over.done():
            self.over.set_result(whole)

    def receive(self, message: Message) -> None:
        if self.over.done():
            return
        if not message.reply.startswith("$JS.ACK."):
            self.control(message)
            return
        seq, consumer_seq, timestamp_ns, pending = parse_ack(message.reply)
        if consumer_seq != self.edition.consumer_seq + 1:
            self.end(whole=False)
            return
        self.edition.consumer_seq = consumer_seq
        if seq <= self.until_seq:
            self.found.append(Entry(message.subject, message.headers, message.data, seq, timestamp_ns))
        if seq >= self.until_seq or (pending == 0 and not self.edition.replicated):
            self.end(whole=True)

    def control(self, message: Message) -> None:
        headers = message.headers or {}
        answer = message.reply or headers.get("Nats-Consumer-Stalled")
        if answer:
            self.line.publish_soon(answer)
            return
        delivered, seen = headers.get("Nats-Last-Consumer", ""), headers.get("Nats-Last-Stream", "")
        if delivered.isdigit() and int(delivered) != self.edition.consumer_seq:
            self.end(whole=False)
        elif seen.isdigit() and int(seen) >= self.until_seq:
            self.end(whole=True)


async def read_range(  # noqa: PLR0913 - a range is from, to, where and which
    line: Line,
    stream: str,
    filters: Sequence[str],
    start_seq: int = 1,
    until_seq: int | None = None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> list[Entry]:
    """The stream's messages from ``start_seq`` to ``until_seq`` (both inclusive; None: its last), in order.

    Only those that still exist and match a filter (several need a server from 2.10). Raises StorageUnavailableError
    when the range could not be read whole within ``timeout_s``.
    """
    edition = Edition(stream, line)
    try:
        async with asyncio.timeout(timeout_s):
            info = await line.js_request(f"STREAM.INFO.{stream}", timeout_s=timeout_s)
            edition.replicated = is_replicated(info)
            last = stream_state(info)[1]
            until = last if until_seq is None else until_seq
            if until < start_seq:
                return []
            reader = _Reader(line, until, edition)
            try:
                begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": max(start_seq, 1)}
                pending = await edition.create(line, filters, begin, reader.receive, _HEARTBEAT_S)
                if pending == 0 and not edition.replicated:
                    reader.end(whole=True)
                whole = await reader.over
            finally:
                await edition.delete(line)
    except TimeoutError:
        raise StorageUnavailableError(f"stream {stream} could not be read within {timeout_s} s") from None
    if not whole:
        raise StorageUnavailableError(f"stream {stream}: messages were lost on the way; read again")
    return reader.found
