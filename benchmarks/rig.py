"""What the benchmarks share: a NATS server and the service as processes of their own, a stream that captures targets.

Lateness is the server's: from a run's slot (its header) to the receive timestamp that the capturing memory stream gave
it. Each benchmark prints rows of ``what, measured, wanted``; on a machine that does other work too, run it several
times and look at the least.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from natscron.codec import text_to_ms
from natscron.testing.nats import NatsServer
from natscron.wire.connection import Connection
from natscron.wire.consumer import parse_ack
from natscron.wire.failures import Message
from natscron.wire.options import ConnectOptions
from natscron.wire.publisher import encode

__all__ = ["CAPTURED", "Rig", "Service", "options", "percentile", "report", "sleep_until"]

CAPTURED: Final = "bench"
"""Jobs of benchmarks publish to ``bench.<number>``; the stream ``BENCH`` has them in memory."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_POLL_S: Final = 0.005
_READY_S: Final = 60.0


class Service:
    """One NATS Cron server process."""

    def __init__(self, process: "subprocess.Popen[bytes]", name: str, log: Path) -> None:
        self.process = process
        self.name = name
        self.log = log

    def cpu_s(self) -> float:
        """Processor seconds used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_mb(self) -> float:
        """Resident memory now, in MB (10^6 bytes)."""
        return self._status("VmRSS")

    def peak_mb(self) -> float:
        """The most resident memory so far, in MB."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024 / 1e6

    def said(self, text: str) -> bool:
        """Whether its log has ``text``."""
        return text in self.log.read_text()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Signal it and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Run(msgspec.Struct, frozen=True, gc=False):
    """One captured message: its slot, and the server's time of it, in milliseconds since 1970."""

    subject: str
    slot_ms: int
    at_ms: float
    run_id: str

    @property
    def late_ms(self) -> float:
        """From the slot to the server's time."""
        return self.at_ms - self.slot_ms


class Rig:
    """NATS, a connection to it, and services. Use as an async context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="natscron-bench-")))
        self.nats = NatsServer(self.folder / "nats")
        self.services: list[Service] = []
        self.connection: Connection

    async def __aenter__(self) -> Self:
        self._stack.enter_context(self.nats)
        self.connection = await Connection.connect(ConnectOptions(url=self.nats.url))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.connection.close()
        for service in self.services:
            service.end()
        self._stack.close()

    async def capture(self) -> None:
        """Make the stream that captures the targets, or empty it."""
        with contextlib.suppress(Exception):
            await self.connection.js_request("STREAM.DELETE.BENCH")
        config = {"name": "BENCH", "subjects": [CAPTURED + ".>"], "storage": "memory", "max_msgs": -1}
        await self.connection.js_request("STREAM.CREATE.BENCH", config)

    async def captured_count(self) -> int:
        """How many messages are captured."""
        info = await self.connection.js_request("STREAM.INFO.BENCH")
        return int(info["state"]["messages"])

    async def captured(self, wait_s: float = 30.0) -> list[Run]:
        """All captured messages, read by a consumer with a window of its own."""
        count = await self.captured_count()
        found: list[Run] = []
        over = asyncio.Event()
        inbox = self.connection.new_inbox()

        def take(message: Message) -> None:
            headers = message.headers or {}
            if "Nats-Cron-Run" not in headers:
                if message.reply:
                    self.connection.publish_soon(message.reply)
                return
            slot_ms = _slot_ms(headers["Nats-Cron-Scheduled-At"])
            found.append(Run(message.subject, slot_ms, parse_ack(message.reply)[2] / 1e6, headers["Nats-Cron-Run"]))
            if len(found) >= count:
                over.set()

        if count == 0:
            return found
        subscription = await self.connection.subscribe(inbox, take)
        config = {
            "deliver_subject": inbox,
            "ack_policy": "none",
            "deliver_policy": "all",
            "flow_control": True,
            "idle_heartbeat": 1_000_000_000,
            "mem_storage": True,
        }
        await self.connection.js_request("CONSUMER.CREATE.BENCH", {"stream_name": "BENCH", "config": config})
        async with asyncio.timeout(wait_s):
            await over.wait()
        await subscription.unsubscribe()
        return found

    def serve(self, name: str = "one", *arguments: str, env: Mapping[str, str] | None = None) -> Service:
        """Start a service process; it does not wait for it."""
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "natscron", "server", "--server", self.nats.url, "--instance-id", name]
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - own list
                [*command, *arguments], stdout=out, stderr=out, env={**os.environ, **(env or {})}
            )
        service = Service(process, name, log)
        self.services.append(service)
        return service

    async def leading(self, service: Service) -> None:
        """Wait until a service leads."""
        await self._until(lambda: service.said('"msg":"leading"') or service.said('"leading"'), service)

    async def started(self, service: Service) -> None:
        """Wait until a service answers the API."""
        await self._until(lambda: service.said("NATS Cron server started"), service)

    async def _until(self, reached: Callable[[], bool], service: Service) -> None:
        async with asyncio.timeout(_READY_S):
            while not reached():
                if service.process.poll() is not None:
                    raise RuntimeError("the service ended: " + service.log.read_text()[-2000:])
                await asyncio.sleep(_POLL_S)

    async def create(self, jobs: Iterable[Mapping[str, Any]], in_flight: int = 64) -> list[float]:
        """Create jobs over the API, so many at once; milliseconds of each answer. Raises on the first refusal."""
        bodies = iter([msgspec.json.encode(job) for job in jobs])
        inbox = self.connection.new_inbox()
        sent: dict[int, float] = {}
        took: list[float] = []
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = 0

        def send() -> None:
            nonlocal number
            body = next(bodies, None)
            if body is None:
                if not sent and not over.done():
                    over.set_result(None)
                return
            number += 1
            sent[number] = time.perf_counter()
            self.connection.enqueue(encode("nats-cron.jobs.create", (), body, f"{inbox}.{number}"))

        def take(message: Message) -> None:
            began = sent.pop(int(message.subject.rpartition(".")[2]))
            took.append((time.perf_counter() - began) * 1000)
            if b'"status":"created"' not in message.data and not over.done():
                over.set_exception(RuntimeError(f"not created: {message.data!r}"))
            send()

        subscription = await self.connection.subscribe(inbox + ".*", take)
        for _ in range(in_flight):
            send()
        await over
        await subscription.unsubscribe()
        return took


_slots: dict[str, int] = {}


def _slot_ms(text: str) -> int:
    if text not in _slots:
        if len(_slots) > 10_000:  # noqa: PLR2004 - more than any benchmark has instants
            _slots.clear()
        _slots[text] = text_to_ms(text)
    return _slots[text]


@contextlib.asynccontextmanager
async def standing() -> AsyncIterator[tuple[Rig, Service]]:
    """NATS and one service that leads."""
    async with Rig() as rig:
        service = rig.serve()
        await rig.leading(service)
        await rig.started(service)
        await rig.capture()
        yield rig, service


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def sleep_until(at_ms: int) -> None:
    """Until the wall clock shows ``at_ms``."""
    await asyncio.sleep(max(0.0, at_ms / 1000 - time.time()))


def options(text: str, **numbers: float) -> argparse.Namespace:
    """The command line: one option for each number, with its default, and ``--runs``."""
    parser = argparse.ArgumentParser(description=text)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def report(what: str, measured: str, wanted: str = "") -> None:
    """One row of the table."""
    print(f"{what:44}  {measured:46}  {wanted}", flush=True)
