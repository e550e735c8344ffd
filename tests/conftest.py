"""Fixtures for every test."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and its other tenants, not about the code; the timeout of
# pytest bounds the whole. Without a database a run depends on nothing that an earlier one left behind.
settings.register_profile("shared", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


@pytest.fixture
def anyio_backend() -> str:
    """All async tests run on asyncio, the only loop the product uses."""
    return "asyncio"
