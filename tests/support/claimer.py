"""A process that claims runs, and ends them when it is told to: ``claimer.py URL WORKER``.

Says ``claimed N`` after each claim that got some, and ends these runs, one by one, once it is sent a line.
"""

import asyncio
import sys

from natscron.storage.sql.storage import SQLStorage
from natscron.testing.conformance.driving import ending_of, worker_info


async def _work(url: str, worker: str) -> None:
    storage = SQLStorage(url)
    await storage.initialize()
    while True:
        await storage.beat(worker_info(worker, lease_ms=1_000))
        claims = (await storage.claim(worker, ("",), 7)).runs
        if not claims:
            await asyncio.sleep(0.01)
            continue
        print("claimed", len(claims), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for claim in claims:
            await storage.finish(worker, [ending_of(claim)])


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], sys.argv[2]))
