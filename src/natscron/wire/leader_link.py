"""A leadership's own connection: one order, no reconnect, nothing kept for later.

Who is authoritative: the socket. What :meth:`LeaderConnection.write` was given leaves in the order it was given, after
everything before it; a NATS server handles one connection in order. So an acknowledged write proves that everything
before it arrived, and a lost connection leaves a prefix.

States: *open*, then *broken* for ever (:attr:`LeaderConnection.broken` is set): by the socket's end, by an error of the
server, by two unanswered pings, by :meth:`~LeaderConnection.abort`, by :meth:`~LeaderConnection.close`. When it breaks,
bytes that the socket has not taken are thrown away (they never leave later on another server), what waits for an answer
ends with StorageUncertainError, and every further call raises LeadershipLostError.

Time-outs: opening 5 s in all; a question to JetStream as the caller says.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors

from natscron.errors import ConfigError, LeadershipLostError, StorageUnavailableError, StorageUncertainError
from natscron.wire.failures import Message, status_of
from natscron.wire.internals import (
    LeaderClient,
    Sink,
    abort,
    buffered,
    discard,
    drain,
    push_pending,
    round_trip,
    tighten,
)
from natscron.wire.line import REQUEST_TIMEOUT_S, Subscription
from natscron.wire.publisher import encode, read_token, safe_token
from natscron.wire.replies import PubAck, Replies, decode_ack, decode_api

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription as ClientSubscription

    from natscron.wire.options import Dial

__all__ = ["LeaderConnection", "OnLinkReply"]

logger = logging.getLogger("natscron.wire")

OPEN_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
PING_S: Final = 2
CONNECT_TIMEOUT_S: Final = 2

OnLinkReply = Callable[[str, str, Mapping[str, str], bytes], None]
"""Token, inline status ("503": nobody there; "" for an ordinary message), headers, body."""


class _Subscription:
    def __init__(self, client: "ClientSubscription") -> None:
        self._client = client

    async def unsubscribe(self) -> None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.unsubscribe()

    async def drain(self) -> None:
        await self.unsubscribe()  # nobody hands work to a leader's connection


class LeaderConnection:
    """Made by :meth:`open`; never used again once broken."""

    def __init__(self, on_reply: OnLinkReply) -> None:
        self.broken = asyncio.Event()
        """Set when the connection is gone, for whatever reason."""
        self._on_reply = on_reply
        self._client = LeaderClient(self._went_down, self._gone)
        self._replies = Replies()
        self._inbox = ""
        self._reply_prefix = ""
        self._answer_prefix = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, dial: "Dial", on_reply: OnLinkReply = lambda *_: None, *, timeout_s: float = OPEN_TIMEOUT_S
    ) -> "LeaderConnection":
        """Connect to the first of the dial's servers that answers. ``on_reply`` is called in the read loop.

        Raises StorageUnavailableError when none does within ``timeout_s``, ConfigError for unusable credentials.
        """
        self = cls(on_reply)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connect(dial)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            self.abort()
            raise StorageUnavailableError(f"no NATS server at {dial.redacted} took the leader's connection") from error
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception as error:  # noqa: BLE001 - the client and the key library raise what they like
            self.abort()
            raise ConfigError(f"cannot connect to {dial.redacted}: {type(error).__name__}") from None
        return self

    async def _connect(self, dial: "Dial") -> None:
        client = self._client
        await client.connect(
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_S,
            error_cb=_ignore,
            **dial.kwargs,
        )
        tighten(client)
        self._inbox = client.new_inbox()
        self._reply_prefix = f"{self._inbox}.r."
        self._answer_prefix = f"{self._inbox}.q."
        for prefix, take in ((self._reply_prefix, self._take_reply), (self._answer_prefix, self._replies.resolve)):
            await client.subscribe(prefix + "*", future=Sink(take, self._report).as_future())
        push_pending(client)
        await client.flush(timeout=int(OPEN_TIMEOUT_S))  # the subscriptions are there: no answer can be missed

    @property
    def max_payload(self) -> int:
        """The most bytes that one message (headers and body) may have."""
        return self._client.max_payload

    def buffered(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.broken.is_set() else buffered(self._client)

    def reply_subject(self, token: str) -> str:
        """Where an answer goes so that it comes back under ``token`` (any text)."""
        return self._reply_prefix + safe_token(token)

    def encode(self, subject: str, headers: Iterable[tuple[str, str]], body: bytes, token: str = "") -> bytes:
        """The bytes of a message for :meth:`write`; with ``token`` its answers come to ``on_reply`` under that.

        Pure. Raises MalformedInputError for a subject or header that would break the protocol.
        """
        return encode(subject, headers, body, self.reply_subject(token) if token else "")

    def write(self, data: bytes) -> None:
        """Hand ``data`` to the socket at once, in one write, behind everything before it."""
        self._must_live()
        push_pending(self._client, data)

    async def drain(self) -> None:
        """Wait until the socket has taken everything that was written."""
        self._must_live()
        try:
            await drain(self._client)
        except OSError as error:
            raise LeadershipLostError("the leader's connection ended") from error
        self._must_live()

    def encode_acked(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> "tuple[bytes, asyncio.Future[PubAck]]":
        """The bytes of a write into a stream, to be put into a :meth:`write`, and the future of its outcome.

        The future raises ApiError (refused), NoRespondersError (no stream there) or StorageUncertainError (the link
        was lost). It has no time-out of its own; cancel it to stop waiting.
        """
        self._must_live()
        token, answer = self._replies.expect()
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()

        def settle(done: "asyncio.Future[Message]") -> None:
            if future.done() or done.cancelled():
                return
            error = done.exception()
            outcome = error if error is not None else decode_ack(subject, done.result())
            if isinstance(outcome, PubAck):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
                future.exception()  # marks it retrieved: the caller may have stopped waiting

        def stopped(done: "asyncio.Future[PubAck]") -> None:
            if done.cancelled():
                self._replies.forget(token)

        answer.add_done_callback(settle)
        future.add_done_callback(stopped)
        return encode(subject, (headers or {}).items(), data, self._answer_prefix + token), future

    def publish_acked(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> "asyncio.Future[PubAck]":
        """Write into a stream, in order with everything else; see :meth:`encode_acked` for the future."""
        raw, future = self.encode_acked(subject, data, headers)
        self.write(raw)
        return future

    async def js_request(
        self, api: str, payload: object = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the JetStream API on this connection.

        A stream stores beside the API: wait for a write's acknowledgement before asking about it.
        Raises ApiError, NoRespondersError, StorageUncertainError without an answer, LeadershipLostError when broken.
        """
        self._must_live()
        subject = f"$JS.API.{api}"
        token, future = self._replies.expect()
        try:
            body = b"" if payload is None else msgspec.json.encode(payload)
            self.write(encode(subject, (), body, self._answer_prefix + token))
            async with asyncio.timeout(timeout_s):
                return decode_api(subject, await future)
        except TimeoutError:
            raise StorageUncertainError(f"no answer on {subject} within {timeout_s} s") from None
        finally:
            self._replies.forget(token)

    async def flush(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Wait until the server has handled everything written. Raises StorageUncertainError without its answer."""
        self._must_live()
        push_pending(self._client)
        try:
            async with asyncio.timeout(timeout_s):
                await round_trip(self._client)
        except (TimeoutError, nats.errors.Error, OSError):
            raise StorageUncertainError(f"the server did not confirm within {timeout_s} s") from None
        self._must_live()

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return self._client.new_inbox()

    async def subscribe(self, subject: str, cb: Callable[[Message], None], queue: str = "") -> Subscription:
        """Call ``cb`` for each message, synchronously, in the read loop."""
        self._must_live()
        sink = Sink(cb, self._report)
        subscription = await self._client.subscribe(subject, queue=queue, future=sink.as_future())
        push_pending(self._client)
        return _Subscription(subscription)

    def publish_soon(self, subject: str, data: bytes = b"") -> None:
        """Publish without waiting; dropped when broken."""
        if not self.broken.is_set():
            self.write(encode(subject, (), data))

    def abort(self) -> None:
        """Cut the connection at once; bytes not yet taken by the socket are thrown away. Idempotent."""
        self._went_down("aborted")
        self._end()

    async def close(self) -> None:
        """Flush and close, within 2 s. Idempotent; never raises (but for a cancellation)."""
        if not self.broken.is_set():
            with contextlib.suppress(LeadershipLostError, StorageUncertainError):
                await self.flush(CLOSE_TIMEOUT_S)
        self.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT_S)

    def _must_live(self) -> None:
        if self.broken.is_set():
            raise LeadershipLostError("the leader's connection ended")

    def _take_reply(self, message: Message) -> None:
        token = read_token(message.subject[len(self._reply_prefix) :])
        self._on_reply(token, status_of(message), message.headers or {}, message.data)

    def _went_down(self, _: str) -> None:
        if self.broken.is_set():
            return
        self.broken.set()
        self._replies.fail_all("the leader's connection was lost before the answer came")
        discard(self._client)
        abort(self._client)

    def _gone(self) -> None:
        """The client has closed."""

    def _end(self) -> None:
        if self._client.is_closed or self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._client.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _report(self, error: BaseException) -> None:
        """A reply that cannot be taken (its token is not ours, say) is dropped: nobody could act on it."""
        logger.error("a reply on the leader's connection could not be taken", exc_info=error)


async def _ignore(_: Exception) -> None:
    """Errors of the client end the connection; :attr:`LeaderConnection.broken` says so."""
