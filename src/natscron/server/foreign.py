"""Notices instances of the Go version on the account, because two kinds of leaders would fire everything twice.

Who is authoritative: nobody; a Go instance cannot be fenced. It is taken to be alive while its leader key in the
bucket ``nats-cron-leader`` is renewed (every 22.5 s; the bucket drops it after 30 s), or while a service named
``nats-cron`` answers a PING without our mark in its metadata. Both are asked for every 3 s, only where our jobs lie in
a bucket of the Go version.

What does not answer tells nothing: the last finding stands, and before there was any, we may lead.
"""

import asyncio
import logging
from typing import Any, Final

from natscron.clock import Clock
from natscron.codec import text_to_ms
from natscron.errors import NatscronError, StorageError
from natscron.wire.connection import Connection
from natscron.wire.discovery import ping_service
from natscron.wire.failures import ApiError

__all__ = ["IMPLEMENTATION", "GoWatch"]

logger = logging.getLogger("natscron.server.foreign")

IMPLEMENTATION: Final = "natscron"
"""The value of ``implementation`` in the metadata of our own PING answers."""

_EVERY_S: Final = 3.0
_LISTEN_S: Final = 0.25
_MISSES: Final = 2
"""Looks in a row without an answer, after which an instance counts as gone."""
_TIMEOUT_S: Final = 1.0
_STALE_S: Final = 35.0
_NAMED_MAX: Final = 5
_NAME: Final = "nats-cron"
_BUCKETS: Final = {"nats-cron-jobs": "nats-cron-leader", "scheduler_jobs": "scheduler_leader"}
"""The Go version's buckets: of jobs, and of the election beside it (the second pair up to v0.1.0)."""


class GoWatch:
    """``may_lead`` for the engine: None, or which Go instance is alive."""

    def __init__(self, connection: Connection, clock: Clock, jobs_bucket: str) -> None:
        self.last_seen_ms: int | None = None
        """When a Go instance was last found alive: what was due until then is its business. None: never."""
        self._connection = connection
        self._clock = clock
        self._bucket = _BUCKETS.get(jobs_bucket)
        self._reason: str | None = None
        self._misses = 0
        self._answered: list[str] = []
        self._leader_seq = 0
        self._leader_since_s = 0.0
        self._leader_written_ms = 0
        self._task: asyncio.Task[None] | None = None

    def may_lead(self) -> str | None:
        """None, or why this instance may not lead now."""
        return self._reason

    async def start(self) -> None:
        """Look once, then in the background."""
        if self._bucket is not None:
            await self.look()
            self._task = asyncio.create_task(self._keep(), name="natscron foreign")

    async def stop(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> None:
        """Ask both questions now."""
        # What it is asked at this instant tells nothing about the time until the answers are in.
        asked_ms = self._clock.now_ms()
        leader, instances = await asyncio.gather(self._leader_alive(), self._instances())
        if leader is None and instances is None:
            return
        if instances:
            self.last_seen_ms = asked_ms
        elif leader:
            # The key outlives its writer by half a minute: what is proved is its last renewal.
            self.last_seen_ms = max(self.last_seen_ms or 0, self._leader_written_ms)
        instances = self._settled(instances or [])
        found: list[str] = []
        if leader:
            found.append(f"its leader key in the bucket {self._bucket} is being renewed")
        if instances:
            names = ", ".join(instances[:_NAMED_MAX])
            more = f" and {len(instances) - _NAMED_MAX} more" if len(instances) > _NAMED_MAX else ""
            found.append(f"a nats-cron that is not ours answers: {names}{more}")
        before, self._reason = self._reason, None
        if found:
            self._reason = f"an instance of the Go version is alive ({'; '.join(found)}); stop it, then this one leads"
        if self._reason is not None and before is None:
            logger.warning("Not leading", extra={"reason": self._reason})
        elif before is not None and self._reason is None:
            logger.info("No instance of the Go version is left")

    def _settled(self, instances: list[str]) -> list[str]:
        """One silence is no departure: a busy instance may answer late, and to lead beside it would double runs."""
        self._misses = 0 if instances else self._misses + 1
        if instances or self._misses >= _MISSES:
            self._answered = instances
        return self._answered

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def _leader_alive(self) -> bool | None:
        """Whether the leader key is there and fresh; None: not known."""
        try:
            reply = await self._connection.js_request(
                f"STREAM.MSG.GET.KV_{self._bucket}",
                {"last_by_subj": f"$KV.{self._bucket}.leader"},
                timeout_s=_TIMEOUT_S,
            )
        except ApiError:
            self._leader_seq = 0
            return False  # no such bucket, or no such key
        except StorageError:
            return None
        message = reply.get("message") or {}
        if "hdrs" in message:
            return False  # a deletion marker; the elector writes no headers
        # The bucket's age limit makes a dead leader's key vanish. Where someone made the bucket without one, a key that
        # does not change for longer than that is no sign of life either.
        now_s = self._clock.trust_s()
        seq = int(message.get("seq", 0))
        if seq != self._leader_seq:
            self._leader_seq, self._leader_since_s = seq, now_s
            self._leader_written_ms = _ms_of(message.get("time"))
        return now_s - self._leader_since_s < _STALE_S

    async def _instances(self) -> list[str] | None:
        """Which services of that name answer without our mark; None: not known."""
        try:
            answers = await ping_service(self._connection, _NAME, wait_s=_LISTEN_S)
        except StorageError:
            return None
        return sorted({name for name in map(_foreign_name, answers) if name is not None})


def _ms_of(time: object) -> int:
    """When a message was stored; 0 where the server says nothing readable."""
    try:
        return text_to_ms(time) if isinstance(time, str) else 0
    except NatscronError:
        return 0


def _foreign_name(answer: dict[str, Any]) -> str | None:
    """Who answered, unless it is one of ours or no service at all."""
    if not str(answer.get("type", "")).endswith("ping_response"):
        return None
    metadata = answer.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("implementation") == IMPLEMENTATION:
        return None
    return str(metadata.get("instance_id") or answer.get("id") or "unnamed")[:100]
