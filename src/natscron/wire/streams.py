"""Making sure that a stream is there, when several instances do it at once and while a cluster is still starting.

Phases, each with its own bound (10 s) and named in the error: *JetStream answers*, *the stream exists*, *the stream has
a leader*. Who is first makes it; the others find it. What exists is not changed, except that replicas are added where
the cluster has the nodes: never taken away.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from natscron.errors import StorageError, StorageUnavailableError
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError

__all__ = ["Adjust", "ensure_stream", "pick_replicas"]

PHASE_S: Final = 10.0
RETRY_S: Final = 0.1
_TRY_S: Final = 2.0
_STREAM_NOT_FOUND: Final = 10059
_NAME_TAKEN: Final = 10058
_NO_PEERS: Final = 10005
_NOT_CLUSTERED: Final = 10074
_WANTED_REPLICAS: Final = 3
_BUSY: Final = 500
"""From this status on, trying again may help."""

Adjust = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


def pick_replicas(connection: Connection) -> int:
    """3 in a cluster, else 1. A cluster with fewer nodes refuses 3; :func:`ensure_stream` then takes 1."""
    return _WANTED_REPLICAS if connection.cluster else 1


class _Phase:
    """Tries again until the phase's bound."""

    def __init__(self, name: str, bound_s: float) -> None:
        self._name = name
        self._bound_s = bound_s
        self._deadline = asyncio.get_running_loop().time() + bound_s

    async def pause(self, why: object) -> None:
        if asyncio.get_running_loop().time() >= self._deadline:
            raise StorageUnavailableError(f"waited {self._bound_s:g} s for this: {self._name}; last: {why}")
        await asyncio.sleep(RETRY_S)


async def ensure_stream(
    connection: Connection, config: Mapping[str, Any], *, adjust: Adjust | None = None, phase_s: float = PHASE_S
) -> dict[str, Any]:
    """Create the stream or find it; its info. ``config["num_replicas"]`` is wished for, 1 taken where it cannot be had.

    ``adjust`` is shown the configuration of an existing stream and returns the one it shall have, or None to leave it.
    Raises ApiError when the server refuses the configuration, StorageUnavailableError naming the phase that took
    longer than ``phase_s``.
    """
    name = str(config["name"])
    await _jetstream(connection, phase_s)
    info = await _exists(connection, name, config, phase_s)
    wanted = _improved(info["config"], config, adjust)
    if wanted is not None:
        try:
            info = await connection.js_request(f"STREAM.UPDATE.{name}", wanted)
        except ApiError as error:
            if error.err_code not in (_NO_PEERS, _NOT_CLUSTERED):
                raise
            # Fewer nodes than wished for: what is there stays as it is.
    return await _led(connection, name, info, phase_s)


async def _jetstream(connection: Connection, phase_s: float) -> None:
    phase = _Phase("JetStream answers (is it enabled for this account?)", phase_s)
    while True:
        try:
            await connection.js_request("INFO", timeout_s=_TRY_S)
        except StorageError as error:
            await phase.pause(error)
        else:
            return


async def _exists(connection: Connection, name: str, config: Mapping[str, Any], phase_s: float) -> dict[str, Any]:
    phase = _Phase(f"stream {name} exists", phase_s)
    wanted = dict(config)
    while True:
        try:
            return await connection.js_request(f"STREAM.INFO.{name}", timeout_s=_TRY_S)
        except StorageError as error:
            missing = isinstance(error, ApiError) and error.err_code == _STREAM_NOT_FOUND
            if not missing:
                await phase.pause(error)
                continue
        try:
            return await connection.js_request(f"STREAM.CREATE.{name}", wanted, timeout_s=_TRY_S * 2)
        except ApiError as error:
            if error.err_code in (_NO_PEERS, _NOT_CLUSTERED) and wanted.get("num_replicas", 1) > 1:
                wanted["num_replicas"] = 1
            elif error.err_code == _NAME_TAKEN or error.status >= _BUSY:
                await phase.pause(error)  # somebody was first, or the server is not ready: look again
            else:
                raise
        except StorageError as error:
            await phase.pause(error)


def _improved(
    existing: Mapping[str, Any], config: Mapping[str, Any], adjust: Adjust | None
) -> Mapping[str, Any] | None:
    changed = adjust(existing) if adjust is not None else None
    wanted = dict(existing if changed is None else changed)
    replicas = int(existing.get("num_replicas", 1))
    wanted["num_replicas"] = max(replicas, int(wanted.get("num_replicas", 1)), int(config.get("num_replicas", 1)))
    return None if wanted == dict(existing) else wanted


async def _led(connection: Connection, name: str, info: dict[str, Any], phase_s: float) -> dict[str, Any]:
    phase = _Phase(f"stream {name} has a leader", phase_s)
    while True:
        cluster = info.get("cluster")
        if cluster is None or cluster.get("leader"):
            return info
        await phase.pause("no leader")
        try:
            info = await connection.js_request(f"STREAM.INFO.{name}", timeout_s=_TRY_S)
        except StorageError as error:
            await phase.pause(error)
