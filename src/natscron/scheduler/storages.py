"""The storage that a URL names."""

from typing import Final
from urllib.parse import urlsplit

from natscron.clock import Clock
from natscron.errors import ConfigError
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.queue import QueueStorage

__all__ = ["is_nats", "open_storage"]

_SQL: Final = ("sqlite", "postgresql", "postgres", "mysql", "mariadb")
_NATS: Final = ("nats", "tls", "ws", "wss")
_RUNS_PER_JOB: Final = 1_000


def is_nats(url: str) -> bool:
    """Whether a URL names NATS."""
    return urlsplit(url).scheme.lower() in _NATS


def given_storage(storage: str | QueueStorage, clock: Clock) -> QueueStorage:
    """The storage, or the one that a URL names. Raises ConfigError."""
    if isinstance(storage, str):
        return open_storage(storage, clock)
    if not hasattr(storage, "initialize"):
        raise ConfigError(
            "the storage must be a URL such as sqlite:///jobs.db, or a storage such as SQLStorage(engine); got "
            f"{type(storage).__name__}"
        )
    return storage


def open_storage(url: str, clock: Clock) -> QueueStorage:
    """A storage of its own for ``url``. Raises ConfigError for a scheme that there is not, or a missing extra."""
    scheme = urlsplit(url).scheme.lower().partition("+")[0]
    if scheme == "memory":
        return MemoryStorage(MemoryCluster(clock, runs_per_job=_RUNS_PER_JOB))
    if scheme in _SQL:
        # Only who uses it pays for loading SQLAlchemy.
        from natscron.storage.sql import SQLStorage  # noqa: PLC0415 - see above

        return SQLStorage(url, clock=clock)
    if scheme in _NATS:
        from natscron.storage.nats import NATSStorage  # noqa: PLC0415 - only who uses it pays for loading the client

        return NATSStorage(url, clock=clock)
    # Without a scheme it may be anything, with a password in it.
    shown = f"with scheme {scheme!r:.40}" if scheme else "without a scheme"
    raise ConfigError(
        f"a storage URL {shown} is not supported: use memory://, sqlite:///FILE, postgresql://, mysql://, mariadb://, "
        "nats://, tls://, ws:// or wss://"
    )
