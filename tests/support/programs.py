"""Small programs that run schedulers in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

__all__ = ["Start", "end_of", "line_of", "start_program"]

Start: TypeAlias = Callable[[str], "subprocess.Popen[str]"]

PATIENCE_S = 30
_HEAD = """
import asyncio, gc, logging, os, signal, sys, threading, time
import natscron
from natscron import MemoryStorage, every
from natscron.sync import Scheduler

def say(*words):
    # One write a line: several processes write into one pipe.
    os.write(1, (" ".join(str(word) for word in words) + "\\n").encode())

def until(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise SystemExit("it did not happen")

def fork(child):
    pid = os.fork()
    if pid == 0:
        child()
        if child.__name__ == "at_once":
            # The thread that forked would go on with its work.
            os._exit(0)
        sys.exit(0)
    return pid

def wait_for(pid):
    say("child exited", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Start]:
    """Start a program that begins with :data:`_HEAD`; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(program: str) -> "subprocess.Popen[str]":
        path = tmp_path / f"program{len(running)}.py"
        path.write_text(_HEAD + textwrap.dedent(program))
        process = subprocess.Popen(  # noqa: S603 - our own program
            # From Python 3.12 on a fork where there are threads is warned of; that is what some of these try.
            [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(path)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def end_of(process: "subprocess.Popen[str]", code: int = 0) -> list[str]:
    """Wait for its end; what it has said."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, output
    return output.splitlines()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
