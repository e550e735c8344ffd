"""A worker: subscribes with a queue group, so that each run is done by one of its processes.

    NATS_URL=nats://localhost:4222 python examples/workers/worker.py "demo.>"

Start it as often as you like. It needs only a NATS client; the same worker in Go and in Node lies beside it.
"""

import argparse
import asyncio
import os
import signal
from collections import OrderedDict

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

REMEMBER = 10_000


class Worker:
    """Does the work of each run once per process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def handle(self, message: Msg) -> None:
        """Do one run. A failed one is answered with an error, so that a `request` job is tried again."""
        headers = message.headers or {}
        run = headers.get("Nats-Cron-Run", "")
        try:
            # After a fault the same run may come twice, always under the same id.
            if not run or run not in self._seen:
                self.work(message.subject, message.data, run)
                self._remember(run)
        except Exception as error:  # noqa: BLE001 - one bad message must not end the worker
            print(f"failed {message.subject} run {run}: {error}", flush=True)
            errors = {"Nats-Service-Error": str(error), "Nats-Service-Error-Code": "500"}
            await self._answer(message, b"", errors)
        else:
            await self._answer(message, b"done", None)

    async def _answer(self, message: Msg, data: bytes, headers: dict[str, str] | None) -> None:
        # Jobs with "delivery": "request" wait for an answer; it becomes the run's outcome. Others want none.
        if message.reply:
            await self._client.publish(message.reply, data, headers=headers)

    def _remember(self, run: str) -> None:
        self._seen[run] = None
        if len(self._seen) > REMEMBER:
            self._seen.popitem(last=False)

    def work(self, subject: str, data: bytes, run: str) -> None:
        """Put your own code here."""
        print(f"done {subject} run {run}: {data.decode(errors='replace')}", flush=True)


async def main() -> None:
    """Work until SIGTERM or Ctrl-C, then finish what was begun."""
    parser = argparse.ArgumentParser(description="Does what NATS Cron says.")
    parser.add_argument("subjects", nargs="+", help='subjects to listen on, such as "reports.>"')
    parser.add_argument("--queue", default="workers", help="the queue group; workers of one group share the runs")
    arguments = parser.parse_args()

    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    client = await nats.connect(os.environ.get("NATS_URL", "nats://localhost:4222"), max_reconnect_attempts=-1)
    worker = Worker(client)
    for subject in arguments.subjects:
        await client.subscribe(subject, queue=arguments.queue, cb=worker.handle)
    await client.flush()
    print(f"listening on {' '.join(arguments.subjects)} as one of {arguments.queue}", flush=True)
    await stop.wait()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main())
