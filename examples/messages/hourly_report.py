"""A report every hour of the office's day, at New York's time, made by whichever worker is there.

    python examples/messages/hourly_report.py

The schedule lies in the stream, so it is there once, however often this program is started. To see it at work without
waiting, it is fired by hand.
"""

import asyncio

import nats

from natscron.messages import MessageScheduler
from natscron.server.embedded import EmbeddedNats


async def main() -> None:
    """Schedule the report, look at it, and make one now."""
    async with EmbeddedNats() as embedded:
        client = await nats.connect(embedded.url)
        async with MessageScheduler(client, stream="REPORTS") as schedules:
            await schedules.ensure_stream(["reports.hourly"])
            report = await schedules.cron(
                "reports.hourly",
                "0 9-17 * * MON-FRI",
                b'{"format": "pdf"}',
                tz="America/New_York",
                id="office-hours",
                ttl="2h",  # a report that nobody made within two hours is not made any more
            )
            async for one in schedules.list("reports.>"):
                print(f"{one.id}: {one.text} [{one.tz}], next at {one.next_fire}")

            await report.publish_now()
            worker = await client.jetstream().pull_subscribe("reports.hourly", durable="reports")
            [message] = await worker.fetch(1, timeout=10)
            fired = await schedules.receive(message)
            if fired is not None:
                print(f"making the report of {fired.due:%H:%M}, by hand: {fired.manual}")
                await message.ack()
            print(f"still there: {await report.get() is not None}")
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
