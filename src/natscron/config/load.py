"""Puts the settings together from their sources, and tells about each wrong value where it came from."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec
from msgspec import Meta

from natscron.config.settings import (
    HIDDEN,
    SECRETS,
    HistorySettings,
    JobsSettings,
    LeaseSettings,
    LogSettings,
    NatsSettings,
    ServiceSettings,
    Settings,
    redact_url,
)
from natscron.durations import parse_duration
from natscron.errors import ConfigError, NatscronError

__all__ = ["load_settings"]

_PREFIX: Final = "NATSCRON_"
_FILE_VARIABLE: Final = "NATSCRON_CONFIG"
_SHORT_VARIABLES: Final = {"NATS_URL": "nats.url", "LOG_LEVEL": "log.level", "INSTANCE_ID": "service.instance_id"}
_WHO: Final = frozenset({"nats.user", "nats.token", "nats.creds", "nats.nkey"})


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
    if key in SECRETS:
        shown = HIDDEN
    elif key == "nats.url":
        shown = repr(redact_url(str(given.value)))
    elif key == "nats.nkey" and re.fullmatch(r"\s*S[A-Z0-9]{57}\s*", str(given.value)):
        shown = f"{HIDDEN} (it looks like the seed itself)"
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
