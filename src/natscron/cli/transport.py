"""The API client's transport over the shared NATS connection.

A command is short: it does not outlive its connection. Connecting is tried for a moment only, so that a wrong address
is told at once, and the text of the last failure becomes part of the error.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from natscron.cli.client import NoAnswerError, Reply
from natscron.config import Settings, redact_url
from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.wire.connection import Connection, ConnectionEvent
from natscron.wire.failures import Message, NoRespondersError
from natscron.wire.options import ConnectOptions

__all__ = ["NatsTransport", "connect", "open_connection"]

_CONNECT_S: Final = 2.0
_AFTER_REFUSAL_S: Final = 0.5
_LINK: Final[Mapping[ConnectionEvent, str]] = {
    ConnectionEvent.DISCONNECTED: "the connection to {} is lost; what happens meanwhile is not shown",
    ConnectionEvent.RECONNECTED: "connected to {} again",
}
_QUEUE: Final = 100_000


class NatsTransport:
    """One connection, for one command."""

    def __init__(self, connection: Connection, complaints: Sequence[str], say: Callable[[str], None]) -> None:
        """``complaints``: what NATS last objected to, such as a missing permission. ``say``: takes warnings."""
        self._say = say
        self._connection = connection
        self._complaints = complaints

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        """One reply.

        Raises NoAnswerError with nobody subscribed, StorageUnavailableError while the link is down, and TimeoutError,
        with NATS's objection if it had one.
        """
        try:
            message = await self._connection.request(subject, data, timeout_s=timeout_s)
        except NoRespondersError as error:
            raise NoAnswerError(str(error)) from error
        except StorageUncertainError as error:
            raise TimeoutError(*self._complaints) from error
        return Reply(message.data, message.headers or {})

    @contextlib.asynccontextmanager
    async def subscribe(self, subject: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Messages as they come. A reader that falls 100,000 behind loses the newest, and is told once."""
        lost = False
        queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)

        def take(message: Message) -> None:
            nonlocal lost
            if not queue.full():
                queue.put_nowait(message.data)
            elif not lost:
                lost = True
                self._say("messages come faster than they can be shown; some are left out from here on")

        async def messages() -> AsyncIterator[bytes]:
            while True:
                yield await queue.get()

        subscription = await self._connection.subscribe(subject, take)
        try:
            # The server takes commands in order: once it has answered, nothing published from now on is missed.
            await self._connection.flush()
            yield messages()
        finally:
            await subscription.unsubscribe()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


async def connect(settings: Settings, timeout_s: float, say: Callable[[str], None]) -> NatsTransport:
    """Connect for the API; see :func:`open_connection`."""
    connection, complaints = await open_connection(settings, timeout_s, say)
    return NatsTransport(connection, complaints, say)


async def open_connection(
    settings: Settings, timeout_s: float, say: Callable[[str], None]
) -> tuple[Connection, deque[str]]:
    """Connect, within two seconds or the shorter ``timeout_s``; ``say`` is told what happens to the link later.

    With the connection comes what NATS last objected to, which is kept up to date.

    Raises:
        StorageUnavailableError: with the address, the last cause, and what to check.
        ConfigError: the credentials or files cannot be used.
    """
    options = ConnectOptions.of(settings.nats, f"{settings.service.name}-cli")
    where = redact_url(settings.nats.url)
    complaints: deque[str] = deque(maxlen=1)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(min(timeout_s, _CONNECT_S)) as limit:
            connecting = True

            def heard(event: ConnectionEvent, text: str) -> None:
                if event in _LINK:
                    say(_LINK[event].format(where))
                if event not in {ConnectionEvent.WAITING, ConnectionEvent.ERROR}:
                    return
                if connecting and not complaints:
                    # One server refused; the others of the list get their turn, and then it is told.
                    limit.reschedule(min(limit.when() or math.inf, loop.time() + _AFTER_REFUSAL_S))
                complaints.append(text.removeprefix(f"{where}: "))

            connection = await Connection.connect(options, on_event=heard)
            connecting = False
    except TimeoutError as error:
        cause = complaints[-1] if complaints else "nothing answers there"
        raise StorageUnavailableError(
            f"connecting to NATS at {where}: {cause}; check --server or NATS_URL, the credentials, "
            "and that nats-server runs"
        ) from error
    complaints.clear()
    return connection, complaints
