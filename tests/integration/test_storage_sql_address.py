"""Which URLs and engines a SQL storage takes, and what it says of the others."""

import importlib.util

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from natscron.errors import ConfigError
from natscron.storage.sql import SQLOptions, SQLStorage
from natscron.storage.sql.address import Address

SECRET = "geheim"  # noqa: S105 - it must not be shown


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///jobs.db", "sqlite+aiosqlite"),
        ("sqlite:////abs/jobs.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///jobs.db", "sqlite+aiosqlite"),
        ("sqlite+pysqlite:///jobs.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/db", "postgresql+asyncpg"),
        ("postgres://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@h/db", "postgresql+asyncpg"),
        ("mysql://u:p@h/db", "mysql+aiomysql"),
        ("mysql+pymysql://u:p@h/db", "mysql+aiomysql"),
        ("mariadb://u:p@h/db", "mariadb+aiomysql"),
        ("mariadb+aiomysql://u:p@h/db", "mariadb+aiomysql"),
    ],
)
def test_our_driver_is_picked(given: str, driver: str) -> None:
    assert Address.parse(given).url.drivername == driver


@pytest.mark.parametrize(
    "url", ["mssql://u:geheim@h/db", "oracle+cx_oracle://u:geheim@h/db", "nats://h", "redis://u:geheim@h"]
)
def test_other_databases_are_refused_naming_those_that_are_supported(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLStorage(url)
    for scheme in ("sqlite:///", "postgresql://", "mysql://", "mariadb://"):
        assert scheme in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["", "no url", "geheim", "postgresql//u:geheim@h", "postgresql://u:geheim@h:port/db"])
def test_what_is_no_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SQLStorage(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:name?mode=memory&uri=true",
    ],
)
def test_sqlite_in_memory_is_refused_with_what_to_use_instead(url: str) -> None:
    with pytest.raises(ConfigError, match="three slashes"):
        Address.parse("sqlite://jobs.db")
    with pytest.raises(ConfigError, match="memory://"):
        SQLStorage(url)


def test_an_engine_in_memory_is_refused_too() -> None:
    engine = create_async_engine("sqlite+aiosqlite:///file::memory:?uri=true")
    with pytest.raises(ConfigError, match="memory://"):
        SQLStorage(engine)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("sqlite:///x", "aiosqlite", "sqlite"),
        ("postgresql://h/db", "asyncpg", "postgres"),
        ("mysql://h/db", "aiomysql", "mysql"),
        ("mariadb://h/db", "aiomysql", "mysql"),
    ],
)
def test_a_missing_extra_is_named_with_the_command(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ConfigError) as caught:
        SQLStorage(url)
    assert package in str(caught.value)
    assert f"pip install 'natscron[{extra}]'" in str(caught.value)


def test_no_password_is_shown_by_anything() -> None:
    url = f"postgresql://me:{SECRET}@db.example:6432/jobs?password={SECRET}"
    storage = SQLStorage(url)
    shown = f"{storage!r} {storage} {storage._address!r}"
    assert SECRET not in shown
    assert "postgresql://me@db.example:6432/jobs" in shown


def test_what_libpq_calls_sslmode_is_passed_on() -> None:
    assert Address.parse("postgresql://h/db?sslmode=require").url.query == {"ssl": "require"}


def test_mysql_speaks_all_of_unicode() -> None:
    assert Address.parse("mysql://h/db").url.query == {"charset": "utf8mb4"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("synchronous", "off"),
        ("busy_timeout_ms", -1),
        ("pool_size", 1),
        ("poll_s", 0),
        ("runs_per_job", 0),
        ("runs_max_age_ms", 0),
    ],
)
def test_an_option_out_of_its_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        SQLOptions(**{name: value})  # type: ignore[arg-type]
