"""The state bucket's keys: ``lease.<shard>``, ``sent.<shard>.<epoch>.<n>``, ``open.<shard>.<run id>``, ``node.…``."""

from natscron.codec.keys import id_of, key_of
from natscron.model import Node, NoteRef
from natscron.storage.nats.options import NatsStorageOptions

__all__ = ["StateKeys"]


class StateKeys:
    """Subjects of one shard, and what they mean."""

    __slots__ = ("_node", "lease", "nodes", "notes", "open", "rows", "sent")

    def __init__(self, options: NatsStorageOptions) -> None:
        prefix, shard = options.state_prefix, options.shard
        self.lease = f"{prefix}lease.{shard}"
        self.sent = f"{prefix}sent.{shard}."
        self.open = f"{prefix}open.{shard}."
        self._node = f"{prefix}node."
        self.notes = self.sent + ">"
        self.rows = self.open + ">"
        self.nodes = self._node + ">"

    def note(self, ref: NoteRef) -> str:
        """The subject of a journal note."""
        return f"{self.sent}{ref.epoch}.{ref.n}"

    def note_of(self, subject: str) -> NoteRef | None:
        """The note that a subject is, or None."""
        if not subject.startswith(self.sent):
            return None
        epoch, _, n = subject[len(self.sent) :].partition(".")
        return NoteRef(int(epoch), int(n)) if epoch.isdigit() and n.isdigit() else None

    def row(self, run_id: str) -> str:
        """The subject of an open row."""
        return self.open + key_of(run_id)

    def row_of(self, subject: str) -> str | None:
        """The run id that a subject is the open row of, or None."""
        return id_of(subject[len(self.open) :]) if subject.startswith(self.open) else None

    def node(self, node: Node) -> str:
        """The subject of an announcement; with the nonce, because two processes may share an instance id."""
        return f"{self._node}{key_of(node.instance)}.{key_of(node.nonce)}"

    def node_of(self, subject: str) -> tuple[str, str] | None:
        """Instance and nonce that a subject is the announcement of, or None."""
        if not subject.startswith(self._node):
            return None
        instance, dot, nonce = subject[len(self._node) :].rpartition(".")
        return (id_of(instance), id_of(nonce)) if dot else None
