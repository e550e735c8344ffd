"""Publishing into streams with an own window of unacknowledged messages over one inbox.

The client's ``publish_async`` leaves a future pending for ever when the server answers with an error; here every
future ends: with the acknowledgement, with the server's error, with the time-out, or with the loss of the link.

* Bound: ``size`` messages in flight (default 2,000; servers before 2.12 queue no more than 10,000); ``publish`` waits.
* Time-out: one for all, so the messages time out in the order they were published and one timer is enough.
* Link lost: everything in flight ends with StorageUncertainError, since it may have been stored.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self

from natscron.errors import StorageError, StorageUncertainError
from natscron.wire.connection import Connection
from natscron.wire.failures import Message
from natscron.wire.publisher import encode, frame
from natscron.wire.replies import PubAck, decode_ack

if TYPE_CHECKING:
    from natscron.wire.line import Subscription

__all__ = ["PublishWindow"]

DEFAULT_SIZE: Final = 2_000
DEFAULT_TIMEOUT_S: Final = 5.0
SMALL: Final = 65_536
"""Up to this many bytes a body takes the short way; larger ones wait for room in the client's own buffer."""


class PublishWindow:
    """A window over a shared connection. Use as an async context manager, or call :meth:`close`."""

    def __init__(
        self, connection: Connection, *, size: int = DEFAULT_SIZE, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._connection = connection
        self._size = size
        self._timeout_s = timeout_s
        self._flying: dict[str, tuple[str, asyncio.Future[PubAck]]] = {}
        self._deadlines: deque[tuple[float, str]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._next = 0
        self._prefix = ""
        self._opening = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._remove = connection.add_listener(self)

    def __len__(self) -> int:
        """How many are in flight."""
        return len(self._flying)

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> "asyncio.Future[PubAck]":
        """Publish, waiting while the window is full. The future ends within the time-out.

        It raises ApiError (refused), NoRespondersError (no stream there) or StorageUncertainError. This call itself
        raises, with nothing sent: StorageUnavailableError while the link is down, LimitExceededError,
        MalformedInputError for a subject or header that would break the protocol.
        """
        token, future = await self._admit(subject)
        try:
            if len(data) > SMALL:
                await self._connection.publish(subject, data, headers=headers, reply=self._prefix + token)
            else:
                self._connection.enqueue(encode(subject, (headers or {}).items(), data, self._prefix + token))
        except BaseException:
            self._withdraw(token)
            raise
        self._sent(token)
        return future

    async def publish_block(self, subject: str, block: bytes, data: bytes) -> "asyncio.Future[PubAck]":
        """As :meth:`publish`, for a caller who has checked the subject and has the headers as bytes (``frame``).

        ``data``: at most :data:`SMALL` bytes. Raises StorageUnavailableError while the link is down.
        """
        token, future = await self._admit(subject)
        try:
            self._connection.enqueue(frame(subject, block, data, self._prefix + token))
        except BaseException:
            self._withdraw(token)
            raise
        self._sent(token)
        return future

    async def _admit(self, subject: str) -> "tuple[str, asyncio.Future[PubAck]]":
        """A token and a future, as soon as there is room."""
        if not self._prefix:
            await self._open()
        while len(self._flying) >= self._size:
            self._room.clear()
            await self._room.wait()
        self._next += 1
        token = f"{self._next:x}"
        future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self._flying[token] = (subject, future)
        return token, future

    def _withdraw(self, token: str) -> None:
        self._flying.pop(token, None)
        self._room.set()

    def _sent(self, token: str) -> None:
        loop = asyncio.get_running_loop()
        self._deadlines.append((loop.time() + self._timeout_s, token))
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._expire)

    def push(self) -> None:
        """What was published leaves now: somebody waits for the answer, and more does not follow soon."""
        self._connection.push()

    async def settle(self) -> None:
        """Wait until nothing is in flight; at most the time-out."""
        waiting = [future for _, future in self._flying.values()]
        if waiting:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """End what is in flight with StorageUncertainError. Idempotent, never raises."""
        self._remove()
        self._fail("the publisher was closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def on_down(self) -> None:
        """The link is lost."""
        self._fail("the connection to NATS was lost before the acknowledgement came")

    def on_up(self) -> None:
        """Nothing to do: the subscription is there again."""

    async def _open(self) -> None:
        async with self._opening:
            if not self._prefix:
                prefix = self._connection.new_inbox() + "."
                self._subscription = await self._connection.subscribe(prefix + "*", self._on_ack)
                self._prefix = prefix

    def _on_ack(self, message: Message) -> None:
        entry = self._flying.pop(message.subject[len(self._prefix) :], None)
        if entry is None:
            return
        self._room.set()
        subject, future = entry
        if future.done():
            return
        outcome = decode_ack(subject, message)
        if isinstance(outcome, PubAck):
            future.set_result(outcome)
        else:
            _raise(future, outcome)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self._flying):
            entry = self._flying.pop(deadlines.popleft()[1], None)
            if entry is not None:
                self._room.set()
                _raise(entry[1], StorageUncertainError(f"no acknowledgement for {entry[0]} within {self._timeout_s} s"))
        self._timer = loop.call_at(deadlines[0][0], self._expire) if deadlines else None

    def _fail(self, text: str) -> None:
        flying, self._flying = self._flying, {}
        self._deadlines.clear()
        self._room.set()
        for subject, future in flying.values():
            _raise(future, StorageUncertainError(f"{subject}: {text}"))


def _raise(future: "asyncio.Future[PubAck]", error: StorageError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it retrieved: the caller may have stopped waiting
