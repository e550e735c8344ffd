"""`nats-cron dev`: everything on this machine, and a demo that shows messages arriving."""

import asyncio
from pathlib import Path

import nats
import pytest

from natscron.config import Settings
from natscron.server.dev import run_dev

pytestmark = pytest.mark.anyio


async def test_the_demo_shows_messages_and_the_time_limit_ends_it(tmp_path: Path) -> None:
    lines: list[str] = []
    assert await run_dev(tmp_path / "store", None, Settings(), lines.append, demo=True, for_s=3.0) == 0
    assert any(line.startswith("demo.tick  run ") and "ms after it" in line for line in lines)
    assert any("NATS_URL=nats://" in line for line in lines)


async def test_jobs_in_a_store_are_there_again_at_the_next_start(tmp_path: Path) -> None:
    for request in (b'{"subject":"kept","schedule":{"every":"1h"}}', b""):
        url = asyncio.get_running_loop().create_future()

        def out(line: str, url: "asyncio.Future[str]" = url) -> None:
            if "NATS_URL=" in line:
                url.set_result(line.partition("=")[2])

        running = asyncio.create_task(run_dev(tmp_path / "store", None, Settings(), out))
        client = await nats.connect(await url)
        reply = await client.request(f"nats-cron.jobs.{'create' if request else 'list'}", request, timeout=5)
        assert b'"created"' in reply.data or b'"kept"' in reply.data
        await client.close()
        running.cancel()
        await asyncio.wait([running])
