"""A worker that takes its time and then reports how the run ended.

    NATS_URL=nats://localhost:4222 python examples/workers/reporting.py "render.>"

For jobs with `"reports": true`: until the report comes, or the job's timeout passes, the run is going, so `overlap`
works for any kind of delivery. A message that says which run it replaces ends that one.
"""

import argparse
import asyncio
import json
import os
import signal

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

TRIES = 5


class Worker:
    """Does each run in a task of its own."""

    def __init__(self, client: Client, service: str) -> None:
        self._client = client
        self._service = service
        self._going: dict[str, asyncio.Task[None]] = {}

    async def handle(self, message: Msg) -> None:
        """Begin one run; the next message need not wait for it."""
        headers = message.headers or {}
        run = headers.get("Nats-Cron-Run", "")
        # After a fault the same run may come twice, always under the same id.
        if not run or run in self._going:
            return
        if replaced := self._going.pop(headers.get("Nats-Cron-Replaces", ""), None):
            replaced.cancel()
        task = asyncio.create_task(self._run(message, headers, run))
        self._going[run] = task
        task.add_done_callback(lambda _done: self._going.pop(run, None))

    async def _run(self, message: Msg, headers: dict[str, str], run: str) -> None:
        outcome: dict[str, object] = {
            "run_id": run,
            "job": headers["Nats-Cron-Job"],
            "attempt": int(headers["Nats-Cron-Attempt"]),
        }
        try:
            outcome |= {"status": "completed", "result": await self.work(message.data)}
        except Exception as error:  # noqa: BLE001 - whatever it was, the scheduler is to hear of it
            outcome |= {"status": "failed", "code": type(error).__name__, "error": str(error)}
        print(f"{outcome['status']} {message.subject} run {run}", flush=True)
        await self._report(outcome)

    async def _report(self, outcome: dict[str, object]) -> None:
        # Any instance takes it. Without one that answers, the run ends by the job's timeout.
        for attempt in range(TRIES):
            try:
                await self._client.request(f"{self._service}.runs.report", json.dumps(outcome).encode(), timeout=5)
            except Error as error:
                print(f"not reported yet: {error}", flush=True)
                await asyncio.sleep(2**attempt)
            else:
                return

    async def work(self, data: bytes) -> str:
        """Put your own code here."""
        await asyncio.sleep(0.2)
        return f"{len(data)} bytes"

    async def finish(self) -> None:
        """Wait until what was begun is done and reported."""
        await asyncio.gather(*self._going.values(), return_exceptions=True)


async def main() -> None:
    """Work until SIGTERM or Ctrl-C, then finish what was begun."""
    parser = argparse.ArgumentParser(description="Does what NATS Cron says, and reports.")
    parser.add_argument("subjects", nargs="+", help='subjects to listen on, such as "render.>"')
    parser.add_argument("--queue", default="workers", help="the queue group; workers of one group share the runs")
    parser.add_argument("--service", default="nats-cron", help="the service's subject prefix")
    arguments = parser.parse_args()

    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)

    client = await nats.connect(os.environ.get("NATS_URL", "nats://localhost:4222"), max_reconnect_attempts=-1)
    worker = Worker(client, arguments.service)
    subscriptions = [
        await client.subscribe(subject, queue=arguments.queue, cb=worker.handle) for subject in arguments.subjects
    ]
    await client.flush()
    print(f"listening on {' '.join(arguments.subjects)} as one of {arguments.queue}", flush=True)
    await stop.wait()
    for subscription in subscriptions:
        await subscription.unsubscribe()
    await worker.finish()
    await client.drain()


if __name__ == "__main__":
    asyncio.run(main())
