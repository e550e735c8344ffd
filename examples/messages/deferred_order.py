"""An order that is sent to the warehouse later, unless the customer changes or cancels it before.

    python examples/messages/deferred_order.py

nats-server itself holds the order back: nothing of ours has to run when it is due. (Here a server is started for the
occasion; with one of your own, ``nats.connect()`` takes its URL.)
"""

import asyncio
from datetime import UTC, datetime, timedelta

import nats

from natscron.messages import MessageScheduler, Publication
from natscron.server.embedded import EmbeddedNats

ORDERS = 2
"""What is left of three."""


async def main() -> None:
    """Schedule three orders, change one, cancel one, and be the warehouse."""
    async with EmbeddedNats() as embedded:
        client = await nats.connect(embedded.url)
        async with MessageScheduler(client, stream="ORDERS") as schedules:
            await schedules.ensure_stream(["warehouse", "orders.log"])
            due = datetime.now(UTC) + timedelta(seconds=2)
            await schedules.at("warehouse", due, b"2 cups", id="order-1")
            await schedules.at("warehouse", due, b"1 pot", id="order-2")
            third = await schedules.at("warehouse", due, b"9 spoons", id="order-3")

            # The same id replaces: one order goes out, the last one.
            changed = await schedules.at("warehouse", due, b"4 cups", id="order-1")
            print(f"order-1 changed in time: {changed.replaced}")

            # Cancelling and telling so is one step: either both happen, or neither.
            told = await third.cancel(publish=Publication("orders.log", b"order-3 was cancelled"))
            print(f"order-3 cancelled in time: {told}")

            worker = await client.jetstream().pull_subscribe("warehouse", durable="warehouse")
            sent = 0
            while sent < ORDERS:
                [message] = await worker.fetch(1, timeout=10)
                fired = await schedules.receive(message)
                if fired is None:
                    continue  # it was replaced or cancelled while it was being sent: dropped
                print(f"warehouse: {fired.id}: {message.data.decode()}")
                await message.ack()
                sent += 1
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
