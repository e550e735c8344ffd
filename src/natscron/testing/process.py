"""The service as a child process, to be killed, suspended and stopped. Its log goes to a file and can be waited on."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["ServiceProcess"]

_POLL_S: Final = 0.005
_WAIT_S: Final = 20.0
_END_S: Final = 15.0
_OURS: Final = ("NATS", "INSTANCE_ID", "LOG_LEVEL")
"""Beginnings of variables that the service reads: none is handed on from this process's environment."""


class ServiceProcess:
    """``python -m natscron server``, under one instance id, started as often as wanted.

    ``settings`` are configuration keys in their environment form without the prefix: ``{"LEASE__DURATION": "1s"}``.
    Always :meth:`kill` it in the end; killing twice does no harm.
    """

    def __init__(self, folder: Path, name: str, url: str, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.path = folder / f"{name}.log"
        self._url = url
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0

    def start(self) -> None:
        """Start it without waiting; what was logged before is not waited on any more."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
        own = {f"NATSCRON_{key}": value for key, value in self._settings.items()}
        command = [sys.executable, "-m", "natscron", "server", "--server", self._url, "--instance-id", self.name]
        self._read_from = self.path.stat().st_size if self.path.exists() else 0
        with self.path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - own list
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**kept, **own}
            )

    @property
    def running(self) -> bool:
        """Whether the process lives (also while suspended)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError when it was never started."""
        if self._process is None:
            msg = f"{self.name} was not started"
            raise RuntimeError(msg)
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it wrote, over all its starts."""
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def said(self, text: str) -> list[dict[str, Any]]:
        """The log records since the last start or :meth:`forget` whose message contains ``text``."""
        with self.path.open("rb") as log:
            log.seek(self._read_from)
            lines = log.read().splitlines()
        records = []
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError):
                record = msgspec.json.decode(line)
                if isinstance(record, dict) and text in str(record.get("msg")):
                    records.append(record)
        return records

    def forget(self) -> None:
        """What was logged up to now is not waited on any more."""
        self._read_from = self.path.stat().st_size

    async def says(self, text: str, timeout_s: float = _WAIT_S) -> dict[str, Any]:
        """Wait for a log record whose message contains ``text``. Raises RuntimeError when the process ends before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    alive = self.running
                    if found := self.said(text):
                        return found[0]
                    if not alive:
                        break
                    await asyncio.sleep(_POLL_S)
        msg = f"{self.name} did not say {text!r}: {self.log[-3000:]}"
        raise RuntimeError(msg)

    def suspend(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.running:
            self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    async def ended(self, timeout_s: float = _END_S) -> int:
        """Wait for the end of the process; its exit code (negative: the signal that ended it)."""
        async with asyncio.timeout(timeout_s):
            while self.running:  # noqa: ASYNC110 - a child of subprocess tells its end only when asked
                await asyncio.sleep(_POLL_S)
        return self._process.returncode if self._process is not None else 0

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)
