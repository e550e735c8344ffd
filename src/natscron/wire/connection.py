"""The shared connection: API, watches, history. It reconnects for ever; leaders have their own (``leader_link``).

Who is authoritative: the server. This object knows only whether the link is up, and says so to its listeners.

States: *connecting* (``connect`` returns when the first server answered; until then it tries every 100 ms and says so
at most every 5 s), *up*, *down* (trying every 100 ms, servers in turn), *closed* (by us, or the adopted client's end).

* The link is lost when the socket ends, or after two unanswered pings 2 s apart.
* While down nothing is accepted: ``publish`` and ``request`` raise StorageUnavailableError. What was accepted just
  before may still leave after the reconnect, so a request that was under way ends with StorageUncertainError at once.
* The client gives up for good on some server errors (expired credentials). We then start a new one, with the same
  subscriptions.
* An adopted client belongs to the host application: we add to its callbacks, take them away again, never close it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client

from natscron.errors import (
    ConfigError,
    InvalidSubjectError,
    LimitExceededError,
    NatscronError,
    StorageUnavailableError,
    StorageUncertainError,
)
from natscron.wire.failures import NO_RESPONDERS, Message, NoRespondersError, status_of
from natscron.wire.internals import Sink, WireClient, abort, enqueue, push_pending, round_trip, stop_gently
from natscron.wire.line import REQUEST_TIMEOUT_S, Listener, Subscription
from natscron.wire.options import ConnectOptions, Dial
from natscron.wire.replies import Replies, decode_api

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription as ClientSubscription

__all__ = ["Connection", "ConnectionEvent", "OnEvent"]

logger = logging.getLogger("natscron.wire")

PING_S: Final = 2
RECONNECT_WAIT_S: Final = 0.1
CONNECT_TIMEOUT_S: Final = 2
CLOSE_TIMEOUT_S: Final = 2.0
PENDING_BYTES: Final = 32 << 20
SAY_EVERY_S: Final = 5.0


class ConnectionEvent(StrEnum):
    """What happened to the connection."""

    WAITING = "waiting"
    """No server answers yet, or none any more; at most every 5 s."""
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    RECONNECTED = "reconnected"
    ERROR = "error"
    """The server or a callback complained; the connection goes on. At most every 5 s for the same text."""
    CLOSED = "closed"


OnEvent = Callable[[ConnectionEvent, str], None]


class _Subscription:
    def __init__(self, owner: "Connection", subject: str, cb: Callable[[Message], None], queue: str) -> None:
        self.owner = owner
        self.subject = subject
        self.queue = queue
        self.sink = Sink(cb, owner.report)
        self.client: ClientSubscription | None = None

    async def start(self, nc: Client) -> None:
        self.client = await nc.subscribe(self.subject, queue=self.queue, future=self.sink.as_future())

    async def unsubscribe(self) -> None:
        self.owner.subscriptions.discard(self)
        client, self.client = self.client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error):
                await client.unsubscribe()

    async def drain(self) -> None:
        client = self.client
        if client is not None and self.owner.is_connected:
            await stop_gently(client)
            with contextlib.suppress(StorageUnavailableError, StorageUncertainError):
                await self.owner.flush()
        await self.unsubscribe()


class Connection:
    """A connection to NATS that is kept up. Made by :meth:`connect` or :meth:`adopt`."""

    def __init__(self, dial: Dial, on_event: OnEvent | None) -> None:
        self.dial = dial
        """Servers and credentials, for opening another connection like this one."""
        self.subscriptions: set[_Subscription] = set()
        self._on_event = on_event or _log_event
        self._client: Client | None = None
        self._adopted = False
        self._closing = False
        self._up = False
        self._why = ""
        """Why the last server that was tried could not be used."""
        self._listeners: list[Listener] = []
        self._replies = Replies()
        self._prefix = ""
        self._inbox_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._said: dict[str, float] = {}
        self._restore: Callable[[], None] | None = None

    @classmethod
    async def connect(
        cls, options: ConnectOptions | Dial, *, on_event: OnEvent | None = None, timeout_s: float | None = None
    ) -> "Connection":
        """Connect, and keep trying while no server answers, for at most ``timeout_s`` (None: for ever).

        Raises ConfigError for options that cannot work, StorageUnavailableError after the time-out, which says why the
        last server was no good (its certificate, say).
        """
        dial = options if isinstance(options, Dial) else options.dial()
        self = cls(dial, on_event)
        try:
            async with asyncio.timeout(timeout_s):
                await self._open()
        except TimeoutError:
            why = f"; last: {self._why}" if self._why else ""
            text = f"no NATS server answered at {dial.redacted} within {timeout_s} s{why}"
            raise StorageUnavailableError(text) from None
        self._say(ConnectionEvent.CONNECTED, dial.redacted)
        return self

    @classmethod
    def adopt(cls, client: Client, *, on_event: OnEvent | None = None) -> "Connection":
        """Use a connected client of the host application. :meth:`close` leaves it as it was."""
        from natscron.wire.adoption import dial_of, hook  # noqa: PLC0415 - it knows this class

        self = cls(dial_of(client), on_event)
        self._client = client
        self._adopted = True
        self._up = client.is_connected
        self._restore = hook(client, self._went_down, self._came_up, self._client_closed)
        return self

    @property
    def is_connected(self) -> bool:
        """Whether the link is up, as far as is known."""
        return self._up and self._client is not None and self._client.is_connected

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._closing

    @property
    def max_payload(self) -> int:
        """The most bytes that one message may have."""
        return self._nc().max_payload

    @property
    def received(self) -> int:
        """How many messages came since the client was made."""
        return 0 if self._client is None else self._client.stats["in_msgs"]

    @property
    def server_info(self) -> Mapping[str, Any]:
        """What the connected server said of itself in its greeting."""
        info: dict[str, Any] = getattr(self._nc(), "_server_info", {})
        return info

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The connected server's version; a pre-release counts as the release. (0, 0, 0) if unknown."""
        core = str(self.server_info.get("version", "")).partition("-")[0].split(".")
        numbers = [int(part) if part.isdigit() else 0 for part in core[:3]]
        major, minor, patch = [*numbers, 0, 0, 0][:3]
        return major, minor, patch

    @property
    def cluster(self) -> str:
        """The name of the server's cluster; empty: it stands alone."""
        return str(self.server_info.get("cluster", ""))

    def known_dial(self) -> Dial:
        """:attr:`dial` with the servers that the cluster told about, for one more connection.

        Whoever was given one address must get in by another when that server is gone. Left out where the client
        itself could not use them: over WebSocket, and over TLS with several names (a told address has none).
        """
        kwargs = dict(self.dial.kwargs)
        servers: list[str] = list(kwargs.get("servers", ()))
        told = [] if self._client is None else [url.geturl() for url in self._client.discovered_servers]
        if any(url.startswith("ws") for url in servers) or ("tls" in kwargs and len(servers) > 1):
            told = []
        if told and "tls" in kwargs:
            kwargs.setdefault("tls_hostname", urlsplit(servers[0]).hostname)
        kwargs["servers"] = list(dict.fromkeys([*servers, *told]))
        return Dial(kwargs, self.dial.redacted)

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return self._nc().new_inbox()

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` about ups and downs; the result ends that."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    async def publish(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Publish. Returning means accepted by the client, not received by anyone; see :meth:`flush`.

        Raises StorageUnavailableError while the link is down, LimitExceededError over the maximum payload,
        InvalidSubjectError for white space or nothing in ``subject``.
        """
        nc = self._ready()
        try:
            await nc.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except nats.errors.MaxPayloadError:
            raise LimitExceededError(f"{len(data)} bytes on {subject}: the server takes {nc.max_payload}") from None
        except nats.errors.BadSubjectError:
            raise InvalidSubjectError(f"not a subject to publish on: {subject!r}") from None
        except nats.errors.Error as error:
            raise StorageUnavailableError(f"cannot publish on {subject}: {error}") from error

    def enqueue(self, data: bytes) -> None:
        """Put protocol bytes made by :func:`natscron.wire.publisher.encode` behind what is pending.

        For callers that bound what is under way. Raises StorageUnavailableError while the link is down.
        """
        enqueue(self._ready(), data)

    def push(self) -> None:
        """Hand what is pending to the socket now, not when the client's own task comes to it."""
        if self.is_connected:
            push_pending(self._ready())

    def publish_soon(self, subject: str, data: bytes = b"") -> None:
        """Publish without waiting; dropped when the link is down. For answers to the server's own requests."""
        if self.is_connected:
            self.spawn(self.publish(subject, data))

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask and wait for one answer.

        Raises NoRespondersError, StorageUnavailableError while the link is down, and StorageUncertainError when no
        answer came in time or the link was lost meanwhile.
        """
        self._ready()
        prefix = await self._inbox()
        token, future = self._replies.expect()
        try:
            await self.publish(subject, data, headers=headers, reply=prefix + token)
            async with asyncio.timeout(timeout_s):
                message = await future
        except TimeoutError:
            raise StorageUncertainError(f"no answer on {subject} within {timeout_s} s") from None
        finally:
            self._replies.forget(token)
        if status_of(message) == NO_RESPONDERS:
            raise NoRespondersError(subject)
        return message

    async def js_request(
        self, api: str, payload: object = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the JetStream API, for example ``js_request("STREAM.INFO.KV_x")``; ``payload`` is made JSON.

        Raises ApiError for its refusal, and what :meth:`request` raises (NoRespondersError: no JetStream here).
        """
        subject = f"$JS.API.{api}"
        body = b"" if payload is None else msgspec.json.encode(payload)
        return decode_api(subject, await self.request(subject, body, timeout_s=timeout_s))

    async def subscribe(self, subject: str, cb: Callable[[Message], None], queue: str = "") -> Subscription:
        """Call ``cb`` for each message, synchronously, in the read loop: it has to be quick and must not block.

        An exception out of it is reported and the subscription lives. Survives reconnects.
        """
        subscription = _Subscription(self, subject, cb, queue)
        self.subscriptions.add(subscription)
        try:
            await subscription.start(self._nc())
        except nats.errors.Error as error:
            self.subscriptions.discard(subscription)
            raise StorageUnavailableError(f"cannot subscribe to {subject}: {error}") from error
        return subscription

    async def flush(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Wait until the server has handled all that was published before. Raises StorageUncertainError."""
        nc = self._ready()
        push_pending(nc)  # the client writes its PING ahead of what is pending
        try:
            async with asyncio.timeout(timeout_s):
                await round_trip(nc)
        except (TimeoutError, nats.errors.Error, OSError):
            raise StorageUncertainError(f"the server did not confirm within {timeout_s} s") from None

    async def close(self) -> None:
        """End it; an adopted client stays open. Idempotent, never raises."""
        if self._closing:
            return
        self._closing = True
        self._up = False
        self._replies.fail_all("the connection was closed")
        for subscription in list(self.subscriptions):
            if self._adopted:
                await subscription.unsubscribe()
        if self._restore is not None:
            self._restore()
        for task in list(self._tasks):
            task.cancel()
        if self._client is not None and not self._adopted:
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._client.close()
            except (TimeoutError, nats.errors.Error, OSError):
                abort(self._client)  # the other side takes nothing any more
        self._say(ConnectionEvent.CLOSED, self.dial.redacted)

    def report(self, error: BaseException) -> None:
        """Say that something went wrong, at most every 5 s for the same text."""
        self._say(ConnectionEvent.ERROR, f"{type(error).__name__}: {error}", bounded=True)

    def _nc(self) -> Client:
        if self._client is None or self._closing:
            raise StorageUnavailableError("the NATS connection is closed")
        return self._client

    def _ready(self) -> Client:
        nc = self._nc()
        if not self.is_connected:
            raise StorageUnavailableError(f"no connection to NATS at {self.dial.redacted}")
        return nc

    async def _inbox(self) -> str:
        async with self._inbox_lock:
            if not self._prefix:
                prefix = self.new_inbox() + "."
                await self.subscribe(prefix + "*", self._replies.resolve)
                self._prefix = prefix
        return self._prefix

    async def _open(self) -> None:
        client = WireClient(self._went_down, self._client_closed)
        try:
            await client.connect(
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # annotated int, used as seconds
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_S,
                pending_size=PENDING_BYTES,
                error_cb=self._client_error,
                reconnected_cb=self._client_reconnected,
                **self.dial.kwargs,
            )
        except asyncio.CancelledError:
            await client.close()
            raise
        except Exception as error:  # noqa: BLE001 - the client and the key library raise what they like
            # Not a network error (those are tried again): an unusable seed, say. Its text may hold part of a secret.
            raise ConfigError(f"cannot connect to {self.dial.redacted}: {type(error).__name__}") from None
        self._client = client
        self._up = True
        for subscription in list(self.subscriptions):
            await subscription.start(client)

    async def _client_error(self, error: Exception) -> None:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A failed attempt can swallow the cancellation of the caller who waits for the first connection.
            raise asyncio.CancelledError
        kind = ConnectionEvent.ERROR if self._up else ConnectionEvent.WAITING
        self._why = str(error) or type(error).__name__
        text = f"{self.dial.redacted}: {self._why}"
        self._say(kind, text, bounded=True, key=None if self._up else kind)

    async def _client_reconnected(self) -> None:
        self._came_up()

    def _went_down(self, why: str) -> None:
        was_up, self._up = self._up, False
        self._replies.fail_all("the connection to NATS was lost before the answer came")
        if was_up and not self._closing:
            self._say(ConnectionEvent.DISCONNECTED, why)
            for listener in list(self._listeners):
                _guarded(listener.on_down)

    def _came_up(self) -> None:
        if self._closing or self._up:
            return
        self._up = True
        self._say(ConnectionEvent.RECONNECTED, self.dial.redacted)
        for listener in list(self._listeners):
            _guarded(listener.on_up)

    def _client_closed(self) -> None:
        """The client gave up for good. An adopted one was closed by its owner, ours is made anew."""
        if self._closing or self._client is None:
            return
        self._went_down("the client was closed")
        if self._adopted:
            self._closing = True
            self._say(ConnectionEvent.CLOSED, self.dial.redacted)
            return
        self._client = None
        self.spawn(self._revive())

    async def _revive(self) -> None:
        await asyncio.sleep(RECONNECT_WAIT_S)
        while not self._closing:
            try:
                await self._open()
            except ConfigError as error:
                self.report(error)
                await asyncio.sleep(SAY_EVERY_S)
            else:
                self._up = False
                self._came_up()
                return

    def spawn(self, work: Awaitable[None]) -> None:
        """Do something beside, until the close; its failure is reported."""

        async def run() -> None:
            try:
                await work
            except NatscronError as error:
                self.report(error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say(self, event: ConnectionEvent, text: str, *, bounded: bool = False, key: str | None = None) -> None:
        if bounded:
            now = asyncio.get_running_loop().time()
            if now - self._said.get(key or text, -SAY_EVERY_S) < SAY_EVERY_S:
                return
            if len(self._said) > 64:  # noqa: PLR2004 - texts may vary without end; forgetting costs a line
                self._said.clear()
            self._said[key or text] = now
        _guarded(self._on_event, event, text)


def _guarded(fn: Callable[..., None], *args: object) -> None:
    """Other people's code, called out of the client's loops: an exception would end those."""
    try:
        fn(*args)
    except Exception:
        logger.exception("a listener of the NATS connection failed")


_LEVELS: Final = {
    ConnectionEvent.WAITING: logging.WARNING,
    ConnectionEvent.DISCONNECTED: logging.WARNING,
    ConnectionEvent.ERROR: logging.ERROR,
}


def _log_event(event: ConnectionEvent, text: str) -> None:
    logger.log(_LEVELS.get(event, logging.INFO), "NATS %s: %s", event, text)
