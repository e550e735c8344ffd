"""What the modules above a connection need of it; the shared connection and a leader's own both have it."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from natscron.wire.failures import Message

__all__ = ["REQUEST_TIMEOUT_S", "Line", "Listener", "Subscription"]

REQUEST_TIMEOUT_S: Final = 5.0


class Listener(Protocol):
    """Told when the link goes down and comes up again, in the event loop, synchronously."""

    def on_down(self) -> None:
        """The link is lost. May be called twice for one loss."""
        ...

    def on_up(self) -> None:
        """The link is there again and the subscriptions with it."""
        ...


class Subscription(Protocol):
    """A running subscription."""

    async def unsubscribe(self) -> None:
        """End it; nothing is delivered afterwards. Idempotent, never raises."""
        ...

    async def drain(self) -> None:
        """End it, but first hand over what the server has already sent. Idempotent, never raises."""
        ...


class Line(Protocol):
    """Enough to ask JetStream and to read from a stream."""

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        ...

    async def subscribe(self, subject: str, cb: Callable[[Message], None], queue: str = "") -> Subscription:
        """Call ``cb`` for each message, synchronously, in the read loop: it has to be quick and must not block."""
        ...

    async def js_request(
        self, api: str, payload: object = None, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the JetStream API, for example ``js_request("STREAM.INFO.KV_x")``; ``payload`` is made JSON."""
        ...

    def publish_soon(self, subject: str, data: bytes = b"") -> None:
        """Publish without waiting; dropped when the link is down."""
        ...
