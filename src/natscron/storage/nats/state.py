"""Open rows, nodes and the watch over them, on the shared connection. The leader's side is in ``link``.

Who is authoritative: the state bucket's stream. Nothing here decides anything: a trigger's row is created only if there
is none, an announcement is overwritten by its owner.

Announcements and the markers of what was deleted carry a time to live, so the bucket does not grow with time. A watch
that is made anew is handed a full set; what it knew before and is not in it has gone meanwhile, and is reported so.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from natscron.codec import state as records
from natscron.errors import MalformedInputError
from natscron.model import LeaseRecord, Node, OpenRow
from natscron.storage.nats.keys import StateKeys
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.protocol import StateSink
from natscron.wire.connection import Connection
from natscron.wire.consumer import Watch
from natscron.wire.failures import ApiError
from natscron.wire.kv import cas_headers, delete_headers, get_last, is_deleted, is_wrong_sequence
from natscron.wire.window import PublishWindow

__all__ = ["MARKER_TTL", "TTL", "TTL_OFF", "NatsState"]

logger = logging.getLogger("natscron.storage")

TTL: Final = "Nats-TTL"
TTL_OFF: Final = 10166
"""The stream takes no times to live."""
NODE_TTL: Final = "20s"
"""How long the announcement of an instance that was killed lies there. Nobody is told when it goes."""
MARKER_TTL: Final = "60s"
"""How long a marker says that a row is gone: longer than a watch is ever silent without being made anew."""


class NatsState:
    """The LeaseStore role without its link."""

    def __init__(self, connection: Connection, options: NatsStorageOptions, window: PublishWindow) -> None:
        self._connection = connection
        self._options = options
        self._window = window
        self._keys = StateKeys(options)

    def watch_state(self, sink: StateSink) -> Watch:
        """Follow the lease, open rows and nodes."""
        keys = self._keys
        filters = [keys.lease, keys.rows, keys.nodes]
        return Watch(self._connection, self._options.state_stream, filters, _Adapter(sink, keys))

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row; False if one under that run id exists, or was done within the last minute."""
        try:
            await self._write(self._keys.row(row.run_id), records.encode_row(row), cas_headers(0))
        except ApiError as error:
            if is_wrong_sequence(error):
                return False
            raise
        return True

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row under that run id, from the stream's leader; None: there is none."""
        found = await get_last(self._connection, self._options.state_stream, self._keys.row(run_id))
        return None if found is None or is_deleted(found.headers) else records.decode_row(found.data)

    async def announce(self, node: Node) -> None:
        """Write or refresh this instance's announcement; to be repeated within 20 s."""
        await self._write(self._keys.node(node), records.encode_node(node), {TTL: NODE_TTL})

    async def retract(self, node: Node) -> None:
        """Take the announcement back."""
        await self._write(self._keys.node(node), b"", {**delete_headers(), TTL: MARKER_TTL})

    async def _write(self, subject: str, value: bytes, headers: Mapping[str, str]) -> None:
        try:
            await asyncio.shield(await self._window.publish(subject, value, headers))
        except ApiError as error:
            if error.err_code != TTL_OFF or TTL not in headers:
                raise
            # A bucket on which time-to-live could not be switched on; provisioning has said so.
            await self._write(subject, value, {name: item for name, item in headers.items() if name != TTL})


class _Adapter:
    """From messages to what the sink wants to know."""

    def __init__(self, sink: StateSink, keys: StateKeys) -> None:
        self._sink = sink
        self._keys = keys
        self._rows: set[str] = set()
        self._nodes: set[tuple[str, str]] = set()
        self._newer: set[str] = set()
        """Records that need a later version of this code."""
        self._before: tuple[set[str], set[tuple[str, str]], set[str]] | None = None
        """What was known when the watch was made anew, until the full set is there."""

    def on_reset(self) -> None:
        rows, nodes, newer = self._before or (set(), set(), set())
        self._before = (rows | self._rows, nodes | self._nodes, newer | self._newer)
        self._rows, self._nodes, self._newer = set(), set(), set()

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        gone = is_deleted(headers)
        stored_at_ms = timestamp_ns // 1_000_000
        try:
            if subject == self._keys.lease:
                if not gone:
                    self._sink.lease(LeaseRecord(records.decode_lease(data), seq, stored_at_ms))
            elif (run_id := self._keys.row_of(subject)) is not None:
                self._row(run_id, None if gone else data, seq)
            elif (who := self._keys.node_of(subject)) is not None:
                self._node(who, None if gone else data, stored_at_ms)
        except records.NewerRecordError as error:
            self._newer.add(subject)
            self._sink.newer(subject, str(error))
            return
        except MalformedInputError as error:
            # Somebody's mistake: the others go on.
            logger.warning("state record %s cannot be used: %s", subject, error)
        if subject in self._newer:
            self._newer.discard(subject)
            self._sink.newer(subject, None)

    def on_complete(self, _seq: int) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        for run_id in before[0] - self._rows:
            self._sink.row_gone(run_id)
        for record in before[2] - self._newer:
            self._sink.newer(record, None)
        for instance, nonce in before[1] - self._nodes:
            self._sink.node_gone(instance, nonce)

    def _row(self, run_id: str, data: bytes | None, seq: int) -> None:
        if data is None:
            self._rows.discard(run_id)
            self._sink.row_gone(run_id)
            return
        row = records.decode_row(data)
        self._rows.add(run_id)
        self._sink.row(row, seq)

    def _node(self, who: tuple[str, str], data: bytes | None, stored_at_ms: int) -> None:
        if data is None:
            self._nodes.discard(who)
            self._sink.node_gone(*who)
            return
        node = records.decode_node(data)
        self._nodes.add(who)
        self._sink.node(node, stored_at_ms)
