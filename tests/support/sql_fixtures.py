"""Fixtures of tests on SQL databases.

One private server of each kind per process of the tests, started by the first test that needs it, and a database of its
own for each test. ``TESTS_POSTGRESQL_URL`` and ``TESTS_MYSQL_URL`` name servers to use instead. Where
there is neither, the test is skipped, and fails if ``TESTS_REQUIRE_DATABASES`` is 1.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.support.databases import MariaServer, MissingServerError, PostgresServer, Remote, Server, fresh_database

__all__ = ["mysql_server", "mysql_url", "postgresql_server", "postgresql_url", "server_url", "sql_url", "sqlite_url"]

_KINDS: Final[dict[str, type[Server]]] = {"postgresql": PostgresServer, "mysql": MariaServer}


def _server(kind: str) -> Iterator[Server | Remote]:
    url = os.environ.get(f"TESTS_{kind.upper()}_URL")
    if url:
        yield Remote(kind, url)
        return
    try:
        server = _KINDS[kind]()
    except (MissingServerError, KeyError) as error:
        if os.environ.get("TESTS_REQUIRE_DATABASES") == "1":
            raise
        pytest.skip(f"no {kind} server: {error}")
    with server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server | Remote]:
    """A PostgreSQL server for all tests that do not harm it."""
    yield from _server("postgresql")


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server | Remote]:
    """A MariaDB server for all tests that do not harm it."""
    yield from _server("mysql")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty SQLite file."""
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def postgresql_url(postgresql_server: Server | Remote) -> AsyncIterator[str]:
    """An empty PostgreSQL database."""
    async with fresh_database(postgresql_server) as url:
        yield url


@pytest.fixture
async def mysql_url(mysql_server: Server | Remote) -> AsyncIterator[str]:
    """An empty MariaDB database."""
    async with fresh_database(mysql_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
async def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    async with fresh_database(request.getfixturevalue(f"{request.param}_server")) as url:
        yield url


@pytest.fixture(params=["postgresql", "mysql"])
async def server_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An empty database on each kind of server."""
    async with fresh_database(request.getfixturevalue(f"{request.param}_server")) as url:
        yield url
