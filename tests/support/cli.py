"""A service that is played, and the commands against it."""

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from natscron.cli.client import ApiClient, NoAnswerError, Reply
from natscron.cli.main import cli, run
from natscron.cli.session import Session
from natscron.config import Settings

NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z


class FixedClock:
    timer_slack_s = 0.0

    def now_ms(self) -> int:
        return NOW

    def now_s(self) -> float:
        return NOW / 1_000

    def trust_s(self) -> float:
        return 0.0


class Service:
    """Plays the service: replies by endpoint, in order, the last one for ever; keeps what was asked."""

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = {key: value if isinstance(value, list) else [value] for key, value in replies.items()}
        self.asked: list[tuple[str, Any]] = []
        self.live: list[bytes] = []

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Reply:
        assert timeout_s > 0
        endpoint = subject.removeprefix("nats-cron.")
        self.asked.append((endpoint, json.loads(data) if data else None))
        if endpoint not in self.replies:
            raise NoAnswerError(subject)
        queue = self.replies[endpoint]
        reply = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(reply, BaseException):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(json.dumps(reply).encode(), {})

    @contextlib.asynccontextmanager
    async def subscribe(self, subject: str) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append((subject, None))

        async def messages() -> AsyncIterator[bytes]:
            for data in self.live:
                yield data
                await asyncio.sleep(0)

        yield messages()

    async def close(self) -> None:
        self.asked.append(("closed", None))


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Play = Callable[..., Ended]


def player(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs a command against a played service; what it printed and how it ended."""
    for name in ("NATS_URL", "NATSCRON_CONFIG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def go(service: Service, *args: str, stdin: str = "") -> Ended:
        async def connect(settings: Settings, timeout_s: float) -> ApiClient:
            return ApiClient(service, settings, timeout_s)

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = run(cli, list(args), session=Session({}, clock=FixedClock(), connect=connect))
        shown = capsys.readouterr()
        return Ended(code, shown.out, shown.err)

    return go


def refusal(text: str, code: str = "404", description: str = "Failed") -> Reply:
    body = json.dumps({"error": text, "code": code}).encode()
    return Reply(body, {"Nats-Service-Error": description, "Nats-Service-Error-Code": code})


LISTED = {"jobs": [{"subject": "t.a"}, {"subject": "t.b"}, {"subject": "t"}]}
FOUND = "Found 2 job(s) matching pattern 't.>':\n  - t.a\n  - t.b\n\n"
