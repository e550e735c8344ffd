"""The last messages of subjects, read directly from any node that has the stream: cheap, and maybe a moment behind.

One request is answered by a message for each subject that has one and by an end mark. The server answers for at most
1,024 subjects at once, and may end early when the answers get too large; then the rest is asked for again. Directly
read messages may be older than what the stream's leader has acknowledged: nothing that must be exact is read so.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.wire.connection import Connection
from natscron.wire.failures import Message, NoRespondersError, status_of

__all__ = ["MAX_SUBJECTS", "all_messages", "last_messages"]

MAX_SUBJECTS: Final = 1_024
_END: Final = "204"
_NONE: Final = "404"
_NOBODY: Final = "503"


async def last_messages(
    connection: Connection, stream: str, subjects: Sequence[str], *, timeout_s: float
) -> dict[str, bytes]:
    """The bodies of the last messages of ``subjects`` (without wildcards), by subject; without those that have none.

    At most :data:`MAX_SUBJECTS`. Raises StorageUnavailableError, NoRespondersError where the stream is not there or
    allows no direct reads, and StorageUncertainError when the answer was not whole within ``timeout_s``.
    """
    if len(subjects) > MAX_SUBJECTS:
        raise ValueError(f"{len(subjects)} subjects; at most {MAX_SUBJECTS} at once")
    api = f"$JS.API.DIRECT.GET.{stream}"
    if len(subjects) == 1:
        request = msgspec.json.encode({"last_by_subj": subjects[0]})
        message = await connection.request(api, request, timeout_s=timeout_s)
        return {} if status_of(message) else {subjects[0]: message.data}
    found: dict[str, bytes] = {}
    try:
        async with asyncio.timeout(timeout_s):
            rest = list(subjects)
            while rest:
                before = len(found)
                more = await _batch(connection, api, rest, found)
                if not more or len(found) == before:
                    break
                rest = [subject for subject in rest if subject not in found]
    except TimeoutError:
        raise StorageUncertainError(f"no whole answer on {api} within {timeout_s} s") from None
    return found


async def all_messages(
    connection: Connection, stream: str, subject: str, *, limit: int, timeout_s: float
) -> list[bytes] | None:
    """The bodies of a subject's messages, oldest first; None: there are more than ``limit``.

    Raises as :func:`last_messages` does.
    """
    found: list[bytes] = []
    api = f"$JS.API.DIRECT.GET.{stream}"
    request = {"seq": 1, "next_by_subj": subject, "batch": limit}
    try:
        async with asyncio.timeout(timeout_s):
            more = await _ask(connection, api, request, lambda _, data: found.append(data))
    except TimeoutError:
        raise StorageUncertainError(f"no whole answer on {api} within {timeout_s} s") from None
    return None if more else found


async def _batch(connection: Connection, api: str, subjects: list[str], found: dict[str, bytes]) -> bool:
    """Ask once and put the answers into ``found``; whether some were left out."""
    return await _ask(connection, api, {"multi_last": subjects}, found.__setitem__)


async def _ask(
    connection: Connection, api: str, request: Mapping[str, object], keep: Callable[[str, bytes], object]
) -> bool:
    """Ask once, hand subject and body of each answer to ``keep``; whether there is more."""
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def take(message: Message) -> None:
        if over.done():
            return
        headers = message.headers or {}
        status = status_of(message)
        if not status:
            keep(headers.get("Nats-Subject", ""), message.data)
        elif status == _END:
            over.set_result(headers.get("Nats-Num-Pending", "0") not in {"", "0"})
        elif status == _NONE:
            over.set_result(False)
        elif status == _NOBODY:
            over.set_exception(NoRespondersError(api))
        else:
            text = headers.get("Description", "")
            over.set_exception(StorageUnavailableError(f"{api}: the server refused: {status} {text}"))

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, take)
    try:
        await connection.publish(api, msgspec.json.encode(request), reply=inbox)
        return await over
    finally:
        over.cancel()
        await subscription.unsubscribe()
