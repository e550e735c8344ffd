"""A micro service on NATS, with handlers that run beside each other.

The client's own runs one handler at a time for each endpoint. On the wire there is no difference: discovery (PING,
INFO, STATS on ``$SRV``), the queue group, the error headers and the JSON are those of the NATS micro protocol as the Go
client writes it, field order and escapes included.

Who is authoritative: each instance for itself; discovery asks them all.

* Handlers are spawned, at most ``max_running`` (256) at once; ``max_waiting`` (4,096) more requests wait; beyond that a
  request is answered with 503 at once.
* A handler ends with the reply's bytes, or raises :class:`MicroError` for an error reply. Any other exception is logged
  and answered with 500 without its text; the process lives.
* :meth:`MicroService.stop`: no new requests, those that the server had already sent are handled, at most ``timeout_s``
  in all, then what still runs is cancelled. Discovery answers end last.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.nuid import NUID

from natscron.clock import Clock
from natscron.errors import LimitExceededError, NatscronError
from natscron.wire.connection import Connection
from natscron.wire.failures import Message

if TYPE_CHECKING:
    from natscron.wire.line import Subscription

__all__ = ["ERROR_CODE_HEADER", "ERROR_HEADER", "Handler", "MicroError", "MicroService", "Request"]

logger = logging.getLogger("natscron.wire")

ERROR_HEADER: Final = "Nats-Service-Error"
ERROR_CODE_HEADER: Final = "Nats-Service-Error-Code"
MAX_RUNNING: Final = 256
MAX_WAITING: Final = 4_096
STOP_TIMEOUT_S: Final = 5.0
_TYPE: Final = "io.nats.micro.v1."
_ESCAPES: Final = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))


class MicroError(Exception):
    """An error reply: headers with ``code`` and ``description``, and ``body``."""

    def __init__(self, code: int, description: str, body: bytes | None = None) -> None:
        super().__init__(f"{code}:{description}")
        self.code = code
        self.description = description
        self.body = go_json({"error": description, "code": str(code)}) if body is None else body


class Request(msgspec.Struct, frozen=True):
    """A request as a handler sees it."""

    subject: str
    headers: Mapping[str, str]
    data: bytes


Handler = Callable[[Request], Awaitable[bytes]]


def go_json(value: object) -> bytes:
    """Compact JSON with ``<``, ``>`` and ``&`` escaped, as Go writes it. Keys in the given order."""
    raw = msgspec.json.encode(value)
    for plain, escaped in _ESCAPES:
        raw = raw.replace(plain, escaped)
    return raw


def _go_time(ms: int) -> str:
    """RFC 3339 in UTC without trailing zeros in the fraction."""
    stamp = datetime.fromtimestamp(ms // 1000, UTC)
    fraction = f".{ms % 1000:03d}".rstrip("0").rstrip(".")
    return f"{stamp:%Y-%m-%dT%H:%M:%S}{fraction}Z"


class _Endpoint:
    def __init__(self, name: str, subject: str, handler: Handler, metadata: Mapping[str, str] | None) -> None:
        self.name = name
        self.subject = subject
        self.handler = handler
        self.metadata = dict(sorted(metadata.items())) if metadata is not None else None
        self.requests = 0
        self.errors = 0
        self.last_error = ""
        self.time_ns = 0

    def failed(self, error: MicroError) -> None:
        self.errors += 1
        self.last_error = str(error)


class MicroService:
    """One instance of a service: :meth:`add_endpoint` for each, then :meth:`start`."""

    def __init__(  # noqa: PLR0913 - the protocol's own fields
        self,
        connection: Connection,
        *,
        name: str,
        version: str,
        description: str,
        clock: Clock,
        metadata: Mapping[str, str] | None = None,
        queue: str = "q",
        max_running: int = MAX_RUNNING,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.id = NUID().next().decode()
        """22 characters, another one for every instance."""
        self.name = name
        self._connection = connection
        self._clock = clock
        self._description = description
        self._queue = queue
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._identity: dict[str, Any] = {
            "name": name,
            "id": self.id,
            "version": version,
            "metadata": dict(sorted((metadata or {}).items())),
        }
        self._endpoints: list[_Endpoint] = []
        self._subscriptions: list[Subscription] = []
        self._discovery: list[Subscription] = []
        self._waiting: deque[tuple[_Endpoint, Message]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._started = ""

    def add_endpoint(
        self, name: str, subject: str, handler: Handler, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Before :meth:`start`; endpoints are listed in the order they were added."""
        self._endpoints.append(_Endpoint(name, subject, handler, metadata))

    async def start(self) -> None:
        """Subscribe and answer. Raises StorageUnavailableError while the link is down."""
        self._started = _go_time(self._clock.now_ms())
        answers: dict[str, Callable[[], bytes]] = {"PING": self.ping, "INFO": self.info, "STATS": self.stats}
        for verb, answer in answers.items():
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{self.name}", f"$SRV.{verb}.{self.name}.{self.id}"):
                self._discovery.append(await self._connection.subscribe(subject, self._discoverer(answer)))
        for endpoint in self._endpoints:
            subscription = await self._connection.subscribe(endpoint.subject, self._taker(endpoint), self._queue)
            self._subscriptions.append(subscription)
        await self._connection.flush()

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Handle what has arrived, at most ``timeout_s``, then end. Idempotent."""
        subscriptions, self._subscriptions = self._subscriptions, []
        try:
            async with asyncio.timeout(timeout_s):
                for subscription in subscriptions:
                    await subscription.drain()
                await self._idle.wait()
        except TimeoutError:
            logger.warning("service %s: %d requests were cut off at the stop", self.name, len(self._tasks))
        finally:
            for subscription in subscriptions:
                await subscription.unsubscribe()
            self._waiting.clear()
            for task in self._tasks:
                task.cancel()
            discovery, self._discovery = self._discovery, []
            for one in discovery:
                await one.unsubscribe()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ping(self) -> bytes:
        """The PING answer."""
        return go_json({**self._identity, "type": _TYPE + "ping_response"})

    def info(self) -> bytes:
        """The INFO answer."""
        endpoints = [
            {"name": one.name, "subject": one.subject, "queue_group": self._queue, "metadata": one.metadata}
            for one in self._endpoints
        ]
        more = {"type": _TYPE + "info_response", "description": self._description, "endpoints": endpoints}
        return go_json({**self._identity, **more})

    def stats(self) -> bytes:
        """The STATS answer."""
        endpoints = [
            {
                "name": one.name,
                "subject": one.subject,
                "queue_group": self._queue,
                "num_requests": one.requests,
                "num_errors": one.errors,
                "last_error": one.last_error,
                "processing_time": one.time_ns,
                "average_processing_time": one.time_ns // one.requests if one.requests else 0,
            }
            for one in self._endpoints
        ]
        more = {"type": _TYPE + "stats_response", "started": self._started, "endpoints": endpoints}
        return go_json({**self._identity, **more})

    def _discoverer(self, answer: Callable[[], bytes]) -> Callable[[Message], None]:
        def take(message: Message) -> None:
            if message.reply:
                self._connection.publish_soon(message.reply, answer())

        return take

    def _taker(self, endpoint: _Endpoint) -> Callable[[Message], None]:
        def take(message: Message) -> None:
            if len(self._tasks) < self._max_running:
                self._spawn(endpoint, message)
            elif len(self._waiting) < self._max_waiting:
                self._waiting.append((endpoint, message))
            else:
                error = MicroError(503, "too many requests are waiting")
                endpoint.requests += 1
                endpoint.failed(error)
                self._connection.spawn(self._respond(message, error.body, error))

        return take

    def _spawn(self, endpoint: _Endpoint, message: Message) -> None:
        self._idle.clear()
        task = asyncio.get_running_loop().create_task(self._handle(endpoint, message))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if self._waiting:
            self._spawn(*self._waiting.popleft())
        elif not self._tasks:
            self._idle.set()

    async def _handle(self, endpoint: _Endpoint, message: Message) -> None:
        endpoint.requests += 1
        begin = self._clock.trust_s()
        error: MicroError | None = None
        try:
            body = await endpoint.handler(Request(message.subject, message.headers or {}, message.data))
        except MicroError as refused:
            error, body = refused, refused.body
        except Exception:
            logger.exception("endpoint %s: a request failed", endpoint.name)
            error = MicroError(500, "internal error")
            body = error.body
        if error is None and len(body) > self._connection.max_payload:
            error = MicroError(413, f"the reply has {len(body)} bytes, the server takes {self._connection.max_payload}")
            body = error.body
        endpoint.time_ns += int((self._clock.trust_s() - begin) * 1e9)
        if error is not None:
            endpoint.failed(error)
        try:
            await self._respond(message, body, error)
        except NatscronError as lost:
            self._connection.report(lost)

    async def _respond(self, message: Message, body: bytes, error: MicroError | None) -> None:
        if not message.reply:
            return
        headers = None
        if error is not None:
            headers = {ERROR_HEADER: error.description, ERROR_CODE_HEADER: str(error.code)}
        try:
            await self._connection.publish(message.reply, body, headers=headers)
        except LimitExceededError:
            await self._connection.publish(message.reply, b"", headers=headers)
