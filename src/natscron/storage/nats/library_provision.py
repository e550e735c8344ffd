"""Making the two objects that the library has besides the service's, and checking the server's version."""

import asyncio
from typing import Any, Final

from natscron.errors import ServerTooOldError
from natscron.storage.nats.library_options import LibraryOptions
from natscron.storage.nats.provision import NS_PER_MS, PATIENCE_S, complaints, ensure
from natscron.wire.connection import Connection
from natscron.wire.kv import bucket_config
from natscron.wire.streams import pick_replicas

__all__ = ["provision_library"]

_NEEDED: Final = (2, 11, 0)


async def provision_library(connection: Connection, options: LibraryOptions) -> list[str]:
    """Make or check; the warnings to show. Raises ServerTooOldError, ConfigError and StorageUnavailableError."""
    check_version(connection)
    replicas = options.replicas or pick_replicas(connection)
    runs = {**bucket_config(options.runs_bucket, replicas=replicas), "allow_msg_ttl": True}
    dead = {
        "name": options.dead_stream,
        "subjects": [f"{options.dead_prefix}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs": options.dead_max,
        "max_msgs_per_subject": 1,
        "max_age": options.log_max_age_ms * NS_PER_MS,
        "discard": "old",
        "duplicate_window": min(1000, options.log_max_age_ms) * NS_PER_MS,
        "allow_direct": True,
    }
    patient_until = asyncio.get_running_loop().time() + PATIENCE_S
    warnings: list[str] = []
    for wanted in (runs, dead):
        found = await ensure(connection, wanted, options.provision_timeout_s, patient_until)
        _must_expire(connection, wanted, found)
        warnings += complaints(found, wanted, explicit=options.replicas is not None)
    return warnings


def check_version(connection: Connection) -> None:
    """Raise ServerTooOldError, naming both versions, for a server that knows no times to live of single messages."""
    version = connection.server_version
    if (0, 0, 0) < version < _NEEDED:
        raise _too_old(version, "")


def _must_expire(connection: Connection, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    if wanted.get("allow_msg_ttl") and not found.get("allow_msg_ttl"):
        # A cluster may have older members than the one that we are connected to.
        raise _too_old(connection.server_version, f"stream {wanted['name']} takes none; ")


def _too_old(version: tuple[int, int, int], what: str) -> ServerTooOldError:
    have, need = (".".join(map(str, one)) for one in (version, _NEEDED))
    return ServerTooOldError(
        f"the run queue needs times to live of single messages: {what}the server is nats-server {have}, needed is "
        f"{need} or newer on all of its nodes"
    )
