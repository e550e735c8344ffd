"""A stream for message schedules on a real server, a client of the host application, and what workers receive."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from natscron.messages import MessageScheduler
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

__all__ = ["WAIT_S", "World", "world_on"]

_numbers = itertools.count(1)
WAIT_S = 20.0


class World:
    """One stream with the subjects ``<name>.schedules.>`` and ``<name>.t.>``, and a client beside it."""

    def __init__(self, name: str, nc: Client, connection: Connection) -> None:
        self.name = name
        self.nc = nc
        self.connection = connection
        self.js = nc.jetstream()
        self.schedules = MessageScheduler(nc, name.upper(), f"{name}.schedules")
        self._workers: dict[str, JetStreamContext.PullSubscription] = {}

    def target(self, name: str = "orders") -> str:
        return f"{self.name}.t.{name}"

    async def worker(self, name: str = "orders") -> JetStreamContext.PullSubscription:
        """A consumer of a target; the same at each call."""
        if name not in self._workers:
            self._workers[name] = await self.js.pull_subscribe(
                self.target(name), durable=name.replace(".", "-"), stream=self.name.upper()
            )
        return self._workers[name]

    async def receive(self, name: str = "orders") -> Msg:
        """The next message for a target, acknowledged by the caller."""
        [message] = await (await self.worker(name)).fetch(1, timeout=WAIT_S)
        return message

    async def drain(self, name: str, count: int) -> list[Msg]:
        """So many messages of a target, acknowledged."""
        worker = await self.worker(name)
        found: list[Msg] = []
        async with asyncio.timeout(WAIT_S):
            while len(found) < count:
                with contextlib.suppress(nats.errors.TimeoutError):
                    for message in await worker.fetch(min(500, count - len(found)), timeout=1):
                        found.append(message)
                        await message.ack()
        return found

    async def subjects(self) -> dict[str, int]:
        """What stands under the schedules' prefix, and how many messages on each subject."""
        request = {"subjects_filter": f"{self.name}.schedules.>"}
        info = await self.connection.js_request(f"STREAM.INFO.{self.name.upper()}", request)
        found: dict[str, int] = info["state"].get("subjects") or {}
        return found

    async def count(self, name: str) -> int:
        """Messages on a target."""
        request = {"subjects_filter": self.target(name)}
        info = await self.connection.js_request(f"STREAM.INFO.{self.name.upper()}", request)
        return sum((info["state"].get("subjects") or {}).values())

    async def update(self, **changes: object) -> None:
        """Change the stream's configuration."""
        stream = self.name.upper()
        config = (await self.connection.js_request(f"STREAM.INFO.{stream}"))["config"]
        await self.connection.js_request(f"STREAM.UPDATE.{stream}", config | changes)


@contextlib.asynccontextmanager
async def world_on(url: str, *, extra: Sequence[str] = (), create: bool = True) -> AsyncIterator[World]:
    """A world of its own on a server that others use too."""
    nc = await nats.connect(url)
    connection = await Connection.connect(ConnectOptions(url=url))
    world = World(f"m{next(_numbers)}", nc, connection)
    try:
        if create:
            await world.schedules.ensure_stream([f"{world.name}.t.>", *extra])
        yield world
    finally:
        await world.schedules.close()
        await connection.close()
        await nc.close()
