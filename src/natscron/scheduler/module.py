"""A scheduler from configuration: the keys of the Go module, and this library's own.

Keys are written in camelCase or snake_case, as tables in tables or with dots, and in any case, as the Go module reads
them. A duration is text (``1m30s``), or a number of nanoseconds where it is one of the Go module's.
"""

import json
import logging
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from natscron.clock import Clock, SystemClock
from natscron.durations import parse_duration
from natscron.errors import ConfigError, ModeNotConfiguredError, ValidationError
from natscron.scheduler.storages import is_nats, open_storage
from natscron.storage.queue import QueueStorage

__all__ = ["Configured", "configured"]

log = logging.getLogger("natscron.scheduler")

_MODES: Final = {"memory": "memory", "sql": "sql", "gorm": "sql", "postgres": "sql", "nats": "nats"}
_SECOND_NS: Final = 1_000_000_000
_IGNORED: Final = "%s: these keys have no meaning here and are ignored: %s"
_FOR_EVER_MS: Final = 100 * 365 * 86_400_000
_SECRET: Final = frozenset({"url", "dsn"})


class Configured(NamedTuple):
    """What a configuration says."""

    storage: str | QueueStorage
    owned: bool
    """The storage was made here, and is the scheduler's to close."""
    options: dict[str, Any]
    """Arguments of the scheduler."""
    source: str


class _Key(NamedTuple):
    """``target``: the option it sets; "": it is for another mode; None: it has no meaning here."""

    name: str
    read: Callable[[Any], Any]
    target: str | None = ""


