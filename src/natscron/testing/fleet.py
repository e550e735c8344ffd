"""Several service processes on one NATS, jobs of theirs, and everything that arrives on the jobs' subjects.

Two looks at what arrives: a subscription (sees repeats under one id, is deaf while NATS is down) and a stream whose
window for dropping repeats is as short as NATS allows (survives NATS, has the server's time of receipt). Subjects
``core.>`` are captured in the stream ``CAPTURE``; ``js.>`` belongs to the file stream ``TARGET``, an ordinary JetStream
target with the usual window. Clients of the fleet connect directly, whatever the services are told.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from natscron.clock import SystemClock
from natscron.codec import text_to_ms
from natscron.errors import StorageError
from natscron.model import Ms, ScheduleSpec
from natscron.testing.audit import Arrival, Range, Stretch, Verdict, audit
from natscron.testing.process import ServiceProcess
from natscron.wire.connection import Connection
from natscron.wire.consumer import parse_ack
from natscron.wire.failures import Message
from natscron.wire.options import ConnectOptions

__all__ = ["Fleet"]

_POLL_S: Final = 0.02
_API_S: Final = 20.0
_SETTLE_S: Final = 30.0
_CREATES: Final = 32
_STREAMS: Final = {"CAPTURE": ("core.>", 100_000_000), "TARGET": ("js.>", 120_000_000_000)}
"""Subjects and window for dropping repeats (ns); 100 ms is the shortest that NATS takes."""


class Fleet:
    """Use as an async context manager; all services it started are killed in the end."""

    def __init__(self, folder: Path, url: str, *, replicas: int = 1, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.url = url
        self.services: dict[str, ServiceProcess] = {}
        self.stretches: list[Stretch] = []
        """What is owed; tests of edits add to it."""
        self.heard: list[Arrival] = []
        self.connection: Connection
        self.clock = SystemClock()
        self._replicas = replicas
        self._settings = dict(settings or {})
        self._news = asyncio.Event()
        self._views: list[list[Arrival]] = [self.heard]
        self._more: list[Connection] = []

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.connection = await Connection.connect(ConnectOptions(url=self.url), timeout_s=_API_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.services.values():
            service.kill()
        for one in (self.connection, *self._more):
            await one.close()

    # Services.

    def start(self, name: str, *, url: str | None = None, key: str | None = None, **settings: str) -> ServiceProcess:
        """Start a process, again if it was there; ``url``: where it finds NATS; ``key``: what to call it here."""
        service = self.services.get(key or name)
        if service is None:
            folder = self.folder / (key or name)
            folder.mkdir(exist_ok=True)
            service = ServiceProcess(folder, name, url or self.url, {**self._settings, **settings})
            self.services[key or name] = service
        service.start()
        return service

    async def status(self) -> dict[str, Any]:
        """What some instance says about the service."""
        return await self.api("status")

    async def leader(self) -> ServiceProcess:
        """Wait for a leader that is one of ours and lives."""
        async with asyncio.timeout(_SETTLE_S):
            while True:
                with contextlib.suppress(StorageError):
                    name = (await self.status())["leader"]
                    if name in self.services and self.services[name].running:
                        return self.services[name]
                await asyncio.sleep(_POLL_S)

    async def leading(self) -> list[str]:
        """Who says of itself that it leads, once every running instance was asked. Instance ids must differ."""
        said: dict[str, bool] = {}
        async with asyncio.timeout(_SETTLE_S):
            while {name for name, service in self.services.items() if service.running} - said.keys():
                status = await self.status()
                said[status["instance_id"]] = status["is_leader"]
        return sorted(name for name, leads in said.items() if leads)

    # The API.

    async def api(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask some instance, again while none answers. Raises StorageError after 20 s, RuntimeError for a refusal."""
        data = b"" if body is None else msgspec.json.encode(body)
        async with asyncio.timeout(_API_S):
            while True:
                with contextlib.suppress(StorageError):
                    message = await self.connection.request(f"nats-cron.{what}", data, timeout_s=2)
                    if "Nats-Service-Error" not in (message.headers or {}):
                        reply: dict[str, Any] = msgspec.json.decode(message.data)
                        return reply
                    if (message.headers or {}).get("Nats-Service-Error-Code") != "503":
                        msg = f"{what}: {message.data!r}"
                        raise RuntimeError(msg)
                await asyncio.sleep(_POLL_S)

    async def create(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Store jobs; from their creation on their slots are owed."""
        gate = asyncio.Semaphore(_CREATES)

        async def one(job: Mapping[str, Any]) -> None:
            async with gate:
                await self.api("jobs.put", job)
                await self.owe(str(job["subject"]))

        await asyncio.gather(*(one(job) for job in jobs))

    async def owe(self, subject: str, *, from_ms: Ms | None = None) -> Stretch:
        """The job as it is stored now is owed from ``from_ms`` (default: its last change) on."""
        stored = await self.api("jobs.get", {"subject": subject})
        anchor = text_to_ms(stored["created_at"])
        spec = msgspec.convert(stored["schedule"], ScheduleSpec)
        after = text_to_ms(stored["updated_at"]) if from_ms is None else from_ms
        stretch = Stretch.of(subject, spec, anchor_ms=anchor, after_ms=after)
        self.stretches.append(stretch)
        return stretch

    async def cease(self, subject: str, until_ms: Ms) -> None:
        """Nothing later than ``until_ms`` is owed of the job any more."""
        self.stretches = [
            msgspec.structs.replace(one, until_ms=until_ms) if one.subject == subject and one.until_ms is None else one
            for one in self.stretches
        ]

    # What arrives.

    async def listen(self, nodes: Sequence[str] = ()) -> None:
        """Make the streams and listen; ``nodes``: also at each of these servers, over a connection of its own."""
        for name, (subject, window_ns) in _STREAMS.items():
            config = {
                "name": name,
                "subjects": [subject],
                "storage": "file",
                "num_replicas": self._replicas,
                "duplicate_window": window_ns,
                # A stream that only captures must not answer requests in the workers' place.
                "no_ack": name == "CAPTURE",
            }
            await self.insist(f"STREAM.CREATE.{name}", config)
        await self._hear(self.connection, self.heard)
        for url in nodes:
            view: list[Arrival] = []
            connection = await Connection.connect(ConnectOptions(url=url), timeout_s=_API_S)
            self._more.append(connection)
            self._views.append(view)
            await self._hear(connection, view)

    async def _hear(self, connection: Connection, view: list[Arrival]) -> None:
        def take(message: Message) -> None:
            if (arrival := _arrival(message, self.clock.now_s() * 1000)) is not None:
                view.append(arrival)
                self._news.set()

        for subject, _ in _STREAMS.values():
            await connection.subscribe(subject, take)
        await connection.flush()

    async def insist(self, api: str, body: object = None) -> dict[str, Any]:
        """Ask JetStream until it answers (a cluster may be between leaders); at most 20 s."""
        async with asyncio.timeout(_API_S):
            while True:
                with contextlib.suppress(StorageError):
                    return await self.connection.js_request(api, body)
                await asyncio.sleep(_POLL_S)

    def heard_anywhere(self) -> list[Arrival]:
        """Each run once, as it was heard first."""
        first: dict[str, Arrival] = {}
        for arrival in sorted((one for view in self._views for one in view), key=lambda one: one.at_ms):
            first.setdefault(arrival.run_id, arrival)
        return list(first.values())

    async def stream(self, name: str) -> list[Arrival]:
        """Everything in a stream, with the server's time of receipt."""
        info = await self.insist(f"STREAM.INFO.{name}")
        count = int(info["state"]["messages"])
        found: list[Arrival] = []
        done = asyncio.Event()
        received = 0

        def take(message: Message) -> None:
            nonlocal received
            if not message.reply.startswith("$JS.ACK."):
                if message.reply:
                    self.connection.publish_soon(message.reply)
                return
            received += 1
            if (arrival := _arrival(message, parse_ack(message.reply)[2] / 1e6)) is not None:
                found.append(arrival)
            if received >= count:
                done.set()

        if count == 0:
            return found
        inbox = self.connection.new_inbox()
        subscription = await self.connection.subscribe(inbox, take)
        config = {
            "deliver_subject": inbox,
            "ack_policy": "none",
            "deliver_policy": "all",
            "flow_control": True,
            "idle_heartbeat": 1_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await self.insist(f"CONSUMER.CREATE.{name}", {"stream_name": name, "config": config})
        async with asyncio.timeout(_API_S):
            await done.wait()
        await subscription.unsubscribe()
        return found

    async def ranges(self) -> list[Range]:
        """The records of slots that were not run."""
        found: list[Range] = []
        cursor: str | None = None
        while True:
            reply = await self.api("runs.list", {"status": "skipped", **({"cursor": cursor} if cursor else {})})
            for run in reply.get("runs") or ():
                if "from" in run:
                    span = text_to_ms(run["from"]), text_to_ms(run["to"])
                    found.append(Range(run["job"], *span, run.get("reason", "")))
            cursor = reply.get("next")
            if not cursor:
                return found

    async def next_arrival(self, after: int | None = None, timeout_s: float = _SETTLE_S) -> Arrival:
        """Wait for the first message heard after the first ``after`` ones (default: after those heard by now)."""
        start = len(self.heard) if after is None else after
        async with asyncio.timeout(timeout_s):
            while len(self.heard) <= start:
                self._news.clear()
                await self._news.wait()
        return self.heard[start]

    async def passed(self, instant_ms: Ms, timeout_s: float = _SETTLE_S) -> None:
        """Wait until every job with an open stretch was heard with a slot later than ``instant_ms``."""
        waiting = {stretch.subject for stretch in self.stretches if stretch.until_ms is None}
        position = [0] * len(self._views)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._news.clear()
                    for i, view in enumerate(self._views):
                        waiting -= {arrival.subject for arrival in view[position[i] :] if arrival.slot_ms > instant_ms}
                        position[i] = len(view)
                    if not waiting:
                        return
                    await self._news.wait()
        except TimeoutError:
            logs = "\n".join(f"== {name}\n{service.log[-3000:]}" for name, service in self.services.items())
            msg = f"no run after {instant_ms} of {sorted(waiting)[:5]} and {len(waiting)} in all\n{logs}"
            raise RuntimeError(msg) from None

    async def passed_mark(self) -> None:
        """Wait until the mark in the store has passed now: what was due before is decided, whatever happens next."""
        now = self.clock.now_ms()
        async with asyncio.timeout(_SETTLE_S):
            while True:
                mark = (await self.status())["mark"]
                if mark is not None and text_to_ms(mark) > now:
                    return
                await asyncio.sleep(_POLL_S)

    async def verdict(self, *, timeout_s: float = 10.0) -> Verdict:
        """Let everything due by now arrive, then compare it with what was owed."""
        until = self.clock.now_ms()
        await self.passed(until)
        end = asyncio.get_running_loop().time() + timeout_s
        while True:
            # A subscriber hears a repeat that the target's stream drops: what counts there is what the stream holds.
            heard = [[arrival for arrival in view if not arrival.subject.startswith("js.")] for view in self._views]
            streams = [await self.stream(name) for name in _STREAMS]
            found = audit(self.stretches, [*heard, *streams], until, await self.ranges())
            if not found.lost or asyncio.get_running_loop().time() > end:
                return found
            await asyncio.sleep(_POLL_S)

    async def stored_twice(self) -> list[str]:
        """Run ids that the target stream holds more than once."""
        seen: set[str] = set()
        twice: list[str] = []
        for arrival in await self.stream("TARGET"):
            if arrival.run_id in seen:
                twice.append(arrival.run_id)
            seen.add(arrival.run_id)
        return twice


def _arrival(message: Message, at_ms: float) -> Arrival | None:
    headers = message.headers or {}
    if "Nats-Cron-Run" not in headers:
        return None
    slot_ms = text_to_ms(headers["Nats-Cron-Scheduled-At"])
    return Arrival(message.subject, headers["Nats-Msg-Id"], slot_ms, at_ms)
