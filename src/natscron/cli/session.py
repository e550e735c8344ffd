"""What every command shares: the global options, before or after the command's name, and the way to the service."""

import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import rich_click as click

from natscron.cli.client import ApiClient
from natscron.cli.contexts import read_context
from natscron.cli.output import Output
from natscron.clock import Clock, SystemClock
from natscron.config import Settings, load_settings
from natscron.errors import NatscronError

if TYPE_CHECKING:
    from natscron.wire.connection import Connection

__all__ = [
    "DurationType",
    "Session",
    "complete_calendar",
    "complete_subject",
    "connection_options",
    "examples",
    "with_session",
]

P = ParamSpec("P")
T = TypeVar("T")
_DEFAULT_TIMEOUT_MS: Final = 5_000
_COMPLETION_MS: Final = 1_000
_SETTING_FLAGS: Final = {
    "server": "nats.url",
    "user": "nats.user",
    "password": "nats.password",
    "token": "nats.token",
    "creds": "nats.creds",
    "nkey": "nats.nkey",
    "tls_ca": "nats.tls_ca",
    "tls_cert": "nats.tls_cert",
    "tls_key": "nats.tls_key",
    "name": "service.name",
}
_OTHER_FLAGS: Final = ("context", "config", "request_timeout", "json", "no_color")
_PANEL: Final = "Connection and output"


class DurationType(click.ParamType[int]):
    """Go duration text, or a number of seconds, as milliseconds above zero."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds. Fails as a usage error."""
        from natscron.durations import parse_duration_ms  # noqa: PLC0415 - not needed to draw help
        from natscron.errors import ValidationError  # noqa: PLC0415 - not needed to draw help

        if isinstance(value, int):
            return value
        text = str(value)
        try:
            milliseconds = parse_duration_ms(f"{text}s" if text.replace(".", "", 1).isdigit() else text)
        except ValidationError:
            milliseconds = 0
        if milliseconds <= 0:
            self.fail(
                f"{text!r} is not a duration above zero; write number and unit, such as 30s, 5m or 2h", param, ctx
            )
        return milliseconds


class Session:
    """The merged global options of one invocation; those after the command's name win."""

    def __init__(
        self, options: Mapping[str, Any], *, clock: Clock | None = None, connect: "Connect | None" = None
    ) -> None:
        """``clock`` and ``connect`` are for tests: the host's clocks, and NATS, by default."""
        self._options = dict(options)
        self.clock = clock or SystemClock()
        self._connect = connect
        # https://no-color.org: any value but the empty one.
        colourless = options.get("no_color") or os.environ.get("NO_COLOR")
        self.out = Output(as_json=bool(options.get("json")), color=False if colourless else None)

    def merged(self, options: Mapping[str, Any]) -> "Session":
        """This session with the given options on top."""
        given = {key: value for key, value in options.items() if value is not None}
        return Session(self._options | given, clock=self.clock, connect=self._connect)

    def settings(self, more: Mapping[str, object] | None = None, sources: Mapping[str, str] | None = None) -> Settings:
        """Defaults < file < environment < context < flags < ``more``. Raises ConfigError."""
        overrides: dict[str, object] = {}
        where: dict[str, str] = {}
        flags = {
            key: self._options[flag] for flag, key in _SETTING_FLAGS.items() if self._options.get(flag) is not None
        }
        name = self._options.get("context")
        if name:
            found, where = read_context(name, os.environ)
            identity = {"nats.user", "nats.password", "nats.token", "nats.creds", "nats.nkey"}
            if not identity.isdisjoint(flags):
                found = {key: value for key, value in found.items() if key not in identity}
            overrides.update(found)
        where |= {key: f"the flag --{flag.replace('_', '-')}" for flag, key in _SETTING_FLAGS.items() if key in flags}
        config = self._options.get("config")
        return load_settings(
            file=Path(config) if config else None,
            environ=os.environ,
            overrides=overrides | flags | dict(more or {}),
            sources=where | dict(sources or {}),
        )

    def run(self, work: Callable[[ApiClient], Awaitable[T]]) -> T:
        """Connect, do the work, and close whatever happened."""
        settings = self.settings()
        timeout_s = self._options.get("request_timeout", _DEFAULT_TIMEOUT_MS) / 1_000

        import asyncio  # noqa: PLC0415 - loading it takes longer than all of the plain commands

        async def main() -> T:
            client = await (self._connect or self._reach)(settings, timeout_s)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(main())

    def run_on_nats(self, work: "Callable[[Connection, float], Awaitable[T]]") -> T:
        """As :meth:`run`, for work on NATS itself: it gets the connection, and how long to wait for an answer, in s."""
        settings = self.settings()
        timeout_s = self._options.get("request_timeout", _DEFAULT_TIMEOUT_MS) / 1_000

        import asyncio  # noqa: PLC0415 - see run

        from natscron.cli.transport import open_connection  # noqa: PLC0415 - see _reach

        async def main() -> T:
            connection, _ = await open_connection(settings, timeout_s, self.out.warn)
            try:
                return await work(connection, timeout_s)
            finally:
                await connection.close()

        return asyncio.run(main())

    async def _reach(self, settings: Settings, timeout_s: float) -> ApiClient:
        from natscron.cli.transport import connect  # noqa: PLC0415 - loads the NATS client, for commands that ask

        return ApiClient(await connect(settings, timeout_s, self.out.warn), settings, timeout_s)