def _text(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


def _number(value: Any) -> int:  # noqa: ANN401 - whatever a file holds
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")  # noqa: TRY004 - all of them raise the same
    return value


def _flag(value: Any) -> bool:  # noqa: ANN401 - whatever a file holds
    found = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("true or false")  # noqa: TRY004 - all of them raise the same
    return found


def _go_seconds(value: Any) -> float:  # noqa: ANN401 - whatever a file holds
    rule = "a duration, as text ('1m30s') or in nanoseconds, not negative"
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except ValidationError:
            raise ValueError(rule) from None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(rule)
    return value / _SECOND_NS


def _duration(value: Any) -> str:  # noqa: ANN401 - whatever a file holds
    try:
        parse_duration(_text(value))
    except (ValueError, ValidationError):
        # A number would be seconds in Python, and nanoseconds in the Go module.
        raise ValueError("a duration as text ('30s')") from None
    return str(value)


def _any(value: Any) -> Any:  # noqa: ANN401 - whatever a file holds
    return value


_NO_MEANING: Final = (
    "reconcilerInterval",
    "reconcilerGracePeriod",
    "addJobRetryBudget",
    "jetStreamReadyTimeout",
    "startPhaseTimeout",
    "startupStreamReadyTimeout",
    "loadJobsConcurrency",
    "loadJobsAsyncPublishTimeout",
    "publishRetry.attempts",
    "publishRetry.initialBackoff",
    "onceKey",
)
_NATS: Final = (
    _Key("streamName", _text, "timer_stream"),
    _Key("subjectPrefix", _text, "timer_prefix"),
    _Key("jobBucket", _text, "jobs_bucket"),
    _Key("execBucket", _text, "runs_bucket"),
)
_NATS_GO: Final = ("consumerName", "duplicatesWindow")
"""Of the Go library's NATS mode, and of no use in ours."""
_SQL: Final = (
    _Key("pollInterval", _go_seconds, "poll_s"),
    _Key("leaseDuration", _go_seconds, "worker_lease"),
    _Key("execRecordTTL", _go_seconds, "runs_max_age_s"),
    _Key("maxConcurrentExecutions", _number, "concurrency"),
)
_KEYS: Final = (
    _Key("mode", _text, "mode"),
    _Key("url", _text, "url"),
    _Key("dsn", _text, "url"),
    _Key("name", _text, "name"),
    _Key("instance", _text, "instance"),
    _Key("worker", _flag, "worker"),
    _Key("plan", _flag, "plan"),
    _Key("concurrency", _number, "concurrency"),
    _Key("lease", _duration, "lease"),
    _Key("workerLease", _duration, "worker_lease"),
    _Key("grace", _duration, "grace"),
    _Key("stopTimeout", _duration, "stop_timeout"),
    _Key("strict", _flag, "strict"),
    _Key("timer", _text, "timer"),
    *(_Key(f"postgres.{name}", read, target) for name, read, target in _SQL),
    *(_Key(f"nats.{name}", read, target) for name, read, target in _NATS),
    *(_Key(f"nats.{name}", _any, name) for name in _NATS_GO),
    *(_Key(f"nats.{name}", _any, None) for name in _NO_MEANING),
)


def _bare(name: str) -> str:
    return re.sub(r"[_-]", "", name).lower()


_BY_NAME: Final = {_bare(key.name): key for key in _KEYS}


def configured(
    source: Mapping[str, Any] | str | Path,
    scope: str,
    *,
    engine: Any = None,  # noqa: ANN401 - SQLAlchemy's, which not everybody has
    storage: QueueStorage | None = None,
    clock: Clock | None = None,
) -> Configured:
    """Read a configuration. ``scope``: the table in it, dotted if it lies deeper; "": all of it.

    A source without that table is taken for the table itself. ``storage``, then ``engine``, go before the ``url`` that
    it names. Raises ConfigError, which names the key, the rule and the source, and ModeNotConfiguredError.
    """
    where, content = _load(source)
    found = _found(where, scope, _scoped(content, scope))
    mode_text = found.pop("mode", "sql")
    mode = _MODES.get(str(mode_text).lower())
    if mode is None:
        raise ConfigError(f"{where}: mode must be one of {', '.join(_MODES)}; got {mode_text!r:.80}")
    url, sql = found.pop("url", None), {name: found.pop(name, None) for name in ("poll_s", "runs_max_age_s")}
    names = {name: found.pop(name) for _, _, name in _NATS if name in found}
    useless = [f"nats.{name}" for name in _NATS_GO if found.pop(name, None) is not None]
    if storage is not None:
        return Configured(storage, owned=False, options=found, source=where)
    if mode == "memory":
        return Configured("memory://", owned=True, options=found, source=where)
    if mode == "nats":
        if useless:
            log.warning(_IGNORED, where, ", ".join(useless))
        return Configured(_nats_storage(where, url, names, clock), owned=True, options=found, source=where)
    if engine is None and url is None:
        raise ModeNotConfiguredError(
            f"{where}: mode {mode_text!r:.80} needs a database, and there is none: give a url there, or engine="
        )
    try:
        made = _sql_storage(engine if engine is not None else url, sql, clock or SystemClock())
    except ConfigError as error:
        raise ModeNotConfiguredError(f"{where}: {error}") from None
    return Configured(made, owned=True, options=found, source=where)


def _nats_storage(where: str, url: str | None, names: Mapping[str, Any], clock: Clock | None) -> QueueStorage:
    if url is None:
        raise ModeNotConfiguredError(f"{where}: mode 'nats' needs a server, and there is none: give a url there")
    if not is_nats(url):
        raise ModeNotConfiguredError(
            f"{where}: mode 'nats' needs a url that begins with nats://, tls://, ws:// or wss://"
        )
    from natscron.storage.nats import LibraryOptions, NATSStorage  # noqa: PLC0415 - only who uses it pays for loading it

    try:
        return NATSStorage(url, LibraryOptions(**names), clock=clock or SystemClock())
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _sql_storage(target: Any, sql: Mapping[str, float | None], clock: Clock) -> QueueStorage:  # noqa: ANN401 - a URL or an engine
    if isinstance(target, str):
        # Refuses what is no SQL database, and says how to install what is missing.
        open_storage(target, clock)
    elif not hasattr(target, "sync_engine"):
        raise ConfigError("engine must be SQLAlchemy's AsyncEngine (create_async_engine); or give a url")
    from natscron.storage.sql import SQLOptions, SQLStorage  # noqa: PLC0415 - only who uses it pays for loading it

    options: dict[str, Any] = {}
    if sql["poll_s"] is not None:
        options["poll_s"] = sql["poll_s"]
    if sql["runs_max_age_s"] is not None:
        options["runs_max_age_ms"] = int(sql["runs_max_age_s"] * 1000) or _FOR_EVER_MS
    return SQLStorage(target, SQLOptions(**options), clock=clock)


def _load(source: Mapping[str, Any] | str | Path) -> tuple[str, Mapping[str, Any]]:
    if isinstance(source, Mapping):
        return "the mapping", source
    if not isinstance(source, str | Path) or "://" in str(source):
        # Not shown: it may be a URL with a password.
        raise ConfigError("the configuration is a mapping, or the path of a TOML or JSON file; got something else")
    path = Path(source)
    readers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"the configuration file {path} must end in .toml or .json")
    try:
        content = reader(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        # Only where it is wrong: the text itself may hold a password.
        at = re.search(r"line \d+,? column \d+", str(error))
        raise ConfigError(
            f"the configuration file {path} is not {path.suffix[1:].upper()}{', ' + at[0] if at else ''}"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"the configuration file {path} must hold a table of keys")
    return str(path), content


def _flat(content: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping):
            yield f"{path}.", None
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def _scoped(content: Mapping[str, Any], scope: str) -> list[tuple[str, Any]]:
    """Keys without the scope, and values; tables themselves and nulls are left out."""
    flat = list(_flat(content))
    begin, depth = (f"{_bare(scope)}.", scope.count(".") + 1) if scope else ("", 0)
    inside = [(".".join(path.split(".")[depth:]), value) for path, value in flat if _bare(path).startswith(begin)]
    return [(path, value) for path, value in (inside or flat) if value is not None]


def _found(where: str, scope: str, given: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    said: dict[str, str] = {}
    ignored: list[str] = []
    for path, value in given:
        key = _BY_NAME.get(_bare(path))
        if key is None:
            raise ConfigError(
                f"{where}: unknown key {path!r:.120} of {scope or 'the scheduler'}; known are "
                + ", ".join(one.name for one in _KEYS)
            )
        if key.target is None:
            ignored.append(path)
            continue
        try:
            read = key.read(value)
        except ValueError as error:
            shown = "this value" if key.name in _SECRET else f"{value!r:.80}"
            raise ConfigError(f"{where}: {shown} is wrong for {path}; give {error}") from None
        if not key.target:
            continue
        if key.target in said:
            raise ConfigError(f"{where}: {path} and {said[key.target]} say the same; remove one")
        found[key.target], said[key.target] = read, path
    if ignored:
        log.warning(_IGNORED, where, ", ".join(ignored))
    return found
