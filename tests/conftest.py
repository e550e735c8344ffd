"""Fixtures for every test."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """All async tests run on asyncio, the only loop the product uses."""
    return "asyncio"
