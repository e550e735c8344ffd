"""Job files, one job at a time: each with its place, also where it cannot be read."""

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import rich_click as click

from natscron.cli.client import JSON_ERRORS

__all__ = ["Found", "JobFile", "read_jobs"]

_NO_OBJECT: Final = "a job is a JSON object"


class Found(NamedTuple):
    """A job's JSON and where it stands; ``wrong`` says why ``job`` is None."""

    place: str
    job: dict[str, Any] | None
    wrong: str = ""


class JobFile(NamedTuple):
    """What a file holds; ``alone``: one job, neither in an array nor one of several lines."""

    jobs: list[Found]
    alone: bool


def read_jobs(name: str) -> JobFile:
    """The jobs of a file, ``-`` being standard input: an object, an array, ``{"jobs": [...]}``, or one object a line.

    Raises:
        click.ClickException: the file cannot be read, or holds nothing that could be a job.
    """
    shown = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise click.ClickException(f"reading job file: {name}: {error.strerror}") from error
    try:
        content: Any = msgspec.json.decode(data)
    except JSON_ERRORS as whole:
        return JobFile(_lines(shown, data, whole), alone=False)
    if isinstance(content, dict) and isinstance(content.get("jobs"), list):
        content = content["jobs"]
    if isinstance(content, dict):
        return JobFile([Found(shown, content)], alone=True)
    if not isinstance(content, list):
        raise click.ClickException(f"{shown}: {_NO_OBJECT}; give one, an array of them, or one a line")
    if not content:
        raise click.ClickException(f"{shown}: there is no job in it")
    return JobFile([_found(f"{shown}, job {number}", value) for number, value in enumerate(content, 1)], alone=False)


def _lines(shown: str, data: bytes, whole: Exception) -> list[Found]:
    found: list[Found] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{shown}, line {number}"
        try:
            found.append(_found(place, msgspec.json.decode(line)))
        except JSON_ERRORS as error:
            found.append(Found(place, None, f"not JSON: {error}"))
    if not any(one.job for one in found):
        # With no good line in it this was never meant to be one object a line.
        raise click.ClickException(f"{shown}: not JSON: {whole}" if found else f"{shown}: there is no job in it")
    return found


def _found(place: str, value: object) -> Found:
    return Found(place, value) if isinstance(value, dict) else Found(place, None, _NO_OBJECT)
