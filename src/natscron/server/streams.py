"""Keeps :class:`~natscron.server.delivery.StreamMap` fresh: which streams of the account capture which subjects.

Who is authoritative: the JetStream API. The map is asked for anew when an advisory says that a stream was created,
changed or deleted, when the connection came back, when a job with delivery ``auto`` was saved and the map is older
than 5 s, and every 30 s. Requests are at least 0.2 s apart, however many reasons there are.

When the API does not answer (or may not be asked), the map stays as it was and :attr:`StreamKeeper.problem` says so.
A stream that the API names as missing (its leader is away) stays in the map as it was last seen.
"""

import asyncio
import contextlib
import logging
from typing import Final

from natscron.errors import StorageError
from natscron.server.delivery import CapturingStream, StreamMap
from natscron.wire.connection import Connection
from natscron.wire.discovery import find_streams
from natscron.wire.failures import Message
from natscron.wire.line import Subscription  # noqa: TC001 - one import block reads better than two

__all__ = ["StreamKeeper"]

logger = logging.getLogger("natscron.server.streams")

_EVERY_S: Final = 30.0
_APART_S: Final = 0.2
_STALE_S: Final = 5.0
_TIMEOUT_S: Final = 2.0
_CHANGES: Final = ("CREATED", "UPDATED", "DELETED")


class StreamKeeper:
    """Start it, poke it, stop it."""

    def __init__(self, connection: Connection, streams: StreamMap) -> None:
        self.problem: str | None = None
        """Why the map may be old; None while it is fresh."""
        self._connection = connection
        self._streams = streams
        self._due = asyncio.Event()
        self._asked_s = float("-inf")
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None
        self._unlisten = connection.add_listener(self)

    async def start(self) -> None:
        """Fill the map, for at most two seconds, and keep it fresh from then on."""
        for change in _CHANGES:
            self._subscriptions.append(
                await self._connection.subscribe(f"$JS.EVENT.ADVISORY.STREAM.{change}.>", self._advised)
            )
        await self._refresh()
        self._task = asyncio.create_task(self._keep(), name="natscron streams")

    async def stop(self) -> None:
        """Leave nothing on the connection. Idempotent."""
        self._unlisten()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.unsubscribe()

    def poke(self) -> None:
        """Somebody depends on the map now: ask again soon if it is older than five seconds."""
        if asyncio.get_running_loop().time() - self._asked_s > _STALE_S:
            self._due.set()

    def on_down(self) -> None:
        """Nothing to do: what is known stays."""

    def on_up(self) -> None:
        """Advisories may have been missed."""
        self._due.set()

    def _advised(self, _message: Message) -> None:
        self._due.set()

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._due.wait()
            self._due.clear()
            await self._refresh()
            await asyncio.sleep(_APART_S)

    async def _refresh(self) -> None:
        self._asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await self._all()
        except (StorageError, TimeoutError) as error:
            if self.problem is None:
                logger.warning("The account's streams cannot be listed", extra={"error": str(error) or "no answer"})
            self.problem = (
                "the account's streams cannot be listed, so delivery 'auto' goes by what was known before; "
                "allow $JS.API.STREAM.LIST, or name the delivery in each job"
            )
            return
        self.problem = None
        if self._streams.replace(found):
            logger.debug("The account's streams changed", extra={"streams": len(found)})

    async def _all(self) -> list[CapturingStream]:
        known = {stream.name: stream for stream in self._streams.streams}
        found: list[CapturingStream] = []
        for info in await find_streams(self._connection):
            if info.leaderless and not info.subjects and info.name in known:
                found.append(known[info.name])
            else:
                found.append(CapturingStream(info.name, info.subjects, info.no_ack))
        return found
