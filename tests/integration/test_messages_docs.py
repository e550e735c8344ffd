"""The page about message schedules, done from top to bottom: its Python blocks, and its commands with what they print.

Python blocks share their names and may ``await``, as in ``python -m asyncio``. In ``console`` blocks a line with ``$``
is a command and the lines below are its output, in which ``...`` stands for any text, alone for any lines, and blanks
for any number of them.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
from nats.aio.client import Client

from natscron.cli.main import cli, run
from natscron.messages import MessageScheduler, StreamReport
from natscron.testing.nats import NatsServer
from natscron.wire import scheduleheaders as headers

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "messages.md"


def blocks(language: str) -> list[tuple[int, str]]:
    """The line where each begins, and its text."""
    text = PAGE.read_text()
    return [
        (text.count("\n", 0, found.start()) + 1, found[1])
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


async def test_the_python_blocks_run_one_after_the_other(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    names: dict[str, object] = {}
    try:
        for line, block in blocks("python"):
            code = compile("\n" * line + block, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)  # noqa: S307 - the page's own code
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, 30)
    finally:
        schedules, client = names["schedules"], names["nc"]
        assert isinstance(schedules, MessageScheduler)
        assert isinstance(client, Client)
        await schedules.close()
        await client.close()
    assert len(blocks("python")) > 6


def pattern(lines: list[str]) -> str:
    parts = [
        r"(?:.*\n)*" if line == "..." else r"\s+".join(map(re.escape, line.split())).replace(r"\.\.\.", ".*") + r"\s*\n"
        for line in lines
    ]
    return r"\s*" + r"\s*".join(parts)


def test_the_commands_print_what_the_page_says(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    [(_, block)] = blocks("console")
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    for command, output in commands:
        program, *args = shlex.split(command)
        assert program == "nats-cron"
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            assert run(cli, args) == 0, command
        assert re.fullmatch(pattern(output.splitlines()), shown.getvalue()), f"{command}\n{shown.getvalue()}"
    assert len(commands) == 8


def test_every_call_and_every_header_of_ours_is_on_the_page() -> None:
    text = PAGE.read_text()
    calls = {name for name, one in vars(MessageScheduler).items() if not name.startswith("_") and callable(one)}
    assert {name for name in calls if f"{name}(" not in text} == set()
    ours = {value for value in vars(headers).values() if isinstance(value, str) and value.startswith("Nats-Cron-")}
    assert {name for name in ours if f"`{name}`" not in text} == set()
    assert {name for name in ("problems", "warnings", "recurring") if name not in text} == set()
    assert StreamReport.__struct_fields__
