"""The one module that goes past the NATS client's public API. A test fails when what it relies on changes.

What it needs and why:

* *Handing bytes to the socket at once.* The public ``publish`` puts a command into a list that a task writes later; a
  leader must know that a chunk has left before its trust ended, and must be able to throw away what has not.
* *Delivery in the read loop.* The public callback is a coroutine behind a queue and a task for each subscription.
  :class:`Sink` stands in for the future that ``subscribe`` takes, and is called synchronously for every message.
* *A flush that may be given up.* The client's own leaves a cancelled future behind, and the late PONG then ends its
  read loop: the connection goes deaf, also that of a host application.
* *Losing a connection quickly.* On an error the client closes its transport and waits until what is buffered is
  written; towards a host that fell silent this takes the kernel's quarter of an hour. We abort.
* *TLS or nothing.* The client goes on without encryption when a ``tls://`` server does not offer it, and sends the
  password. We refuse before it does.

On the WebSocket transport bytes cannot be written synchronously: they go into the client's own queue, in order, and
leave with its flusher, as with the public call.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from natscron.wire.failures import Message

__all__ = [
    "LeaderClient",
    "Sink",
    "WireClient",
    "abort",
    "buffered",
    "discard",
    "drain",
    "enqueue",
    "push_pending",
    "round_trip",
    "stop_gently",
    "tighten",
]


class Sink:
    """Takes the place of the client's future: ``cb`` is called in the read loop, once a message.

    An exception out of ``cb`` would end the read loop and leave the connection deaf; it goes to ``on_error``.
    """

    __slots__ = ("_cb", "_on_error")

    def __init__(self, cb: Callable[[Message], None], on_error: Callable[[BaseException], None]) -> None:
        self._cb = cb
        self._on_error = on_error

    def cancelled(self) -> bool:
        """Never: the subscription's owner unsubscribes instead."""
        return False

    def set_result(self, message: Msg) -> None:
        """Called by the client for each message."""
        try:
            self._cb(cast("Message", message))
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection has to live
            self._on_error(error)

    def as_future(self) -> "asyncio.Future[Any]":
        """Itself, under the type that the client asks for."""
        return cast("asyncio.Future[Any]", self)


class WireClient(Client):
    """The client with the repairs of the module's opening.

    ``on_down`` is called at once when the link is lost, ``on_closed`` when the client has given up for good (a server's
    ``-ERR`` makes it do so even when it is told to reconnect for ever). Both may be called more than once.
    """

    def __init__(self, on_down: Callable[[str], None], on_closed: Callable[[], None]) -> None:
        super().__init__()
        self._on_down = on_down
        self._on_closed = on_closed

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """As the client does, which looks at every letter of a name by itself: a third of what a message costs."""
        found: dict[str, str] = {}
        for line in raw.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            words = name.split()
            if colon and len(words) == 1 and words[0].isascii():
                found[words[0].decode("ascii")] = value.strip().decode("utf-8", "replace")
        return found

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            abort(self)
            self._on_down(_text(e))
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        try:
            await super()._attempt_reconnect()
        except Exception:  # noqa: BLE001 - a reconnect task that dies would leave the client waiting for ever
            await self._close(Client.CLOSED)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - the client's signature
        ends = status == Client.CLOSED and not self.is_closed
        below = _transports(self)
        try:
            await super()._close(status, do_cbs)
        except OSError:  # the transport may be gone already, and nobody waits for its last words
            abort(self)
        for transport in below:  # what the client closed; of a WebSocket over TLS it does not see that to its end
            transport.abort()
        if ends:
            self._on_down("closed")
            self._on_closed()

    def _connect_command(self) -> bytes:
        server = self._current_server
        wants = "tls" in self.options or (server is not None and server.uri.scheme in ("tls", "wss"))
        if wants and isinstance(self._transport, TcpTransport):
            writer = self._transport._io_writer  # noqa: SLF001 - see the module's opening
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise nats.errors.Error("nats: the server does not offer TLS")
        return super()._connect_command()


class LeaderClient(WireClient):
    """A client that flushes nothing when it closes: what was not sent is thrown away."""

    async def _process_op_err(self, e: Exception) -> None:
        discard(self)
        await super()._process_op_err(e)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - the client's signature
        if status == Client.CLOSED and not self.is_closed:
            discard(self)
            self._on_down("closed")
        await super()._close(status, do_cbs)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _writer(nc: Client) -> asyncio.StreamWriter | None:
    transport = nc._transport  # noqa: SLF001 - see the module's opening
    return transport._io_writer if isinstance(transport, TcpTransport) else None  # noqa: SLF001 - same


