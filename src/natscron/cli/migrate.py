"""The command that copies a library's storage into another one: ``migrate``.

URLs hold passwords: none is ever shown, and what is said of a storage names it by its scheme and place.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

import rich_click as click

from natscron.cli.output import Output
from natscron.cli.session import Session, examples
from natscron.clock import Clock
from natscron.errors import ConfigError, NatscronError

if TYPE_CHECKING:
    from natscron.storage.migrate import MigrateProgress, MigrateResult

__all__ = ["migrate"]

_LINE_EVERY: Final = 10_000
"""Where there is no terminal, a line is printed each so many records or jobs."""
_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "nats": 4222, "tls": 4222}
_FAMILIES: Final = {"postgres": "postgresql", "mariadb": "mysql", "tls": "nats", "wss": "ws"}
_NOWHERE: Final = "memory://"
_WORDS: Final = {"history": "executions", "calendars": "calendars", "jobs": "jobs"}


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; copies nothing.")
@click.option("--executions/--no-executions", default=True, help="With the history, or without.", show_default=True)
@click.option("--removed-jobs", is_flag=True, help="Also the history of jobs that are not there any more.")
@click.option("--json", "as_json", is_flag=True, default=None, help="The result as JSON.")
@click.option("--no-color", is_flag=True, default=None, help="No colours. [env: NO_COLOR]")
@click.pass_obj
@examples(
    "nats-cron migrate sqlite:///jobs.db postgresql://app@db/app --dry-run",
    "nats-cron migrate sqlite:///jobs.db postgresql://app@db/app",
    "nats-cron migrate mysql://app@db/app sqlite:///copy.db --no-executions",
)
def migrate(  # noqa: PLR0913 - one parameter an option
    session: Session,
    source: str,
    destination: str,
    *,
    dry_run: bool,
    executions: bool,
    removed_jobs: bool,
    as_json: bool | None,
    no_color: bool | None,
) -> int:
    """Copy the jobs and history of a Scheduler (the library) from one storage to another.

    SRC and DST are URLs as `Scheduler` takes them: sqlite:///FILE, postgresql://, mysql://, mariadb:// or nats://.
    What DST has already is left as it is, so the same command may be run again, also after it was interrupted.
    History that DST would not keep (a database: over 30 days) is skipped too: docs/library.md says how to keep it.

    Stop the schedulers of SRC first: a run that is due after the copy is DST's. SRC is only read; its tables are
    brought up to date if an older version made them, and a dry run makes those of DST if there are none.
    """
    if removed_jobs and not executions:
        raise click.UsageError("--removed-jobs is about executions: it does not go with --no-executions")
    _check(source, destination)
    # What does not exist yet is empty, and a dry run shall not make it.
    path = _file(destination)
    absent = dry_run and path is not None and not Path(path).exists()
    import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

    from natscron.storage.migrate import MigrationError  # noqa: PLC0415 - for this command alone

    out = session.merged({"json": as_json, "no_color": no_color}).out
    options = {"executions": executions, "removed_jobs": removed_jobs, "dry_run": dry_run}
    try:
        with _shown(out) as progress:
            work = _run(session.clock, source, _NOWHERE if absent else destination, progress, options)
            result = asyncio.run(work)
    except MigrationError as error:
        if out.as_json:
            out.data(_data(error.result, dry_run=dry_run))
        raise
    _report(out, result, dry_run=dry_run)
    return 1 if result.jobs_refused or result.executions_refused or result.calendars_refused else 0


async def _run(
    clock: Clock, source: str, destination: str, progress: "_Progress", options: dict[str, bool]
) -> "MigrateResult":
    from natscron.scheduler.storages import open_storage  # noqa: PLC0415 - for this command alone
    from natscron.storage.migrate import migrate_storage  # noqa: PLC0415 - likewise

    src, dst = open_storage(source, clock), open_storage(destination, clock)
    try:
        return await migrate_storage(src, dst, progress=progress.show, clock=clock, **options)
    finally:
        for storage in (src, dst):
            with contextlib.suppress(NatscronError):
                await storage.close()


# What is given.


def _check(source: str, destination: str) -> None:
    """Raise what is wrong with the two together, or with one of them before it is opened."""
    for url, name in ((source, "SRC"), (destination, "DST")):
        if _split(url).scheme.lower() == "memory":
            raise click.UsageError(
                f"{name}: memory:// is a process's own, and empty in this one; give a URL of a database or of NATS"
            )
    if _place(source) == _place(destination):
        raise click.UsageError("SRC and DST are the same storage; give two")
    path = _file(source)
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"SRC: there is no file {path}")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # Its text may hold a password.
        raise click.UsageError("a storage's URL cannot be read; write it as scheme://user@host/database") from None


def _place(url: str) -> tuple[object, ...]:
    """What tells one storage from another, as far as the URLs can."""
    path = _file(url)
    if path is not None:
        return "sqlite", os.path.realpath(path)
    parts = _split(url)
    scheme = parts.scheme.lower().partition("+")[0]
    family = _FAMILIES.get(scheme, scheme)
    try:
        port = parts.port
    except ValueError:
        port = None
    return family, (parts.hostname or "localhost").lower(), port or _PORTS.get(family), parts.path


def _file(url: str) -> str | None:
    """The file of a SQLite database; None for others, and for what only SQLite can read."""
    scheme, _, path = url.partition(":///")
    if scheme.lower().partition("+")[0] != "sqlite" or path.startswith(("file:", ":")):
        return None
    return path.partition("?")[0] or None


# What is shown.


class _Progress:
    """Shows nothing."""

    def show(self, progress: "MigrateProgress") -> None:
        """Called after each step."""


class _Lines(_Progress):
    """A line at the beginning of each stage, and now and then."""

    def __init__(self) -> None:
        self._stage = ""
        self._told = 0

    def show(self, progress: "MigrateProgress") -> None:
        done = _done(progress)
        if progress.stage == self._stage and done - self._told < _LINE_EVERY:
            return
        self._stage, self._told = progress.stage, done
        click.echo(f"{_WORDS[progress.stage]}: {_text(progress)}", err=True)


class _Bars(_Progress):
    """A bar for each stage."""

    def __init__(self, bars: Any) -> None:  # noqa: ANN401 - rich's, which is loaded where there is a terminal only
        self._bars = bars
        self._ids: dict[str, Any] = {}

    def show(self, progress: "MigrateProgress") -> None:
        stage = progress.stage
        if stage not in self._ids:
            self._ids[stage] = self._bars.add_task(_WORDS[stage], total=progress.total, text="")
        # Of nothing there is to do, all is done.
        total, done = (1, 1) if progress.total == 0 else (progress.total, progress.done)
        self._bars.update(self._ids[stage], completed=done, total=total, text=_text(progress))


@contextlib.contextmanager
def _shown(out: Output) -> Iterator[_Progress]:
    if out.as_json:
        yield _Progress()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console  # noqa: PLC0415 - where there is a terminal only
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - likewise

        columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.fields[text]}"))
        console = Console(stderr=True, no_color=out.colourless or None)
        with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
            yield _Bars(bars)


def _done(progress: "MigrateProgress") -> int:
    result = progress.result
    if progress.stage == "history":
        return result.executions_migrated + result.executions_skipped + result.executions_refused
    return progress.done


def _text(progress: "MigrateProgress") -> str:
    done = _done(progress)
    if progress.stage == "history":
        of = f" of {progress.done}/{progress.total} jobs" if progress.total is not None else ""
        return f"{done:,}{of}"
    return f"{done:,} of {progress.total or 0:,}"


def _report(out: Output, result: "MigrateResult", *, dry_run: bool) -> None:
    if out.as_json:
        out.data(_data(result, dry_run=dry_run))
        return
    rows = [
        (what, *(f"{getattr(result, f'{what}_{word}'):,}" for word in ("migrated", "skipped", "refused")))
        for what in ("jobs", "executions", "calendars")
    ]
    out.table(("", "TO MIGRATE" if dry_run else "MIGRATED", "SKIPPED", "REFUSED"), rows)
    for warning in result.warnings:
        out.warn(warning)
    if dry_run:
        out.line("Nothing was copied: this was a dry run")


def _data(result: "MigrateResult", *, dry_run: bool) -> dict[str, object]:
    return {"dry_run": dry_run} | {name: getattr(result, name) for name in result.__struct_fields__}
