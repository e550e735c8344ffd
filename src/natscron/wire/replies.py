"""Answers under one inbox: tokens, and the futures that wait for them.

Bounded by what waits: whoever asks for a token takes it back (the future's end does it). When the link is lost every
future ends with :class:`~natscron.errors.StorageUncertainError`, because the question may have been handled.
"""

import asyncio
from typing import Any, Final

import msgspec

from natscron.errors import StorageError, StorageUncertainError
from natscron.wire.failures import NO_RESPONDERS, ApiError, Message, NoRespondersError, status_of

__all__ = ["PubAck", "Replies", "decode_ack", "decode_api"]


class PubAck(msgspec.Struct, frozen=True):
    """A stream's acknowledgement. ``duplicate``: it had a message under that id and did not store this one."""

    stream: str
    seq: int = 0
    duplicate: bool = False


class _Failure(msgspec.Struct):
    code: int = 500
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _Failure | None = None


_ACK: Final = msgspec.json.Decoder(_Ack)


def decode_ack(subject: str, message: Message) -> PubAck | StorageError:
    """A stream's answer to a publish on ``subject``: the acknowledgement, or the error to raise."""
    if status_of(message) == NO_RESPONDERS:
        return NoRespondersError(subject)
    try:
        ack = _ACK.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return StorageUncertainError(f"the answer to {subject} is not a stream's acknowledgement")
    if ack.error is not None:
        return ApiError(ack.error.code, ack.error.err_code, ack.error.description)
    if not ack.stream:
        return StorageUncertainError(f"the answer to {subject} is not a stream's acknowledgement")
    return PubAck(ack.stream, ack.seq, ack.duplicate)


def decode_api(subject: str, message: Message) -> dict[str, Any]:
    """A JetStream API reply. Raises ApiError for its error, StorageUncertainError for something else."""
    try:
        reply = msgspec.json.decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise StorageUncertainError(f"the answer to {subject} is not JetStream's")
    error = reply.get("error")
    if error and not isinstance(error, dict):
        raise StorageUncertainError(f"the answer to {subject} is not JetStream's")
    if error:
        raise ApiError(error.get("code", 500), error.get("err_code", 0), error.get("description", ""))
    return reply


class Replies:
    """The futures that wait, by token."""

    __slots__ = ("_next", "_waiting")

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[str, asyncio.Future[Message]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self) -> "tuple[str, asyncio.Future[Message]]":
        """A new token and its future. Cancel the future to give the token back."""
        self._next += 1
        token = f"{self._next:x}"
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        return token, future

    def forget(self, token: str) -> None:
        """Give a token back; a later answer under it is dropped."""
        future = self._waiting.pop(token, None)
        if future is not None:
            future.cancel()

    def resolve(self, message: Message) -> None:
        """Hand a message to whoever waits for the last token of its subject."""
        future = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if future is not None and not future.done():
            future.set_result(message)

    def fail_all(self, text: str) -> None:
        """The link is lost: end every future."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(StorageUncertainError(text))
                future.exception()  # marks it retrieved: nobody may be waiting any more
