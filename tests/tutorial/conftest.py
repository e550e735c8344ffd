"""Fixtures of the tutorials: the repository as a reader has it, and servers of their own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from natscron.server import Server, ServerOptions
from natscron.server.embedded import EmbeddedNats

OURS = ("NATS", "INSTANCE_ID", "LOG_LEVEL", "MAKE", "MFLAGS", "PYTHON", "VENV", "TEST", "WORKERS", "RUN_ARGS")
"""Beginnings of variables that our programs and our Makefile read, and that make hands on to what it starts."""


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A reader's shell: our programs on the PATH, a home of its own, none of our variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path, "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "NO_COLOR": "1"}


Start: TypeAlias = Callable[[list[str], dict[str, str]], "subprocess.Popen[str]"]


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Start a command with an environment, in the repository's folder; ended with the test, by id."""
    running: list[subprocess.Popen[str]] = []

    def begin(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(  # noqa: S603 - commands of our own documents
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own, so that what a command starts ends with it.
            start_new_session=True,
        )
        running.append(process)
        return process

    yield begin
    # Newest first: workers before the servers that they are connected to.
    for process in reversed(running):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
async def nats_url() -> AsyncIterator[str]:
    async with EmbeddedNats() as embedded:
        yield embedded.url


@pytest.fixture
async def service(nats_url: str) -> AsyncIterator[Server]:
    async with Server(ServerOptions(nats_url=nats_url)) as server:
        yield server
