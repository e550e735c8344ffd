"""Reads docs/explain.md from top to bottom and does what it says, and holds the words in docs/api.md to the code."""

import asyncio
import re

import pytest
from tests.tutorial.test_docs import ROOT, rows, section
from tests.tutorial.test_readme import Block, Command, commands, pattern

from natscron.engine.explain import What, Why
from natscron.server import Server

pytestmark = pytest.mark.anyio
PAGE = ROOT / "docs" / "explain.md"
PATIENCE_S = 15


def typed() -> list[Command]:
    found = re.finditer(r"^```console\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [command for one in found for command in commands(Block("console", one.group(1), 0))]


async def output(command: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    shown, _ = await process.communicate()
    assert process.returncode == 0, f"$ {command}\n{shown.decode()}"
    return shown.decode()


async def test_everything_in_the_page_works_in_the_order_it_is_written(
    service: Server, nats_url: str, environment: dict[str, str]
) -> None:
    assert service.is_running
    environment["NATS_URL"] = nats_url
    for command in typed():
        expected = pattern(command.output)
        give_up = asyncio.get_running_loop().time() + PATIENCE_S
        shown = await output(command.text, environment)
        # Records are written behind: what was done a moment ago may show a moment later.
        while not expected.fullmatch(shown) and command.text.startswith("nats-cron explain"):
            if asyncio.get_running_loop().time() > give_up:
                break
            shown = await output(command.text, environment)
        assert expected.fullmatch(shown), f"$ {command.text}\n{shown}"


@pytest.mark.parametrize(("heading", "words"), [("`what`", What), ("`reason`", Why)])
def test_every_word_of_an_explanation_is_documented(heading: str, words: type[What] | type[Why]) -> None:
    text = section(ROOT / "docs" / "api.md", "## Explanations")
    [table] = [part for part in text.split("\n\n") if part.lstrip("\n").startswith(f"| {heading} | meaning")]
    assert {cells[0].strip("`") for cells in rows(table)[1:]} == {word.value for word in words}
