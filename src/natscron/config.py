"""Settings: defaults < file < environment < arguments, and every wrong value says where it came from.

The file is TOML with the tables ``[nats] [service] [jobs] [lease] [history] [log]``. The environment reaches every key
as ``NATSCRON_<TABLE>__<KEY>``, and the three names of the Go version, ``NATS_URL``, ``LOG_LEVEL`` and ``INSTANCE_ID``,
are read too (the longer name wins; an empty variable counts as not set). Durations are Go text (``1m30s``) or a number
of seconds; they arrive here as whole milliseconds in the fields ending in ``_ms``, whose keys lack that ending.
"""

import difflib
import math
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta

from natscron.durations import parse_duration
from natscron.errors import ConfigError, NatscronError

__all__ = [
    "DEFAULT_URL",
    "HistorySettings",
    "JobsSettings",
    "LeaseSettings",
    "LogSettings",
    "NatsSettings",
    "ServiceSettings",
    "Settings",
    "load_settings",
    "redact_url",
]

DEFAULT_URL: Final = "nats://localhost:4222"
_PREFIX: Final = "NATSCRON_"
_FILE_VARIABLE: Final = "NATSCRON_CONFIG"
_SHORT_VARIABLES: Final = {"NATS_URL": "nats.url", "LOG_LEVEL": "log.level", "INSTANCE_ID": "service.instance_id"}
_SECRETS: Final = frozenset({"nats.password", "nats.token"})
_WHO: Final = frozenset({"nats.user", "nats.token", "nats.creds", "nats.nkey"})
_HIDDEN: Final = "***"
_GRACE_OVER_LEASE_MS: Final = 10_000

_URL_RULE: Final = "nats://, tls://, ws:// or wss:// URLs with a host, separated by commas"
_PATTERN_RULE: Final = "a list of subjects, in which * stands for one token and a last > for the rest"
_Path: TypeAlias = Annotated[str, Meta(min_length=1, description="the path of a readable file", extra={"file": True})]
_Text: TypeAlias = Annotated[str, Meta(min_length=1, description="text that is not empty")]
_Bool: TypeAlias = Annotated[bool, Meta(description="true or false")]
_Name: TypeAlias = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z", description="1 to 64 of the characters A-Z a-z 0-9 _ -")
]
_Prefix: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z",
        max_length=128,
        description="subject tokens of A-Z a-z 0-9 _ - joined by dots, at most 128 characters",
    ),
]
_Subjects: TypeAlias = Annotated[tuple[str, ...], Meta(description=_PATTERN_RULE, extra={"subjects": True})]
_Level: TypeAlias = Annotated[
    Literal["debug", "info", "warn", "error"], Meta(description="one of debug, info, warn, error")
]


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where NATS is and who we are to it. At most one of user, token, creds and nkey."""

    url: Annotated[str, Meta(min_length=1, description=_URL_RULE)] = DEFAULT_URL
    """One or several server URLs, separated by commas."""
    user: _Text | None = None
    password: _Text | None = None
    token: _Text | None = None
    creds: _Path | None = None
    """Path of a credentials file (JWT and seed)."""
    nkey: _Path | None = None
    """Path of a file that holds an nkey seed."""
    tls_ca: _Path | None = None
    """Path of a PEM file with the authorities to trust, instead of the system's."""
    tls_cert: _Path | None = None
    tls_key: _Path | None = None
    name: _Text | None = None
    """The connection's name as NATS shows it. Default: the service's name and instance id."""
    replicas: Annotated[int, Meta(ge=1, le=5, description="a whole number from 1 to 5")] | None = None
    """Copies of each stream. Default: 3 in a cluster of three or more, else 1. Never lowered on existing streams."""

    def __repr__(self) -> str:
        """All set fields, secrets hidden."""
        return _repr(self, "nats")


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Names and conduct of the service. The four names left empty follow ``name``."""

    name: _Name = "nats-cron"
    instance_id: _Text = ""
    """Names this process. Default: the host's name."""
    prefix: _Prefix = ""
    """What the API's subjects begin with. Default: ``name``."""
    jobs_bucket: _Name = ""
    """Default: ``<name>-jobs``."""
    state_bucket: _Name = ""
    """Where lease, journal and open runs live. Default: ``<name>-state``."""
    log_stream: _Name = ""
    """Where run records live. Default: ``<name>-log``."""
    shutdown_timeout_ms: Annotated[
        int, Meta(ge=0, le=600_000, description="a duration from 0s to 10m, such as 30s", extra={"duration": True})
    ] = 30_000
    """How long a clean stop may finish what is in flight. Default 30 s."""
    micro: _Bool = True
    """Whether this instance answers the API."""
    leader_election: _Bool = True
    """Whether this instance may lead. Off: it answers the API and fires nothing."""

    def __post_init__(self) -> None:
        """Fill in the names that follow from others."""
        derived = {
            "instance_id": socket.gethostname() if not self.instance_id else "",
            "prefix": self.name,
            "jobs_bucket": f"{self.name}-jobs",
            "state_bucket": f"{self.name}-state",
            "log_stream": f"{self.name}-log",
        }
        for key, value in derived.items():
            if not getattr(self, key):
                msgspec.structs.force_setattr(self, key, value or "nats-cron")


class JobsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may be. Over a limit: refused with the limit named."""

    max_jobs: Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")] = 200_000
    max_payload: Annotated[int, Meta(ge=0, le=67_108_864, description="bytes, from 0 to 67108864")] = 524_288
    """Bytes of the message's body. Default 512 KiB."""
    max_headers: Annotated[int, Meta(ge=0, le=1_000, description="a whole number from 0 to 1000")] = 64
    max_labels: Annotated[int, Meta(ge=0, le=1_000, description="a whole number from 0 to 1000")] = 64
    min_interval_ms: Annotated[
        int, Meta(ge=1, le=86_400_000, description="a duration from 1ms to 24h, such as 10ms", extra={"duration": True})
    ] = 10
    """The shortest ``every``. Default 10 ms."""
    allow: _Subjects = ()
    """Subjects that jobs may publish to. Default (empty): all but the reserved."""
    deny: _Subjects = ()
    """Subjects that jobs may not publish to, even if allowed."""
    keep_done_ms: Annotated[
        int,
        Meta(ge=0, le=31_622_400_000, description="a duration from 0s to 8784h, such as 24h", extra={"duration": True}),
    ] = 86_400_000
    """How long a finished once job is kept. Default 24 h."""


class LeaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How leadership is held. The same on all instances."""

    duration_ms: Annotated[
        int, Meta(ge=500, le=60_000, description="a duration from 500ms to 60s, such as 2s", extra={"duration": True})
    ] = 2_000
    """How long a silent leader keeps the lease: the takeover time. Default 2 s; longer for slow links."""
    max_skew_ms: Annotated[
        int, Meta(ge=1_000, le=3_600_000, description="a duration from 1s to 1h, such as 10s", extra={"duration": True})
    ] = 10_000
    """A clock this far from the store's may not lead. Default 10 s."""
    grace_ms: Annotated[
        int, Meta(ge=0, le=86_400_000, description="a duration from 0s to 24h, such as 10s", extra={"duration": True})
    ] = 10_000
    """Slots younger than this always run. Default 10 s; :attr:`effective_grace_ms` is what counts."""

    @property
    def effective_grace_ms(self) -> int:
        """The grace, never less than the lease and ten seconds: a takeover must not turn a slot into an old one."""
        return max(self.grace_ms, self.duration_ms + _GRACE_OVER_LEASE_MS)


class HistorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which run records are kept."""

    enabled: _Bool = True
    per_job: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")] = 100
    max_age_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=31_622_400_000,
            description="a duration from 1s to 8784h, such as 168h",
            extra={"duration": True},
        ),
    ] = 7 * 86_400_000
    """Default 168 h, a week."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says about itself."""

    level: _Level = "info"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured. Its text form hides secrets."""

    nats: NatsSettings = msgspec.field(default_factory=NatsSettings)
    service: ServiceSettings = msgspec.field(default_factory=ServiceSettings)
    jobs: JobsSettings = msgspec.field(default_factory=JobsSettings)
    lease: LeaseSettings = msgspec.field(default_factory=LeaseSettings)
    history: HistorySettings = msgspec.field(default_factory=HistorySettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)


class _Key(msgspec.Struct, frozen=True):
    """One settable key: the field behind it and its rule."""

    table: str
    field: str
    type: Any
    meta: Meta


def _keys() -> dict[str, _Key]:
    found: dict[str, _Key] = {}
    for table in msgspec.structs.fields(Settings):
        for field in msgspec.structs.fields(table.type):
            annotated = next(kind for kind in (field.type, *get_args(field.type)) if get_origin(kind) is Annotated)
            meta = annotated.__metadata__[0]
            found[f"{table.name}.{field.name.removesuffix('_ms')}"] = _Key(table.name, field.name, annotated, meta)
    return found


_KEYS: Final = _keys()


class _Given(msgspec.Struct, frozen=True):
    """A value as it was given, and where."""

    value: object
    source: str


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Settings:
    """Put the settings together: defaults < file < environment < overrides.

    A source that says who we are (user, token, creds or nkey) replaces what lower ones said about it as a whole.

    Args:
        file: a TOML file; default: the one that ``NATSCRON_CONFIG`` in ``environ`` names, if any.
        environ: the environment to read; default: none.
        overrides: values by dotted key (``nats.url``), None meaning not given.
        sources: where an override comes from (``{"nats.url": "the flag --server"}``), for errors.

    Raises:
        ConfigError: with the source, the value (unless secret), the rule and the remedy.
    """
    environ = environ or {}
    path = file or (Path(environ[_FILE_VARIABLE]) if environ.get(_FILE_VARIABLE) else None)
    layers = [
        dict(_from_file(path)) if path is not None else {},
        dict(_from_environment(environ)),
        dict(_from_arguments(overrides or {}, sources or {})),
    ]
    given: dict[str, _Given] = {}
    for layer in layers:
        if not _WHO.isdisjoint(layer):
            given = {key: one for key, one in given.items() if key not in _WHO and key != "nats.password"}
        given.update(layer)

    tables: dict[str, dict[str, object]] = {table.name: {} for table in msgspec.structs.fields(Settings)}
    for key, one in given.items():
        target = _KEYS[key]
        tables[target.table][target.field] = _convert(key, target, one)
    settings = Settings(
        nats=NatsSettings(**tables["nats"]),  # type: ignore[arg-type]  # converted key by key just above
        service=ServiceSettings(**tables["service"]),  # type: ignore[arg-type]
        jobs=JobsSettings(**tables["jobs"]),  # type: ignore[arg-type]
        lease=LeaseSettings(**tables["lease"]),  # type: ignore[arg-type]
        history=HistorySettings(**tables["history"]),  # type: ignore[arg-type]
        log=LogSettings(**tables["log"]),  # type: ignore[arg-type]
    )
    _check_identity(settings.nats, given)
    return settings


def redact_url(url: str) -> str:
    """The URL or comma-separated URLs with user, password and token hidden."""
    # Split only before a scheme: a password may hold a comma, and hiding a host too much beats showing half a secret.
    urls = re.split(r",\s*(?=[a-z]+://)", url.strip())
    return ",".join(re.sub(r"^([a-z]+://)?.*@", rf"\g<1>{_HIDDEN}@", one, flags=re.DOTALL) for one in urls)


def _from_file(path: Path) -> Iterator[tuple[str, _Given]]:
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(
            f"the configuration file {path} cannot be read: {error.strerror}; "
            f"check --config and {_FILE_VARIABLE}, and that the file is readable"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration file {path} is not TOML: {error}; correct it there") from error
    names = [table.name for table in msgspec.structs.fields(Settings)]
    for table, content in tables.items():
        _known(table, names, str(path), what="table")
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {table} is not a table; write [{table}] and its keys below it")
        for key, value in content.items():
            source = f"{path}, table [{table}], key {key}"
            _known(f"{table}.{key}", _KEYS, source)
            yield f"{table}.{key}", _Given(value, source)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for variable, key in _SHORT_VARIABLES.items():
        if environ.get(variable):
            yield key, _Given(environ[variable], f"the environment variable {variable}")
    variables = {f"{_PREFIX}{key.replace('.', '__').upper()}": key for key in _KEYS}
    for variable, value in environ.items():
        if not variable.startswith(_PREFIX) or variable == _FILE_VARIABLE or not value:
            continue
        _known(variable, variables, "the environment", what="variable")
        yield variables[variable], _Given(value, f"the environment variable {variable}")


def _from_arguments(overrides: Mapping[str, object], sources: Mapping[str, str]) -> Iterator[tuple[str, _Given]]:
    for key, value in overrides.items():
        if value is not None:
            source = sources.get(key, f"the argument {key}")
            _known(key, _KEYS, source)
            yield key, _Given(value, source)


def _known(name: str, names: Mapping[str, object] | list[str], source: str, what: str = "key") -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name, list(names), n=1)
    if not near and "." in name:
        # The right key in the wrong table is the other common slip.
        near = [one for one in names if one.partition(".")[2] == name.partition(".")[2]]
    hint = f"did you mean {near[0]}?" if near else f"remove it, or use one of {', '.join(sorted(names))}"
    raise ConfigError(f"{source}: there is no {what} {name}; {hint}")


def _convert(key: str, target: _Key, given: _Given) -> object:
    value: object = given.value
    extra = target.meta.extra or {}
    try:
        if extra.get("duration"):
            value = _milliseconds(value)
        elif extra.get("subjects") and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        elif extra.get("file") and isinstance(value, Path):
            value = str(value)
        converted: object = msgspec.convert(value, target.type, strict=not isinstance(given.value, str))
    except (msgspec.ValidationError, NatscronError, ValueError) as error:
        raise _wrong(key, target, given) from error
    if (
        (key == "nats.url" and not _good_urls(str(converted)))
        or (extra.get("subjects") and not all(map(_good_pattern, converted)))  # type: ignore[call-overload]
        or (extra.get("file") and not Path(str(converted)).expanduser().is_file())
    ):
        raise _wrong(key, target, given)
    return str(Path(str(converted)).expanduser()) if extra.get("file") else converted


def _milliseconds(value: object) -> int:
    """Go text or seconds as whole milliseconds; a fraction of one is refused rather than rounded away."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("neither text nor a number")  # noqa: TRY004 - told to the user as a wrong value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            milliseconds, rest = divmod(parse_duration(str(value)), 1_000_000)
            if rest:
                raise ValueError("finer than a millisecond") from None
            return milliseconds
    scaled = value * 1_000
    if not math.isfinite(scaled) or not math.isclose(scaled, round(scaled), rel_tol=0, abs_tol=1e-6):
        raise ValueError("not a whole number of milliseconds")
    return round(scaled)


