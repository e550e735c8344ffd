"""Making the buckets and the stream, and checking those that are there already.

Safe when any number of instances do it at once (see :mod:`natscron.wire.streams`). What exists is used as it is, with
three exceptions: replicas are raised (never lowered), the limits of the log follow the options, and message
time-to-live is switched on in the state bucket.

Every phase is bounded and named in the StorageUnavailableError that it ends with; what waiting does not mend raises
ConfigError at once. A cluster that is just starting may not have all its members yet: then a stream is made with one
replica and raised within :data:`PATIENCE_S`, or at the next start.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from natscron.errors import ConfigError, StorageError
from natscron.storage.nats.options import NatsStorageOptions
from natscron.wire.connection import Connection
from natscron.wire.failures import ApiError
from natscron.wire.kv import bucket_config
from natscron.wire.streams import ensure_stream, pick_replicas

__all__ = ["NS_PER_MS", "PATIENCE_S", "complaints", "ensure", "provision"]

PATIENCE_S: Final = 3.0
"""How long, for all streams together, to wait for replicas that a starting cluster does not have yet."""
RETRY_S: Final = 0.25
NS_PER_MS: Final = 1_000_000
_OVERLAP: Final = 10065
_NO_JETSTREAM: Final = frozenset({10039, 10076})


async def provision(connection: Connection, options: NatsStorageOptions) -> list[str]:
    """Make or check everything; the warnings to show. Raises StorageUnavailableError and ConfigError."""
    warnings: list[str] = []
    replicas = options.replicas or pick_replicas(connection)
    patient_until = asyncio.get_running_loop().time() + PATIENCE_S
    for wanted in _wanted(options, replicas):
        found = await ensure(connection, wanted, options.provision_timeout_s, patient_until)
        warnings += complaints(found, wanted, explicit=options.replicas is not None)
    return warnings + await _captures(connection, options)


def _wanted(options: NatsStorageOptions, replicas: int) -> list[dict[str, Any]]:
    log = {
        "name": options.log_stream,
        "subjects": [f"{options.log_prefix}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs_per_subject": options.log_per_job,
        "max_age": options.log_max_age_ms * NS_PER_MS,
        "discard": "old",
        # Records carry no message id, so the server's table of those stays empty.
        "duplicate_window": min(1000, options.log_max_age_ms) * NS_PER_MS,
        "allow_direct": True,
    }
    state = {**bucket_config(options.state_bucket, replicas=replicas), "allow_msg_ttl": True}
    return [bucket_config(options.jobs_bucket, replicas=replicas), state, log]


async def ensure(
    connection: Connection, wanted: dict[str, Any], phase_s: float, patient_until: float
) -> dict[str, Any]:
    """The configuration that the stream has now."""

    def adjust(existing: Mapping[str, Any]) -> Mapping[str, Any] | None:
        change: dict[str, Any] = {}
        if wanted["discard"] == "old":
            change = {key: wanted[key] for key in ("max_msgs_per_subject", "max_age", "max_msgs") if key in wanted}
        elif wanted.get("allow_msg_ttl"):
            change = {"allow_msg_ttl": True}
        return {**existing, **change}

    try:
        found = (await ensure_stream(connection, wanted, adjust=adjust, phase_s=phase_s))["config"]
        if any(found.get(key) != value for key, value in (adjust(found) or {}).items()):
            # The replicas could not be had, and took the other changes down with them.
            alone = {**wanted, "num_replicas": 1}
            found = (await ensure_stream(connection, alone, adjust=adjust, phase_s=phase_s))["config"]
        loop = asyncio.get_running_loop()
        while found.get("num_replicas", 1) < wanted["num_replicas"] and connection.cluster:
            if loop.time() >= patient_until:
                break
            await asyncio.sleep(RETRY_S)
            found = (await ensure_stream(connection, wanted, phase_s=phase_s))["config"]
    except ApiError as error:
        if error.err_code in _NO_JETSTREAM:
            raise ConfigError(f"{error.description}: enable JetStream for this account") from error
        if error.err_code == _OVERLAP:
            text = f"{', '.join(wanted['subjects'])} belongs to another stream already"
            raise ConfigError(f"stream {wanted['name']} cannot be made: {text}") from error
        raise
    config: dict[str, Any] = found
    return config


def complaints(found: Mapping[str, Any], wanted: Mapping[str, Any], *, explicit: bool) -> list[str]:
    """What a stream has that harms. Raises ConfigError for one that cannot be used."""
    name, subjects = wanted["name"], found.get("subjects") or []
    missing = [subject for subject in wanted["subjects"] if subject not in subjects]
    if missing:
        raise ConfigError(f"stream {name} exists and does not hold {', '.join(missing)} (it holds {subjects})")
    warnings: list[str] = []
    if explicit and found.get("num_replicas", 1) < wanted["num_replicas"]:
        warnings.append(f"stream {name} has {found.get('num_replicas', 1)} replicas, not {wanted['num_replicas']}")
    if wanted.get("allow_msg_ttl") and not found.get("allow_msg_ttl"):
        warnings.append(f"stream {name} takes no times to live: what is deleted leaves its marker for ever")
    if wanted["max_age"] == 0 and found.get("max_age", 0) > 0:
        text = f"stream {name} has a max_age of {found['max_age'] // NS_PER_MS} ms"
        if wanted.get("allow_msg_ttl"):
            raise ConfigError(f"{text}: a lease that vanishes takes its mark along; remove the limit")
        warnings.append(f"{text}: jobs will vanish; remove the limit")
    return warnings


async def _captures(connection: Connection, options: NatsStorageOptions) -> list[str]:
    """Streams that hold a subject of the API: they answer requests in our place."""
    culprits: dict[str, str] = {}
    for subject in options.api_subjects:
        try:
            reply = await connection.js_request("STREAM.NAMES", {"subject": subject})
        except StorageError as error:
            return [f"streams on {subject} could not be listed: {error}"]
        for name in reply.get("streams") or ():
            culprits.setdefault(name, subject)
    return [
        f"stream {name} captures {subject}: it answers the API's requests in our place; take that subject out of it"
        for name, subject in culprits.items()
    ]
