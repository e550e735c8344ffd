"""The entry points: ``nats-cron`` (and ``nats-cron-cli``), and ``nats-cron-server``.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Results go to stdout, errors to stderr.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import rich_click as click
from click.shell_completion import get_completion_class

from natscron import __version__
from natscron.cli import (
    backfill,
    calendars,
    control,
    explain,
    history,
    message,
    migrate,
    read,
    service,
    show,
    simulate,
    write,
)
from natscron.cli.output import Output
from natscron.cli.session import Session, connection_options, examples
from natscron.errors import NatscronError

__all__ = ["cli", "main", "server_main"]

_FAILED: Final = 1
_INTERRUPTED: Final = 130
_NAME: Final = "nats-cron"
_SETTINGS: Final[dict[str, Any]] = {
    "help_option_names": ["-h", "--help"],
    # Here and not by a decorator: that one loads rich for every command.
    "rich_help_config": {"text_paragraph_linebreaks": "\n\n"},
}


@click.group(context_settings=_SETTINGS)
@click.command_panel("Jobs", commands=["add", "create", "update", "get", "show", "list", "delete", "calendar"])
@click.command_panel(
    "Runs", commands=["pause", "resume", "skip", "trigger", "backfill", "next", "runs", "watch", "explain", "simulate"]
)
@click.command_panel("Service", commands=["status", "health", "server", "dev"])
@click.command_panel("Messages that NATS itself times", commands=["message"])
@click.command_panel("Library", commands=["migrate"])
@click.command_panel("This program", commands=["version", "completion", "help"])
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
@connection_options()
@click.pass_context
@examples(
    "nats-cron dev --demo",
    "nats-cron add reports.daily '0 9 * * MON-FRI' --tz Europe/Berlin",
    "nats-cron list",
    "nats-cron watch",
)
def cli(ctx: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - the global options
    """NATS Cron: jobs that publish NATS messages on schedule.

    `nats-cron dev --demo` needs no setup. Connection options may stand before or after the command's name;
    `nats-cron help COMMAND` shows examples.
    """
    base = ctx.obj if isinstance(ctx.obj, Session) else Session({})
    ctx.obj = base.merged(options)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
@examples(
    "nats-cron version",
)
def version(session: Session, *, as_json: bool) -> None:
    """Show the version."""
    import platform  # noqa: PLC0415 - 8 ms that no other command needs

    if as_json or session.out.as_json:
        session.out.data({"version": __version__, "python": platform.python_version()})
    else:
        session.out.line(f"{_NAME} {__version__}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@examples(
    "source <(nats-cron completion bash)",
    "nats-cron completion zsh > ~/.zfunc/_nats-cron",
    "nats-cron completion fish > ~/.config/fish/completions/nats-cron.fish",
)
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    root = ctx.find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"there is no completion for {shell}")
    click.echo(kind(root.command, {}, _NAME, _complete_variable(_NAME)).source())


@click.command("help")
@click.argument("commands", metavar="[COMMAND...]", nargs=-1)
@click.pass_context
@examples(
    "nats-cron help",
    "nats-cron help add",
    "nats-cron help calendar put",
)
def help_(ctx: click.Context, commands: tuple[str, ...]) -> None:
    """Show help, for a command or in general."""
    root = ctx.find_root()
    if not commands:
        click.echo(root.get_help())
        return
    scope, group = root, root.command
    with contextlib.ExitStack() as stack:
        for name in commands:
            found = group.get_command(scope, name) if isinstance(group, click.Group) else None
            if found is None:
                raise click.UsageError(f"No such command '{name}'.", scope)
            scope = stack.enter_context(found.make_context(name, [], parent=scope, resilient_parsing=True))
            group = found
        click.echo(group.get_help(scope))


for _command in (
    write.add,
    write.create,
    write.update,
    read.get,
    show.show,
    read.list_,
    control.delete,
    control.pause,
    control.resume,
    control.skip,
    control.trigger,
    backfill.backfill,
    calendars.calendar,
    read.next_,
    history.runs,
    history.watch,
    explain.explain,
    simulate.simulate,
    service.status,
    service.health,
    service.server,
    service.dev,
    message.message,
    migrate.migrate,
    version,
    completion,
    help_,
):
    cli.add_command(_command, aliases=_command.aliases)


def _complete_variable(name: str) -> str:
    return f"_{name}_COMPLETE".replace("-", "_").upper()


def main(args: Sequence[str] | None = None, *, session: Session | None = None) -> None:
    """Run the command line and exit. ``session`` is for tests."""
    raise SystemExit(run(cli, list(sys.argv[1:] if args is None else args), session=session))


def server_main() -> None:
    """``nats-cron-server``: the same as ``nats-cron server``; ``help`` is taken as the Go version takes it."""
    args = sys.argv[1:]
    raise SystemExit(run(cli, ["server", *(["--help"] if args[:1] == ["help"] else args)]))


def run(command: click.Command, args: list[str], *, session: Session | None = None) -> int:
    """Run ``command`` and return its exit code; every error becomes a text on stderr."""
    out = Output(as_json="--json" in args)
    try:
        result = command.main(
            args, prog_name=_NAME, standalone_mode=False, obj=session, complete_var=_complete_variable(_NAME)
        )
    except click.UsageError as error:
        if out.as_json:
            out.error(error.format_message(), "usage")
        else:
            _show_usage(error)
        return error.exit_code
    except click.ClickException as error:
        out.error(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except NatscronError as error:
        out.error(str(error), getattr(error, "status", "") or str(error.code))
        return _FAILED
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # that is a reader that went away (`| head`), which is no news
            out.error(f"writing or reading failed: {error}")
        # What is still buffered cannot be written either, and Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    return result if isinstance(result, int) else 0


def _show_usage(error: click.UsageError) -> None:
    """As click does it, without the padding that goes with drawn help."""
    if error.ctx is not None:
        path = error.ctx.command_path
        click.echo(f"Usage: {path} {' '.join(error.ctx.command.collect_usage_pieces(error.ctx))}", err=True)
        click.echo(f"Try '{path} --help' for examples.\n", err=True)
    Output().error(error.format_message())
