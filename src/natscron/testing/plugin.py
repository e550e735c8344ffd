"""A pytest plugin: the fixture ``natscron_scheduler``, a running scheduler on virtual time.

It is found by itself once natscron is installed, loads nothing until a test asks for it, and needs no configuration::

    async def test_nightly(natscron_scheduler):
        calls = []
        natscron_scheduler.set_handler(calls.append)
        await natscron_scheduler.add_job("nightly", cron("0 3 * * *"))
        await natscron_scheduler.advance("25h")
        assert len(calls) == 1


    def test_without_async(natscron_scheduler):
        natscron_scheduler.run(natscron_scheduler.advance("25h"))

An async test that asks for it, by itself or through another fixture, runs on the scheduler's own loop, whichever plugin
would run it else: none, anyio's or pytest-asyncio. Those plugins' async fixtures run on loops of theirs, where this
scheduler cannot be called; a plain fixture calls it through ``run``. A module that defines a fixture
``natscron_options`` sets its options (:class:`~natscron.testing.scheduler.VirtualOptions`).
"""

import functools
import inspect
import types
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from natscron.testing.scheduler import VirtualOptions, VirtualScheduler

__all__ = ["natscron_options", "natscron_scheduler", "pytest_runtest_call"]


@pytest.fixture
def natscron_options() -> "VirtualOptions":
    """Options of ``natscron_scheduler``; to be overridden."""
    return {}


@pytest.fixture
def natscron_scheduler(natscron_options: "VirtualOptions") -> "Iterator[VirtualScheduler]":
    """A running scheduler on virtual time, in memory; see :class:`natscron.testing.scheduler.VirtualScheduler`."""
    from natscron.testing.scheduler import virtual_scheduler  # noqa: PLC0415 - only who asks for it pays for it

    with virtual_scheduler(**natscron_options) as scheduler:
        yield scheduler


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run an async test that asks for the scheduler on its loop."""
    if not isinstance(item, pytest.Function):
        return (yield)
    scheduler: Any = item.funcargs.get("natscron_scheduler")
    if scheduler is None or not inspect.iscoroutinefunction(item.obj):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        # To other plugins it is a plain test from here on.
        patch.setattr(item, "obj", functools.partial(_run, scheduler, item.obj))
        patch.setattr(item, "runtest", types.MethodType(pytest.Function.runtest, item))
        return (yield)


def _run(scheduler: "VirtualScheduler", test: Callable[..., Any], /, **arguments: object) -> None:
    scheduler.run(test(**arguments))
