"""Making the stream for schedules, or checking and, if asked, changing one that is there.

Safe when any number of processes do it at once. A stream that is there is changed only with ``enable``, and then only
by adding: the two flags (neither can be turned off again) and the missing subjects.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from natscron.errors import ConfigError, StorageError
from natscron.messages.link import Link
from natscron.messages.streamcheck import StreamReport, config_problems, covers, report
from natscron.messages.subjects import check_subject
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError
from natscron.wire.levels import Needs, ServerLevel, require
from natscron.wire.streams import ensure_stream, pick_replicas

__all__ = ["check", "ensure"]

PATIENCE_S: Final = 10.0
"""How long JetStream may take until it answers for the first time."""
_TRY_S: Final = 2.0
_RETRY_S: Final = 0.1
_BUSY: Final = 500
"""From this status on, trying again may help."""
_NOT_FOUND: Final = 10059
_WRONG: Final = frozenset({10052, 10065, 10186, 10187, 10025})
_PAGES: Final = 1_000
_REFUSED: Final = 400


async def check(link: Link) -> StreamReport:
    """What the stream does to schedules. Raises ConfigError if there is none, ServerTooOldError below 2.12."""
    return await _report(link, await link.config())


async def ensure(  # noqa: PLR0913 - one argument an option
    link: Link,
    subjects: Iterable[str],
    *,
    enable: bool,
    replicas: int | None,
    storage: str,
    retention: str,
) -> StreamReport:
    """Have a stream in which schedules work; see ``MessageScheduler.ensure_stream``."""
    wanted = _subjects(link.prefix, subjects)
    if storage not in {"file", "memory"}:
        raise ConfigError(f"storage is 'file' or 'memory'; got {storage!r:.80}")
    if retention not in {"limits", "workqueue"}:
        raise ConfigError(
            f"retention is 'limits' or 'workqueue'; got {retention!r:.80}: by interest, schedules would not be stored"
        )
    connection = await link.connection()
    config = await _config(link, connection)
    if config is not None:
        return await _existing(link, config, wanted, enable=enable)
    require(await _level(connection), Needs.SINGLE, link.stream)
    made = {
        "name": link.stream,
        "subjects": wanted,
        "retention": retention,
        "storage": storage,
        "num_replicas": replicas or pick_replicas(connection),
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "discard": "old",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_msg_ttl": True,
        "allow_msg_schedules": True,
    }
    try:
        info = await ensure_stream(connection, made)
    except ApiError as error:
        raise _wrong(link.stream, error) from error
    link.forget()
    # Somebody else may have made it meanwhile, in another way.
    return _sound(await _report(link, info["config"], created=True), link.stream)


async def _config(link: Link, connection: Connection) -> dict[str, Any] | None:
    """The configuration of the stream, if there is one. Waits for JetStream, which a starting cluster does not have."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            info = await connection.js_request(f"STREAM.INFO.{link.stream}", timeout_s=min(_TRY_S, link.timeout_s))
        except StorageError as error:
            if isinstance(error, ApiError) and error.err_code == _NOT_FOUND:
                return None
            refused = isinstance(error, ApiError) and error.status < _BUSY
            if refused or asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(_RETRY_S)
        else:
            config: dict[str, Any] = info["config"]
            return config


def _subjects(prefix: str, subjects: Iterable[str]) -> list[str]:
    if isinstance(subjects, str):
        raise ConfigError(f"subjects is a list of subjects; got the text {subjects!r:.80}")
    wanted = list(subjects)
    for one in wanted:
        check_subject(one.replace("*", "x").replace(">", "x"), "subject")
    own = f"{prefix}.>"
    return wanted if covers(wanted, own) else [own, *wanted]


async def _existing(link: Link, config: dict[str, Any], wanted: list[str], *, enable: bool) -> StreamReport:
    found = await _report(link, config)
    if found.level < Needs.SINGLE:
        require(ServerLevel(found.level, found.server), Needs.SINGLE, link.stream)
    missing = [one for one in wanted if not covers(config.get("subjects") or [], one)]
    changes: dict[str, Any] = {flag: True for flag in ("allow_msg_schedules", "allow_msg_ttl") if not config.get(flag)}
    if missing:
        changes["subjects"] = [*(config.get("subjects") or []), *missing]
    if not enable and missing and not found.problems:
        raise ConfigError(
            f"stream {link.stream} does not hold {', '.join(missing)}; ensure_stream(enable=True) adds subjects"
        )
    if not enable or not changes or config_problems(config | changes, link.prefix):
        return _sound(found, link.stream)
    connection = await link.connection()
    try:
        info = await connection.js_request(f"STREAM.UPDATE.{link.stream}", config | changes, timeout_s=link.timeout_s)
    except ApiError as error:
        raise _wrong(link.stream, error) from error
    link.forget()
    return _sound(await _report(link, info["config"], changed=changes), link.stream)


async def _report(
    link: Link, config: dict[str, Any], *, created: bool = False, changed: Iterable[str] = ()
) -> StreamReport:
    connection = await link.connection()
    consumers: list[dict[str, Any]] = []
    for _ in range(_PAGES):
        request = {"offset": len(consumers)}
        reply = await connection.js_request(f"CONSUMER.LIST.{link.stream}", request, timeout_s=link.timeout_s)
        page = reply.get("consumers") or []
        consumers += page
        if not page or len(consumers) >= int(reply.get("total", 0)):
            break
    version = str(connection.server_info.get("version", ""))
    return report(config, consumers, link.prefix, version=version, created=created, changed=changed)


def _sound(found: StreamReport, stream: str) -> StreamReport:
    require(ServerLevel(found.level, found.server), Needs.SINGLE, stream)
    if found.problems:
        raise ConfigError("; ".join(found.problems))
    return found


async def _level(connection: Connection) -> ServerLevel:
    """What the server says before there is a stream: its greeting has the level from 2.12 on."""
    info = connection.server_info
    level = info.get("api_lvl", 0)
    return ServerLevel(level if isinstance(level, int) else 0, str(info.get("version", "")))


def _wrong(stream: str, error: ApiError) -> ConfigError | StorageError:
    if error.err_code in _WRONG or error.status == _REFUSED:
        return ConfigError(f"stream {stream} cannot be had like that: {error.description} ({error.err_code})")
    return error
