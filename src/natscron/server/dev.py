"""``nats-cron dev``: a NATS server, a NATS Cron server and, if wanted, a demo job, all on this machine."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from natscron.clock import Clock, SystemClock
from natscron.codec import text_to_ms
from natscron.config import NatsSettings, Settings
from natscron.errors import NatscronError, StorageUnavailableError
from natscron.server.app import Server
from natscron.server.embedded import EmbeddedNats
from natscron.server.options import ServerOptions
from natscron.server.parts import connect_options
from natscron.server.run import until_signal
from natscron.wire.connection import Connection
from natscron.wire.failures import Message

__all__ = ["DEMO_SUBJECT", "run_dev"]

DEMO_SUBJECT: Final = "demo.tick"
_DEMO: Final = {"subject": DEMO_SUBJECT, "schedule": {"every": "2s"}, "note": "made by nats-cron dev"}
_CONNECT_S: Final = 30.0


async def run_dev(  # noqa: PLR0913, PLR0917 - the command's own options
    store: Path | None,
    port: int | None,
    settings: Settings,
    out: Callable[[str], None],
    demo: bool = False,  # noqa: FBT001, FBT002 - the command's own options
    for_s: float | None = None,
) -> int:
    """Run until a signal comes, for ``for_s`` seconds at most; ``out`` is given lines for people. The exit code."""
    with until_signal() as stop:
        async with EmbeddedNats(store, port or 0) as nats:
            # Whatever credentials the settings have are for another server than this one.
            settings = msgspec.structs.replace(settings, nats=NatsSettings(url=nats.url, replicas=1))
            options = ServerOptions(settings=settings, connect_timeout_s=_CONNECT_S)
            async with Server(options) as server:
                out(f"NATS {nats.version} and NATS Cron are running; data is in {nats.folder}")
                out(f"  export NATS_URL={nats.url}")
                out("  nats-cron list")
                out("  nats-cron add hello.world 5s")
                out("Ctrl-C ends them.")
                watcher = await _demo(server, settings, out) if demo else None
                try:
                    return await _until_over(server, nats, stop, for_s)
                finally:
                    if watcher is not None:
                        await watcher.close()


async def _until_over(server: Server, nats: EmbeddedNats, stop: asyncio.Event, for_s: float | None) -> int:
    ends = {
        "stop": asyncio.create_task(stop.wait()),
        "died": asyncio.create_task(nats.died.wait()),
        "server": asyncio.create_task(_ended(server)),
    }
    try:
        await asyncio.wait(ends.values(), timeout=for_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends.values():
            task.cancel()
        await asyncio.gather(*ends.values(), return_exceptions=True)
    if nats.died.is_set():
        raise StorageUnavailableError(f"nats-server ended by itself; see its log in {nats.folder}")
    if server.failure is not None:
        raise server.failure
    return 0


async def _ended(server: Server) -> None:
    try:
        await server.wait()
    except Exception:  # noqa: BLE001 - the server keeps its failure
        return


async def _demo(server: Server, settings: Settings, out: Callable[[str], None]) -> Connection:
    """Make the demo job and show its messages as a worker would see them."""
    clock: Clock = SystemClock()
    worker = await Connection.connect(connect_options(settings), on_event=lambda _event, _text: None)

    def show(message: Message) -> None:
        headers = message.headers or {}
        scheduled = headers.get("Nats-Cron-Scheduled-At", "")
        try:
            late = f"{max(0, clock.now_ms() - text_to_ms(scheduled))} ms after it"
        except NatscronError:
            late = "not scheduled"
        out(f"{message.subject}  run {headers.get('Nats-Cron-Run', '-')}  for {scheduled}, {late}")

    try:
        await worker.subscribe(DEMO_SUBJECT, show)
        await worker.flush()
        await server.put_job(_DEMO)
    except BaseException:
        await worker.close()
        raise
    out(f"Demo: the job {DEMO_SUBJECT} publishes every 2 s; these are its messages:")
    return worker
