"""Runs that failed for good: one message each, with all that a further try needs and why it failed.

In a stream of their own under ``<prefix>.<run id>.<job key>``, so that anybody may follow it; bounded by count and age.
A letter is written before the run's row says that it is over, and deleted after a further try was queued.
"""

from typing import Final

import msgspec

from natscron.codec import key_of
from natscron.errors import StorageError
from natscron.model import Ms, RunStatus
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.runrow import RunRow
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError
from natscron.wire.kv import get_last, purge
from natscron.wire.publisher import safe_token

__all__ = ["DeadLetters", "Letter"]

_NO_FILTER: Final = 10037


class Letter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``run``: as it was when its last try was claimed."""

    run: RunRow
    status: RunStatus
    reason: str | None = None
    error: str | None = None
    finished_ms: Ms = 0


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Letter)


class DeadLetters:
    """The letters."""

    def __init__(self, connection: Connection, options: LibraryOptions) -> None:
        self._connection = connection
        self._stream = options.dead_stream
        self._prefix = options.dead_prefix

    def message(self, letter: Letter) -> tuple[str, bytes]:
        """Subject and body of a letter that is to be written."""
        run = letter.run
        return f"{self._prefix}.{safe_token(run.run_id)}.{key_of(run.job)}", _encoder.encode(letter)

    async def find(self, run_id: str) -> Letter | None:
        """The newest letter about a run, from the stream's leader. Raises StorageError."""
        entry = await get_last(self._connection, self._stream, self._filter(run_id))
        if entry is None:
            return None
        try:
            return _decoder.decode(entry.data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StorageError(f"the letter about run {run_id:.80} cannot be read: {error}") from None

    async def remove(self, run_id: str) -> None:
        """Delete what there is about a run. Raises StorageError."""
        try:
            await purge(self._connection, self._stream, self._filter(run_id))
        except ApiError as error:
            if error.err_code != _NO_FILTER:
                raise

    def _filter(self, run_id: str) -> str:
        return f"{self._prefix}.{safe_token(run_id)}.>"