def _good_urls(text: str) -> bool:
    urls = [one.strip() for one in text.split(",")]
    web = [one.startswith(("ws://", "wss://")) for one in urls]
    # A bare host:port is what the Go client takes as well. The host may be an IPv6 address in brackets.
    shape = re.compile(r"((nats|tls|ws|wss)://)?([^@/\s]+@)?(\[[0-9A-Fa-f:.]+\]|[^@/:\s\[\]]+)(:\d{1,5})?(/\S*)?")
    return all(map(shape.fullmatch, urls)) and (all(web) or not any(web))


def _good_pattern(pattern: str) -> bool:
    tokens = pattern.split(".")
    return (
        all(
            token
            and not re.search(r"[\s\x00-\x1f\x7f]", token)
            and (token in {"*", ">"} or not set(token) & {"*", ">"})
            for token in tokens
        )
        and ">" not in tokens[:-1]
    )


def _wrong(key: str, target: _Key, given: _Given) -> ConfigError:
    if key in _SECRETS:
        shown = _HIDDEN
    elif key == "nats.url":
        shown = repr(redact_url(str(given.value)))
    elif key == "nats.nkey" and re.fullmatch(r"\s*S[A-Z0-9]{57}\s*", str(given.value)):
        shown = f"{_HIDDEN} (it looks like the seed itself)"
    else:
        shown = repr(given.value)
    default = next(
        field.default for field in msgspec.structs.fields(_TABLES[target.table]) if field.name == target.field
    )
    usual = "" if default in {None, "", ()} else f", or leave it out for the default {_shown_default(target, default)}"
    return ConfigError(f"{given.source}: {shown} is wrong for {key}; give {target.meta.description}{usual}")


_TABLES: Final = {table.name: table.type for table in msgspec.structs.fields(Settings)}


def _shown_default(target: _Key, default: object) -> str:
    if (target.meta.extra or {}).get("duration") and isinstance(default, int):
        return f"{default // 1000}s" if default % 1000 == 0 else f"{default}ms"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _check_identity(nats: NatsSettings, given: Mapping[str, _Given]) -> None:
    """Two ways to say who we are contradict each other; NATS would take one of them without a word."""
    used = [key for key in _KEYS if key in _WHO and key in given]
    if len(used) > 1:
        where = " and ".join(f"{key} from {given[key].source}" for key in used)
        raise ConfigError(f"only one way to authenticate can be used, and there are {len(used)}: {where}; remove one")
    for key, needed in (("password", "user"), ("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(nats, key) is not None and getattr(nats, needed) is None:
            raise ConfigError(f"{given[f'nats.{key}'].source}: nats.{key} needs nats.{needed} as well; give both")


def _repr(settings: NatsSettings, table: str) -> str:
    parts = []
    for field in settings.__struct_fields__:
        value = getattr(settings, field)
        if value is not None:
            hidden = _HIDDEN if f"{table}.{field}" in _SECRETS else value
            parts.append(f"{field}={redact_url(value) if field == 'url' else hidden!r}")
    return f"{type(settings).__name__}({', '.join(parts)})"
