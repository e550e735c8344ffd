"""A worker whose work fails at first: each message is put off, longer each time, and given up after the fourth try.

    python examples/messages/retry_with_backoff.py

A message that is put off lies in the stream as a schedule, so it survives the worker, and other messages go on
meanwhile.
"""

import asyncio
from datetime import timedelta

import nats

from natscron.messages import MessageScheduler
from natscron.server.embedded import EmbeddedNats

ATTEMPTS = 4
BACKOFF = timedelta(milliseconds=100)


def deliver(body: bytes, attempt: int) -> None:
    """The mail server that is away for a while, and an address that is not there at all."""
    if body == b"nobody@example.com" or attempt < ATTEMPTS - 1:
        raise ConnectionError("the mail server is away")


async def main() -> None:
    """Deliver two mails."""
    async with EmbeddedNats() as embedded:
        client = await nats.connect(embedded.url)
        async with MessageScheduler(client, stream="MAIL") as schedules:
            await schedules.ensure_stream(["mail"])
            await schedules.at("mail", timedelta(milliseconds=1), b"ann@example.com")
            await schedules.at("mail", timedelta(milliseconds=1), b"nobody@example.com")

            worker = await client.jetstream().pull_subscribe("mail", durable="mailer")
            done = 0
            while done < 2:  # noqa: PLR2004 - two mails
                [message] = await worker.fetch(1, timeout=10)
                mail = await schedules.receive(message)
                if mail is None:
                    continue
                try:
                    deliver(message.data, mail.attempt)
                except ConnectionError:
                    if mail.attempt < ATTEMPTS:
                        await schedules.retry_later(message, BACKOFF * 2 ** (mail.attempt - 1))
                        continue
                    print(f"{message.data.decode()}: given up after {mail.attempt} tries")
                else:
                    print(f"{message.data.decode()}: delivered at the {mail.attempt}rd try")
                await message.ack()
                done += 1
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
