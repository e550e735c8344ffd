"""Fixtures for every test."""

import pytest
from hypothesis import HealthCheck, settings

from natscron.testing import plugin

pytest_plugins = ["tests.support.programs", "tests.support.sql_fixtures"]

# How long an example takes says something about the machine and its other tenants, not about the code; the timeout of
# pytest bounds the whole. Without a database a run depends on nothing that an earlier one left behind.
settings.register_profile("shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_configure(config: pytest.Config) -> None:
    """The shipped plugin, where it is not found by itself: in an environment made before it had an entry point."""
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin)


@pytest.fixture
def anyio_backend() -> str:
    """All async tests run on asyncio, the only loop the product uses."""
    return "asyncio"
