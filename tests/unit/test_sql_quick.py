"""SQLite's thread ends with whoever asked for it, however early they go."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from natscron.storage.sql.address import Address
from natscron.storage.sql.quick import QuickConnection
from natscron.storage.sql.sqlite import SqliteConnections


@pytest.mark.parametrize("turns", range(4))
def test_an_open_that_is_cancelled_leaves_no_thread_to_a_closed_loop(
    tmp_path: Path, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    before = threading.active_count()

    async def open_and_cancel() -> None:
        opening = asyncio.create_task(QuickConnection.open(f"{tmp_path}/jobs.db"))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        [opened] = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(opened, QuickConnection):
            await opened.close()
        else:
            assert isinstance(opened, asyncio.CancelledError)

    for _ in range(20):
        asyncio.run(open_and_cancel())
    for thread in threading.enumerate():
        if thread.name.endswith("(_connection_worker_thread)"):
            thread.join(10)
    assert raised == []
    assert threading.active_count() == before


def test_who_is_cancelled_while_it_rolls_back_waits_for_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    before = set(threading.enumerate())
    gate = threading.Event()

    async def read(connections: SqliteConnections, reading: asyncio.Event) -> None:
        async with connections.reading() as connection:
            await connection.execute(text("SELECT 1"))
            sync = connection.sync_connection
            assert sync is not None
            adapted: Any = sync.connection.dbapi_connection
            adapted.driver_connection._tx.put_nowait((None, gate.wait))
            reading.set()

    async def main() -> None:
        engine = Address.parse(f"sqlite:///{tmp_path}/jobs.db").engine(1)
        connections = SqliteConnections(engine, synchronous="normal", busy_timeout_ms=1_000)
        reading = asyncio.Event()
        task = asyncio.create_task(read(connections, reading))
        await reading.wait()
        await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, gate.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        await connections.close()
        await engine.dispose()

    asyncio.run(main())
    gate.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert raised == []
