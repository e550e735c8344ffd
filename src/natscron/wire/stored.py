"""Going through a stream's messages of a filter, in its order, without a consumer.

A consumer is not for everybody: a work queue takes no second one over the same subjects, and none that does not
acknowledge. Where the stream allows direct reads a batch is one request (answered by any node that has the stream, so
that the newest messages may be missing for a moment on a replicated stream); else the stream's leader is asked
for one message after the other.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError, Message, NoRespondersError
from natscron.wire.kv import NO_MESSAGE, entry_of, parse_time_ns
from natscron.wire.reading import Entry

__all__ = ["stored_messages"]

BATCH: Final = 500
MAX_BYTES: Final = 4 << 20
"""Of one batch, so that no reader is cut off as too slow."""
_OWN: Final = frozenset(
    {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
        "Nats-UpTo-Sequence",
    }
)


async def stored_messages(  # noqa: PLR0913 - what is read, and how
    connection: Connection, stream: str, subjects: str, *, direct: bool, start_seq: int = 1, timeout_s: float = 5.0
) -> AsyncIterator[Entry]:
    """The stream's messages that match ``subjects``, from ``start_seq`` on, oldest first; memory holds one batch.

    What is stored or removed meanwhile may be among them or not. ``timeout_s`` is for one request. Raises what a
    request raises.
    """
    seq = start_seq
    while True:
        if direct:
            found, more = await _batch(connection, stream, subjects, seq, timeout_s)
        else:
            found, more = await _one(connection, stream, subjects, seq, timeout_s)
        for entry in found:
            yield entry
        if not more or not found:
            return
        seq = found[-1].seq + 1


async def _one(
    connection: Connection, stream: str, subjects: str, seq: int, timeout_s: float
) -> tuple[list[Entry], bool]:
    request = {"seq": seq, "next_by_subj": subjects}
    try:
        reply = await connection.js_request(f"STREAM.MSG.GET.{stream}", request, timeout_s=timeout_s)
    except ApiError as error:
        if error.err_code == NO_MESSAGE:
            return [], False
        raise
    return [entry_of(reply["message"])], True


async def _batch(
    connection: Connection, stream: str, subjects: str, seq: int, timeout_s: float
) -> tuple[list[Entry], bool]:
    api = f"$JS.API.DIRECT.GET.{stream}"
    found: list[Entry] = []
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def take(message: Message) -> None:
        headers = message.headers or {}
        if over.done():
            return
        if "Nats-Subject" in headers:
            own = {name: value for name, value in headers.items() if name not in _OWN}
            at_ns = parse_time_ns(headers["Nats-Time-Stamp"])
            found.append(Entry(headers["Nats-Subject"], own, message.data, int(headers["Nats-Sequence"]), at_ns))
            return
        status = headers.get("Status", "")
        if status == "204":
            over.set_result(headers.get("Nats-Num-Pending", "0") not in {"", "0"})
        elif status == "404":
            over.set_result(False)
        elif status == "503":
            over.set_exception(NoRespondersError(api))
        else:
            text = headers.get("Description", "")
            over.set_exception(StorageUnavailableError(f"{api}: the server refused: {status} {text}"))

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, take)
    request = {"seq": seq, "next_by_subj": subjects, "batch": BATCH, "max_bytes": MAX_BYTES}
    try:
        await connection.publish(api, msgspec.json.encode(request), reply=inbox)
        async with asyncio.timeout(timeout_s):
            more = await over
    except TimeoutError:
        raise StorageUncertainError(f"no whole answer on {api} within {timeout_s} s") from None
    finally:
        over.cancel()
        await subscription.unsubscribe()
    return found, more
