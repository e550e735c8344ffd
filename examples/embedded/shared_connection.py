"""A scheduler on the connection that your program has anyway.

    NATS_URL=nats://localhost:4222 python examples/embedded/shared_connection.py

The API and the watches use your connection. The leader opens one more of its own to publish on, because it must not
reconnect behind its own back. Stopping the server leaves nothing of it on your connection, and leaves that open.
"""

import asyncio
import os

import nats

from natscron.server import Server, ServerOptions


async def main() -> None:
    """Run a job once, right now, on a connection that goes on being ours."""
    url = os.environ.get("NATS_URL", "nats://localhost:4222")
    connection = await nats.connect(url, name="my application")
    subscription = await connection.subscribe("app.nightly")

    server = Server(ServerOptions(connection=connection, nats_url=url))
    await server.start()
    try:
        await server.put_job(
            {
                "subject": "app.nightly",
                "schedule": {"cron": "0 3 * * *", "tz": "Europe/Berlin"},
                "payload": {"full": True},
            }
        )
        await server.trigger_job("app.nightly")
        message = await subscription.next_msg(timeout=10)
        print(f"{message.subject}: {message.data.decode()}")
        await server.delete_job("app.nightly")
    finally:
        await server.stop()

    await connection.flush()
    print(f"the scheduler is stopped, the connection is {'up' if connection.is_connected else 'down'}")
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
