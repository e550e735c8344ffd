"""Reads the README from top to bottom and does what it says.

Rules for its code blocks:

* ``console``: lines that begin with ``$`` are commands, run by bash in the repository's folder; the lines below are
  what they print. ``...`` stands for any text in a line, and alone on a line for any lines. A command without such
  lines may print what it likes, but must succeed. One that ends with ``&`` goes on to the end of the README; its first
  line is waited for at once, the rest before the walk is over.
* ``json`` blocks are jobs and are created; ``toml`` blocks are configurations and are loaded; ``python`` blocks are
  run.
* ``$ export NAME=VALUE`` holds for what follows; with ``...`` in it, the value is the one that a command before
  printed.
* Port 4222 is replaced by a free one. What would install software, start containers or recurse is not run: see
  ``NOT_RUN``.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from natscron.config import Settings, load_settings

README = Path(__file__).parents[2] / "README.md"
COMMAND_S = 30
Start: TypeAlias = Callable[[list[str], dict[str, str]], "subprocess.Popen[str]"]
OUTPUT_S = 30


class Block(NamedTuple):
    """A fenced block, and the line that it begins at."""

    language: str
    text: str
    line: int


class Command(NamedTuple):
    """A line to type and what it prints."""

    text: str
    output: list[str]


def blocks() -> list[Block]:
    text = README.read_text()
    return [
        Block(found.group(1), found.group(2), text.count("\n", 0, found.start()) + 1)
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        else:
            found[-1].output.append(line)
    return found


def pattern(lines: list[str]) -> re.Pattern[str]:
    parts = [
        r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\s*\n" for line in lines
    ]
    return re.compile("".join(parts))


def pip_install(command: str, root: Path, _environment: dict[str, str]) -> None:
    """What would be installed has the extras that are named."""
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in shlex.split(command)[2:]:
        found = re.fullmatch(r"natscron(?:\[(.*)\])?", requirement)
        assert found, requirement
        assert set((found.group(1) or "server").split(",")) <= set(extras)


def files_exist(command: str, root: Path, _environment: dict[str, str]) -> None:
    """The repository's files that are named exist."""
    paths = [word for word in shlex.split(command) if "/" in word and not word.startswith("/")]
    assert [path for path in paths if not (root / path).exists()] == []


def make_test(command: str, root: Path, environment: dict[str, str]) -> None:
    """It would start pytest on all tests; running it here would never end."""
    shown = subprocess.run(  # noqa: S603 - the README's command
        [*shlex.split(command), "--dry-run"], cwd=root, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r'-m pytest .*-m "not soak" +tests$', shown, re.MULTILINE)


NOT_RUN: dict[str, Callable[[str, Path, dict[str, str]], None]] = {
    "pip install ": pip_install,
    "docker ": files_exist,
    "sudo ": files_exist,
    "make test": make_test,
}


class Background:
    """A command that goes on, and what it has printed."""

    def __init__(self, command: Command, process: "subprocess.Popen[str]") -> None:
        self.command = command
        self._process = process
        self._text = ""
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._text += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, lines: list[str]) -> None:
        """Until the output begins with what these lines say."""
        found = self.find(pattern(lines).match)
        assert found, "\n".join([f"$ {self.command.text}", self._text, "is not what the README says:", *lines])

    def find(self, search: Callable[[str], re.Match[str] | None]) -> re.Match[str] | None:
        """What is found in the output, as soon as it is there."""
        with self._changed:
            self._changed.wait_for(lambda: search(self._text) or self._ended, timeout=OUTPUT_S)
            return search(self._text)


class Reader:
    """Somebody who types what the README says."""

    def __init__(self, root: Path, environment: dict[str, str], start: Start, port: int) -> None:
        self._root = root
        self._start = start
        self._port = port
        self._environment = {**environment, "NATS_URL": f"nats://127.0.0.1:{port}"}
        self.waiting: list[Background] = []

    def type(self, typed: Command) -> None:
        port = str(self._port)
        command = Command(typed.text.replace("4222", port), [line.replace("4222", port) for line in typed.output])
        text = command.text
        for prefix, check in NOT_RUN.items():
            if command.text.startswith(prefix):
                check(command.text, self._root, self._environment)
                return
        if text.startswith("export "):
            self._export(text)
            return
        if text == "make run":
            # With the environment that runs this test instead of a new one, and for a moment instead of for ever.
            text = f"make run VENV={sys.prefix} -o {sys.prefix}/.installed RUN_ARGS='--for 4s'"
        if text.endswith("&"):
            process = self._start(["bash", "-c", f"exec {text.removesuffix('&')}"], self._environment)
            background = Background(command, process)
            # The first line says that it is up; the rest may need what comes later in the text.
            background.wait_for(command.output[:1] if command.output[0] != "..." else command.output)
            self.waiting.append(background)
            return
        done = subprocess.run(  # noqa: S603 - the README's commands
            ["bash", "-c", text],  # noqa: S607 - the reader's shell
            cwd=self._root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        shown = f"$ {text}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, shown
        assert not command.output or pattern(command.output).fullmatch(done.stdout), shown

    def _export(self, text: str) -> None:
        if "..." in text:
            wanted = re.compile(r"\S+".join(map(re.escape, text.split("..."))))
            found = [match.group() for match in (one.find(wanted.search) for one in self.waiting) if match]
            assert found, text
            text = found[-1]
        name, _, value = text.removeprefix("export ").partition("=")
        self._environment[name] = value

    def run_python(self, block: Block) -> None:
        # What a program writes belongs to nobody's checkout.
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(  # noqa: S603 - the README's code
                [sys.executable, "-W", "error", "-c", block.text],
                cwd=folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=COMMAND_S,
                check=False,
            )
        assert done.returncode == 0, f"README.md line {block.line}:\n{done.stdout}{done.stderr}"

    def create_job(self, block: Block) -> None:
        done = subprocess.run(
            ["nats-cron", "create", "-f", "-"],  # noqa: S607 - from the reader's PATH
            cwd=self._root,
            env=self._environment,
            input=block.text,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"README.md line {block.line}:\n{done.stdout}{done.stderr}"

    @staticmethod
    def load_configuration(block: Block, folder: Path) -> None:
        file = folder / "natscron.toml"
        file.write_text(block.text)
        assert isinstance(load_settings(file=file), Settings)


@pytest.mark.timeout(180)
def test_everything_in_the_readme_works_in_the_order_it_is_written(
    root: Path, environment: dict[str, str], start: Start, free_port: int, tmp_path: Path
) -> None:
    reader = Reader(root, environment, start, free_port)
    for block in blocks():
        match block.language:
            case "console":
                for command in commands(block):
                    reader.type(command)
            case "python":
                reader.run_python(block)
            case "json":
                reader.create_job(block)
            case "toml":
                reader.load_configuration(block, tmp_path)
            case _:
                pytest.fail(f"README.md line {block.line}: nobody checks a block of {block.language or 'no language'}")
    for background in reader.waiting:
        background.wait_for(background.command.output)


def test_the_readme_has_the_two_commands_first() -> None:
    typed = [command.text for block in blocks() if block.language == "console" for command in commands(block)]
    assert typed[:2] == ["make run", "make test"]
