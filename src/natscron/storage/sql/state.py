"""Lease, journal, open rows and nodes: the statements, and the role without its link.

Who is authoritative: the lease's row. Its ``epoch`` and ``nonce`` repeat what the record says of its holder ("" when it
is released), and a transaction of a leader first touches that row under both: it then has the lease until COMMIT, or
changes nothing. A note and an open row get their place before or after a lease by numbers: a row takes one of the
counter ``state``, as each lease does, and a note has that of the lease under which it was written.

Announcements are told to others for :data:`NODE_MS`; the rows of those that died are swept.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from natscron.codec import state as records
from natscron.errors import LimitExceededError, WrongRevisionError
from natscron.model import Holder, Lease, LeaseRecord, Ms, Node, Note, NoteRef, OpenRow
from natscron.storage.protocol import StateSnapshot
from natscron.storage.sql import numbers
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.runrows import storable
from natscron.storage.sql.schema import lease, nodes, notes, open_rows
from natscron.storage.sql.signals import Signals, Topic

__all__ = ["NODE_MS", "SHARD", "SqlState", "Statements"]

SHARD: Final = "0"
NODE_MS: Final[Ms] = 60_000
_RUN_ID_MAX: Final = 240
"""So that the ids of further tries fit too."""
_SLICE: Final = 500
_SILENT_MS: Final[Ms] = 3_600_000

_LEASE: Final = select(lease.c.data, lease.c.revision, lease.c.stored_ms).where(lease.c.shard == SHARD)
_FENCE: Final = (
    update(lease)
    .where(lease.c.shard == SHARD, lease.c.epoch == bindparam("the_epoch"), lease.c.nonce == bindparam("the_nonce"))
    .values(touched=lease.c.touched + 1)
)
_FENCE_RETURNING: Final = _FENCE.returning(lease.c.revision)
_HELD_AT: Final = (
    update(lease)
    .where(lease.c.shard == SHARD, lease.c.revision == bindparam("expected"))
    .values(touched=lease.c.touched + 1)
)
_RENEW: Final = (
    update(lease)
    .where(lease.c.shard == SHARD)
    .values({name: bindparam(name) for name in ("data", "revision", "stored_ms", "epoch", "nonce")})
)


class Statements:
    """What a link and the state do within a transaction."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        self._insert_notes = database.insert_ignore(notes)

    async def fence(self, connection: AnyConnection, held: tuple[int, str] | None) -> int | None:
        """Lock the lease, and see that it is ``held`` by this epoch and nonce (None: there is no lease at all).

        Its revision, 0 for none; None: somebody else has it, and nothing may be written.
        """
        if held is None:
            return 0 if (await connection.execute(_LEASE)).first() is None else None
        values = {"the_epoch": held[0], "the_nonce": held[1]}
        if connection.dialect.update_returning:
            revision: int | None = (await connection.execute(_FENCE_RETURNING, values)).scalar_one_or_none()
            return revision
        if not (await connection.execute(_FENCE, values)).rowcount:
            return None
        return int((await connection.execute(_LEASE)).one().revision)

    async def read_lease(self, connection: AnyConnection) -> LeaseRecord | None:
        """The lease; None: there never was one. Raises MalformedInputError."""
        row = (await connection.execute(_LEASE)).one_or_none()
        return None if row is None else LeaseRecord(records.decode_lease(row.data), row.revision, row.stored_ms)

    async def write_lease(self, connection: AnyConnection, new: Lease, expected: int) -> int:
        """Compare-and-set; the new revision. Raises WrongRevisionError."""
        if expected and not (await connection.execute(_HELD_AT, {"expected": expected})).rowcount:
            raise WrongRevisionError(f"the lease is not at revision {expected}")
        if not expected and (await connection.execute(_LEASE)).first() is not None:
            raise WrongRevisionError("there is a lease already")
        number = await numbers.take(connection, numbers.STATE)
        holder = new.holder or Holder("", "")
        values = {
            "data": records.encode_lease(new),
            "revision": number,
            "stored_ms": await self._database.now_ms(connection),
            "epoch": new.epoch,
            "nonce": holder.nonce,
        }
        if expected:
            await connection.execute(_RENEW, values)
        else:
            try:
                await connection.execute(insert(lease).values(shard=SHARD, **values))
            except IntegrityError:
                raise WrongRevisionError("there is a lease already") from None
        await self._signals.notify(connection, Topic.STATE)
        return number

    async def write_note(
        self, connection: AnyConnection, written: Sequence[tuple[NoteRef, Sequence[str]]], revision: int, now: Ms
    ) -> None:
        """Write journal notes under the lease's revision."""
        values = [
            {
                "epoch": ref.epoch,
                "n": ref.n,
                "run_ids": records.encode_note(run_ids).decode(),
                "revision": revision,
                "stored_ms": now,
            }
            for ref, run_ids in written
        ]
        if values:
            await connection.execute(self._insert_notes, values)

    async def save_rows(self, connection: AnyConnection, rows: Iterable[OpenRow]) -> None:
        """Write or overwrite open rows."""
        newest = {row.run_id: records.encode_row(row) for row in rows}
        if not newest:
            return
        last = await numbers.take(connection, numbers.STATE, len(newest))
        values = [
            {"run_id": run_id, "data": data, "revision": last - len(newest) + i}
            for i, (run_id, data) in enumerate(newest.items(), 1)
        ]
        await self._delete(connection, list(newest))
        await connection.execute(insert(open_rows), values)
        await self._signals.notify(connection, Topic.STATE)

    async def delete_rows(self, connection: AnyConnection, run_ids: Sequence[str]) -> None:
        """Delete open rows; unknown ones are no error."""
        if not run_ids:
            return
        number = await numbers.take(connection, numbers.STATE)
        await self._delete(connection, run_ids)
        await numbers.set_number(connection, numbers.GONE, number)
        await self._signals.notify(connection, Topic.STATE)

    async def create_row(self, connection: AnyConnection, row: OpenRow) -> bool:
        """Write an open row; False if there is one under that run id."""
        number = await numbers.take(connection, numbers.STATE)
        if (await connection.execute(select(open_rows.c.run_id).where(open_rows.c.run_id == row.run_id))).first():
            return False
        values = {"run_id": row.run_id, "data": records.encode_row(row), "revision": number}
        await connection.execute(insert(open_rows).values(values))
        await self._signals.notify(connection, Topic.STATE)
        return True

    async def read_state(self, connection: AnyConnection, after: NoteRef, barrier: int) -> StateSnapshot:
        """Notes after ``after`` and all open rows, both below ``barrier``. Raises MalformedInputError."""
        later = or_(notes.c.epoch > after.epoch, and_(notes.c.epoch == after.epoch, notes.c.n > after.n))
        found = await connection.execute(
            select(notes.c.epoch, notes.c.n, notes.c.run_ids, notes.c.stored_ms)
            .where(later, notes.c.revision < barrier)
            .order_by(notes.c.epoch, notes.c.n)
        )
        journal = [_note(row) for row in found]
        rows = await connection.execute(
            select(open_rows.c.data).where(open_rows.c.revision < barrier).order_by(open_rows.c.revision)
        )
        return StateSnapshot(tuple(journal), tuple(records.decode_row(row.data) for row in rows))

    async def purge_notes(self, connection: AnyConnection, upto: NoteRef) -> None:
        """Delete the notes up to and including ``upto``."""
        earlier = or_(notes.c.epoch < upto.epoch, and_(notes.c.epoch == upto.epoch, notes.c.n <= upto.n))
        await connection.execute(delete(notes).where(earlier))

    async def write_node(self, connection: AnyConnection, node: Node, *, gone: bool) -> None:
        """Write or overwrite an announcement, or delete it."""
        await numbers.take(connection, numbers.STATE)
        await connection.execute(delete(nodes).where(nodes.c.instance == node.instance, nodes.c.nonce == node.nonce))
        if not gone:
            now = await self._database.now_ms(connection)
            values = {
                "instance": node.instance,
                "nonce": node.nonce,
                "data": records.encode_node(node),
                "stored_ms": now,
            }
            await connection.execute(insert(nodes).values(values))
        await self._signals.notify(connection, Topic.STATE)

    async def sweep(self, connection: AnyConnection, now: Ms) -> None:
        """Forget instances that have been silent for an hour."""
        await connection.execute(delete(nodes).where(nodes.c.stored_ms < now - _SILENT_MS))

    async def _delete(self, connection: AnyConnection, run_ids: Sequence[str]) -> None:
        for begin in range(0, len(run_ids), _SLICE):
            some = run_ids[begin : begin + _SLICE]
            await connection.execute(delete(open_rows).where(open_rows.c.run_id.in_(some)))


