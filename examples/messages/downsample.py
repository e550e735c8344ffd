"""A sensor that reports many times a second, and a subject with one value a second for everybody else.

    python examples/messages/downsample.py

nats-server takes the last message of ``sensors.raw`` each second and publishes it to ``sensors.slow``; the raw values
go after a minute.
"""

import asyncio

import nats
from nats.aio.client import Client

from natscron.messages import MessageScheduler
from natscron.server.embedded import EmbeddedNats

SAMPLES = 3


async def sensor(client: Client) -> None:
    """A temperature, 50 times a second."""
    stream = client.jetstream()
    for number in range(1_000_000):
        await stream.publish("sensors.raw", f"{20 + number % 7} C".encode(), msg_ttl=60)
        await asyncio.sleep(0.02)


async def main() -> None:
    """Sample the sensor and show what comes out."""
    async with EmbeddedNats() as embedded:
        client = await nats.connect(embedded.url)
        async with MessageScheduler(client, stream="SENSORS") as schedules:
            await schedules.ensure_stream(["sensors.raw", "sensors.slow"])
            sampling = await schedules.sample("sensors.slow", source="sensors.raw", every="1s", id="one-a-second")
            reading = asyncio.create_task(sensor(client))
            worker = await client.jetstream().pull_subscribe("sensors.slow", durable="dashboard")
            shown = 0
            while shown < SAMPLES:
                for message in await worker.fetch(1, timeout=10):
                    fired = await schedules.receive(message)
                    await message.ack()
                    if fired is None or fired.empty_sample:
                        continue  # there was no value yet
                    shown += 1
                    print(f"{fired.due:%H:%M:%S} {message.data.decode()}")
            reading.cancel()
            print(f"stopped: {await sampling.cancel()}")
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
