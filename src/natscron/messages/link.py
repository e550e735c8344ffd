"""The scheduler's connection and what it knows of its stream.

Who is authoritative: the stream's leader. What is remembered of the stream (its level, two flags of its configuration)
is asked again after every loss of the link, because the server behind it may be another, and after an error that
contradicts it. Opened at the first call, by one caller; the others wait. A client that was given stays open when this
ends; one made from a URL is closed.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from natscron.clock import Clock
from natscron.errors import ConfigError, LimitExceededError, StorageNotInitializedError
from natscron.messages.refusals import refusal
from natscron.messages.streamcheck import config_problems, config_warnings
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError, NoRespondersError
from natscron.wire.kv import get_last
from natscron.wire.levels import Needs, ServerLevel, level_of, require
from natscron.wire.options import ConnectOptions
from natscron.wire.reading import Entry
from natscron.wire.replies import PubAck
from natscron.wire.window import PublishWindow

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Link", "StreamFacts"]

logger = logging.getLogger("natscron.messages")

_CONNECT_S: Final = 10.0
_NOT_FOUND: Final = 10059
_CONTRADICTIONS: Final = frozenset({10059, 10060, 10166, 10188, 10189, 10190})
_HEADER_LINE: Final = 4
"""Bytes that a header takes beside its name and value."""
_HEADER_START: Final = 12


class StreamFacts(msgspec.Struct, frozen=True):
    """What is remembered of the stream."""

    server: ServerLevel
    allow_ttl: bool
    allow_direct: bool

    @property
    def atomic(self) -> bool:
        """Whether a schedule can cancel another one in the same write. Older servers leave that one standing."""
        return self.server.level >= Needs.FULL


class Link:
    """A connection, a window for single publishes, and the stream's facts."""

    def __init__(self, nc: Any, stream: str, prefix: str, *, timeout_s: float, clock: Clock) -> None:  # noqa: ANN401 - nats-py's client is known in wire alone
        self.stream = stream
        self.prefix = prefix
        self.timeout_s = timeout_s
        self.clock = clock
        self._given = nc
        self._connection: Connection | None = None
        self._window: PublishWindow | None = None
        self._opening = asyncio.Lock()
        self._facts: StreamFacts | None = None
        self._told: set[str] = set()
        self._remove: Callable[[], None] | None = None
        self._closed = False

    async def connection(self) -> Connection:
        """The connection, made at the first call. Raises StorageUnavailableError, ConfigError."""
        if self._connection is None or self._closed:
            async with self._opening:
                if self._closed:
                    raise StorageNotInitializedError("the message scheduler is closed")
                if self._connection is None:
                    self._connection = await self._made()
                    self._remove = self._connection.add_listener(self)
        return self._connection

    async def _made(self) -> Connection:
        given = self._given
        if isinstance(given, Connection):
            return given
        if isinstance(given, str):
            given = ConnectOptions(url=given, name="natscron-messages")
        if isinstance(given, ConnectOptions):
            return await Connection.connect(given, timeout_s=_CONNECT_S)
        if not hasattr(given, "jetstream"):
            raise ConfigError(f"{type(given).__name__} is no NATS client: give one of nats.connect(), or a URL")
        return Connection.adopt(given)

    async def window(self) -> PublishWindow:
        """The window for single publishes."""
        connection = await self.connection()
        if self._window is None:
            self._window = PublishWindow(connection, timeout_s=self.timeout_s)
        return self._window

    async def facts(self, needs: Needs = Needs.SINGLE) -> StreamFacts:
        """The stream's facts, asked for once. Raises ServerTooOldError, ConfigError, and what a request raises."""
        found = self._facts
        if found is None:
            connection = await self.connection()
            config = await self.config()
            server = level_of(config, str(connection.server_info.get("version", "")))
            require(server, Needs.SINGLE, self.stream)
            problems = config_problems(config, self.prefix)
            if problems:
                raise ConfigError("; ".join(problems))
            for warning in config_warnings(config):
                if warning not in self._told:
                    self._told.add(warning)
                    logger.warning("%s", warning)
            found = StreamFacts(server, bool(config.get("allow_msg_ttl")), bool(config.get("allow_direct")))
            self._facts = found
        require(found.server, needs, self.stream)
        return found

    async def config(self) -> dict[str, Any]:
        """The stream's configuration, from its leader. Raises ConfigError if there is no such stream."""
        connection = await self.connection()
        try:
            info = await connection.js_request(f"STREAM.INFO.{self.stream}", timeout_s=self.timeout_s)
        except ApiError as error:
            if error.err_code == _NOT_FOUND:
                raise ConfigError(f"stream {self.stream} does not exist; ensure_stream() makes it") from error
            raise
        config: dict[str, Any] = info["config"]
        return config

    def forget(self) -> None:
        """Ask the stream again at the next call."""
        self._facts = None

    async def publish(self, subject: str, headers: dict[str, str], body: bytes) -> PubAck:
        """Publish one message and wait for its acknowledgement.

        Raises what :func:`~natscron.messages.refusals.refusal` makes of a refusal, StorageUnavailableError (nothing was
        stored) and StorageUncertainError (it may have been).
        """
        window = await self.window()
        self.check_size(headers, body)
        try:
            return await (await window.publish(subject, body, headers))
        except (ApiError, NoRespondersError) as error:
            better = self.refused(error, subject)
            if better is error:
                raise
            raise better from error

    def refused(self, error: Exception, subject: str) -> Exception:
        """The error to raise for a refusal; one that contradicts what is remembered makes it forgotten."""
        if isinstance(error, NoRespondersError) or (isinstance(error, ApiError) and error.err_code in _CONTRADICTIONS):
            self.forget()
        return refusal(error, self.stream, subject)

    def check_size(self, headers: dict[str, str], body: bytes) -> None:
        """Raise LimitExceededError for a message that would make the server end the connection."""
        size = len(body) + _HEADER_START
        for name, value in headers.items():
            size += len(name) + len(value.encode()) + _HEADER_LINE
        limit = self._connection.max_payload if self._connection is not None else size
        if size > limit:
            raise LimitExceededError(f"the message has {size} bytes with its headers; the server takes {limit}")

    async def newest(self, subjects: str) -> Entry | None:
        """The last message on ``subjects`` (may hold wildcards), from the stream's leader; None: there is none."""
        return await get_last(await self.connection(), self.stream, subjects)

    async def close(self) -> None:
        """End what was opened here. Idempotent, never raises."""
        self._closed = True
        window, self._window = self._window, None
        if window is not None:
            await window.close()
        if self._remove is not None:
            self._remove()
        connection = self._connection
        if connection is not None and connection is not self._given:
            await connection.close()

    def on_down(self) -> None:
        """The link is lost."""
        self._facts = None

    def on_up(self) -> None:
        """The link is back, maybe to another server."""
        self._facts = None
