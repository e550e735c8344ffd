"""A scheduler inside your own program, with a NATS server of its own: nothing has to run beforehand.

    python examples/embedded/basic.py

Starts NATS on a free port, starts a server of ours, creates a job and shows three of its messages.
"""

import asyncio

import nats

from natscron.server import Server, ServerOptions
from natscron.server.embedded import EmbeddedNats

MESSAGES = 3


async def main() -> None:
    """Run until three messages came in."""
    async with EmbeddedNats() as embedded, Server(ServerOptions(nats_url=embedded.url)) as server:
        # A worker: any NATS client, in any language, in any process.
        client = await nats.connect(embedded.url)
        subscription = await client.subscribe("demo.tick")

        await server.create_job({"subject": "demo.tick", "schedule": {"every": "1s"}})
        for _ in range(MESSAGES):
            message = await subscription.next_msg(timeout=10)
            headers = message.headers or {}
            print(f"{headers['Nats-Cron-Scheduled-At']} {message.subject} run {headers['Nats-Cron-Run']}")

        job = await server.get_job("demo.tick")
        print(f"next run of {job['subject']}: {job['next_run']}")
        await server.delete_job("demo.tick")
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
