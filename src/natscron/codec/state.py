"""The state bucket's values: lease, journal notes, open rows and nodes.

A record that needs a higher reader version than this code has is refused, so that an instance which cannot honour it
does not lead.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from natscron.errors import MalformedInputError
from natscron.model import Holder, Lease, Mark, Ms, Node, Note, NoteRef, OpenRow, OpenState

__all__ = [
    "READER",
    "NewerRecordError",
    "decode_lease",
    "decode_node",
    "decode_note",
    "decode_row",
    "encode_lease",
    "encode_node",
    "encode_note",
    "encode_row",
]

READER: Final = 2
"""The highest reader version that this code honours."""


class NewerRecordError(MalformedInputError):
    """The record needs a higher reader version: this instance must not lead."""


class _Lease(msgspec.Struct, omit_defaults=True):
    reader: int
    epoch: int
    instant: Ms
    jobs_seq: int
    note: NoteRef
    instance: str | None = None
    nonce: str | None = None
    takeover: Ms | None = None
    duration: Ms = 2_000


_lease_decoder: Final = msgspec.json.Decoder(_Lease)
_row_decoder: Final = msgspec.json.Decoder(OpenRow)
_node_decoder: Final = msgspec.json.Decoder(Node)
_encoder: Final = msgspec.json.Encoder()


def encode_lease(lease: Lease) -> bytes:
    """The lease as compact JSON."""
    mark, holder = lease.mark, lease.holder
    return _encoder.encode(
        _Lease(
            lease.reader,
            lease.epoch,
            mark.instant_ms,
            mark.jobs_seq,
            mark.note,
            None if holder is None else holder.instance,
            None if holder is None else holder.nonce,
            lease.takeover_ms,
            lease.duration_ms,
        )
    )


def decode_lease(data: bytes) -> Lease:
    """The lease. Raises MalformedInputError, also for one that needs a higher reader version."""
    _refuse_newer(data, "lease")
    found: _Lease = _decode(_lease_decoder, data, "lease")
    holder = None if found.instance is None else Holder(found.instance, found.nonce or "")
    mark = Mark(instant_ms=found.instant, jobs_seq=found.jobs_seq, note=found.note)
    return Lease(
        epoch=found.epoch,
        mark=mark,
        holder=holder,
        takeover_ms=found.takeover,
        duration_ms=found.duration,
        reader=found.reader,
    )


def encode_note(run_ids: Sequence[str]) -> bytes:
    """Run ids, one a line: the journal is written 200 times in a burst and read once in a takeover."""
    return "\n".join(run_ids).encode()


def decode_note(ref: NoteRef, data: bytes, stored_at_ms: Ms) -> Note:
    """The note; ``ref`` comes from its key. Raises MalformedInputError."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedInputError(f"journal note {ref.epoch}.{ref.n} is not text") from None
    return Note(ref=ref, run_ids=tuple(text.split("\n")) if text else (), stored_at_ms=stored_at_ms)


def encode_row(row: OpenRow) -> bytes:
    """The open row as compact JSON, with the lowest reader version that honours it (or the row's own, if higher)."""
    if row.reader < _SECOND and _needs_second(row):
        row = msgspec.structs.replace(row, reader=_SECOND)
    return _encoder.encode(row)


_SECOND: Final = 2
_FIRST_STATES: Final = frozenset({OpenState.PENDING, OpenState.RUNNING, OpenState.RETRY})
_FIRST_FIELDS: Final = frozenset(
    {
        *("run_id", "job_id", "generation", "scheduled_at_ms", "state", "trigger", "delivery", "attempt", "next_at_ms"),
        *("deadline_ms", "epoch", "payload", "reader"),
    }
)
_later: Final = attrgetter(*(name for name in OpenRow.__struct_fields__ if name not in _FIRST_FIELDS))
_NOTHING_LATER: Final = _later(OpenRow(run_id="", job_id="", generation=0, scheduled_at_ms=0, state=OpenState.PENDING))


def _needs_second(row: OpenRow) -> bool:
    """Whether an instance with reader version 1 could not honour the row."""
    return row.state not in _FIRST_STATES or bool(_later(row) != _NOTHING_LATER)


def decode_row(data: bytes) -> OpenRow:
    """The open row. Raises MalformedInputError, also for one that needs a higher reader version."""
    # Ordinary rows go without the field; a payload may hold the word too.
    if b'"reader"' in data:
        _refuse_newer(data, "open row")
    row: OpenRow = _decode(_row_decoder, data, "open row")
    return row


def encode_node(node: Node) -> bytes:
    """The announcement as compact JSON."""
    return _encoder.encode(node)


def decode_node(data: bytes) -> Node:
    """The announcement. Raises MalformedInputError."""
    node: Node = _decode(_node_decoder, data, "node")
    return node


def _decode(decoder: "msgspec.json.Decoder[Any]", data: bytes, what: str) -> Any:  # noqa: ANN401 - the decoder's type
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedInputError(f"unreadable {what}: {error}") from None


class _Reader(msgspec.Struct):
    reader: int = 1


_reader_decoder: Final = msgspec.json.Decoder(_Reader)


def _refuse_newer(data: bytes, what: str) -> None:
    found: _Reader = _decode(_reader_decoder, data, what)
    if found.reader > READER:
        raise NewerRecordError(
            f"the {what} needs reader version {found.reader}; this version reads up to {READER}: update this instance"
        )
