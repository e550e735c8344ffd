"""The API's calls about the service itself: its state here, and the instances together."""

from typing import Any, Final

from natscron import __version__
from natscron.codec import ms_to_text
from natscron.server.context import Context
from natscron.server.jobs import Input, Reply

__all__ = ["Info"]

_STREAMS_SHOWN: Final = 200


class Info:
    """The state of this instance and of all."""

    def __init__(self, context: Context) -> None:
        self._engine = context.engine
        self._clock = context.clock
        self._streams = context.admission.streams
        self._name = context.name
        self._instance_id = context.instance_id
        self._notes = context.notes

    async def status(self, _data: Input = b"") -> Reply:
        """The Go version's three fields and ours, keys sorted; whatever the request's body is."""
        status = self._engine.status()
        reply: Reply = {
            "blocked": status.blocked,
            "epoch": status.epoch,
            "instance_id": self._instance_id,
            "instances": status.instances,
            "is_leader": status.is_leader,
            "jobs": len(self._engine.table),
            "lateness_ms": {"p50": status.lateness_p50_ms, "p99": status.lateness_p99_ms},
            "leader": status.leader,
            "mark": None if status.mark_ms is None else ms_to_text(status.mark_ms),
            "service": self._name,
            "uptime_s": max(0, (self._clock.now_ms() - status.started_at_ms) // 1000),
            "version": __version__,
        }
        if warnings := [*status.warnings, *self._notes()]:
            reply["warnings"] = warnings
        return reply

    async def cluster(self, _data: Input = b"") -> Reply:
        """Who leads since when, which instances are alive, and the streams that ``auto`` delivery goes by."""
        status = self._engine.status()
        streams: list[dict[str, Any]] = [
            {"name": stream.name, "subjects": list(stream.subjects), "no_ack": stream.no_ack}
            for stream in self._streams.streams
            if not all(subject.startswith("$") for subject in stream.subjects)
        ]
        return {
            "service": self._name,
            "leader": status.leader,
            "epoch": status.epoch,
            "mark": None if status.mark_ms is None else ms_to_text(status.mark_ms),
            "instances": [
                {"instance_id": instance, "is_leader": instance == status.leader} for instance in status.instances
            ],
            "answered_by": self._instance_id,
            "jobs": len(self._engine.table),
            "streams": streams[:_STREAMS_SHOWN],
            "warnings": [*status.warnings, *self._notes()],
        }
