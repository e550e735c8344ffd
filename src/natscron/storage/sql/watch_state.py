"""The watch over the lease, open rows and nodes.

A look at which the counter has moved reads the lease, the rows with a higher number and the nodes, which are few; the
ids of all rows only when the counter ``gone`` says that some were deleted. What a record says that cannot be read is
somebody's mistake, which is logged, or needs a later version of this code, which is told.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import select

from natscron.codec import state as records
from natscron.errors import MalformedInputError
from natscron.model import LeaseRecord, Ms, Node, OpenRow
from natscron.storage.protocol import StateSink
from natscron.storage.sql import numbers
from natscron.storage.sql.database import Database
from natscron.storage.sql.schema import lease, nodes, open_rows
from natscron.storage.sql.signals import Signals, Topic
from natscron.storage.sql.state import NODE_MS, SHARD
from natscron.storage.sql.watch import Follower, SqlWatch

__all__ = ["StateFollower"]

log = logging.getLogger("natscron.storage")

_LEASE: Final = "lease"

StateWatch = SqlWatch[StateSink]


class _Known:
    """What a watch's sink was told."""

    def __init__(self) -> None:
        self.lease = 0
        self.rows: set[str] = set()
        self.nodes: dict[tuple[str, str], Ms] = {}
        self.newer: set[str] = set()


class StateFollower(Follower[StateSink]):
    """Looks for all state watches."""

    topic = Topic.STATE

    def __init__(self, database: Database, signals: Signals) -> None:
        super().__init__(database, signals)
        self._known: dict[StateWatch, _Known] = {}

    async def look(self, watches: Sequence[StateWatch]) -> None:
        """Read what is new and hand it over. Raises StorageError."""
        self._known = {watch: self._known.get(watch) or _Known() for watch in watches}
        turns = {watch: watch.turn for watch in watches}
        async with self.database.reading() as connection:
            number = await numbers.read(connection, numbers.STATE)
            waiting = [watch for watch in watches if watch.at != number]
            if not waiting:
                return
            before = min(-1 if watch.at is None or watch.at > number else watch.at for watch in waiting)
            held = (await connection.execute(select(lease).where(lease.c.shard == SHARD))).one_or_none()
            rows = (await connection.execute(select(open_rows).where(open_rows.c.revision > before))).all()
            there = None
            if await numbers.read(connection, numbers.GONE) > before:
                there = set((await connection.execute(select(open_rows.c.run_id))).scalars())
            now = await self.database.now_ms(connection)
            alive = (await connection.execute(select(nodes).where(nodes.c.stored_ms > now - NODE_MS))).all()
        readable = [_readable(row) for row in sorted(rows, key=lambda row: int(row.revision))]
        for watch in waiting:
            _Telling(watch, turns[watch], self._known[watch]).tell(number, held, readable, there, alive)


class _Telling:
    """Hands one look over to one watch."""

    def __init__(self, watch: StateWatch, turn: int, known: _Known) -> None:
        self._watch = watch
        self._turn = turn
        self._known = known
        self._fresh = watch.at is None
        self._after = -1 if watch.at is None else watch.at

    def tell(
        self,
        number: int,
        held: Any,  # noqa: ANN401 - a row of a query
        rows: "Sequence[_Read]",
        there: set[str] | None,
        alive: Sequence[Any],
    ) -> None:
        """Nodes and rows first, so that whoever takes the lease knows them."""
        if self._after > number:
            self._after = -1
        self._tell_nodes(alive)
        for row in rows:
            if row.revision > self._after:
                self._tell_row(row)
        if there is not None:
            for run_id in [run_id for run_id in self._known.rows if run_id not in there]:
                self._known.rows.discard(run_id)
                self._watch.tell(self._turn, lambda sink, run_id=run_id: sink.row_gone(run_id))  # type: ignore[misc]
            for record in [one for one in self._known.newer if one != _LEASE and one not in there]:
                self._readable(record)
        if held is not None and (self._fresh or held.revision != self._known.lease):
            self._tell_lease(held)
        self._watch.told(self._turn, number)

    def _tell_nodes(self, alive: Sequence[Any]) -> None:
        found: dict[tuple[str, str], Ms] = {}
        for row in alive:
            who = (row.instance, row.nonce)
            found[who] = row.stored_ms
            if self._fresh or self._known.nodes.get(who) != row.stored_ms:
                node = _node(row)
                if node is not None:
                    self._watch.tell(self._turn, lambda sink, node=node, at=row.stored_ms: sink.node(node, at))  # type: ignore[misc]
        for who in self._known.nodes:
            if who not in found:
                self._watch.tell(self._turn, lambda sink, who=who: sink.node_gone(*who))  # type: ignore[misc]
        self._known.nodes = found

    def _tell_row(self, read: "_Read") -> None:
        if read.row is None:
            if read.newer is not None:
                self._newer(read.run_id, read.newer)
            return
        row, revision = read.row, read.revision
        self._known.rows.add(read.run_id)
        self._watch.tell(self._turn, lambda sink: sink.row(row, revision))
        self._readable(read.run_id)

    def _tell_lease(self, held: Any) -> None:  # noqa: ANN401 - a row of a query
        self._known.lease = held.revision
        try:
            record = LeaseRecord(records.decode_lease(held.data), held.revision, held.stored_ms)
        except records.NewerRecordError as error:
            self._newer(_LEASE, str(error))
        except MalformedInputError as error:
            log.warning("the lease cannot be read", extra={"error": str(error)})
        else:
            self._watch.tell(self._turn, lambda sink: sink.lease(record))
            self._readable(_LEASE)

    def _newer(self, record: str, why: str) -> None:
        self._known.newer.add(record)
        self._watch.tell(self._turn, lambda sink: sink.newer(record, why))

    def _readable(self, record: str) -> None:
        if record in self._known.newer:
            self._known.newer.discard(record)
            self._watch.tell(self._turn, lambda sink: sink.newer(record, None))


class _Read:
    """An open row, as far as it can be read."""

    def __init__(self, run_id: str, revision: int, row: OpenRow | None, newer: str | None) -> None:
        self.run_id = run_id
        self.revision = revision
        self.row = row
        self.newer = newer


def _readable(row: Any) -> _Read:  # noqa: ANN401 - a row of a query
    try:
        return _Read(row.run_id, row.revision, records.decode_row(row.data), None)
    except records.NewerRecordError as error:
        return _Read(row.run_id, row.revision, None, str(error))
    except MalformedInputError as error:
        log.warning("an open row cannot be used", extra={"run": row.run_id, "error": str(error)})
        return _Read(row.run_id, row.revision, None, None)


def _node(row: Any) -> Node | None:  # noqa: ANN401 - a row of a query
    try:
        return records.decode_node(row.data)
    except MalformedInputError as error:
        log.warning("an announcement cannot be read", extra={"instance": row.instance, "error": str(error)})
        return None