def _note(row: Any) -> Note:  # noqa: ANN401 - a row of a query
    return records.decode_note(NoteRef(row.epoch, row.n), row.run_ids.encode(), row.stored_ms)


async def _first(connection: AnyConnection, statement: Select[Any]) -> Row[Any] | None:
    row: Row[Any] | None = (await connection.execute(statement)).first()
    return row


class SqlState:
    """The LeaseStore role, but for links and watches."""

    def __init__(self, database: Database, signals: Signals, statements: Statements) -> None:
        self._database = database
        self._signals = signals
        self._statements = statements

    async def submit_row(self, row: OpenRow) -> bool:
        """Lay down a trigger's row; False if one under that run id exists already. Raises LimitExceededError."""
        if len(row.run_id) > _RUN_ID_MAX:
            raise LimitExceededError(f"the run id {row.run_id[:40]!r}... is too long; at most {_RUN_ID_MAX} characters")
        created = await self._database.run(lambda connection: self._statements.create_row(connection, row))
        self._signals.ring(Topic.STATE)
        return created

    async def fetch_row(self, run_id: str) -> OpenRow | None:
        """The open row under that run id; None: there is none. Raises MalformedInputError."""
        if not storable(run_id):
            return None
        statement = select(open_rows.c.data).where(open_rows.c.run_id == run_id)
        row = await self._database.read(lambda connection: _first(connection, statement))
        return None if row is None else records.decode_row(row.data)

    async def announce(self, node: Node) -> None:
        """Write or refresh this instance's announcement."""
        await self._database.run(lambda connection: self._statements.write_node(connection, node, gone=False))
        self._signals.ring(Topic.STATE)

    async def retract(self, node: Node) -> None:
        """Take the announcement back."""
        await self._database.run(lambda connection: self._statements.write_node(connection, node, gone=True))
        self._signals.ring(Topic.STATE)
