"""A scheduler lives as long as its ASGI application does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from natscron import JobEvent, Scheduler, lifespan, with_lifespan

pytestmark = pytest.mark.anyio

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Server:
    """The part of an ASGI server that tells an application of its beginning and its end."""

    def __init__(self, app: App) -> None:
        self.sent: list[Message] = []
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task = asyncio.ensure_future(
            app({"type": "lifespan", "asgi": {}, "state": {}}, self._to_app.get, self._send)
        )

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._from_app.put_nowait(message)

    async def tell(self, what: str) -> Message:
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        return await asyncio.wait_for(self._from_app.get(), 10)

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ended(self) -> None:
        await asyncio.wait_for(self._task, 10)


def scheduler_with_handler() -> Scheduler:
    return Scheduler("memory://", lambda _event: None)


@pytest.mark.parametrize("make", [FastAPI, Starlette])
async def test_it_runs_from_the_applications_start_to_its_end(make: Callable[..., App]) -> None:
    scheduler = scheduler_with_handler()
    server = Server(make(lifespan=lifespan(scheduler)))
    assert (await server.tell("startup"))["type"] == "lifespan.startup.complete"
    assert scheduler.is_running
    assert (await server.tell("shutdown"))["type"] == "lifespan.shutdown.complete"
    await server.ended()
    assert not scheduler.is_running


async def test_the_applications_own_resources_come_first_and_go_last() -> None:
    scheduler = scheduler_with_handler()
    seen: list[tuple[str, bool]] = []

    @asynccontextmanager
    async def own(app: Starlette) -> AsyncIterator[dict[str, str]]:
        seen.append((f"open {type(app).__name__}", scheduler.is_running))
        yield {"database": "open"}
        seen.append(("close", scheduler.is_running))

    app = Starlette()
    async with lifespan(scheduler, own)(app) as state:
        assert scheduler.is_running
        assert state == {"database": "open"}
    assert seen == [("open Starlette", False), ("close", False)]


async def test_a_handler_still_has_the_applications_resources_when_the_scheduler_stops() -> None:
    scheduler = Scheduler("memory://", stop_timeout="5s")
    going, go_on = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def handler(_event: JobEvent) -> None:
        going.set()
        await go_on.wait()
        seen.append("handler")

    @asynccontextmanager
    async def own(_app: object) -> AsyncIterator[None]:
        yield
        seen.append("close")

    scheduler.set_handler(handler)
    scheduler.every("10ms", id="job")(handler)
    async with lifespan(scheduler, own)(None):
        await asyncio.wait_for(going.wait(), 10)
        asyncio.get_running_loop().call_soon(go_on.set)
    assert seen == ["handler", "close"]


async def test_a_scheduler_that_cannot_start_fails_the_applications_start() -> None:
    server = Server(Starlette(lifespan=lifespan(Scheduler("memory://"))))
    reply = await server.tell("startup")
    assert reply["type"] == "lifespan.startup.failed"
    assert "handler not defined" in reply["message"]
    await server.cancel()


async def test_one_that_was_started_before_is_left_running_and_stopped_at_the_end() -> None:
    scheduler = scheduler_with_handler()
    await scheduler.start()
    async with lifespan(scheduler)(None):
        assert scheduler.is_running
    assert not scheduler.is_running


async def test_an_application_that_fails_while_it_lives_stops_the_scheduler() -> None:
    scheduler = scheduler_with_handler()
    with pytest.raises(RuntimeError, match="the application"):
        async with lifespan(scheduler)(None):
            raise RuntimeError("the application")
    assert not scheduler.is_running


class Plain:
    """An ASGI application that knows nothing of lifespans."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        del receive
        self.scopes.append(scope["type"])
        await send({"type": "http.response.start"})


async def test_an_application_without_a_lifespan_is_given_one() -> None:
    scheduler = scheduler_with_handler()
    plain = Plain()
    server = Server(with_lifespan(plain, scheduler))
    assert (await server.tell("startup"))["type"] == "lifespan.startup.complete"
    assert scheduler.is_running
    assert (await server.tell("shutdown"))["type"] == "lifespan.shutdown.complete"
    await server.ended()
    assert plain.scopes == []
    assert not scheduler.is_running


async def test_everything_but_its_life_goes_to_the_application() -> None:
    plain = Plain()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await with_lifespan(plain, scheduler_with_handler())({"type": "http"}, receive, send)
    assert plain.scopes == ["http"]
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_server_is_told_when_the_scheduler_cannot_start() -> None:
    server = Server(with_lifespan(Plain(), Scheduler("memory://")))
    reply = await server.tell("startup")
    assert reply["type"] == "lifespan.startup.failed"
    assert "handler not defined" in reply["message"]
    await server.ended()


async def test_a_server_that_goes_without_a_word_stops_the_scheduler() -> None:
    scheduler = scheduler_with_handler()
    server = Server(with_lifespan(Plain(), scheduler))
    await server.tell("startup")
    await server.cancel()
    assert not scheduler.is_running
