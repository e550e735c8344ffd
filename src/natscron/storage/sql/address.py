"""From what the caller gave to an engine: a URL, or an engine of the caller's own.

Our async driver is picked, whatever driver the URL names for other programs; an async one that we do not bring along
(``asyncmy``, ``psycopg``) is kept. Errors and names never show more of a URL than database, host and user.
"""

import asyncio
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from natscron.errors import ConfigError
from natscron.storage.sql.database import LEVEL
from natscron.storage.sql.quick import QuickConnection

__all__ = ["Address", "borrowed", "repooled", "where_of"]

_SUPPORTED: Final = "sqlite:///FILE, postgresql://, mysql:// and mariadb://"
_ALIASES: Final = {"postgres": "postgresql"}
_DRIVERS: Final = {
    "sqlite": ("aiosqlite", "sqlite"),
    "postgresql": ("asyncpg", "postgres"),
    "mysql": ("aiomysql", "mysql"),
    "mariadb": ("aiomysql", "mysql"),
}
_KEPT_DRIVERS: Final = frozenset({"aiosqlite", "asyncpg", "aiomysql", "asyncmy", "psycopg", "psycopg_async"})
_LOCK_WAIT_S: Final = 5
_IDLE_S: Final = 30
"""A process that stops in the middle of a transaction keeps others from its rows no longer than this."""
_RECYCLE_S: Final = 1_800
_POOL_WAIT_S: Final = 10
# MySQL takes the second part for a comment.
_MYSQL_SESSION: Final = (
    f"SET SESSION innodb_lock_wait_timeout = {_LOCK_WAIT_S}, time_zone = '+00:00'"
    f" /*M!100300 , idle_transaction_timeout = {_IDLE_S} */"
)


class Address(msgspec.Struct, frozen=True):
    """A URL that was checked. Its password is shown by nothing but the driver's own call."""

    url: URL
    where: str
    """What errors call the database."""

    def __repr__(self) -> str:
        return f"Address({self.where})"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises ConfigError: not a URL, not a database that is supported, its driver missing, or one in memory."""
        try:
            url = make_url(text)
        except (ArgumentError, ValueError):
            # Its text may hold what was meant as a password.
            raise ConfigError(f"the storage's URL cannot be read; supported are {_SUPPORTED}") from None
        backend, _, driver = url.drivername.partition("+")
        backend = _ALIASES.get(backend, backend)
        if backend not in _DRIVERS:
            raise ConfigError(f"a database {backend[:40]!r} is not supported: use {_SUPPORTED}")
        ours, extra = _DRIVERS[backend]
        driver = driver if driver in _KEPT_DRIVERS else ours
        if importlib.util.find_spec(driver.removesuffix("_async")) is None:
            raise ConfigError(f"{backend}:// needs the package {driver}: pip install 'natscron[{extra}]'")
        url = url.set(drivername=f"{backend}+{driver}")
        if backend == "sqlite":
            if url.host:
                raise ConfigError("SQLite's file comes after three slashes, sqlite:///FILE; four for an absolute path")
            _refuse_memory(url.database, url.query)
        if driver == "asyncpg" and "sslmode" in url.query:
            # libpq's name for it, which asyncpg takes in a text of its own form only.
            url = url.set(query={("ssl" if k == "sslmode" else k): v for k, v in url.query.items()})
        if backend in {"mysql", "mariadb"} and "charset" not in url.query:
            url = url.update_query_dict({"charset": "utf8mb4"})
        return cls(url, where_of(url))

    def engine(self, pool_size: int) -> AsyncEngine:
        """An engine for it, with at most ``pool_size`` connections in its pool. Nothing is opened yet."""
        backend, _, driver = self.url.drivername.partition("+")
        options: dict[str, Any] = {"hide_parameters": True}
        if backend != "sqlite":
            options |= {
                "pool_size": pool_size,
                "max_overflow": 0,
                "pool_timeout": _POOL_WAIT_S,
                "pool_recycle": _RECYCLE_S,
                "isolation_level": LEVEL,
            }
        if driver == "asyncpg":
            options["connect_args"] = {
                "async_creator_fn": _open_whole,
                "timeout": _POOL_WAIT_S,
                "server_settings": {
                    "application_name": "natscron",
                    "lock_timeout": f"{_LOCK_WAIT_S}s",
                    "idle_in_transaction_session_timeout": f"{_IDLE_S}s",
                },
            }
        elif backend in {"mysql", "mariadb"}:
            options["connect_args"] = {"connect_timeout": _POOL_WAIT_S, "init_command": _MYSQL_SESSION}
        elif driver == "aiosqlite":
            options["connect_args"] = {"async_creator_fn": QuickConnection.open}
        engine = create_async_engine(self.url, **options)
        event.listen(engine.sync_engine, "checkout", _refuse_dead)
        return engine


def borrowed(engine: AsyncEngine) -> AsyncEngine:
    """A view of the caller's engine: its connections, without what the caller hung onto its statements.

    A listener that sends BEGIN (a known recipe for SQLite) would begin a second transaction in ours. Raises ConfigError
    for a database that is not supported, or one in memory.
    """
    name = engine.dialect.name
    if name not in _DRIVERS:
        raise ConfigError(f"an engine for {name} is not supported: use {_SUPPORTED}")
    if name == "sqlite":
        _refuse_memory(engine.url.database, engine.url.query)
    sync = engine.sync_engine
    return AsyncEngine(Engine(sync.pool, sync.dialect, sync.url, hide_parameters=True))


def repooled(engine: AsyncEngine) -> AsyncEngine:
    """A view as :func:`borrowed` made it, with an empty pool of the same kind."""
    sync = engine.sync_engine
    return AsyncEngine(Engine(sync.pool.recreate(), sync.dialect, sync.url, hide_parameters=True))


def where_of(url: URL) -> str:
    """Database, host and user: what may be shown of a URL."""
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        return f"sqlite:///{url.database or ''}"
    user = f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"{backend}://{user}{url.host or ''}{port}/{url.database or ''}"


async def _open_whole(**options: Any) -> Any:  # noqa: ANN401 - asyncpg has no types
    """A connection of asyncpg, opened whole or not at all.

    An attempt that is cancelled half-way leaves a failed future that nobody asks for, which the loop reports as an
    error. So it goes on aside, and what it comes to is closed.
    """
    asyncpg: Any = importlib.import_module("asyncpg")
    opening = asyncio.ensure_future(asyncpg.connect(**options))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: "asyncio.Future[Any]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()


def _refuse_memory(database: str | None, query: Mapping[str, Any]) -> None:
    name = (database or "").lower()
    if not name or name == ":memory:" or name.startswith("file::memory:") or query.get("mode") == "memory":
        raise ConfigError(
            "SQLite in memory is one connection's own and cannot be shared: use sqlite:///FILE, or memory:// for a "
            "storage in memory"
        )


def _refuse_dead(connection: Any, _record: Any, _proxy: Any) -> None:  # noqa: ANN401 - any driver's connection
    """Have the pool open another connection if it is known that the server has closed this one; no question is sent."""
    driver = connection.driver_connection
    closed = getattr(driver, "is_closed", None)
    reader = getattr(driver, "_reader", None)
    if (closed is not None and closed()) or (reader is not None and reader.at_eof()):
        raise DisconnectionError