Connect = Callable[[Settings, float], Awaitable[ApiClient]]


def complete_subject(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The stored subjects that begin so, for the shell's completion; none if the service is not there."""
    return _completed(ctx, incomplete, lambda client: client.subjects(">"))


def complete_calendar(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The calendars whose names begin so, likewise."""

    async def names(client: ApiClient) -> list[str]:
        return [str(one.get("name")) for one in (await client.call("calendars.list")).get("calendars") or []]

    return _completed(ctx, incomplete, names)


def _completed(ctx: click.Context, incomplete: str, ask: Callable[[ApiClient], Awaitable[list[str]]]) -> list[str]:
    given: dict[str, Any] = {}
    scope: click.Context | None = ctx
    while scope is not None:
        given = {key: value for key, value in scope.params.items() if value is not None} | given
        scope = scope.parent
    base = ctx.find_root().obj
    session = (base if isinstance(base, Session) else Session({})).merged(
        {key: given.get(key) for key in (*_SETTING_FLAGS, "context", "config")} | {"request_timeout": _COMPLETION_MS}
    )
    try:
        return [one for one in session.run(ask) if one.startswith(incomplete)]
    except NatscronError:
        return []


def connection_options(*, timeout_flag: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The global options as a decorator. Without ``timeout_flag`` the name ``--timeout`` stays the command's own."""
    options = [
        click.option("--server", "-s", metavar="URL", help="NATS to connect to. [env: NATS_URL]", panel=_PANEL),
        click.option("--context", metavar="NAME", help="A natscli context; - is the selected one.", panel=_PANEL),
        click.option("--creds", metavar="FILE", help="Credentials file.", panel=_PANEL),
        click.option("--nkey", metavar="FILE", help="File with an nkey seed.", panel=_PANEL),
        click.option("--user", metavar="NAME", help="User name.", panel=_PANEL),
        click.option("--password", metavar="TEXT", help="Password of --user.", panel=_PANEL),
        click.option("--token", metavar="TEXT", help="Authentication token.", panel=_PANEL),
        click.option("--tls-ca", metavar="FILE", help="Authorities to trust, PEM.", panel=_PANEL),
        click.option("--tls-cert", metavar="FILE", help="Client certificate, PEM.", panel=_PANEL),
        click.option("--tls-key", metavar="FILE", help="Key of --tls-cert, PEM.", panel=_PANEL),
        click.option("--name", metavar="NAME", help="The service's name. [default: nats-cron]", panel=_PANEL),
        click.option("--config", metavar="FILE", help="Configuration, TOML. [env: NATSCRON_CONFIG]", panel=_PANEL),
        click.option("--json", is_flag=True, default=None, help="Results as JSON.", panel=_PANEL),
        click.option("--no-color", is_flag=True, default=None, help="No colours. [env: NO_COLOR]", panel=_PANEL),
    ]
    if timeout_flag:
        text = "How long to wait for an answer. [default: 5s]"
        options.append(
            click.option(
                "--timeout", "request_timeout", type=DurationType(), metavar="DURATION", help=text, panel=_PANEL
            )
        )

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            fn = option(fn)
        # The command's own options come first, the shared ones last.
        fn = click.option_panel(_PANEL)(fn)
        return click.option_panel("Options")(fn)

    return decorate


def with_session(
    *, timeout_flag: bool = True
) -> Callable[[Callable[Concatenate[Session, P], int | None]], Callable[..., None]]:
    """Give a command the global options and hand it a :class:`Session`; its return value is the exit code."""

    def decorate(fn: Callable[Concatenate[Session, P], int | None]) -> Callable[..., None]:
        @connection_options(timeout_flag=timeout_flag)
        @click.pass_context
        @functools.wraps(fn)
        def command(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> None:
            shared = {key: kwargs.pop(key) for key in (*_SETTING_FLAGS, *_OTHER_FLAGS) if key in kwargs}
            base = ctx.obj if isinstance(ctx.obj, Session) else Session({})
            ctx.exit(fn(base.merged(shared), *args, **kwargs) or 0)

        return command

    return decorate


def examples(*lines: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Append command lines to a command's help, each on a line of its own."""

    def decorate(fn: Callable[P, T]) -> Callable[P, T]:
        shown = "\n".join(f"  {line}" for line in lines)
        # \b on a line of its own keeps click from joining the lines below it.
        fn.__doc__ = f"{inspect.cleandoc(fn.__doc__ or '')}\n\n\b\nExamples:\n{shown}"
        return fn

    return decorate
