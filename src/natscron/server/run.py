"""The stand-alone server process: from its settings to its exit code.

SIGTERM and SIGINT stop it in order (open runs are laid down, the lease is released, requests under way are finished),
within the shutdown time-out, with exit code 0. A second signal ends the process at once with 1. A server that fails by
itself ends the process with 1 and the reason: it never lives on without doing its work.

The process is ours, so it is tuned for short pauses: uvloop where it is installed, and the garbage collector's full
passes out of the way. With Python's own thresholds every 10,000 jobs cost a pause of 15 ms again and again; jobs are
freed by their reference counts, and only cycles (tasks, exceptions) need the collector.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from natscron import __version__
from natscron.config import Settings, redact_url
from natscron.errors import ConfigError
from natscron.server.app import Server
from natscron.server.logs import configure_logging, redact
from natscron.server.options import ServerOptions

__all__ = ["run_server", "secrets_of", "serve", "until_signal"]

logger = logging.getLogger("natscron.server")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_GC_THRESHOLDS: Final = (10_000, 50, 100)
"""New containers before a young pass (at most 1 ms), young passes before a middle one, middle ones before a full one:
a full pass comes after 50 million containers that were not freed by themselves."""


def serve(settings: Settings) -> int:
    """:func:`run_server` in a loop of its own, for a process that does nothing else. The exit code."""
    gc.set_threshold(*_GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run_server(settings))


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def run_server(settings: Settings) -> int:
    """Run until a signal comes, or until the server fails. The exit code."""
    handler = configure_logging(settings.log.level, secrets=secrets_of(settings))
    try:
        with until_signal() as stop:
            return await _run(settings, stop)
    finally:
        handler.close()


async def _run(settings: Settings, stop: asyncio.Event) -> int:
    service = settings.service
    logger.info(
        "NATS Cron server starting",
        extra={
            "instance_id": service.instance_id,
            "nats_url": redact_url(settings.nats.url),
            "service": service.name,
            "version": __version__,
        },
    )
    try:
        server = Server(ServerOptions(settings=settings))
        asked = await _start(server, stop)
        if not asked:
            # What is loaded now stays: no later pass has to look at it.
            gc.collect()
            gc.freeze()
            await _either(server.wait(), stop)
        if stop.is_set():
            logger.info("Shutting down")
            await server.stop()
        failure = server.failure
    except ConfigError as error:
        failure = error
    if failure is None:
        return 0
    text = redact(str(failure) or type(failure).__name__, secrets_of(settings))
    logger.critical("NATS Cron server ends", extra={"error": text})
    sys.stderr.write(f"nats-cron-server: {text}\n")
    return 1


async def _start(server: Server, stop: asyncio.Event) -> bool:
    """Start, unless a signal comes first (NATS may be waited for for ever): True then."""
    return await _either(server.start(), stop)


async def _either(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Wait for ``work`` or the signal. True: the signal came first, and ``work`` was cancelled and has ended."""
    task = asyncio.create_task(work)
    signalled = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, signalled], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            with contextlib.suppress(Exception):  # the server keeps its failure
                await task
            if not task.cancelled() and isinstance(task.exception(), ConfigError):
                await task
            return False
    finally:
        signalled.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    return True


@contextlib.contextmanager
def until_signal() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        if stop.is_set():
            sys.stderr.write("second signal: ending at once\n")
            os._exit(1)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, signalled)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The values that no line of the log may hold."""
    return tuple(secret for secret in (settings.nats.password, settings.nats.token) if secret)
