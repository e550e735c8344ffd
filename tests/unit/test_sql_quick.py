"""SQLite's thread ends with whoever asked for it, however early they go."""

import asyncio
import threading
from pathlib import Path

import pytest

from natscron.storage.sql.quick import QuickConnection


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
