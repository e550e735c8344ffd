"""What a nats-server of which version can do, and the error for one that cannot.

A server that is too old does not say so: 2.11 acknowledges every schedule and fires nothing. So the stream is asked
first. Its metadata names the API level of the server that leads it: 2 from nats-server 2.12 on (single messages), 4
from 2.14 on (cron, intervals, zones, sampling, rollups, and the purge that goes along with a replacement).
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import msgspec

from natscron.errors import ServerTooOldError

__all__ = ["Needs", "ServerLevel", "level_of", "require"]

_FIRST_WITH: Final = {2: "2.12.0", 4: "2.14.0"}
_NAMES: Final = {2: "single scheduled messages", 4: "recurring and sampled messages, and rollups,"}


class Needs(IntEnum):
    """The API level that a call needs."""

    SINGLE = 2
    FULL = 4
    """Recurring and sampled messages, and rollups, which 2.12 takes and does not do."""


class ServerLevel(msgspec.Struct, frozen=True):
    """What a stream's leader says of itself."""

    level: int
    """Its API level; 0: it says nothing, so it is older than 2.11."""
    version: str
    """Its version; empty if it does not say."""


def level_of(config: Mapping[str, Any], fallback: str = "") -> ServerLevel:
    """Out of a stream's configuration as the server gave it. ``fallback``: the version of the connected server."""
    metadata = config.get("metadata") or {}
    level = str(metadata.get("_nats.level", ""))
    return ServerLevel(int(level) if level.isdigit() else 0, str(metadata.get("_nats.ver") or fallback))


def require(server: ServerLevel, needs: Needs, stream: str) -> None:
    """Raise ServerTooOldError, naming both versions, if ``needs`` is above what the server has."""
    if server.level < needs:
        wanted = int(needs)
        raise ServerTooOldError(
            f"{_NAMES[wanted]} need nats-server {_FIRST_WITH[wanted]} or newer (API level {wanted}); the one that "
            f"leads stream {stream} is {server.version or 'of an unknown version'} (API level {server.level}): it "
            "would take the schedule and do less than it says, or refuse it"
        )