def _transports(nc: Client) -> list[asyncio.WriteTransport]:
    """The byte transports below the client: two with TLS (encrypted on top of plain), none before it connected."""
    transport = nc._transport  # noqa: SLF001 - see the module's opening
    if isinstance(transport, TcpTransport):
        found: list[asyncio.WriteTransport] = []
        for writer in (transport._io_writer, transport._bare_io_writer):  # noqa: SLF001 - same
            if writer is not None and writer.transport not in found:
                found.append(writer.transport)
        return found
    socket = getattr(transport, "_ws", None)
    connection = getattr(getattr(socket, "_response", None), "connection", None)
    below = getattr(connection, "transport", None)
    return [below] if below is not None else []


def tighten(nc: Client) -> None:
    """Make :func:`drain` wait until the socket has taken everything, not merely most of it."""
    for transport in _transports(nc):
        transport.set_write_buffer_limits(high=0)


class _Pong(asyncio.Future[None]):
    """A future whose waiter may have gone: the client would end its read loop over one that is done already."""

    def set_result(self, _: object) -> None:
        """The PONG came, for whoever still waits."""
        if not self.done():
            super().set_result(None)


async def round_trip(nc: Client) -> None:
    """Send a PING and wait for its PONG. May be cancelled, unlike the client's own ``flush``."""
    pong = _Pong()
    await nc._send_ping(pong)  # noqa: SLF001 - see the module's opening
    await pong


def push_pending(nc: Client, data: bytes = b"") -> None:
    """Hand what the client has pending, then ``data``, to the transport, in one write.

    A PING would overtake what is pending; call this first.
    """
    pending = nc._pending  # noqa: SLF001 - see the module's opening
    writer = _writer(nc)
    if writer is None:
        if data:
            enqueue(nc, data)
        elif pending:
            _kick(nc)
        return
    if pending:
        data = b"".join((*pending, data))
        pending.clear()
        nc._pending_data_size = 0  # noqa: SLF001 - same
    if data:
        writer.write(data)


def enqueue(nc: Client, data: bytes) -> None:
    """Put protocol bytes behind what the client has pending; they leave with its next write. Cheaper than its publish.

    The caller bounds what it puts here.
    """
    nc._pending.append(data)  # noqa: SLF001 - see the module's opening
    nc._pending_data_size += len(data)  # noqa: SLF001 - same
    _kick(nc)


def _kick(nc: Client) -> None:
    queue = nc._flush_queue  # noqa: SLF001 - see the module's opening
    if queue is not None and queue.empty():
        queue.put_nowait(asyncio.get_running_loop().create_future())


async def stop_gently(subscription: Subscription) -> None:
    """Tell the server to send no more, and go on taking what it has sent. Flush, then unsubscribe.

    The client's own ``drain`` does this, but its PING may go out before its UNSUB.
    """
    nc = subscription._conn  # noqa: SLF001 - see the module's opening
    with contextlib.suppress(nats.errors.Error):
        await nc._send_unsubscribe(subscription._id)  # noqa: SLF001 - same


def buffered(nc: Client) -> int:
    """Bytes that the socket has not taken yet."""
    pending = sum(map(len, nc._pending))  # noqa: SLF001 - see the module's opening
    return pending + sum(transport.get_write_buffer_size() for transport in _transports(nc))


async def drain(nc: Client) -> None:
    """Wait until the socket has taken everything (after :func:`tighten`). Raises OSError when the link is gone."""
    writer = _writer(nc)
    if writer is not None:
        push_pending(nc)
        await writer.drain()
        return
    while nc._pending and nc.is_connected:  # noqa: SLF001 - see the module's opening
        push_pending(nc)
        await asyncio.sleep(0)
    if nc._transport is not None:  # noqa: SLF001 - same
        await nc._transport.drain()  # type: ignore[no-untyped-call]  # noqa: SLF001 - same


def discard(nc: Client) -> None:
    """Throw away what the client has pending, on its own list and on the WebSocket transport's."""
    nc._pending.clear()  # noqa: SLF001 - see the module's opening
    nc._pending_data_size = 0  # noqa: SLF001 - same
    queue = getattr(nc._transport, "_pending", None)  # noqa: SLF001 - same
    while isinstance(queue, asyncio.Queue) and not queue.empty():
        queue.get_nowait()


def abort(nc: Client) -> None:
    """Cut the connection; what the transport has buffered is thrown away."""
    for transport in _transports(nc):
        transport.abort()
