"""Real PostgreSQL and MariaDB servers for tests: private ones in temporary folders, or what the environment names.

A private server listens on the loopback interface, on a free port that it keeps over a restart, and runs as the user
that its Debian package made where the tests run as root, which both programs refuse. It ends with the process that
started it, whatever ends that.
"""

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from natscron.testing.nats import free_ports

__all__ = ["MariaServer", "MissingServerError", "PostgresServer", "Remote", "Server", "fresh_database"]

PASSWORD: Final = "s3cret/p@ss"  # noqa: S105 - of a server that dies with the tests
_USER: Final = "natscron"
_POLL_S: Final = 0.02
_POLLS: Final = 1_500
_PORTS: Final = 3
_END_S: Final = 20.0
_PDEATHSIG: Final = 1
_MEMORY: Final = "/dev/shm"  # noqa: S108 - where there is one, making a table costs no wait for the disk
_libc: Final = ctypes.CDLL(None)


class MissingServerError(Exception):
    """The programs are not installed, and the environment names no server."""


class Server:
    """A private server. ``durable`` False: it does not wait for the disk, and may lie in memory."""

    kind: str
    """``postgresql`` or ``mysql``."""
    _account: str
    _stop: signal.Signals

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        memory = _MEMORY if not durable and os.access(_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix=f"natscron-{self.kind}-", dir=memory))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            found = pwd.getpwnam(self._account)
            os.chown(self.folder, found.pw_uid, found.pw_gid)

    @property
    def url(self) -> URL:
        """Where a user who may make databases gets in; no database is named."""
        return URL.create(self.kind, _USER, PASSWORD, "127.0.0.1", self.port)

    @property
    def log(self) -> str:
        """What it has logged, over all its starts."""
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> Self:
        """Start (again, on the same port and data) and wait until it answers. Raises RuntimeError."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = self._popen(self._command(), log.fileno())
        for _ in range(_POLLS):
            if self._process.poll() is not None:
                break
            if self._answers():
                return self
            time.sleep(_POLL_S)
        self.kill()
        raise RuntimeError(f"{self.kind} did not start: {self.log[-2000:]}")

    def stop(self) -> None:
        """End it in order: open connections are cut."""
        self._end(self._stop)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        try:
            self._make()
            return self._first_start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _first_start(self) -> Self:
        """On a port that was free a moment ago: making the data takes seconds, and any connection may have taken it."""
        for _ in range(_PORTS - 1):
            [self.port] = free_ports(1)
            with contextlib.suppress(RuntimeError):
                return self.start()
        [self.port] = free_ports(1)
        return self.start()

    def _make(self) -> None:
        raise NotImplementedError

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _run(self, command: Sequence[str]) -> None:
        """Run a program to its end, as the server's user. Raises RuntimeError with what it said."""
        path = self.folder / "make.log"
        with path.open("wb") as log:
            code = self._popen(command, log.fileno()).wait()
        if code:
            raise RuntimeError(f"{command[0]} failed: {path.read_text(errors='replace')[-2000:]}")

    def _popen(self, command: Sequence[str], log: int) -> subprocess.Popen[bytes]:
        root = os.geteuid() == 0
        return subprocess.Popen(  # noqa: S603 - own list
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            user=self._account if root else None,
            group=pwd.getpwnam(self._account).pw_gid if root else None,
            extra_groups=() if root else None,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call
        )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PostgresServer(Server):
    """PostgreSQL."""

    kind = "postgresql"
    _account = "postgres"
    _stop = signal.SIGINT

    def __init__(self, *, durable: bool = False) -> None:
        self._programs = _postgres_programs()
        super().__init__(durable=durable)

    def _make(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            [
                *(str(self._programs / "initdb"), "--pgdata", str(self.folder / "data"), "--encoding", "UTF8"),
                *("--locale", "C", "--username", _USER, "--pwfile", str(password), "--no-sync"),
                *("--auth-local", "reject", "--auth-host", "scram-sha-256"),
            ]
        )

    def _command(self) -> Sequence[str]:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        # Nothing of it is left behind when it is killed.
        settings["dynamic_shared_memory_type"] = "mmap"
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]

    def _answers(self) -> bool:
        command = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - own list


class MariaServer(Server):
    """MariaDB."""

    kind = "mysql"
    _account = "mysql"
    _stop = signal.SIGTERM

    def __init__(self, *, durable: bool = False) -> None:
        self._server = _program("mariadbd", "mysqld")
        self._install = _program("mariadb-install-db", "mysql_install_db")
        self._admin = _program("mariadb-admin", "mysqladmin")
        super().__init__(durable=durable)

    def _make(self) -> None:
        (self.folder / "first.sql").write_text(
            f"CREATE USER IF NOT EXISTS '{_USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{_USER}'@'%';\n"
        )
        (self.folder / "first.sql").chmod(0o644)
        self._run(
            [
                *(self._install, "--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db"),
                "--auth-root-authentication-method=normal",
            ]
        )

    def _command(self) -> Sequence[str]:
        durable = (
            []
            if self.durable
            else ["--innodb-flush-log-at-trx-commit=0", "--skip-innodb-doublewrite", "--innodb-log-file-size=16M"]
        )
        return [
            *(self._server, "--no-defaults", f"--datadir={self.folder / 'data'}"),
            *(f"--socket={self.folder / 'socket'}", f"--port={self.port}", "--bind-address=127.0.0.1"),
            *("--skip-name-resolve", f"--init-file={self.folder / 'first.sql'}", "--innodb-buffer-pool-size=64M"),
            *("--pid-file=server.pid", *durable),
        ]

    def _answers(self) -> bool:
        command = [
            *(self._admin, "--no-defaults", "--host=127.0.0.1", f"--port={self.port}", f"--user={_USER}"),
            *(f"--password={PASSWORD}", "--connect-timeout=2", "--silent", "ping"),
        ]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603 - own list


class Remote:
    """A server that the environment names, by a URL whose user may make databases."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = make_url(url).set(drivername=kind)


@contextlib.asynccontextmanager
async def fresh_database(server: Server | Remote) -> AsyncIterator[str]:
    """A database of its own on a server: its URL. Dropped in the end, whoever is connected."""
    name = f"natscron_{secrets.token_hex(6)}"
    await _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with contextlib.suppress(OSError, SQLAlchemyError):
            forced = " WITH (FORCE)" if server.kind == "postgresql" else ""
            await _execute(server, f"DROP DATABASE {name}{forced}")


async def _execute(server: Server | Remote, statement: str) -> None:
    driver, database = ("asyncpg", "postgres") if server.kind == "postgresql" else ("aiomysql", None)
    url = server.url.set(drivername=f"{server.kind}+{driver}", database=database)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.exec_driver_sql(statement)
    finally:
        await engine.dispose()


def _postgres_programs() -> Path:
    beside = shutil.which("initdb")
    folders = [Path(beside).parent] if beside else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_isready")):
            return folder
    raise MissingServerError("PostgreSQL is not installed: apt-get install postgresql")


def _program(*names: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if (found := shutil.which(name, path=path)) is not None:
            return found
    raise MissingServerError(f"{names[0]} is not installed: apt-get install mariadb-server")


def _die_with_parent() -> None:
    _libc.prctl(_PDEATHSIG, signal.SIGKILL)
